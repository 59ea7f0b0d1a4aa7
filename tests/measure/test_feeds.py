"""Inputs: made up from the signature, or given and brought to the batch."""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from paretune.errors import InputError
from paretune.measure._engine import open_engine
from paretune.measure._feeds import example_feeds, reference_inputs
from paretune.target import Target


def engine(path):
    return open_engine(path, Target())


@pytest.fixture
def two_inputs(write):
    """Tokens (batch, length) and a fixed table (3, 3)."""
    nodes = [
        helper.make_node("Cast", ["tokens"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "table"], ["y"]),
    ]
    return write(
        "two.onnx", {"tokens": ["batch", "length"], "table": [3, 3]}, nodes, types={"tokens": TensorProto.INT64}
    )


def test_made_up_inputs_follow_the_signature(relu):
    feeds = example_feeds(engine(relu), 5)
    assert feeds["x"].shape == (5, 3) and feeds["x"].dtype == np.float32
    assert feeds["x"].std() > 0
    assert np.array_equal(feeds["x"], example_feeds(engine(relu), 5)["x"])


def test_made_up_integers_are_zero_and_valid_indices(write):
    path = write(
        "cast.onnx",
        {"tokens": ["batch", 4]},
        [helper.make_node("Cast", ["tokens"], ["y"], to=TensorProto.FLOAT)],
        types={"tokens": TensorProto.INT64},
    )
    feeds = example_feeds(engine(path), 2)
    assert feeds["tokens"].dtype == np.int64 and not feeds["tokens"].any()


def test_an_open_dimension_asks_for_an_example(two_inputs):
    with pytest.raises(InputError, match=r"input 'tokens' \(batch, length\) leaves length open; give an example"):
        example_feeds(engine(two_inputs), 1)


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_given_inputs_are_brought_to_the_batch_and_type(two_inputs, batch):
    tokens, table = torch.arange(6, dtype=torch.int32).reshape(2, 3), torch.eye(3)
    feeds = example_feeds(engine(two_inputs), batch, (tokens, table))
    assert feeds["tokens"].dtype == np.int64
    assert feeds["tokens"].tolist() == [[[0, 1, 2], [3, 4, 5]][i % 2] for i in range(batch)]
    assert feeds["table"].shape == (3, 3)  # has no batch, though it has 3 rows


def test_keyword_tensors_arrays_and_a_bare_array_are_taken(relu, two_inputs):
    keywords = {"table": torch.eye(3), "tokens": torch.ones(1, 3, dtype=torch.long)}
    assert example_feeds(engine(two_inputs), 1, keywords)["table"].tolist() == np.eye(3).tolist()
    assert example_feeds(engine(relu), 1, np.ones((1, 3)))["x"].tolist() == [[1, 1, 1]]
    assert example_feeds(engine(relu), 1, {"x": np.ones((1, 3))})["x"].dtype == np.float32
    assert example_feeds(engine(relu), 1, {"input": np.ones((1, 3))})["x"].tolist() == [[1, 1, 1]]  # in order


def test_a_missing_input_is_named(two_inputs):
    with pytest.raises(InputError, match="the example input has no 'table'; the file takes tokens, table"):
        example_feeds(engine(two_inputs), 1, {"tokens": np.ones((1, 3))})


def test_a_wrong_shape_is_told_with_both_shapes(relu):
    with pytest.raises(InputError, match=r"input 'x' takes \(batch, 3\); the example input is \(1, 4\)"):
        example_feeds(engine(relu), 1, torch.zeros(1, 4))


def test_a_fixed_batch_is_told(write):
    path = write("fixed.onnx", {"x": [2, 3]}, [helper.make_node("Relu", ["x"], ["y"])])
    assert example_feeds(engine(path), 2)["x"].shape == (2, 3)
    for inputs in (None, torch.zeros(2, 3)):
        with pytest.raises(
            InputError, match=r"\(2, 3\) takes a batch of 2 only, and the target's batch is 1; set"
        ):
            example_feeds(engine(path), 1, inputs)


def test_reference_inputs_are_those_of_the_first_file_that_has_some(relu, tmp_path):
    assert reference_inputs(relu) is None
    content = {"input/x": np.ones((3, 3)), "output/1/y": np.zeros((1, 3)), "spec": np.array("{}")}
    np.savez(tmp_path / "other.reference.npz", **content)
    found = reference_inputs(relu, tmp_path / "other.onnx")
    assert list(found) == ["x"] and found["x"].shape == (3, 3)

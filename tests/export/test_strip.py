from __future__ import annotations

import numpy as np
import onnx
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from paretune.export import export_onnx, session, strip


def outputs(model: onnx.ModelProto, feeds: dict[str, np.ndarray], optimize: bool = True):
    return session(model.SerializeToString(), optimize=optimize).run(None, feeds)


def test_a_stripped_file_is_smaller_and_computes_the_same_bits(residual_export):
    before = residual_export.graph.SerializeToString()
    small = strip(residual_export.graph)
    assert len(small.SerializeToString()) < 0.5 * len(before)
    assert residual_export.graph.SerializeToString() == before, "the graph given is not changed"
    images = np.random.default_rng(0).normal(size=(3, 1, 8, 8)).astype(np.float32)
    for optimize in (True, False):
        (a,) = outputs(residual_export.graph, {"image": images}, optimize)
        (b,) = outputs(small, {"image": images}, optimize)
        assert a.tobytes() == b.tobytes()


def test_nothing_for_readers_is_left(residual_export):
    graph = strip(residual_export.graph).graph
    assert not any(node.name or node.doc_string or node.metadata_props for node in graph.node)
    assert [value.name for value in graph.input] == ["image"]
    assert [value.name for value in graph.output] == ["logits"]
    assert all(len(tensor.name) <= 2 for tensor in graph.initializer)
    assert not graph.value_info, "every shape of a plain CNN can be inferred"


def test_a_transformer_keeps_the_shapes_that_its_fusions_need():
    # without them ONNX Runtime no longer fused Add with LayerNormalization: slower, and other bits
    torch.manual_seed(0)
    exported = export_onnx(nn.TransformerEncoderLayer(8, 2, batch_first=True), torch.randn(1, 5, 8))
    small = strip(exported.graph)
    feeds = {"src": np.random.default_rng(0).normal(size=(2, 5, 8)).astype(np.float32)}
    assert outputs(exported.graph, feeds)[0].tobytes() == outputs(small, feeds)[0].tobytes()
    assert 0 < len(small.graph.value_info) < len(exported.graph.graph.value_info)


def branching() -> onnx.ModelProto:
    """x -> If(sum > 0) x * big_weight else x + other_weight, with an initializer that nothing reads."""
    weight = numpy_helper.from_array(np.float32([2.0, 3.0]), "a_long_weight_name")
    other = numpy_helper.from_array(np.float32([5.0, 7.0]), "inner_weight_name")
    zero = numpy_helper.from_array(np.float32(0.0), "zero")
    idle = numpy_helper.from_array(np.zeros(1000, np.float32), "nobody_reads_this")
    result = helper.make_tensor_value_info("branch_result", TensorProto.FLOAT, [2])
    then = helper.make_graph(
        [helper.make_node("Mul", ["x", "a_long_weight_name"], ["branch_result"])], "t", [], [result]
    )
    result = helper.make_tensor_value_info("else_result", TensorProto.FLOAT, [2])
    other_branch = helper.make_graph(
        [helper.make_node("Add", ["x", "inner_weight_name"], ["else_result"])], "e", [], [result], [other]
    )
    nodes = [
        helper.make_node("ReduceSum", ["x"], ["the_sum"], keepdims=0),
        helper.make_node("Greater", ["the_sum", "zero"], ["is_positive"]),
        helper.make_node("If", ["is_positive"], ["y"], then_branch=then, else_branch=other_branch),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "main", info[:1], info[1:], [weight, zero, idle])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20), helper.make_opsetid("unused", 1)])


def test_branches_are_stripped_too_and_what_they_read_stays():
    model = branching()
    small = strip(model)
    assert small.ByteSize() < model.ByteSize() - 4000
    assert [entry.domain for entry in small.opset_import] == [""]
    for values, expected in (([1.0, 1.0], [2.0, 3.0]), ([-1.0, -1.0], [4.0, 6.0])):
        (got,) = outputs(small, {"x": np.float32(values)})
        assert got.tolist() == expected


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-128, 127), min_size=1, max_size=40), st.integers(1, 60))
def test_a_chain_of_any_length_keeps_its_value_and_gets_unlike_names(values, length):
    weights = helper.make_tensor("w", TensorProto.INT8, [len(values)], values)  # as varints: up to ten bytes each
    nodes = [helper.make_node("Cast", ["w"], ["v0"], to=TensorProto.FLOAT)]
    nodes += [helper.make_node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(length)]
    nodes.append(helper.make_node("Add", ["a", f"v{length}"], ["b"]))  # the names a and b are taken
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [len(values)]) for name in ("a", "b")]
    model = helper.make_model(
        helper.make_graph(nodes, "g", info[:1], info[1:], [weights]), opset_imports=[helper.make_opsetid("", 20)]
    )
    small = strip(model)
    onnx.checker.check_model(small, full_check=True)
    made = [name for node in small.graph.node for name in node.output]
    assert len(set(made)) == len(made)
    assert small.graph.initializer[0].raw_data or small.graph.initializer[0].ByteSize() <= weights.ByteSize()
    (got,) = outputs(small, {"a": np.zeros(len(values), np.float32)})
    assert got.tolist() == [value * (-1.0) ** length for value in values]

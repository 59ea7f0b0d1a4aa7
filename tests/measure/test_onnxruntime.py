"""The ONNX Runtime engine: its signature, its options, and files it cannot load."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from paretune.errors import InputError
from paretune.measure._engine import Input, open_engine
from paretune.measure._onnxruntime import session_options
from paretune.target import Target


def test_reads_the_signature_and_runs(relu):
    engine = open_engine(relu, Target())
    assert engine.inputs == (Input("x", np.dtype(np.float32), ("batch", 3)),)
    assert engine.outputs == ("y",)
    (output,) = engine.bind({"x": np.array([[-1, 0, 2]], np.float32)})()
    assert output.tolist() == [[0, 0, 2]]


def test_options_are_the_targets():
    options = session_options(3)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (3, 1)
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"


def test_a_missing_file_gets_the_nearest_name(relu):
    with pytest.raises(InputError, match=r"no file .*rellu.onnx. Did you mean 'relu.onnx'\?"):
        open_engine(relu.with_name("rellu.onnx"), Target())


def test_a_damaged_file_is_the_users_to_mend(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"not an onnx file")
    with pytest.raises(InputError, match=r"ONNX Runtime \S+ cannot load .*broken.onnx: "):
        open_engine(path, Target())


def test_an_input_that_is_no_number_is_refused(write):
    path = write(
        "text.onnx",
        {"x": ["batch"]},
        [helper.make_node("Cast", ["x"], ["y"], to=TensorProto.FLOAT)],
        types={"x": TensorProto.STRING},
    )
    with pytest.raises(InputError, match=r"text.onnx: input 'x' is a tensor\(string\); can feed"):
        _ = open_engine(path, Target()).inputs

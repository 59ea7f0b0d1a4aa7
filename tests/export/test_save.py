from __future__ import annotations

import onnx
import pytest

from paretune.errors import InputError, RunError
from paretune.export import save


def test_one_file_that_loads(residual_export, tmp_path):
    path = save(residual_export.graph, tmp_path / "deep" / "model.onnx")
    assert [entry.name for entry in path.parent.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(path, full_check=True)


def test_equal_graphs_give_equal_bytes(residual_export, tmp_path):
    one, two = (save(residual_export.graph, tmp_path / name) for name in ("a.onnx", "b.onnx"))
    assert one.read_bytes() == two.read_bytes()


def test_weights_beside_the_file_are_refused(residual_export, tmp_path):
    graph = onnx.ModelProto()
    graph.CopyFrom(residual_export.graph)
    onnx.external_data_helper.set_external_data(graph.graph.initializer[0], "weights.bin")
    with pytest.raises(InputError, match="lie in another file"):
        save(graph, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_a_file_is_a_run_error(residual_export, tmp_path):
    (tmp_path / "taken").write_text("")
    with pytest.raises(RunError, match="a file, not a folder"):
        save(residual_export.graph, tmp_path / "taken" / "model.onnx")

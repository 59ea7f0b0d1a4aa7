from __future__ import annotations

import warnings
from typing import NamedTuple

import pytest
import torch
from torch import Tensor, nn

from paretune.data import call, tensors_of
from paretune.errors import TaskError
from paretune.export import export_onnx, run_file


def names(exported):
    graph = exported.graph.graph
    return [value.name for value in graph.input], [value.name for value in graph.output]


def check_same(model, exported, inputs):
    expected = tensors_of(call(model, inputs))
    got = tensors_of(run_file(exported.graph.SerializeToString(), inputs))
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_dict_output_keeps_its_keys_and_the_batch_is_free(residual, residual_export):
    assert names(residual_export) == (["image"], ["logits"])
    assert residual_export.fixed_batch is None and residual_export.notes == ()
    shape = residual_export.graph.graph.input[0].type.tensor_type.shape.dim
    assert shape[0].dim_param and [dim.dim_value for dim in shape][1:] == [1, 8, 8]
    for batch in (1, 2, 3, 7):
        check_same(residual, residual_export, torch.randn(batch, 1, 8, 8))


def test_batch_norms_are_folded_and_nodes_still_know_their_module(residual_export):
    kinds = [node.op_type for node in residual_export.graph.graph.node]
    assert "BatchNormalization" not in kinds and kinds.count("Conv") == 2
    keys = {prop.key for node in residual_export.graph.graph.node for prop in node.metadata_props}
    assert "pkg.torch.onnx.name_scopes" in keys
    assert {tensor.name for tensor in residual_export.graph.graph.initializer} >= {"head.weight", "head.bias"}


def test_weights_lie_inside(residual_export):
    assert not any(tensor.external_data for tensor in residual_export.graph.graph.initializer)


def test_a_loop_over_the_batch_fixes_it_at_the_examples_batch_and_says_so(unrolled, unrolled_export):
    assert unrolled_export.fixed_batch == 2
    assert "fixed at 2" in unrolled_export.notes[0] and "loop over the batch" in unrolled_export.notes[0]
    check_same(unrolled, unrolled_export, torch.randn(2, 4))


class OneBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.view(1, 12) * 2


def test_a_model_that_takes_one_batch_only_is_fixed_at_it():
    exported = export_onnx(OneBatch(), torch.ones(1, 12))
    assert exported.fixed_batch == 1
    assert "the model fails at batch 2" in exported.notes[0]


class Keywords(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, signal: Tensor, *, gain: Tensor, unused: Tensor | None = None, **extra: Tensor):
        return self.layer(signal) * gain + extra["offset"], None, signal


def test_keyword_inputs_several_outputs_and_a_none_between_them():
    model = Keywords().eval()
    example = {"gain": torch.randn(1, 1), "signal": torch.randn(1, 3), "offset": torch.randn(1, 2)}
    exported = export_onnx(model, example)
    assert names(exported) == (["gain", "signal", "offset"], ["output_0", "output_1"])
    inputs = {"signal": torch.randn(3, 3), "gain": torch.randn(3, 1), "offset": torch.randn(3, 2)}
    check_same(model, exported, inputs)


class Pair(NamedTuple):
    logits: Tensor
    image: Tensor


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bias", torch.ones(2), persistent=False)

    def forward(self, image: Tensor, table: Tensor) -> Pair:
        return Pair(image @ table + self.bias, image + 1)


def test_two_inputs_one_without_a_batch_and_an_output_named_as_an_input():
    model = Two()
    exported = export_onnx(
        model, (torch.randn(1, 2), torch.randn(2, 2))
    )  # the table's 2 is not the captured batch
    assert names(exported) == (["image", "table"], ["logits", "image_out"])
    assert "image_out" in exported.notes[0] and exported.fixed_batch is None
    check_same(model, exported, (torch.randn(3, 2), torch.randn(2, 2)))


class Nested(nn.Module):
    def forward(self, parts: dict[str, Tensor], *rest: Tensor) -> Tensor:
        return parts["a"] + rest[0] * rest[1]


def test_tensors_inside_containers_are_named_after_their_place():
    exported = export_onnx(Nested(), ({"a": torch.ones(1, 2)}, torch.ones(1, 2), torch.ones(1, 2)))
    assert names(exported)[0] == ["parts_a", "rest_0", "rest_1"]


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.drop(x))


def test_the_model_is_as_before_and_nothing_is_printed(capfd):
    model = Stateful().train()
    model.norm.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    example = torch.ones(1, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exported = export_onnx(model, example)
    assert model.training and model.drop.training and not model.norm.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(example, torch.ones(1, 3)) and "forward" not in vars(model)
    assert capfd.readouterr() == ("", "")
    check_same(model.eval(), exported, torch.randn(2, 3))


def test_parametrized_and_compiled_models_export():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), nn.ReLU()).eval()
    check_same(model, export_onnx(torch.compile(model), torch.randn(1, 3)), torch.randn(3, 3))


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_a_model_that_cannot_be_captured_is_a_task_error_that_says_what_to_change(capfd):
    with pytest.raises(TaskError, match=r"cannot be exported.*torch\.where"):
        export_onnx(Branch(), torch.ones(1, 2))
    assert capfd.readouterr() == ("", "")


class Inverse(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.linalg.inv(x)  # the exporter knows no operator of ONNX for it


def test_an_operator_that_cannot_be_written_is_a_task_error_with_its_reason():
    with pytest.raises(TaskError, match=r"No ONNX function found.*Write that part of forward"):
        export_onnx(Inverse(), torch.randn(1, 3, 3))


def test_bfloat16_weights_are_a_task_error():
    with pytest.raises(TaskError, match=r"give model\.float\(\)"):
        export_onnx(nn.Linear(2, 2).bfloat16(), torch.randn(1, 2).bfloat16())


def test_an_example_that_the_model_does_not_take_is_a_task_error():
    with pytest.raises(TaskError, match="does not accept the example input"):
        export_onnx(nn.Linear(3, 2), torch.ones(1, 4))


def test_an_example_without_a_batch_is_a_task_error():
    with pytest.raises(TaskError, match="batch as dimension 0"):
        export_onnx(nn.Identity(), torch.tensor(1.0))


def test_values_lead_back_to_the_captured_program(residual_export):
    nodes = {node.name for node in residual_export.program.graph.nodes}
    assert set(residual_export.values.values()) <= nodes
    assert residual_export.values["logits"] == "linear"

"""Nodes that are joined: the graph's numbers stay, and a runtime has fewer nodes to start."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional

from paretune import prune
from paretune.export import export_onnx, session
from paretune.export._join import join_nodes


class Shortcut(nn.Module):
    """The shortcut of a CIFAR ResNet: every second pixel, then zeros for the channels that are new."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1))


class Scaled(nn.Module):
    """An image scaled to a fixed size in front of a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(functional.interpolate(x, size=(6, 5), mode="bilinear", antialias=True))


@pytest.mark.parametrize(
    ("model", "shape", "operators"),
    [
        (Shortcut(), (2, 3, 8, 6), ["Slice", "Pad"]),
        (Scaled(), (2, 3, 8, 8), ["Resize", "Conv"]),
    ],
    ids=["shortcut", "scaled"],
)
def test_the_exported_graph_has_one_node_for_each_thing(
    model: nn.Module, shape: tuple[int, ...], operators: list[str]
) -> None:
    exported = export_onnx(model.eval(), torch.randn(shape))
    assert [node.op_type for node in exported.graph.graph.node] == operators
    assert exported.fixed_batch is None
    for batch in (1, 3):
        x = torch.randn(batch, *shape[1:])
        made = session(exported.graph.SerializeToString()).run(None, {"x": x.numpy()})[0]
        np.testing.assert_allclose(made, model(x).detach().numpy(), atol=1e-5)


def _sliced(parts: list[tuple[int, int, int, int]], *, read_twice: bool = False) -> onnx.ModelProto:
    """Return a graph that slices x, float32 (6, 7, 8), one (start, end, axis, step) after the other."""
    nodes, tensors, name = [], [], "x"
    for index, part in enumerate(parts):
        names = [f"{index}.{kind}" for kind in ("start", "end", "axis", "step")]
        tensors += [
            numpy_helper.from_array(np.array([value]), key) for key, value in zip(names, part, strict=True)
        ]
        nodes.append(helper.make_node("Slice", [name, *names], [f"y{index}"]))
        name = f"y{index}"
    outputs = [name, "y0"] if read_twice else [name]
    graph = helper.make_graph(
        nodes,
        "sliced",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [6, 7, 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None) for output in outputs],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


_PARTS = st.tuples(st.integers(0, 3), st.sampled_from([4, 5, 2**63 - 1]), st.integers(-1, 2), st.integers(1, 3))


@settings(deadline=None, max_examples=60)
@given(st.lists(_PARTS, min_size=1, max_size=4), st.booleans())
def test_slices_of_slices_give_the_same_numbers(parts: list[tuple[int, int, int, int]], read_twice: bool) -> None:
    graph = _sliced(parts, read_twice=read_twice and len(parts) > 1)
    x = np.random.default_rng(0).standard_normal((6, 7, 8)).astype(np.float32)
    before = session(graph.SerializeToString()).run(None, {"x": x})
    join_nodes(graph)
    onnx.shape_inference.infer_shapes(graph, check_type=True, strict_mode=True)
    after = session(graph.SerializeToString()).run(None, {"x": x})
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def test_two_axes_join_and_one_axis_twice_does_not() -> None:
    apart = _sliced([(0, 6, 0, 2), (1, 5, 1, 1), (0, 8, 2, 3)])
    assert join_nodes(apart) == 2
    twice = _sliced([(0, 6, 0, 2), (1, 3, 0, 1)])
    assert join_nodes(twice) == 0
    assert join_nodes(_sliced([(0, 6, 0, 2), (1, 3, 1, 1)], read_twice=True)) == 0


def test_a_shape_that_is_read_elsewhere_stays() -> None:
    class Both(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            small = functional.interpolate(x, size=(4, 4), mode="bilinear")
            return small, x.new_zeros(x.shape[0], 3) + x.mean()

    exported = export_onnx(Both().eval(), torch.randn(2, 3, 8, 8))
    resize = next(node for node in exported.graph.graph.node if node.op_type == "Resize")
    assert any(attribute.name == "axes" for attribute in resize.attribute)
    made = session(exported.graph.SerializeToString()).run(None, {"x": np.ones((3, 3, 8, 8), np.float32)})
    assert [each.shape for each in made] == [(3, 3, 4, 4), (3, 3)]


@pytest.mark.parametrize(
    ("how", "operators"),
    [
        ({"low": -0.1, "high": 0.5, "learn": True}, ["Clip"]),
        ({"high": 0.5, "learn": True}, ["Clip"]),
        ({"low": -0.1, "learn": True}, ["Clip"]),
        ({"threshold": 0.2}, ["Shrink"]),
        ({"low": -0.1, "high": 0.5, "threshold": 0.2, "learn": True}, ["Clip", "Shrink"]),
    ],
)
def test_a_range_is_one_node_for_each_of_its_parts(how: dict[str, float], operators: list[str]) -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 8)
    x[0, :4] = torch.tensor([0.2, -0.2, 0.5, -0.1])  # the ends themselves
    model = prune.activation_range(nn.Sequential(nn.Linear(8, 8), nn.GELU()).eval(), x, data=x, **how).model.eval()
    graph = export_onnx(model, x).graph
    assert [node.op_type for node in graph.graph.node] == ["Gemm", "Gelu", *operators]
    made = session(graph.SerializeToString()).run(None, {graph.graph.input[0].name: x.numpy()})[0]
    np.testing.assert_allclose(made, model(x).detach().numpy(), atol=1e-6)
    only = (
        prune.activation_range(nn.Sequential(nn.Identity(), nn.GELU()).eval(), x, data=x, **how)
        .model[1][1:]
        .eval()
    )
    graph = export_onnx(only, x).graph
    np.testing.assert_array_equal(
        session(graph.SerializeToString()).run(None, {graph.graph.input[0].name: x.numpy()})[0],
        only(x).detach().numpy(),
    )

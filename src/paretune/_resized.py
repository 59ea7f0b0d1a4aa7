"""A model that scales its images down before it looks at them: its class becomes one that does so first.

Names of modules and weights stay, so that whatever cuts, trains, saves or replays the model need not know. The
images are scaled as `torch.nn.functional.interpolate` does it, bilinear and antialiased, which ONNX has as
`Resize`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx, nn

_SIZE, _PLAIN, _NODE = "_paretune_size", "_paretune_plain", "paretune_resized"


def resized(model: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Let a model scale its first input to (height, width), in place, and return it; an earlier size is
    replaced."""
    from torch import fx
    from torch.nn import functional

    how: dict[str, Any] = {"size": size, "mode": "bilinear", "antialias": True, "align_corners": False}
    if isinstance(model, fx.GraphModule):  # a copy of it has a class of its own
        return _in_graph(model, how)
    plain = getattr(type(model), _PLAIN, type(model))

    def forward(self: nn.Module, images: Any, *args: Any, **kwargs: Any) -> Any:
        return plain.forward(self, functional.interpolate(images, **how), *args, **kwargs)

    model.__class__ = type(f"Resized{plain.__name__}", (plain,), {"forward": forward, _SIZE: size, _PLAIN: plain})
    return model


def _in_graph(model: fx.GraphModule, how: dict[str, Any]) -> fx.GraphModule:
    """Scale the first input of a graph."""
    from torch.nn import functional

    node = _node(model)
    if node is None:
        images = next(node for node in model.graph.nodes if node.op == "placeholder")
        first = next(node for node in model.graph.nodes if node.op != "placeholder")
        with model.graph.inserting_before(first):
            node = model.graph.create_node("call_function", functional.interpolate, (images,), {}, name=_NODE)
        images.replace_all_uses_with(node, delete_user_cb=lambda user: user is not node)
    node.kwargs = how
    model.recompile()
    return model


def _node(model: fx.GraphModule) -> fx.Node | None:
    return next((node for node in model.graph.nodes if node.name == _NODE), None)


def size_of(model: nn.Module) -> tuple[int, int] | None:
    """Return the size that a model scales its images to, None where it does not."""
    from torch import fx

    if isinstance(model, fx.GraphModule):
        node = _node(model)
        return None if node is None else tuple(node.kwargs["size"])  # type: ignore[arg-type]
    size: tuple[int, int] | None = getattr(type(model), _SIZE, None)
    return size

"""A model that scales its images down before it looks at them: its class becomes one that does so first.

Names of modules and weights stay, so that whatever cuts, trains, saves or replays the model need not know. The
images are scaled as `torch.nn.functional.interpolate` does it, bilinear and antialiased, which ONNX has as
`Resize`.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx, nn

_SIZE, _PLAIN, _NODE = "_paretune_size", "_paretune_plain", "paretune_resized"


def resized(model: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Let a model scale its first input to (height, width), in place, and return it; an earlier size is
    replaced."""
    import torch
    from torch import fx
    from torch.nn import functional

    how: dict[str, Any] = {"size": size, "mode": "bilinear", "antialias": True, "align_corners": False}
    if isinstance(model, fx.GraphModule):  # a copy of it has a class of its own
        return _in_graph(model, how)
    plain = getattr(type(model), _PLAIN, type(model))
    signature = inspect.signature(plain.forward)
    first = next(name for name in list(signature.parameters)[1:])

    def scaled(images: Any) -> Any:
        wide = images.float() if images.dtype in (torch.float16, torch.bfloat16) else images  # no kernels on CPUs
        return functional.interpolate(wide, **how).to(images.dtype)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if args:
            return plain.forward(self, scaled(args[0]), *args[1:], **kwargs)
        return plain.forward(self, **kwargs | {first: scaled(kwargs[first])})

    def reduced(self: nn.Module, protocol: Any) -> Any:
        return _fresh, (plain, size), self.__dict__

    forward.__signature__ = signature  # type: ignore[attr-defined]  # inputs are named as the plain model names them
    own = {"forward": forward, "__reduce_ex__": reduced, _SIZE: size, _PLAIN: plain}
    model.__class__ = type(f"Resized{plain.__name__}", (plain,), own)
    return model


def _fresh(plain: type[nn.Module], size: tuple[int, int]) -> nn.Module:
    """Return an empty model that scales its images, for pickle to fill."""
    return resized(plain.__new__(plain), size)


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

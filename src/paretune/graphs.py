"""Graphs as plain JSON: a captured model that surgery rewrote, built again without torch.export.

Only registered operators that open no files, a few Python functions, kinds of output that are imported already,
the model's own modules (batch norm) and dropout can be named, under names that are names: `torch.fx` writes them
into source code. So a manifest is data and runs no code of its own. Parameters are named, not stored.
"""

from __future__ import annotations

import builtins
import dataclasses
import keyword
import operator
import sys
from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from paretune import masks
from paretune.errors import SurgeryError

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

_FUNCTIONS = {
    "getitem": operator.getitem,
    "add": operator.add,
    "mul": operator.mul,
    "getattr": builtins.getattr,
}
_ASKED = ("device", "dtype")
"""What a graph may ask of a tensor by `getattr`."""
_OPS = ("placeholder", "get_attr", "call_function", "call_module", "output")


def to_json(module: fx.GraphModule, own: Iterable[str]) -> list[dict[str, Any]]:
    """Return the nodes of a graph module as plain JSON values.

    own: names of tensors and modules that a fresh model has too; all other tensors are stored as they are.
    """
    known, unsaved = set(own), {name for name, _ in module.named_buffers()} - set(module.state_dict())
    return [_node(module, node, known, unsaved) for node in module.graph.nodes]


def _node(module: fx.GraphModule, node: fx.Node, own: set[str], unsaved: set[str]) -> dict[str, Any]:
    import torch

    out: dict[str, Any] = {"name": node.name, "op": node.op}
    name = node.target if node.target in own else _given(str(node.target))
    if node.op == "call_function":
        out["target"] = _target(node.target)
    elif node.op == "call_module":
        target = module.get_submodule(str(node.target))
        out["target"] = name
        if name not in own:
            assert isinstance(target, torch.nn.modules.dropout._DropoutNd), (
                f"{node.target}: {type(target).__name__} is no module of the model"
            )
            out |= {"dropout": target.p, "of": type(target).__name__}
    elif node.op != "output":
        out["target"] = name
        if node.op == "get_attr" and name not in own:
            if not isinstance(held := _at(module, str(node.target)), torch.Tensor):
                raise SurgeryError(
                    f"the graph holds a {type(held).__name__} (torch.cond and the like), which cannot be stored: "
                    "choose between tensors with torch.where"
                )
            out["value"] = _tensor_to_json(_at(module, str(node.target)))
        elif node.op == "get_attr" and node.target in unsaved:
            out["holds"] = _size(_at(module, str(node.target)))
    if node.args:
        out["args"] = [_encode(argument) for argument in node.args]
    if node.kwargs:
        out["kwargs"] = {key: _encode(value) for key, value in node.kwargs.items()}
    return out


def _at(module: nn.Module, name: str) -> Any:
    owner, _, leaf = name.rpartition(".")
    return getattr(module.get_submodule(owner), leaf)


def _target(target: Any) -> str:
    import torch

    if isinstance(target, torch._ops.OpOverload):
        return str(target)
    if isinstance(target, type):
        return f"{target.__module__}:{target.__qualname__}"
    return next(name for name, function in _FUNCTIONS.items() if function is target)


def _encode(value: Any) -> Any:
    import torch
    from torch import fx

    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, tuple):
        return {"tuple": [_encode(item) for item in value]}
    if isinstance(value, list):
        return [_encode(item) for item in value]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) for key in value):
            return {"dict": {key: _encode(item) for key, item in value.items()}}
        return {"items": [[_encode(key), _encode(item)] for key, item in value.items()]}
    if isinstance(value, torch.dtype | torch.layout | torch.memory_format):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise SurgeryError(f"an argument of type {type(value).__name__} in the graph cannot be stored")


def _decode(value: Any, nodes: Mapping[str, fx.Node]) -> Any:
    import torch

    if isinstance(value, list):
        return [_decode(item, nodes) for item in value]
    if not isinstance(value, dict):
        return value
    (kind, content), *_ = value.items()
    if kind == "node":
        return nodes[content]
    if kind == "tuple":
        return tuple(_decode(item, nodes) for item in content)
    if kind == "dict":
        return {key: _decode(item, nodes) for key, item in content.items()}
    if kind == "items":
        return {_decode(key, nodes): _decode(item, nodes) for key, item in content}
    if kind == "float":
        return float(content)
    if kind == "device":
        return torch.device(content)
    found = getattr(torch, content, None) if kind == "torch" else None
    if not isinstance(found, torch.dtype | torch.layout | torch.memory_format):
        raise _not_ours({kind: content})
    return found


def _tensor_to_json(tensor: torch.Tensor) -> dict[str, Any]:
    tensor = tensor.detach().cpu()
    return {
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "shape": list(tensor.shape),
        "data": [_encode(number) for number in tensor.flatten().tolist()],
    }


def _tensor_from_json(content: dict[str, Any]) -> torch.Tensor:
    import torch

    data = [_decode(number, {}) for number in content["data"]]
    return torch.tensor(data, dtype=getattr(torch, content["dtype"])).reshape(content["shape"])


def from_json(model: nn.Module, nodes: list[dict[str, Any]]) -> fx.GraphModule:
    """Return the module that runs stored nodes over a model's tensors, which stay the very same objects."""
    from torch import fx

    graph = fx.Graph()
    made: dict[str, fx.Node] = {}
    own: dict[str, Any] = {}
    device = device_of(model)
    for content in nodes:
        name, op, target = content["name"], content["op"], content.get("target", "output")
        _check_names(op, target, content.get("kwargs", {}))
        if op == "call_module":
            own[target] = _dropout(content) if "dropout" in content else plain_norm(model.get_submodule(target))
        elif op == "get_attr":
            own[target] = _stored(model, content, device)
        args = tuple(_decode(argument, made) for argument in content.get("args", ()))
        kwargs = {key: _decode(value, made) for key, value in content.get("kwargs", {}).items()}
        if op == "call_function":
            target = _function(target)
            if target is builtins.getattr and (args[1:] not in [(name,) for name in _ASKED] or kwargs):
                raise _not_ours("getattr")
        made[name] = graph.create_node(op, target, args, kwargs, name=name)
    module = module_over(own, graph, saved=model.state_dict(), training=model.training)
    for content in nodes:
        if content["op"] == "call_module" and "dropout" not in content:  # frozen alone, as it was
            its = model.get_submodule(content["target"])
            module.get_submodule(placed(content["target"])).train(its.training)
    masks.carry(model, module, placed)
    return module


def _dropout(content: Mapping[str, Any]) -> nn.Module:
    from torch import nn

    kind = content.get("of", "Dropout")
    if kind not in ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d"):
        raise _not_ours(kind)
    made: nn.Module = getattr(nn, kind)(content["dropout"])
    return made


def _check_names(op: Any, target: Any, kwargs: Mapping[str, Any]) -> None:
    """Raise a SurgeryError for what `torch.fx` would not write into source code as a name or as a string."""
    if op not in _OPS or not isinstance(target, str):
        raise _not_ours(op)
    if op == "placeholder" and not is_name(target):
        raise _not_ours(target)
    if op in ("get_attr", "call_module") and (not target.isprintable() or set('"\\') & set(target)):
        raise _not_ours(target)
    for key in kwargs:
        if not is_name(key):
            raise _not_ours(key)


def is_name(text: str) -> bool:
    """Tell whether an argument can be called so."""
    return text.isidentifier() and not keyword.iskeyword(text)


def _not_ours(what: Any) -> SurgeryError:
    return SurgeryError(
        f"this manifest of cuts names {what!r}, which no graph has: it was not written by paretune"
    )


def device_of(model: nn.Module) -> Any:
    """Return where a model's tensors are, None for one that has none or holds no values."""
    first = next((tensor for tensor in (*model.parameters(), *model.buffers())), None)
    return None if first is None or first.is_meta else first.device


def _stored(model: nn.Module, content: dict[str, Any], device: Any) -> Any:
    """Return the tensor that a node names: one of the model's, one computed from these, or one stored as it is."""
    if "folded" in content:
        return folded_weight(from_json(model, content["folded"]))
    if "value" in content:
        return _tensor_from_json(content["value"]).to(device)
    own = _at(model, content["target"])
    if "holds" in content and content["target"] not in model.state_dict():
        _check_holds(content["target"], own, content["holds"])
    return own


def _size(tensor: torch.Tensor) -> dict[str, Any]:
    """Return the shape of a tensor and the mean of its absolute finite values, by which another is known."""
    finite = tensor.detach().abs().double()
    finite = finite[finite.isfinite()]
    return {"shape": list(tensor.shape), "mean": float(finite.mean()) if finite.numel() else 0.0}


def _check_holds(name: str, tensor: torch.Tensor, holds: Mapping[str, Any]) -> None:
    """Raise a SurgeryError for a buffer that is not saved with the weights and is another here.

    A model may make one when it first runs, for the size of its input (ConViT).
    """
    if tensor.is_meta:
        return
    size = _size(tensor)
    near = abs(size["mean"] - holds["mean"]) <= 1e-2 * abs(holds["mean"]) + 1e-6  # another type rounds
    if size["shape"] != list(holds["shape"]) or not near:
        raise SurgeryError(
            f"the buffer '{name}' is not saved with the weights, and is not what it was for the manifest: its "
            f"shape is {tuple(tensor.shape)}, and was {tuple(holds['shape'])}. A model that makes it when it "
            "first runs has to run once before a replay: call it on an input like the example"
        )


def folded_weight(recipe: fx.GraphModule) -> nn.Parameter:
    """Return what a module without inputs computes as a parameter; frozen where all that it is made from are."""
    import torch

    with torch.no_grad():
        value = recipe().detach().clone()
    return torch.nn.Parameter(value, requires_grad=any(p.requires_grad for p in recipe.parameters()))


def _function(name: str) -> Any:
    if name in _FUNCTIONS:
        return _FUNCTIONS[name]
    if ":" not in name:
        return _operator(name)
    module, _, qualified = name.partition(":")
    try:
        found: Any = sys.modules[module]  # to import what a manifest names would run code that it chose
        for part in qualified.split("."):
            found = getattr(found, part)
    except (KeyError, AttributeError) as error:
        raise SurgeryError(
            f"the model returns a '{qualified}' of {module}, which is not imported here: import what defines it "
            "before the cuts are replayed"
        ) from error
    if not (isinstance(found, type) and (issubclass(found, dict | tuple) or dataclasses.is_dataclass(found))):
        raise SurgeryError(
            f"this manifest of cuts names '{name}', which is no kind of output: it was not written by paretune"
        )
    return found


def _operator(name: str) -> Any:
    """Return a registered operator; one that opens a file is none that a model runs."""
    import torch

    found: Any = torch.ops
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except (AttributeError, RuntimeError) as error:
        raise SurgeryError(
            f"the graph runs the operator '{name}', which is not registered here: import the library that defines "
            "it before the cuts are replayed"
        ) from error
    if not isinstance(found, torch._ops.OpOverload) or any("file" in a.name for a in found._schema.arguments):
        raise _not_ours(name)
    return found


def plain_norm(module: nn.Module) -> nn.Module:
    """Return torch's own batch norm over the same tensors, where another's class does more in its forward.

    timm's BatchNormAct2d applies the activation too, which is a node of the graph by itself.
    """
    from torch.nn.modules.batchnorm import _BatchNorm

    if not isinstance(module, _BatchNorm) or type(module).forward.__module__.startswith("torch.nn."):
        return module
    kind = next(base for base in type(module).__mro__ if base.__module__.startswith("torch.nn."))
    plain: nn.Module = kind(
        module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats
    )
    plain._parameters.update({name: module._parameters.get(name) for name in plain._parameters})
    plain._buffers.update({name: module._buffers.get(name) for name in plain._buffers})
    return plain.train(module.training)


def placed(name: str) -> str:
    """Return the name that a tensor or module of a model has in a graph module.

    That has attributes of its own, and is written as source code, where some names cannot stand.

    >>> placed("layers.0.weight"), placed("meta.0.weight"), placed("heads.class")
    ('layers.0.weight', 'own__meta.0.weight', 'heads.own__class')
    """
    parts = name.split(".")
    return ".".join(f"{_OWN}{part}" if part in _CLAIMED or keyword.iskeyword(part) else part for part in parts)


def _given(name: str) -> str:
    """Return the name that a model gave: what `placed` made another one of."""
    return ".".join(part.removeprefix(_OWN) for part in name.split("."))


_OWN = "own__"
_CLAIMED = ("graph", "code", "meta")
"""What a graph module has itself."""


def module_over(
    own: Mapping[str, Any], graph: fx.Graph, *, saved: Container[str] = (), training: bool = False
) -> fx.GraphModule:
    """Return a module that runs a graph over given tensors (the very same objects) and modules, by dotted name.

    saved: the buffers that a state dict holds; the others are constants.
    """
    import torch
    from torch import fx, nn

    root = nn.Module()
    for node in graph.nodes:
        if node.op in ("get_attr", "call_module"):
            node.target = placed(str(node.target))
    for name in sorted(own, key=lambda name: not isinstance(own[name], nn.Module)):  # modules first, else in order
        *path, leaf = placed(name).split(".")
        owner = root
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, nn.Module())
            owner = owner._modules[part]  # type: ignore[assignment]
        value = own[name]
        if isinstance(value, nn.Module):
            owner.add_module(leaf, value)
        elif isinstance(value, nn.Parameter):
            owner.register_parameter(leaf, value)
        else:
            assert isinstance(value, torch.Tensor)
            owner.register_buffer(leaf, value, persistent=False)
    module = fx.GraphModule(root, graph)
    for name, value in own.items():  # fx registers every buffer as persistent
        if isinstance(value, torch.Tensor) and not isinstance(value, nn.Parameter) and name not in saved:
            owner_name, _, leaf = placed(name).rpartition(".")
            module.get_submodule(owner_name)._non_persistent_buffers_set.add(leaf)
    return module.train(training)

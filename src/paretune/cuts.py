"""`Cuts`: the manifest of what surgery did to a model, and its replay on a fresh one.

The manifest is plain JSON and names only tensors, axes, indices and attributes: a fresh process rebuilds the
pruned module from the user's own factory, without torch.export and without the scores that chose the cuts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from paretune import masks as masking
from paretune.errors import SurgeryError, is_number, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Cut:
    """One tensor, one axis, the indices that stay, in order."""

    tensor: str
    """The parameter's or buffer's dotted name in the model."""
    axis: int
    keep: tuple[int, ...]
    blocks: int = 1
    """Above 1: axis 0 is cut into so many equal blocks, and `keep` lists the indices of each block in turn,
    equally many for every block (a grouped convolution whose groups lose different input channels)."""

    def __post_init__(self) -> None:
        places = self.keep if isinstance(self.keep, tuple) else ()
        whole = all(type(number) is int for number in (self.axis, self.blocks, *places))
        if not whole or not places or self.blocks < 1 or len(places) % self.blocks or min(places) < 0:
            raise SurgeryError(
                f"the cut of '{self.tensor}' is damaged: axis {self.axis!r}, blocks {self.blocks!r}, keep "
                f"{str(self.keep)[:60]} must be whole numbers, equally many to keep for each block, at least one"
            )
        each = len(places) // self.blocks
        if any(len(set(places[start : start + each])) < each for start in range(0, len(places), each)):
            raise SurgeryError(f"the cut of '{self.tensor}' is damaged: it keeps a position twice")


@dataclass(frozen=True)
class Attribute:
    """A number in a module that held the old width: `conv1.out_channels`, `bn1.num_features`, `conv1.groups`."""

    module: str
    attribute: str
    old: Any
    new: Any


@dataclass(frozen=True)
class Removed:
    """A module that went as a whole: one without weights stands in its place, and hands its arguments on."""

    module: str
    """Its dotted name in the model."""
    items: tuple[str | None, ...] = ()
    """What it returned, item by item: the argument of its forward that is handed on, or None. Empty: the first."""
    structure: str = ""
    """What the items stand in (a tuple, a model output), as torch.utils._pytree writes it; empty: a bare item."""


@dataclass(frozen=True)
class Replaced:
    """A module in whose place another one stands: a merged layer, a line for an activation, a range behind one.

    Only the kinds of `paretune._replaced` are made, so that a manifest stays data. What is made holds no values of
    its own yet where it has weights: they are loaded, as those of every pruned model are.
    """

    module: str
    """Its dotted name in the model."""
    kind: str
    arguments: dict[str, Any]
    """What the new module is made with: plain numbers."""


@dataclass(frozen=True)
class Cuts:
    """Everything that was done, in an order that can be done again."""

    shapes: dict[str, tuple[int, ...]]
    """The shape of every tensor that is cut, before any cut: a manifest replayed elsewhere is refused by it."""
    cuts: tuple[Cut, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    folded: tuple[str, ...] = ()
    """Modules whose parametrization (weight norm, a mask) was folded before the cut."""
    removed: tuple[Removed, ...] = ()
    """Modules that went as a whole (residual blocks)."""
    replaced: tuple[Replaced, ...] = ()
    """Modules in whose place another one stands (merged layers)."""
    form: Literal["module", "graph"] = "module"
    base: tuple[dict[str, Any], ...] = ()
    """Where weights that forward computes were folded: the nodes of the graph that was cut."""
    graph: tuple[dict[str, Any], ...] = ()
    """Form "graph": the nodes of the rewritten graph (`paretune.graphs`), run in place of the model's forward."""
    masks: tuple[masking.Mask, ...] = ()
    """Weights that are zero and stay zero; a manifest that has some cuts nothing."""
    resolution: tuple[int, int] | None = None
    """Height and width that the model scales its images to before it looks at them."""

    def to_json(self) -> dict[str, Any]:
        """Return the manifest as plain JSON values."""
        return {
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "cuts": [
                {"tensor": c.tensor, "axis": c.axis, "keep": list(c.keep), "blocks": c.blocks} for c in self.cuts
            ],
            "attributes": [
                {"module": a.module, "attribute": a.attribute, "old": a.old, "new": a.new} for a in self.attributes
            ],
            "folded": list(self.folded),
            "removed": [
                {"module": r.module, "items": list(r.items), "structure": r.structure} for r in self.removed
            ],
            "replaced": [
                {"module": r.module, "kind": r.kind, "arguments": dict(r.arguments)} for r in self.replaced
            ],
            "form": self.form,
            "base": list(self.base),
            "graph": list(self.graph),
            "resolution": None if self.resolution is None else list(self.resolution),
            "masks": [{"tensor": m.tensor, "shape": list(m.shape), "bits": m.bits} for m in self.masks],
        }

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Cuts:
        """Return the manifest that `to_json` wrote; anything else is a SurgeryError."""
        try:
            return cls._from_json(content)
        except (KeyError, TypeError, AttributeError, IndexError, ValueError) as error:
            raise SurgeryError(
                f"this is no manifest of cuts ({type(error).__name__}: {error}): give what `cuts.to_json()` wrote"
            ) from error

    @classmethod
    def _from_json(cls, content: dict[str, Any]) -> Cuts:
        if content["form"] not in ("module", "graph") or (content["form"] == "graph") != bool(
            content.get("graph")
        ):
            raise ValueError(f"form '{content['form']}' with {len(content.get('graph', ()))} nodes")
        return cls(
            shapes={name: tuple(shape) for name, shape in content["shapes"].items()},
            cuts=tuple(Cut(c["tensor"], c["axis"], tuple(c["keep"]), c.get("blocks", 1)) for c in content["cuts"]),
            attributes=tuple(Attribute(**attribute) for attribute in content["attributes"]),
            folded=tuple(content["folded"]),
            removed=tuple(Removed(r["module"], tuple(r["items"]), r["structure"]) for r in content["removed"]),
            replaced=tuple(
                Replaced(r["module"], r["kind"], dict(r["arguments"])) for r in content.get("replaced", ())
            ),
            form=content["form"],
            base=tuple(content.get("base", ())),
            graph=tuple(content.get("graph", ())),
            resolution=_size(content.get("resolution")),
            masks=tuple(masking.Mask(m["tensor"], tuple(m["shape"]), m["bits"]) for m in content.get("masks", ())),
        )


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    height, width = value
    if not all(type(side) is int and side > 0 for side in (height, width)):
        raise ValueError(f"resolution {value!r} is no size in pixels")
    return height, width


def replay(model: nn.Module, cuts: Cuts | Sequence[Cuts]) -> nn.Module:
    """Apply a manifest to a fresh model, in place, and return it; in form "graph", return what runs in its place.

    cuts: one manifest, or several that were made one after the other, which are applied in that order.
    A model of another architecture is refused before anything is changed: the error names the first tensor
    that is missing or has another shape.
    """
    import torch

    if isinstance(cuts, list | tuple) and all(isinstance(each, Cuts) for each in cuts):
        for each in cuts:
            model = replay(model, each)
        return model
    _check_given(model, cuts)
    assert isinstance(cuts, Cuts)
    with torch.inference_mode(False):  # parameters that are made in it could never be trained
        return _replayed(model, cuts)


def forget(model: nn.Module) -> None:
    """Let modules drop what they cached of their weights, as some do when their mode is set (LeViT); it stays."""
    modes = {module: module.training for module in model.modules()}
    for mode in (not model.training, model.training):
        model.train(mode)
    for module, mode in modes.items():
        module.training = mode


def _replayed(model: nn.Module, cuts: Cuts) -> nn.Module:
    from paretune._replaced import made
    from paretune._resized import resized
    from paretune._skip import Skip
    from paretune.graphs import from_json

    stays = {mask.tensor: mask.stays() for mask in cuts.masks}  # a damaged one is refused before anything changes
    fold_parametrizations(model, cuts.folded)
    if cuts.base:
        model = from_json(model, list(cuts.base))
    _check_removed(model, cuts)
    _check_shapes(model, cuts)
    _check_attributes(model, cuts)
    masking.check(model, cuts.masks)
    new = {change.module: made(model, change.module, change.kind, change.arguments) for change in cuts.replaced}
    for name, module in new.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)
    for gone in cuts.removed:
        parent, _, child = gone.module.rpartition(".")
        skip = Skip(model.get_submodule(gone.module), gone.items, gone.structure)
        setattr(model.get_submodule(parent), child, skip)
    homes = _homes(model)
    for cut in cuts.cuts:
        owner, _, name = cut.tensor.rpartition(".")
        old = getattr(model.get_submodule(owner), name)
        tensor = cut_tensor(old, cut)
        homes[id(tensor)] = homes.pop(id(old))
        for module, key in homes[id(tensor)]:  # a tied tensor is cut once, and stays one object
            setattr(module, key, tensor)
    for change in cuts.attributes:
        holder = model.get_submodule(change.module)
        setattr(holder, change.attribute, _like(getattr(holder, change.attribute, None), change.new))
    masking.apply(model, stays)
    forget(model)
    if cuts.form == "graph":
        return from_json(model, list(cuts.graph))
    return model if cuts.resolution is None else resized(model, cuts.resolution)


def parametrized(model: nn.Module) -> tuple[str, ...]:
    """Return the modules whose weights a parametrization computes, an older weight or spectral norm, or a mask."""
    from torch.nn.utils import parametrize

    return tuple(
        name for name, module in model.named_modules() if parametrize.is_parametrized(module) or _hooked(module)
    )


def fold_parametrizations(model: nn.Module, names: tuple[str, ...]) -> nn.Module:
    """Make what parametrizations give the weights themselves, in place, and return the model."""
    from torch import nn
    from torch.nn.utils import parametrize

    for name in names:
        module = model.get_submodule(name)
        if parametrize.is_parametrized(
            module
        ):  # a copy shares the class of the properties: give it one of its own
            kind = type(module)
            body = {key: value for key, value in vars(kind).items() if key not in ("__dict__", "__weakref__")}
            module.__class__ = type(kind.__name__, kind.__bases__, body)
        for tensor in list(getattr(module, "parametrizations", {})):
            parametrize.remove_parametrizations(module, tensor)
            value = module._buffers.pop(tensor, None)
            if value is not None:  # torch makes a buffer of what was computed from frozen parameters
                module.register_parameter(tensor, nn.Parameter(value, requires_grad=False))
        for tensor, sources, remove in _hooked(module):
            learns = any(module.get_parameter(source).requires_grad for source in sources)
            remove(module, tensor)
            module.get_parameter(tensor).requires_grad_(learns)
    return model


def _hooked(module: nn.Module) -> list[tuple[str, tuple[str, ...], Callable[..., Any]]]:
    """Return what hooks compute before each call: the tensor, its parameters, and what makes it one for good.

    These are the deprecated torch.nn.utils.weight_norm and spectral_norm, and the masks of torch.nn.utils.prune.
    """
    from torch.nn.utils import prune, remove_weight_norm
    from torch.nn.utils.spectral_norm import SpectralNorm
    from torch.nn.utils.weight_norm import WeightNorm

    found: list[tuple[str, tuple[str, ...], Callable[..., Any]]] = []
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, WeightNorm):
            found.append((hook.name, (f"{hook.name}_g", f"{hook.name}_v"), remove_weight_norm))
        elif isinstance(hook, SpectralNorm):
            found.append((hook.name, (f"{hook.name}_orig",), _remove_spectral_norm))
        elif isinstance(hook, prune.BasePruningMethod):
            found.append((hook._tensor_name, (f"{hook._tensor_name}_orig",), prune.remove))
    return found


def _remove_spectral_norm(module: nn.Module, name: str) -> None:
    """Remove a deprecated spectral norm with its hook on loading, which torch leaves: it asks for what is gone."""
    from torch.nn.utils import remove_spectral_norm
    from torch.nn.utils.spectral_norm import SpectralNormLoadStateDictPreHook

    remove_spectral_norm(module, name)
    for key, wrapped in list(module._load_state_dict_pre_hooks.items()):
        hook = getattr(wrapped, "hook", wrapped)
        if isinstance(hook, SpectralNormLoadStateDictPreHook) and hook.fn.name == name:
            del module._load_state_dict_pre_hooks[key]


def _like(old: Any, new: Any) -> Any:
    """Return a number as it is, and numbers in a row as the list or tuple that held the old ones."""
    return type(old)(new) if isinstance(old, list | tuple) and isinstance(new, list | tuple) else new


def _homes(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Return every (module, name) at which each parameter and buffer stands; tied ones stand at several."""
    homes: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
            if tensor is not None:
                homes.setdefault(id(tensor), []).append((module, name))
    return homes


def cut_tensor(old: torch.Tensor, cut: Cut) -> torch.Tensor:
    """Return the slices that stay: as a parameter with its requires_grad, or as a buffer."""
    import torch
    from torch import nn

    index = torch.tensor(cut.keep, dtype=torch.long, device=old.device)
    parts = zip(old.detach().chunk(cut.blocks), index.chunk(cut.blocks), strict=True)
    new = torch.cat([part.index_select(cut.axis, places) for part, places in parts]).contiguous()
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new


def _check_given(model: Any, cuts: Any) -> None:
    """Raise a SurgeryError for what is no model or no manifest, and for a manifest of what is not there."""
    from torch import nn

    if not isinstance(cuts, Cuts):
        hint = {"Pruned": "give its .cuts", "dict": "read it by Cuts.from_json(...)"}.get(type(cuts).__name__)
        one = "give one manifest after the other" if isinstance(cuts, list | tuple) else "give a Cuts"
        raise SurgeryError(f"a {type(cuts).__name__} is no manifest of cuts: {hint or one}")
    if not isinstance(model, nn.Module):
        raise SurgeryError(f"cuts are replayed on a fresh torch.nn.Module, and this is a {type(model).__name__}")
    modules = dict(model.named_modules())
    changed = [change.module for change in cuts.attributes] + [change.module for change in cuts.replaced]
    for name in (*cuts.folded, *changed):
        if name not in modules:
            raise SurgeryError(
                f"this manifest of cuts is of another architecture: the model has no module '{name}'."
                f"{nearest(name, modules)} Replay it on a fresh model of the class that was pruned."
            )
    for cut in cuts.cuts:
        shape = cuts.shapes.get(cut.tensor, ())
        if not 0 <= cut.axis < len(shape) or not all(0 <= place < shape[cut.axis] for place in cut.keep):
            raise SurgeryError(
                f"this manifest of cuts is damaged: it keeps places of axis {cut.axis} of '{cut.tensor}' that a "
                f"tensor of {tuple(shape)} has not. Give the one that `cuts.to_json()` wrote"
            )


def _check_removed(model: nn.Module, cuts: Cuts) -> None:
    from paretune._skip import Skip

    modules = dict(model.named_modules())
    for gone in cuts.removed:
        if gone.module not in modules:
            raise SurgeryError(
                f"this manifest of cuts is of another architecture: the model has no module '{gone.module}'."
                f"{nearest(gone.module, modules)} Replay it on a fresh model of the class that was pruned."
            )
        if isinstance(modules[gone.module], Skip):
            raise SurgeryError(
                f"this manifest of cuts was applied already: '{gone.module}' is removed from this model. "
                "Replay it on a fresh model of the class that was pruned."
            )


def _check_attributes(model: nn.Module, cuts: Cuts) -> None:
    """Raise a SurgeryError for what is no number, or row of numbers, in a module of the model."""
    modules = dict(model.named_modules(remove_duplicate=False))
    for change in cuts.attributes:
        name = f"{change.module}.{change.attribute}".lstrip(".")
        held = getattr(modules.get(change.module), change.attribute, None)
        numbers = [
            n for value in (held, change.new) for n in (value if isinstance(value, list | tuple) else [value])
        ]
        if change.module not in modules or not all(n is None or is_number(n) for n in numbers):
            raise SurgeryError(
                f"this manifest of cuts is of another architecture, or damaged: it sets '{name}' to "
                f"{change.new!r}, and there it finds {type(held).__name__}. Replay it on a fresh model of the "
                "class that was pruned."
            )


def _check_shapes(model: nn.Module, cuts: Cuts) -> None:
    from torch.nn.parameter import is_lazy

    tensors = dict(model.named_parameters(remove_duplicate=False)) | dict(
        model.named_buffers(remove_duplicate=False)
    )
    for name, shape in cuts.shapes.items():
        if name not in tensors:
            raise SurgeryError(
                f"this manifest of cuts is of another architecture: the model has no tensor '{name}'."
                f"{nearest(name, tensors)} Replay it on a fresh model of the class that was pruned."
            )
        if is_lazy(tensors[name]):
            raise SurgeryError(
                f"'{name}' is made when the model first runs: run it once, and then replay the cuts"
            )
        if tuple(tensors[name].shape) != tuple(shape):
            raise SurgeryError(
                f"this manifest of cuts is of another architecture, or was applied already: '{name}' is "
                f"{tuple(tensors[name].shape)}, the manifest expects {tuple(shape)}. "
                "Replay it on a fresh model of the class that was pruned."
            )

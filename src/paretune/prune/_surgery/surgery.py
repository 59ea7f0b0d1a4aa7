"""Surgery: a set of removed units -> the manifest of cuts.

There is one way to cut: compute `Cuts` from the analysis, then `paretune.cuts.replay` them on a copy. `masked`
does in the uncut model what the cut amounts to; both must compute the same function, which is checked for every
cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from paretune.cuts import Attribute, Cut, Cuts
from paretune.prune._couplings.couplings import Couplings
from paretune.prune._couplings.parts import tensor_of

Keep = NDArray[np.bool_]
"""For every unit id, whether it stays."""


def kept(keep: Keep, units: NDArray[np.int64]) -> Keep:
    """Return which positions of an axis stay; fixed positions (negative ids) always do."""
    return np.where(units >= 0, keep[np.maximum(units, 0)], True) if len(keep) else np.ones(units.shape, bool)


def blocked(state: Couplings) -> dict[tuple[str, int], NDArray[np.int64]]:
    """Return the axes of weights whose blocks along axis 0 read different channels (grouped convolution)."""
    return {(read.tensor, read.axis): read.units for read in state.reads if read.units.ndim == 2}


def make_cuts(model: nn.Module, state: Couplings, keep: Keep) -> Cuts:
    """Return the manifest that removes every position whose unit does not stay."""
    grouped = blocked(state)
    cuts: list[Cut] = []
    shapes: dict[str, tuple[int, ...]] = {}
    after: dict[str, tuple[int, ...]] = {}
    for tensor, axes in state.tensors.items():
        sizes = [len(axis) for axis in axes]
        for index, axis in enumerate(axes):
            places = kept(keep, grouped.get((tensor, index), axis))
            if places.all():
                continue
            shapes[tensor] = tuple(len(axis) for axis in axes)
            cut = _cut(tensor, index, places)
            cuts.append(cut)
            sizes[index] = len(cut.keep) // cut.blocks
        after[tensor] = tuple(sizes)
    attributes = tuple(_attributes(model, {name: after[name] for name in shapes}))
    return Cuts(shapes=shapes, cuts=tuple(cuts), attributes=attributes)


def _cut(tensor: str, axis: int, places: Keep) -> Cut:
    if places.ndim == 1 or (places == places[:1]).all():
        return Cut(tensor, axis, tuple(np.flatnonzero(np.atleast_2d(places)[0]).tolist()))
    return Cut(tensor, axis, tuple(np.nonzero(places)[1].tolist()), blocks=len(places))


def _attributes(model: nn.Module, after: dict[str, tuple[int, ...]]) -> Iterator[Attribute]:
    """Yield the numbers in modules that must follow the new shapes."""
    tensors = {id(tensor_of(model, name)): name for name in after}
    for path, module in model.named_modules():
        own = {
            name: after[tensors[id(tensor)]]
            for name, tensor in [*module._parameters.items(), *module._buffers.items()]
            if tensor is not None and id(tensor) in tensors
        }
        for attribute, new in widths_of(module, own).items():
            old = getattr(module, attribute, None)
            if old is not None and old != new:
                yield Attribute(path, attribute, old, new)


def widths_of(module: nn.Module, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return the attributes of a module that hold widths, as its tensors' new shapes have them.

    shapes: new shapes of the tensors of its own that were cut, by name.
    """
    if isinstance(module, nn.RNNCellBase):
        sizes = (("input_size", "weight_ih"), ("hidden_size", "weight_hh"))
        return {attribute: shapes[weight][1] for attribute, weight in sizes if weight in shapes}
    if isinstance(module, nn.RNNBase):
        sizes = (("input_size", "weight_ih_l0"), ("hidden_size", "weight_hh_l0"))
        return {attribute: shapes[weight][1] for attribute, weight in sizes if weight in shapes}
    shape = shapes.get("weight") or shapes.get("running_mean")
    if shape is None:
        return {}
    if isinstance(module, nn.modules.conv._ConvNd):
        return _convolution_widths(module, shape)
    kinds: tuple[tuple[Any, dict[str, Any]], ...] = (
        (nn.Linear, {"out_features": shape[0], "in_features": shape[-1]}),
        (nn.Bilinear, {"out_features": shape[0], "in1_features": shape[-2:][0], "in2_features": shape[-1]}),
        (nn.modules.batchnorm._NormBase, {"num_features": shape[0]}),
        (nn.GroupNorm, _group_norm_widths(module, shape[0])),
        ((nn.LayerNorm, nn.RMSNorm), {"normalized_shape": tuple(shape)}),
        (nn.Embedding, {"num_embeddings": shape[0], "embedding_dim": shape[-1]}),
        (nn.PReLU, {"num_parameters": shape[0]}),
    )
    return next((widths for kind, widths in kinds if isinstance(module, kind)), {})


def _group_norm_widths(module: nn.Module, channels: int) -> dict[str, Any]:
    alone = getattr(module, "num_groups", None) == getattr(module, "num_channels", 0)
    return {"num_channels": channels, **({"num_groups": channels} if alone else {})}


def _convolution_widths(module: nn.modules.conv._ConvNd, shape: tuple[int, ...]) -> dict[str, Any]:
    old = module.weight.shape
    groups = module.groups
    if module.transposed:
        if groups > 1:  # depthwise: one group a channel
            groups = shape[0]
        return {"in_channels": shape[0], "out_channels": shape[1] * groups, "groups": groups}
    if groups > 1 and old[1] == 1:
        groups = groups * shape[0] // old[0]
    return {"out_channels": shape[0], "in_channels": shape[1] * groups, "groups": groups}

"""Caches of generation: what keeps them right where the layer that they count on goes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree

from paretune._skip import Skip
from paretune.cuts import Attribute
from paretune.data import call
from paretune.prune._depth.residual import Block


def cache_places(
    model: nn.Module, example: Any, gone: Sequence[Block]
) -> tuple[tuple[Attribute, ...], tuple[str, ...]]:
    """Return what keeps generation with a cache right, and notes; the model has `gone` skipped.

    A Hugging Face cache counts its length by what the layer whose `layer_idx` is 0 has put into it. Where that
    layer goes, the first of its kind that stays takes its index (sliding layers are cached otherwise than full).
    """
    kinds = getattr(getattr(model, "config", None), "layer_types", None) or []
    changes: list[Attribute] = []
    for stack, places in _layer_indices(model).items():
        if not gone or 0 in places:
            continue
        like = (
            [index for index in places if index < len(kinds) and kinds[index] == kinds[0]] if kinds else [*places]
        )
        if not like:
            return (), (_no_cache(f"no layer of {stack} is of the kind of the first, which went"),)
        changes += [Attribute(path, "layer_idx", min(like), 0) for path in places[min(like)]]
    before = outputs_of(model, example)
    for change in changes:
        setattr(model.get_submodule(change.module), change.attribute, change.new)
    if all(torch.equal(a, b) for a, b in zip(before, outputs_of(model, example), strict=True)):
        return tuple(changes), ()
    return (), (_no_cache("the first layer went, and what the others compute depends on their own index"),)


def _no_cache(reason: str) -> str:
    return f"generate with use_cache=False: {reason}, and a cache counts its length on that layer"


def _layer_indices(model: nn.Module) -> dict[str, dict[int, list[str]]]:
    """Return stack of layers -> layer_idx -> the modules that hold it."""
    found: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path, module in model.named_modules():
        index = vars(module).get("layer_idx")
        if type(index) is int and not isinstance(module, Skip):
            stack = takewhile(lambda part: not part.isdigit(), path.split("."))
            found[".".join(stack)][index].append(path)
    return found


def outputs_of(model: nn.Module, example: Any) -> list[torch.Tensor]:
    """Return every tensor that a model gives for an example."""
    return [leaf for leaf in _pytree.tree_leaves(call(model, example)) if isinstance(leaf, torch.Tensor)]

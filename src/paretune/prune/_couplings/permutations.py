"""Chains of views that only permute one axis: the channel shuffle, written as view, transpose, view.

Seen one by one, the views say that the channels form blocks, and that whole columns of blocks must go together;
seen as one permutation they couple nothing (Zhang et al., "ShuffleNet", CVPR 2018, arXiv:1707.01083, figure 1).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import fx

from paretune.prune._couplings.operators import operator_of

_VIEWS = ("view", "reshape", "_unsafe_view", "flatten", "unflatten")
_MOVES = ("permute", "transpose", "swapaxes", "swapdims")
_COPIES = ("contiguous", "clone")
_LONGEST = 6
_LARGEST = 4_000_000

Permutation = tuple[fx.Node, int, NDArray[np.int64]]
"""(what goes in, the axis, for each position of the output the position of the input)."""


def permutation_chains(graph: fx.Graph) -> tuple[dict[fx.Node, Permutation], set[fx.Node]]:
    """Return the last node of every chain with its permutation, and the nodes inside the chains."""
    found: dict[fx.Node, Permutation] = {}
    inside: set[fx.Node] = set()
    for node in graph.nodes:
        if node in inside or operator_of(node) not in _VIEWS:
            continue
        chain = _chain(node)
        if chain and (permutation := _permutation(chain)) is not None:
            found[chain[-1]] = permutation
            inside |= set(chain[:-1])
    return found, inside


def _chain(first: fx.Node) -> list[fx.Node]:
    """Return the shortest chain from a view to a tensor of the shape that went in, by nodes with one user each."""
    source = first.args[0]
    shape = source.meta["val"].shape  # type: ignore[union-attr]
    if first.meta["val"].dim() <= len(shape):
        return []
    chain = [first]
    while len(chain) < _LONGEST and len(chain[-1].users) == 1:
        user = next(iter(chain[-1].users))
        if operator_of(user) not in (*_VIEWS, *_MOVES, *_COPIES):
            return []
        chain.append(user)
        if user.meta["val"].shape == shape:
            return chain if any(operator_of(node) in _MOVES for node in chain) else []
    return []


def _permutation(chain: list[fx.Node]) -> Permutation | None:
    source = chain[0].args[0]
    assert isinstance(source, fx.Node)
    shape = tuple(int(size) for size in source.meta["val"].shape)
    if np.prod(shape) > _LARGEST:
        return None
    before = torch.arange(int(np.prod(shape))).reshape(shape)
    after = before
    for node in chain:
        after = node.target(after, *node.args[1:], **node.kwargs)  # type: ignore[operator]
    moved = [index.tolist() for index in np.nonzero((before != after).numpy())]
    if not moved or not moved[0]:
        return None
    place = np.unravel_index(after.numpy().ravel(), shape)
    own = np.unravel_index(before.numpy().ravel(), shape)
    changed = [axis for axis in range(len(shape)) if (place[axis] != own[axis]).any()]
    if len(changed) != 1:
        return None
    axis = changed[0]
    lines = place[axis].reshape(shape)
    positions = np.moveaxis(lines, axis, 0).reshape(shape[axis], -1)
    return (source, axis, positions[:, 0].astype(np.int64)) if (positions == positions[:, :1]).all() else None

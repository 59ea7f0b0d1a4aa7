"""Groups: the coupled channels of a model, as selection and surgery see them.

A group is the set of units that share an axis which some layer makes: the output channels of one convolution, or
of all convolutions whose outputs are added. What can be removed at once is a *bundle*: one unit, or, where the
model needs equal parts (grouped convolution, chunk), one unit of every part.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from paretune.prune._couplings.couplings import Couplings, Slice
from paretune.prune._couplings.units import Axis, Units

STRUCTURES = ("channels", "neurons", "heads", "query_key", "value", "embedding", "hidden", "experts")
"""Channels of convolutions; neurons of linear layers (feed-forward); attention heads; the widths inside a head
that queries share with keys, and that the values have; the width of embeddings and of what is added to them;
hidden units of recurrent layers; experts of a mixture."""


@dataclass(frozen=True)
class Group:
    """Channels that are chosen together, and the layers that make them."""

    layers: tuple[str, ...]
    """The layers that make these channels, in the order of the graph."""
    width: int
    """Channels of the first of these layers."""
    prunable: int
    """How many of them may be removed (all but one at once)."""
    step: int
    """Channels of the first layer that go with one bundle."""
    blocks: NDArray[np.int64]
    """(parts, n) units: a bundle is one unit of every row."""
    makes: tuple[Slice, ...]
    structure: str
    """What its units are: one of `STRUCTURES`."""

    @property
    def title(self) -> str:
        """Return the name of the group: its first layer, and how many more there are."""
        more = len(self.layers) - 1
        return self.layers[0] + (f" (+{more})" if more else "")

    @property
    def label(self) -> str:
        """Return the title, and the structure where it is no plain width: heads and their widths share a title."""
        return self.title if self.structure in ("channels", "neurons") else f"{self.title}, {self.structure},"


def settle(state: Couplings) -> None:
    """Turn every demand for equal parts that cannot be met by free choice into unions, and carry all pins.

    Free choice inside each part is possible where the parts make up exactly the channels of one group. In all
    other cases the j-th positions of all parts are coupled: coarser, but right whatever else holds for them.
    Equal parts that only the user's code asks for (`chunk`) are given up there instead.
    """
    while True:
        state.units.resolve()
        labels, made = _labels(state), _made(state)
        rough = [blocks for blocks in state.balances if not _is_free(state, blocks, labels, made)]
        before = [state.units.find(blocks) for blocks in rough]
        for blocks in rough:
            for row in blocks[1:]:
                state.units.union(blocks[0], row)
        state.balances = [blocks for blocks in state.balances if not any(blocks is other for other in rough)]
        if all(np.array_equal(state.units.find(b), old) for b, old in zip(rough, before, strict=True)):
            break
    labels, made = _labels(state), _made(state)
    for blocks in state.preferences:
        state.balances.append(blocks)
        joined = _joined(labels, state.units.find(blocks).ravel())
        if _is_free(state, blocks, joined, made):
            labels = joined
        else:
            state.balances.pop()
    state.units.resolve()


def _is_free(state: Couplings, blocks: NDArray[np.int64], labels: Axis, made: Axis) -> bool:
    units = state.units.find(blocks)
    group = np.unique(labels[units])
    if len(np.unique(units)) != units.size or (state.units.pinned(units) >= 0).any() or len(group) != 1:
        return False
    if state.units.factors(units.ravel()).shape[1] > 1:
        return False
    if (labels[made] == group[0]).sum() != units.size:
        return False
    mine = _partition(units)
    return all(
        np.array_equal(_partition(other), mine)
        for other in map(state.units.find, state.balances)
        if np.isin(labels[other], group).any()
    )


def _partition(blocks: NDArray[np.int64]) -> NDArray[np.int64]:
    rows = np.sort(blocks, axis=1)
    return rows[np.argsort(rows[:, 0])]


def _made(state: Couplings) -> Axis:
    """Return every unit that some layer makes, factors of products apart."""
    found = [state.units.factors(made.units).ravel() for made in state.makes]
    units = np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)
    return units[units >= 0]


def _labels(state: Couplings) -> Axis:
    """Return a label per unit: equal where units lie on one axis that a layer makes, or must stay in balance.

    What a layer makes for queries and keys is apart from what it makes for values, wherever both lie on its axis.
    """
    roles = _roles(state)
    use = roles["query_key"] + 2 * roles["value"]
    together = [state.units.find(blocks).ravel() for blocks in state.balances]
    for made in state.makes:
        for column in state.units.factors(made.units).T:
            real = column[column >= 0]
            together += [real[use[real] == each] for each in np.unique(use[real])]
    groups = Units()
    groups.new(state.units.count)
    groups.union(
        np.concatenate([np.empty(0, np.int64), *(np.full(len(units), units.min()) for units in together)]),
        np.concatenate([np.empty(0, np.int64), *together]),
    )
    return groups.find(np.arange(state.units.count))


def _joined(labels: Axis, units: Axis) -> Axis:
    """Return the labels with those of some units made one."""
    return np.where(np.isin(labels, labels[units]), labels[units].min(), labels)


def build_groups(state: Couplings) -> list[Group]:
    """Return the groups that have something to remove, in the order of the graph; call `settle` before."""
    labels, made = _labels(state), _made(state)
    free = made[state.units.pinned(made) < 0]
    members: dict[int, Axis] = _by_label(labels, free)
    makers: dict[int, list[Slice]] = defaultdict(list)
    for made_slice in state.makes:
        factors = state.units.factors(made_slice.units)
        for label in dict.fromkeys(labels[factors[factors >= 0]].tolist()):
            if not any(m.tensor == made_slice.tensor and m.axis == made_slice.axis for m in makers[label]):
                makers[label].append(made_slice)
    roles = _roles(state)
    balanced = {int(labels[state.units.find(blocks)[0, 0]]): state.units.find(blocks) for blocks in state.balances}
    groups = [
        _group(state, makers[label], units, balanced.get(label, units[None]), roles)
        for label, units in members.items()
    ]
    groups = [group for group in groups if _worth(state, group)]
    order = {id(made_slice): index for index, made_slice in enumerate(state.makes)}
    return sorted(groups, key=lambda group: order[id(group.makes[0])])


def _by_label(labels: Axis, units: Axis) -> dict[int, Axis]:
    order = np.argsort(labels[units], kind="stable")
    found, starts = np.unique(labels[units][order], return_index=True)
    return dict(zip(found.tolist(), np.split(units[order], starts[1:]), strict=True)) if len(units) else {}


def _group(
    state: Couplings,
    makers: list[Slice],
    units: Axis,
    blocks: NDArray[np.int64],
    roles: dict[str, NDArray[np.bool_]],
) -> Group:
    first = makers[0]
    removable = np.isin(state.units.factors(first.units), units).any(axis=1)
    return Group(
        layers=tuple(dict.fromkeys(layer_name(maker.tensor) for maker in makers)),
        width=len(first.units),
        prunable=int(removable.sum()),
        step=channels_per_bundle(state, first, blocks),
        blocks=blocks,
        makes=tuple(makers),
        structure=_structure(state, makers, blocks, roles),
    )


def _roles(state: Couplings) -> dict[str, NDArray[np.bool_]]:
    """Return for every role the units that have it."""
    found: dict[str, NDArray[np.bool_]] = defaultdict(lambda: np.zeros(state.units.count, bool))
    for name, axis in state.roles:
        units = state.units.factors(axis)
        found[name][units[units >= 0]] = True
    return found


def _structure(
    state: Couplings, makers: list[Slice], blocks: NDArray[np.int64], roles: dict[str, NDArray[np.bool_]]
) -> str:
    """Return what the units of a group are for the model, from the operators that they reach."""
    mine = {name for name, units in roles.items() if units[blocks].any()}
    for name in ("experts", "hidden", "heads", "query_key", "value", "embedding"):
        if name in mine:
            return name
    linear = sum(len(state.tensors[maker.tensor]) == 2 for maker in makers)
    if "normalised" in mine and len(makers) > 1 and 2 * linear > len(makers):
        return "embedding"
    return "neurons" if linear == len(makers) else "channels"


def channels_per_bundle(state: Couplings, made: Slice, blocks: NDArray[np.int64]) -> int:
    """Return how many channels of a layer go with one bundle."""
    removable = np.isin(state.units.factors(made.units), blocks).any(axis=1)
    return max(1, round(int(removable.sum()) / int(blocks.shape[1])))


def _worth(state: Couplings, group: Group) -> bool:
    """Tell whether a group can lose a bundle and keep enough; else pin it, so that its layers say why."""
    units = state.units
    if group.blocks.shape[1] == 1:
        why = "all its channels are coupled into one unit, and one must stay"
        units.pin(group.blocks, units.reason(why, "a wider layer, or fewer channels a group"))
        return False
    for axis, least in state.minima:
        if len(axis) <= least and np.isin(units.factors(axis), group.blocks).any():
            why = f"topk chooses {least} of its {len(axis)} positions, and so many must stay"
            units.pin(group.blocks, units.reason(why, "a smaller k, or more to choose from"))
            return False
    return True


def layer_name(tensor: str) -> str:
    """Return the layer of a parameter: `conv1` of `conv1.weight`; a parameter of the model itself is its own."""
    owner, _, name = tensor.rpartition(".")
    return owner if owner and name in ("weight", "bias", "in_proj_weight") else tensor

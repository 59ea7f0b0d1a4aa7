"""Which weights go: by a threshold, a ratio, a count, or N of every M, of what is compared with what."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paretune.errors import InfeasibleError, InputError, RunError, check_whole, is_number, nearest
from paretune.prune._n_m import n_m as stays_of_m
from paretune.prune._sparse.units import NORMS, Unit, as_units, check_unit, norms, of_units

TARGETS = ("threshold", "ratio", "count", "n_m")
SCOPES = ("global", "layer", "tensor")
QUANTILES = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which weights go: exactly one of TARGETS, and how units are compared."""

    threshold: float | None = None
    ratio: float | None = None
    count: int | None = None
    n_m: tuple[int, int] | None = None
    norm: str = "l1"
    unit: Unit = "weight"
    scope: str = "global"

    def __post_init__(self) -> None:
        asked = [name for name in TARGETS if getattr(self, name) is not None]
        if len(asked) != 1:
            raise InputError(
                f"prune.weights: give exactly one of {', '.join(TARGETS)}; got {' and '.join(asked) or 'none'}"
            )
        if self.ratio is not None and not (is_number(self.ratio) and 0 <= self.ratio < 1):
            raise InputError(
                f"prune.weights: ratio={self.ratio!r} must be at least 0 and below 1; it is the fraction that is "
                "removed: ratio=0.9 sets nine of ten weights to zero"
            )
        if self.threshold is not None and not (is_number(self.threshold) and 0 <= self.threshold < math.inf):
            raise InputError(
                f"prune.weights: threshold={self.threshold!r} must be a number of at least 0: a norm is never "
                "below, and what is at or below the threshold goes"
            )
        check_whole("prune.weights: count", self.count, least=0)
        for name, allowed in (("norm", NORMS), ("scope", SCOPES)):
            value = getattr(self, name)
            if value not in allowed:
                raise InputError(
                    f"prune.weights: {name}={value!r} must be one of {', '.join(allowed)}."
                    f"{nearest(str(value), allowed)}"
                )
        object.__setattr__(self, "unit", check_unit("prune.weights", self.unit))
        if self.n_m is not None:
            self._check_n_m()

    def _check_n_m(self) -> None:
        pattern = self.n_m
        if not isinstance(pattern, list | tuple) or len(pattern) != 2:
            raise InputError(f"prune.weights: n_m={pattern!r} must be two numbers, (2, 4) for two of every four")
        if self.unit != "weight":
            raise InputError(f"prune.weights: n_m is of single weights, and unit={self.unit!r}; leave out unit")
        object.__setattr__(self, "n_m", tuple(pattern))

    def gone(self, chosen: Mapping[str, Tensor], *, average: bool = False) -> dict[str, Tensor]:
        """Return for every tensor which of its weights go: bool, of its shape.

        average: units are compared by their norm for each weight (l2: in root mean square), so that large ones do
            not win by their size; a ratio or count of units compares them so anyway, a threshold never.
        """
        if self.n_m is not None:
            return {name: ~_of_m(name, tensor, *self.n_m) for name, tensor in chosen.items()}
        found = {name: norms(tensor, self.unit, self.norm).cpu() for name, tensor in chosen.items()}
        if average or (self.threshold is None and self.unit != "weight"):
            power = 1.0 if self.norm == "l1" else 0.5
            found = {name: values / _sizes(chosen[name], self.unit) ** power for name, values in found.items()}
        for name, values in found.items():
            if not bool(values.isfinite().all()):
                raise RunError(f"prune.weights: '{name}' has weights that are not finite: look for NaN in them")
        gone: dict[str, Tensor] = {}
        for group in self._groups(chosen):
            gone |= self._of_group({name: found[name] for name in group}, chosen)
        if chosen and all(bool(units.all()) for units in gone.values()):
            raise InfeasibleError(self._nothing_left(torch.cat(list(found.values()))))
        return {
            name: of_units(units, chosen[name].shape, self.unit).to(chosen[name].device)
            for name, units in gone.items()
        }

    def _groups(self, names: Iterable[str]) -> list[list[str]]:
        """Return the tensors whose units are compared with one another."""
        groups: dict[str, list[str]] = {}
        for name in names:
            key = {"global": "", "layer": name.rpartition(".")[0], "tensor": name}[self.scope]
            groups.setdefault(key, []).append(name)
        return list(groups.values())

    def _of_group(self, found: Mapping[str, Tensor], chosen: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return which units go, of tensors that are compared with one another."""
        if self.threshold is not None:
            return {name: values <= self.threshold for name, values in found.items()}
        values = torch.cat(list(found.values()))
        sizes = torch.cat([_sizes(chosen[name], self.unit) for name in found])
        units = _lowest(values, self._count_of(values, sizes, where=next(iter(found))))
        parts = torch.split(units, [len(norm) for norm in found.values()])
        return dict(zip(found, parts, strict=True))

    def _count_of(self, values: Tensor, sizes: Tensor, where: str) -> int:
        """Return how many of the units go, the lowest first."""
        if self.count is not None:
            if self.count > len(values):
                of = "the model" if self.scope == "global" else f"the {self.scope} of '{where}'"
                raise InputError(f"prune.weights: count={self.count}, and {of} has {len(values)} units")
            return self.count
        assert self.ratio is not None
        budget = math.floor(self.ratio * int(sizes.sum()) + 1e-9)
        if len(sizes) and bool((sizes == sizes[0]).all()):
            return budget // int(sizes[0])
        order = values.argsort(stable=True)
        return int((sizes[order].cumsum(0) <= budget).sum())

    def _nothing_left(self, values: Tensor) -> str:
        told = ", ".join(f"{100 * at:g} % {np.quantile(values.numpy(), at):.3g}" for at in QUANTILES)
        asked = next(f"{name}={getattr(self, name)}" for name in TARGETS if getattr(self, name) is not None)
        return (
            f"prune.weights: at {asked} every weight would go. Nothing was changed. The quantiles of the "
            f"{self.norm} norms: {told}; choose a threshold below the last, or a ratio"
        )


def _sizes(tensor: Tensor, unit: Unit) -> Tensor:
    """Return how many weights each unit has; a block at the edge has fewer."""
    ones = torch.ones(tensor.shape, dtype=torch.int32)
    return as_units(ones, unit).sum(1) if isinstance(unit, tuple) else _even(tensor, unit)


def _even(tensor: Tensor, unit: Unit) -> Tensor:
    units, each = as_units(tensor, unit).shape
    return torch.full((units,), each)


def _lowest(values: Tensor, count: int) -> Tensor:
    """Return which values are the `count` lowest, the first of equal ones; in linear time."""
    if count == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    last = values.kthvalue(count).values
    gone = values < last
    equal = (values == last).nonzero().flatten()
    gone[equal[: count - int(gone.sum())]] = True
    return gone


def _of_m(name: str, tensor: Tensor, n: int, m: int) -> Tensor:
    try:
        return stays_of_m(tensor.detach().abs(), n, m)
    except InputError as error:
        help = f", by protect=['{name}']" if "dense" in str(error) else ""
        raise InputError(f"prune.weights: '{name}': {error}{help}") from error

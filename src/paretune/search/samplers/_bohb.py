"""BOHB: a model of good and bad configurations on each budget, and draws where good ones are dense and bad ones
not.

As published, the model is that of the largest budget that has one: its best 15 % of runs and the others, each a
kernel density over all parameters at once, from 2 (d + 1) runs on; of 64 draws from the good one, with kernels
three times as wide, the one with the largest ratio of good to bad is taken; a third of all draws comes from the
prior.

Here densities of each parameter by itself take over as soon as a budget has 12 runs, and half of the model's draws
go on with them when the joint ones begin: many parameters act mostly alone, and the joint model comes too late for
them.

Source: Falkner et al., "BOHB: robust and efficient hyperparameter optimization at scale", ICML 2018,
arXiv:1807.01774. What differs between the paper and its authors' code is as in the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from numpy.typing import NDArray

from paretune.search._density import Columns, bandwidths, columns, draw, joint, marginals
from paretune.search._results import Results
from paretune.search._space.space import Config, Space

Array = NDArray[np.float64]


@final
@dataclass(frozen=True, kw_only=True)
class Bohb:
    """The sampler of BOHB.

    early: runs on a budget from which on its marginal densities are a model; None waits for the joint one.
    together: share of the model's draws that take the joint density where there is one.
    """

    random: float = 1 / 3
    top: float = 0.15
    candidates: int = 64
    wider: float = 3.0
    floor: float = 1e-3
    early: int | None = 12
    together: float = 0.5

    def suggest(self, space: Space, results: Results, generator: np.random.Generator) -> tuple[Array, Config, str]:
        """Return a row, its configuration and where it came from, `random` or `model`."""
        known = self._model(space, results, generator)
        if known is None or generator.random() < self.random:
            row, config = next(space.draws(lambda n: generator.random((n, len(space)))))
            return row, config, "random"
        good, bad, jointly = known
        about = columns(space, self.floor)
        for row in self._ranked(space, about, good, bad, jointly, generator):
            config = space.config(row)
            if space.allowed(config):
                return row, config, "model"
        row, config = next(space.draws(lambda n: generator.random((n, len(space)))))
        return row, config, "random"

    def _model(
        self, space: Space, results: Results, generator: np.random.Generator
    ) -> tuple[Array, Array, bool] | None:
        """Return good and bad rows of the largest budget that has enough, and whether their density is joint."""
        d = len(space)
        for rung in sorted(set(results.rungs.tolist()), reverse=True):
            rows, losses = results.at(rung)
            enough = len(rows) >= 2 * (d + 1)
            if not enough and (self.early is None or len(rows) < self.early):
                continue
            jointly = enough and (self.early is None or generator.random() < self.together)
            least = d + 1 if jointly else min(d + 1, max(2, self.early // 3 if self.early else 2))
            order = np.argsort(losses, kind="stable")
            count = max(least, int(self.top * len(rows)))
            return rows[order[:count]], rows[order[count:]], jointly
        return None

    def _ranked(
        self, space: Space, about: Columns, good: Array, bad: Array, jointly: bool, generator: np.random.Generator
    ) -> Array:
        """Return candidates, the largest ratio of good to bad first."""
        widths = [bandwidths(rows, about, together=jointly) for rows in (good, bad)]
        wide = np.where(about.categories > 0, widths[0], self.wider * widths[0])
        points = draw(good, wide, about, self.candidates, generator, together=jointly)
        points = space.masked(_filled(space, points, generator))
        density = joint if jointly else marginals
        ratio = density(points, good, widths[0], about) - density(points, bad, widths[1], about)
        return np.asarray(points[np.argsort(-ratio, kind="stable")])


def _filled(space: Space, points: Array, generator: np.random.Generator) -> Array:
    """Return points with draws from the prior along columns of which nothing is known."""
    unknown = np.isnan(points).all(axis=0)
    for column in np.flatnonzero(unknown):
        points[:, column] = space[space.names[column]].draw(generator.random(len(points)))
    return points


Variant = Literal["paper"]


def bohb(variant: Variant | None = None) -> Bohb:
    """Return the sampler, or its variant as published."""
    return Bohb(early=None) if variant == "paper" else Bohb()

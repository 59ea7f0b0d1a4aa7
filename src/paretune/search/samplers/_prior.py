"""How far a prior is followed: prior-weighted acquisition, which the results themselves may overrule.

A model's score of a candidate is multiplied by its prior to the power of beta / n, for n results: much at first,
little later. That alone does not save a search from a wrong prior, which with many parameters differs from place
to place by more than any model does (measured in decision 0013), so the power is multiplied by how well the
prior's order agrees with that of the results: their rank correlation, less what chance would give. A prior that
says nothing of the results, or the contrary, counts for nothing. For that to show, a part of the draws before
there is a model must leave the prior aside.

Source: Hvarfner et al., "piBO: augmenting acquisition functions with user beliefs for Bayesian optimization",
ICLR 2022, arXiv:2204.11051, section 4; the factor of agreement is ours.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import stats

from paretune.search._results import Array
from paretune.search._space.space import Space

TINY = 1e-300
LEAST = 4
"""Results from which on agreement is spoken of."""


def log_prior(space: Space, rows: Array) -> Array:
    """Return the logarithm of the prior's density at rows (n, parameters), (n,)."""
    return np.asarray(np.log(np.maximum(space.density(rows), TINY)))


def agreement(space: Space, rows: Array, losses: Array) -> float:
    """Return how well the prior's order agrees with that of results, (n, parameters) and (n,): 1 at most.

    It is the rank correlation of the prior's density and the results, the best first, less its standard error
    where there is none, 1 / sqrt(n); 0 where that is negative, of fewer than four results, and without a prior.
    """
    if len(rows) < LEAST or not space.informed:
        return 0.0
    return max(0.0, _correlation(log_prior(space, rows), -losses) - 1 / math.sqrt(len(rows)))


def power(space: Space, rows: Array, losses: Array, beta: float) -> float:
    """Return the power of the prior after these results: beta / n times the agreement."""
    return beta / max(1, len(rows)) * agreement(space, rows, losses)


def _correlation(a: Array, b: Array) -> float:
    """Return the rank correlation, 0 where either is all the same."""
    ranks = stats.rankdata(np.stack([a, b]), axis=1)
    spread = ranks.std(axis=1)
    if spread.min() == 0:
        return 0.0
    return float(((ranks[0] - ranks[0].mean()) * (ranks[1] - ranks[1].mean())).mean() / spread.prod())

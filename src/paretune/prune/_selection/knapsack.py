"""Towards a budget: channels go in the order of what is lost for each unit of the budget that is saved.

A channel of the first stage of a ResNet saves four times the multiply-accumulates of one of the last, so to go by
the loss alone removes many channels for little. The greedy answer to this knapsack takes the least loss per saving
first. What a channel saves depends on what the layers beside it have kept: it is taken anew on the way, `PHASES`
times.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from paretune.prune._analysis import Analysis
from paretune.prune._ranking import Ranked, Values

PHASES = 32


def by_saving(analysis: Analysis, ranked: list[Ranked], of: str) -> list[Ranked]:
    """Put the bundles of all groups in the order of score per saving; their scores are then their places in it.

    of: what is saved, "macs" or "params". What saves nothing goes last.
    """
    if not ranked:
        return ranked
    scores = np.concatenate([r.scores for r in ranked])
    group = np.repeat(np.arange(len(ranked)), [len(r.scores) for r in ranked])
    within = np.concatenate([np.arange(len(r.scores)) for r in ranked])
    place = np.full(len(scores), -1.0)
    gone: list[np.ndarray] = []
    left = np.arange(len(scores))
    while len(left):
        keep = analysis.keep(np.concatenate(gone) if gone else np.empty(0, np.int64))
        saved = analysis.unit_savings(of, keep)
        each = np.concatenate([saved[r.bundles].sum(axis=1) for r in ranked])[left]
        order = left[np.argsort(_per_saving(scores[left], each), kind="stable")]
        now = order[: -(-len(scores) // PHASES)]
        place[now] = len(scores) - len(left) + np.arange(len(now))
        gone += [ranked[g].bundles[w] for g, w in zip(group[now], within[now], strict=True)]
        left = np.sort(order[len(now) :])
    orders = [np.argsort(place[group == index]) for index in range(len(ranked))]
    return [
        replace(r, bundles=r.bundles[order], scores=place[group == index][order])
        for index, (r, order) in enumerate(zip(ranked, orders, strict=True))
    ]


def _per_saving(scores: Values, saved: Values) -> Values:
    """Return what is lost for each unit saved; of scores below zero, what is won times what is saved."""
    value = np.where(scores > 0, scores / np.maximum(saved, 1e-12), scores * saved)
    return np.where(saved > 0, value, np.inf)

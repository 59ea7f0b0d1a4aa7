"""The order of runs with several objectives: fronts, contributions and feasibility, by hand and against
brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.search import _ranking as ranking
from paretune.search._ranking import Point, contributions, crowding, fronts, order, ranked, succeeded
from paretune.search._results import Growing

optuna_volume = pytest.importorskip("optuna._hypervolume").compute_hypervolume


def grids(objectives, most=12):
    """Values on a coarse grid, so that equal ones and dominated ones are common."""
    row = st.tuples(*[st.integers(0, 4) for _ in range(objectives)])
    return st.lists(row, min_size=1, max_size=most).map(lambda rows: np.array(rows, dtype=float))


def dominates(a, b):
    return (a <= b).all() and (a < b).any()


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 4).flatmap(grids))
def test_fronts_are_what_is_left_without_the_fronts_before(values):
    left = set(range(len(values)))
    for front in fronts(values):
        best = {i for i in left if not any(dominates(values[j], values[i]) for j in left)}
        assert set(front.tolist()) == best
        left -= best
    assert not left


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 3).flatmap(grids))
def test_contributions_are_volumes_with_and_without_the_point(values):
    """Against Optuna's hypervolume, an independent implementation."""
    front = values[fronts(values)[0]] / 4
    reference = np.full(front.shape[1], 1 + ranking.MARGIN)
    unique, first = np.unique(front, axis=0, return_index=True)
    whole, found = optuna_volume(unique, reference), contributions(front)
    for index, number in enumerate(first):
        rest = np.delete(unique, index, axis=0)
        expected = whole - (optuna_volume(rest, reference) if len(rest) else 0.0)
        assert found[number] == pytest.approx(expected, abs=1e-12)
    copies = np.setdiff1d(np.arange(len(front)), first)
    assert (found[copies] == 0).all()


def test_contributions_by_hand():
    """Places (0, 1), (0.5, 0.5), (1, 0) and the reference (1.1, 1.1): 0.5 x 0.1, 0.5 x 0.5, 0.1 x 0.5."""
    front = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    assert contributions(front) == pytest.approx([0.05, 0.25, 0.05])


def test_crowding_by_hand():
    """Ends are infinite; the middle one has (3 - 0) / 3 + (9 - 0) / 9 of its neighbours."""
    front = np.array([[0.0, 9.0], [1.0, 4.0], [3.0, 0.0]])
    assert crowding(front).tolist() == [math.inf, 2.0, math.inf]
    assert crowding(np.array([[1.0, 1.0], [1.0, 1.0]])).tolist() == [math.inf, math.inf]


def test_feasible_runs_come_first_and_others_by_what_they_miss():
    values = np.array([[3.0, 3.0], [0.0, 0.0], [1.0, 2.0], [0.0, 0.0], [2.0, 1.0], [math.inf, 0.0]])
    violations = np.array([0.0, 0.2, 0.0, 0.1, 0.0, 0.0])
    # the front of (1, 2) and (2, 1), the older first; then (3, 3); then 0.1, 0.2; what failed has no rank
    assert order(values, violations).tolist() == [2, 4, 0, 3, 1, math.inf]


def test_one_objective_with_a_constraint_is_by_loss_among_feasible_runs():
    found = order(np.array([[0.3], [0.1], [0.2], [0.2]]), np.array([0.0, 1.0, 0.0, 0.0]))
    assert found.tolist() == [2, 3, 0, 1]


@settings(deadline=None, max_examples=60)
@given(st.integers(2, 4).flatmap(grids), st.randoms(use_true_random=False))
def test_the_order_is_of_places_not_of_units(values, random):
    """A monotone change of any objective changes nothing, and no run comes before one that dominates it."""
    violations = np.array([random.choice([0.0, 0.0, 0.5, 1.5]) for _ in values])
    found = order(values, violations)
    assert sorted(found) == list(range(len(values)))
    assert (order(np.exp(3 * values) - 7, violations) == found).all()
    for i, a in enumerate(values):
        for j, b in enumerate(values):
            if violations[i] == violations[j] == 0 and dominates(a, b):
                assert found[i] < found[j]
            if violations[i] < violations[j]:
                assert found[i] < found[j]


def test_fronts_too_large_for_cells_are_ordered_by_crowding(monkeypatch):
    values = np.array([[0.0, 4.0], [1.0, 3.0], [1.5, 2.5], [3.0, 1.0], [4.0, 0.0]])
    places = np.linspace(0, 1, 5)
    exact = order(values, np.zeros(5))
    assert exact.tolist() == np.argsort(np.argsort(-contributions(np.stack([places, places[::-1]], 1)))).tolist()
    monkeypatch.setattr(ranking, "CELLS", 24)
    assert set(np.argsort(order(values, np.zeros(5)))[:2].tolist()) == {0, 4}, "the ends are infinitely far"


def test_scores_are_sorted_as_their_kind_wants():
    assert ranked([(0.2, 4), (math.inf, 1), (0.2, 3)]) == [(0.2, 3), (0.2, 4), (math.inf, 1)]
    good, bad, missed = Point((0.0, 1.0)), Point((1.0, 2.0)), Point((0.0, 0.0), 0.5)
    told = ranked([(math.inf, 0), (missed, 1), (bad, 2), (good, 3)])
    assert [number for _, number in told] == [3, 2, 1, 0]
    assert succeeded(missed) and not succeeded(Point((0.0, math.nan)))


def test_results_hold_ranks_of_each_rung_and_views_stay_as_they_were():
    growing = Growing(1)
    row = np.array([0.5])
    for rung, values in ((0, (1.0, 2.0)), (0, (3.0, 3.0)), (1, (5.0, 5.0)), (0, (math.inf, math.inf))):
        growing.add(row, Point(values), rung)
    before = growing.results()
    assert before.losses.tolist() == [0, 1, 0, math.inf]
    growing.add(row, Point((0.0, 0.0)), 0)
    after = growing.results()
    assert after.losses.tolist() == [1, 2, 0, math.inf, 0] and before.losses.tolist() == [0, 1, 0, math.inf]
    assert after.values[2].tolist() == [5.0, 5.0] and after.violations.tolist() == [0.0] * 5
    plain = Growing(1)
    plain.add(row, 0.25, 0)
    assert plain.results().losses.tolist() == [0.25] and plain.results().values is None

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.prune.scores import _ziplm, obc, ziplm


def error_without(gone, moment, flat, within):
    """Return what least squares leaves of the outputs once these units are gone: a Schur complement."""
    index = torch.tensor([u * within + i for u in gone for i in range(within)], dtype=torch.long)
    rest = torch.tensor([i for i in range(len(moment)) if i not in index.tolist()], dtype=torch.long)
    schur = moment[index][:, index]
    if len(rest):
        schur = schur - moment[index][:, rest] @ torch.linalg.solve(moment[rest][:, rest], moment[rest][:, index])
    return float((flat[index] * (schur @ flat[index])).sum())


def test_of_independent_inputs_is_the_output_that_a_channel_carries():
    weight, moment = torch.tensor([[1.0, -2.0], [0.0, 0.5]]), torch.tensor([[0.5, 0.0], [0.0, 2.0]])
    assert ziplm(weight, moment, damping=0).tolist() == [2.5, 0.5]  # (1 + 4) / 2, 0.25 * 2


def test_of_two_equal_channels_one_is_worth_both():
    """x1 = x2 and y = x1 + x2, with E[x^2] = 1: without one, 2 * x2 is y; without both, E[y^2] = 4 is lost."""
    moment = torch.ones(2, 2) + 1e-7 * torch.eye(2)
    first, last = ziplm(torch.ones(2, 1), moment, damping=0).tolist()
    assert first < 1e-6
    assert last == pytest.approx(4)
    assert max(obc(torch.ones(2, 1), moment, damping=0).tolist()) < 1e-6


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_each_unit_goes_when_it_is_cheapest_and_scores_what_it_adds(seed, units, out, within):
    """Beside a greedy search that solves the least squares of every set from nothing."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(40, units * within, generator=generator, dtype=torch.float64)
    x[:, 1:] += x[:, :-1]  # correlated, so that the others do make up for what goes
    weight = torch.randn(units, out, within, generator=generator, dtype=torch.float64)
    moment, flat = x.T @ x, weight.transpose(1, 2).reshape(units * within, out)
    expected, gone, before, least = [0.0] * units, [], 0.0, 0.0
    while len(gone) < units:
        added = {
            unit: error_without([*gone, unit], moment, flat, within) - before
            for unit in range(units)
            if unit not in gone
        }
        unit = min(added, key=added.__getitem__)
        least = max(least, added[unit])
        expected[unit], before = least, before + added[unit]
        gone.append(unit)
    torch.testing.assert_close(
        ziplm(weight, moment, damping=0).double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-9
    )


def test_in_rounds_of_several_the_order_of_independent_units_stays(monkeypatch):
    monkeypatch.setattr(_ziplm, "ROUNDS", 3)
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(10, 4, generator=generator)
    scale = torch.rand(10, generator=generator) + 0.5
    torch.testing.assert_close(
        ziplm(weight, torch.diag(scale), damping=0), weight.square().sum(1) * scale, rtol=1e-5, atol=0
    )


@pytest.mark.parametrize("units", [1, 2, 127, 128, 129, 300])
def test_every_unit_goes_once_in_so_many_rounds_at_most(units):
    rounds = _ziplm._rounds(units)
    assert sum(rounds) == units
    assert len(rounds) <= _ziplm.ROUNDS
    assert max(rounds) == math.ceil(units / _ziplm.ROUNDS)


def test_a_moment_that_is_not_finite_gives_scores_that_are_not():
    scores = ziplm(torch.ones(3, 2), torch.full((3, 3), torch.nan))
    assert all(math.isnan(score) for score in itertools.chain(scores.tolist()))


def test_of_a_wide_layer_one_of_two_equal_channels_stays():
    """200 units go two in a round: a pair that can stand in for each other must not go in one."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 200, generator=generator, dtype=torch.float64)
    x[:, 1] = x[:, 0] + 0.01 * torch.randn(1000, generator=generator, dtype=torch.float64)
    weight = torch.randn(200, 4, generator=generator, dtype=torch.float64)
    weight[:2] = 3.0
    low, high = ziplm(weight, x.T @ x / 1000, damping=1e-6)[:2].sort().values.tolist()
    assert low < 0.1
    assert high > 100  # 6 * 6 * 4 outputs
    assert _ziplm.ROUNDS < 200


def test_in_rounds_scores_are_nearly_those_of_one_at_a_time(monkeypatch):
    generator = torch.Generator().manual_seed(1)
    x = torch.relu(torch.randn(800, 6, generator=generator) @ torch.randn(6, 60, generator=generator))
    weight = torch.randn(60, 5, generator=generator)
    exact = ziplm(weight, x.T @ x)
    monkeypatch.setattr(_ziplm, "ROUNDS", 20)
    rounds = ziplm(weight, x.T @ x)
    assert (exact.argsort().argsort() - rounds.argsort().argsort()).abs().float().mean() < 2
    torch.testing.assert_close(exact.sum(), rounds.sum(), rtol=0.05, atol=0)

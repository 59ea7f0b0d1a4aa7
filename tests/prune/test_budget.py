"""Budgets of parameters, bytes and time."""

import io

import numpy as np
import pytest
import torch
from torch import nn

from paretune import prune
from paretune.errors import InfeasibleError, InputError
from paretune.measurement import Latency
from paretune.prune import _stopwatch
from paretune.prune._selection import budget as _budget
from paretune.prune._selection import timing as _timing
from paretune.target import Target


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, groups=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip


IMAGE = torch.randn(1, 3, 8, 8)


def bytes_of(model):
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


@pytest.fixture(scope="module")
def analysis():
    return prune.analyze(net(), IMAGE)


@pytest.mark.parametrize("params", [0.5, "5K", "0.4x", 4500])
def test_a_budget_of_parameters(analysis, params):
    pruned = prune.cut(analysis, prune.select(analysis, params=params))
    limit = {"5K": 5000, "0.4x": 0.4 * analysis.params, 0.5: 0.5 * analysis.params, 4500: 4500}[params]
    counted = sum(parameter.numel() for parameter in pruned.model.parameters())
    assert 0.85 * limit < counted <= limit


@pytest.mark.parametrize("size", [0.5, "20KB", "0.4x"])
def test_a_budget_of_bytes_is_that_of_the_state_dict(analysis, size):
    full = bytes_of(analysis.model)
    assert _budget.size_of(analysis, analysis.everything) == full
    limit = {"20KB": 20_000, "0.4x": 0.4 * full, 0.5: 0.5 * full}[size]
    pruned = prune.cut(analysis, prune.select(analysis, size=size))
    assert 0.85 * limit < bytes_of(pruned.model) <= limit
    file = io.BytesIO()
    torch.save(pruned.model.state_dict(), file)
    assert bytes_of(pruned.model) < len(file.getvalue())


def test_the_bytes_of_any_selection_are_those_of_the_cut_model(analysis):
    for ratio in (0.2, 0.5, 0.8):
        selection = prune.select(analysis, ratio=ratio)
        cut = prune.cut(analysis, selection).model
        assert _budget.size_of(analysis, analysis.keep(selection.removed)) == bytes_of(cut)


def test_half_precision_and_tied_weights_count_as_they_are_stored():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.mid, self.out = nn.Embedding(11, 8), nn.Linear(8, 8), nn.Linear(8, 11, bias=False)
            self.out.weight = self.embedding.weight

        def forward(self, x):
            return self.out(torch.relu(self.mid(self.embedding(x))))

    analysis = prune.analyze(Tied().bfloat16(), torch.zeros(2, 4, dtype=torch.long))
    assert _budget.size_of(analysis, analysis.everything) == 2 * (11 * 8 + 8 * 8 + 8)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"params": 0.001}, r"params=0.001 is \d+ parameters, and the least that this model can be cut to is \d+"),
        ({"size": "10B"}, r"size=10B is 10 bytes, and the least .* can be cut to is \d+ \(0.\d+ of its \d+\)"),
    ],
)
def test_what_cannot_be_met_is_refused_before_any_cut(analysis, how, message):
    with pytest.raises(InfeasibleError, match=message):
        prune.select(analysis, **how)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (
            {"params": "2x"},
            "params=2x must be above 0 and at most 1, or an amount like '1M'; params=0.5 keeps half",
        ),
        ({"size": "1furlong"}, "size='1furlong' is no amount; .* KB"),
        ({"size": 0}, "size=0 must be above 0"),
        ({"latency": "-2ms"}, "latency='-2ms' is no amount"),
        (
            {"latency": "1.5x"},
            "latency=1.5x must be above 0 and at most 1, or an amount like '2ms'; .*of the time",
        ),
    ],
)
def test_amounts_that_cannot_be_are_refused(analysis, how, message):
    with pytest.raises(InputError, match=message):
        prune.select(analysis, **how)


@pytest.fixture
def clock(monkeypatch):
    """Time is the square root of the MACs, 4 ms for the whole model; return the fractions that were timed."""
    timed = []

    def time(self, removed):
        left = self.analysis.macs_of(self.analysis.keep(removed)) / self.analysis.macs
        timed.append(left)
        ratio = left**0.5
        return Latency(4 * ratio, 5 * ratio, 4 * ratio, ratio, ratio - 0.01, ratio + 0.01, "faster", 16)

    monkeypatch.setattr(_stopwatch.Stopwatch, "_write", lambda self, model, name: None)
    monkeypatch.setattr(_timing.Timing, "_time", time)
    return timed


@pytest.mark.parametrize(
    ("latency", "ratio"), [("0.5x", 0.5), (0.6, 0.6), ("2ms", 0.5), ("1500us", 0.375), (3, 0.75)]
)
def test_a_budget_of_time_takes_a_handful_of_timings(clock, analysis, latency, ratio):
    selection = prune.select(analysis, latency=latency, scope="isomorphic")
    took = (analysis.macs_of(analysis.keep(selection.removed)) / analysis.macs) ** 0.5
    assert 0.8 * ratio < took <= 0.97 * ratio  # with a margin: the shipped model is timed anew
    assert len(clock) <= 9 and len(set(clock)) == len(clock)
    assert (
        f"latency: {4 * took:.3g} ms, {took:.2f} ({took - 0.01:.2f} to {took + 0.01:.2f})" in selection.notes[-1]
    )
    assert f"on onnxruntime with 1 threads at batch 1, one of {len(clock)} shapes" in selection.notes[-1]


def test_a_model_that_is_fast_enough_stays_whole(clock, analysis):
    assert not len(prune.select(analysis, latency="10ms", scope="isomorphic").removed) and len(clock) == 1


def test_a_time_that_no_shape_reaches_is_refused(clock, analysis):
    with pytest.raises(
        InfeasibleError, match=r"latency=0.01x is 0.0388 ms, and the least .* to is 0.\d+ \(0.\d+ of its 4\)"
    ):
        prune.select(analysis, latency="0.01x", scope="isomorphic")


def test_the_cut_model_is_really_timed(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(_stopwatch, "SECONDS", 0.1)
    model = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 8))
    analysis = prune.analyze(model, torch.randn(1, 64))
    timing = _timing.Timing(analysis, Target())
    selection = prune.select(analysis, ratio=0.75)
    seen = timing.timed(selection.removed)
    assert seen.ratio < 0.7 and seen.median_ms > 0  # a ninth of the products
    assert timing.timed(selection.removed[::-1]) is seen
    assert timing.timed(np.empty(0, np.int64)).verdict is None

"""Blocks that go by the time they save."""

import pytest
import torch
from torch import nn

from paretune import prune
from paretune.cuts import replay
from paretune.errors import InfeasibleError, InputError, RecipeError
from paretune.measurement import Latency
from paretune.prune import _stopwatch
from paretune.prune._depth.block_scores import _lowest_first
from paretune.prune._depth.residual import Block
from paretune.recipe import Context
from paretune.target import Target

ROWS = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


class Feed(nn.Module):
    """x + out(relu(in(x))), 16 weights for each hidden unit."""

    def __init__(self, hidden, scale):
        super().__init__()
        self.into, self.out = nn.Linear(8, hidden, bias=False), nn.Linear(hidden, 8, bias=False)
        with torch.no_grad():
            self.out.weight.mul_(scale)

    def forward(self, x):
        return x + self.out(torch.relu(self.into(x)))


def net():
    """Blocks of 4, 40, 4 and 20 hidden units; the second changes its input most, the first least."""
    torch.manual_seed(0)
    return nn.Sequential(Feed(4, 0.01), Feed(40, 4.0), Feed(4, 0.1), Feed(20, 0.2), nn.Linear(8, 3))


@pytest.fixture
def watch(monkeypatch):
    """A millisecond for each hidden unit and 32 for the rest, 100 for the whole; returns what was timed."""
    timed = []

    def time(self, candidate):
        hidden = 68 if candidate is None else sum(m.into.out_features for m in candidate if isinstance(m, Feed))
        timed.append(hidden)
        ms = 32.0 + hidden
        return Latency(ms, ms, ms, ms / 100, ms / 100 - 0.01, ms / 100 + 0.01, "faster", 16)

    monkeypatch.setattr(_stopwatch.Stopwatch, "_write", lambda self, model, name: None)
    monkeypatch.setattr(_stopwatch.Stopwatch, "time", time)
    return timed


def removed(pruned):
    return [gone.module for gone in pruned.cuts.removed]


def test_blocks_go_by_what_is_lost_for_what_each_saves():
    """By hand: 2 lost for 1 saved is dearer than 3 for 4; what is won is best where it saves most."""
    blocks = {name: Block(name, 1, True, True, None) for name in "abcd"}
    scores = {"a": 2.0, "b": 3.0, "c": -1.0, "d": -1.0}
    saved = {"a": 1.0, "b": 4.0, "c": 1.0, "d": 2.0}
    pool = list(blocks.values())
    assert [block.name for block, _ in _lowest_first(pool, scores, saved)] == ["d", "c", "b", "a"]
    assert [block.name for block, _ in _lowest_first(pool, scores, None)] == ["c", "d", "a", "b"]


@pytest.mark.parametrize("score", ["similarity", "loss"])
def test_the_rest_is_fast_enough_and_no_more_went_than_it_takes(watch, score):
    """By hand: at 0.9x (87.3 ms with the margin) the block of 20 is enough; the small ones before it may stay."""
    how = {"data": (ROWS, torch.zeros(64, dtype=torch.long)), "loss": "cross_entropy", "score": score}
    pruned = prune.blocks(net(), ROWS, latency="0.9x", **how)
    assert removed(pruned) == ["3"] and watch[0] == 68  # the whole model first
    assert "latency: 80 ms, 0.80 (0.79 to 0.81) of the whole model's, on onnxruntime" in pruned.notes[-1]
    torch.testing.assert_close(replay(net(), pruned.cuts)(ROWS), pruned.model(ROWS))
    assert removed(prune.blocks(net(), ROWS, latency="62ms", **how)) == ["1"]  # 60.1: the others are too small


def test_a_model_that_is_fast_enough_stays_whole(watch):
    assert removed(prune.blocks(net(), ROWS, latency="100ms", data=ROWS)) == [] and watch == [68]


def test_a_time_out_of_reach_is_refused_with_the_least(watch):
    message = r"latency=0.3x is 29.1 ms, and without 3 of its 4 blocks the model takes .* Nothing was removed"
    with pytest.raises(InfeasibleError, match=message):
        prune.blocks(net(), ROWS, latency="0.3x", data=ROWS)


@pytest.mark.parametrize(
    ("latency", "message"),
    [("2x", "latency=2x must be above 0 and at most 1"), ("fast", "is no amount"), (-1, "above 0")],
)
def test_a_time_that_cannot_be(latency, message):
    with pytest.raises(InputError, match=message):
        prune.blocks(net(), ROWS, latency=latency)
    with pytest.raises(RecipeError, match=message):
        prune.Blocks(latency=latency)


def test_the_step_times_on_the_target_of_its_run(tiny_task, watch, monkeypatch):
    from dataclasses import replace

    seen = []
    monkeypatch.setattr(
        _stopwatch.Stopwatch,
        "__init__",
        lambda self, model, example, target: seen.append(target) or setattr(self, "target", target),
    )
    task = replace(tiny_task, model=net(), train=(ROWS, torch.zeros(64, dtype=torch.long)), val=None, test=None)
    step = prune.Blocks(latency="0.9x")
    result = step.apply(task.build(), task, Context(target=Target(threads=2)))
    assert step.uses_target and not prune.Blocks(ratio=0.5).uses_target
    assert seen == [Target(threads=2)] and result.details["removed"] == ["3"]


def test_really_timed(monkeypatch):
    monkeypatch.setattr(_stopwatch, "SECONDS", 0.1)
    torch.manual_seed(0)
    wide = nn.Sequential(*(Feed(20_000, 1.0) for _ in range(3)), nn.Linear(8, 3))
    pruned = prune.blocks(wide, ROWS[:1], latency="0.75x", score="l1")
    assert len(pruned.cuts.removed) == 1

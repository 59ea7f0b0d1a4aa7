"""The clock: time told from operators, and pruning that goes by it."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paretune import prune
from paretune.errors import InfeasibleError, RunError
from paretune.measure import Event, Product
from paretune.measure._operators import OperatorTime
from paretune.measurement import Latency
from paretune.prune import _stopwatch
from paretune.prune._selection import timing as _timing
from paretune.prune._selection.by_clock import Knapsack
from paretune.prune._selection.clock import BETWEEN, FIXED, OTHERS, Clock
from paretune.prune._selection.operators import placed
from paretune.prune._selection.selection import lowest_first
from paretune.target import Target

IMAGE = torch.zeros(1, 3, 16, 16)


class Mixed(nn.Module):
    """Convolutions of every kind, attention by hand and by PyTorch, linear layers."""

    def __init__(self):
        super().__init__()
        self.stem, self.depthwise = (
            nn.Conv2d(3, 12, 3, stride=2, padding=1),
            nn.Conv2d(12, 12, 3, padding="same", groups=12),
        )
        self.grouped, self.up = nn.Conv2d(12, 16, 3, padding=1, groups=2), nn.ConvTranspose2d(16, 10, 2, stride=2)
        self.line, self.tokens = nn.Conv1d(10, 24, 3, padding=1), nn.Linear(24, 24)
        self.q, self.k, self.v, self.head = (nn.Linear(24, 32) for _ in range(3)), None, None, nn.Linear(32, 5)
        self.q, self.k, self.v = nn.Linear(24, 32), nn.Linear(24, 32), nn.Linear(24, 32)

    def forward(self, x):
        x = torch.relu(self.up(torch.relu(self.grouped(torch.relu(self.depthwise(self.stem(x)))))))
        x = torch.relu(self.tokens(torch.relu(self.line(x.flatten(2)[..., :32])).transpose(1, 2)))
        q, k, v = (layer(x).unflatten(-1, (4, 8)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        a = nn.functional.scaled_dot_product_attention(q, k, v) + torch.softmax(q @ k.transpose(-1, -2), -1) @ v
        return self.head(a.transpose(1, 2).flatten(2).mean(1))


def products(operator):
    """Return the multiply-accumulates of an operator, by the formula of its kind."""
    if isinstance(operator, Product):
        return operator.stack * operator.rows * operator.inner * operator.columns
    each = operator.batch * operator.reads * operator.makes // operator.groups * int(np.prod(operator.kernel))
    if operator.transposed:
        return each * int(np.prod(operator.size))
    space = zip(operator.size, operator.kernel, operator.stride, operator.padding, operator.dilation, strict=True)
    return each * int(np.prod([(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in space]))


@pytest.fixture(scope="module")
def mixed():
    torch.manual_seed(0)
    return prune.analyze(Mixed(), IMAGE)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_operators_make_all_the_products_that_are_counted(mixed, seed):
    """Whatever is removed, the operators at the widths that are left multiply as often as the analysis counts."""
    found, others = placed(mixed, 1)
    generator = np.random.default_rng(seed)
    ranked, _ = lowest_first(mixed, score="random", seed=seed)
    goes = [r.bundles[: generator.integers(0, len(r.bundles) + 1)].ravel() for r in ranked]
    keep = mixed.keep(np.concatenate(goes))
    operators = [each.at(lambda axis: mixed.length(axis, keep)) for each in found]
    assert not others and sum(map(products, operators)) == mixed.macs_of(keep)


def test_a_larger_batch_makes_more_rows(mixed):
    one, eight = ([each.at(len) for each in placed(mixed, batch)[0]] for batch in (1, 8))
    assert sum(map(products, eight)) == 8 * sum(map(products, one))


class Table:
    """A milliseconds table by a formula."""

    note, target = "", Target()

    def __init__(self, formula):
        self.formula = formula

    def time(self, operator):
        return OperatorTime(self.formula(operator), 1)

    def save(self):
        pass


class Chain(nn.Module):
    """Three linear layers: groups `a` and `b`."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 32), nn.Linear(32, 32), nn.Linear(32, 2)

    def forward(self, x):
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


@pytest.fixture
def chain():
    """`a` matters more than `b`, their last units most."""
    model = Chain()
    with torch.no_grad():
        for layer, scale in ((model.a, 10.0), (model.b, 1.0)):
            layer.weight.copy_(torch.arange(1, 33)[:, None].expand_as(layer.weight) * scale / layer.in_features)
            layer.bias.zero_()
    return prune.analyze(model, torch.zeros(1, 4))


def blocks(operator):
    """Return milliseconds that fall in steps of 8 outputs: one for each 8."""
    return float(-(-operator.columns // 8))


def told(analysis, formula=blocks, between=(0.5, 0.5), extra=1.0):
    """Return a clock whose whole model takes what its operators do, two calls between, and `extra`."""
    table = Table(formula)
    products = [Event("p", "MatMul", formula(each.at(len)), (1, 32), True) for each in placed(analysis, 1)[0]]
    events = [*products, *(Event("r", "Relu", ms, (1, 32), False) for ms in between)]
    return Clock(analysis, table, events, sum(event.ms for event in events) + extra)


def test_time_is_the_sum_of_operators_of_what_lies_between_and_of_what_is_fixed(chain):
    """By hand: 4 + 4 + 1 ms of products; between them 0.25 ms a call are fixed, the rest goes with size."""
    clock = told(chain, between=(0.25, 0.75))
    assert clock.ms(chain.everything) == 9 + 1 + 1 and clock.watching == 0
    ranked, _ = lowest_first(chain, score="l1")
    assert [r.title for r in ranked] == ["a", "b"]
    keep = chain.keep(ranked[0].bundles[:16].ravel())  # half of `a`: 2 + 4 + 1, and a quarter of what can shrink
    values = 0.5 * (0.5 + 1 + 0.5 + 1) / 4  # four values of this shape, two of them `a`'s
    assert clock.ms(keep) == pytest.approx(7 + 0.5 + values + 1)
    assert clock.parts(keep) == pytest.approx({"b": 4, "a": 2, FIXED: 1.5, "c": 1, BETWEEN: values})
    assert clock.ratio(keep) == pytest.approx((8.5 + values) / 11)
    assert [term.name for term in clock.touched(ranked[0].bundles.ravel())] == ["a", "b", BETWEEN]


def test_what_watching_costs_is_taken_off_every_call(chain):
    """By hand: five calls seem to take 10 ms, the whole 7.5: each took half a millisecond less."""
    clock = told(chain, between=(0.5, 0.5), extra=-2.5)
    assert clock.watching == 0.5 and clock.ms(chain.everything) == 7.5
    assert clock.parts(chain.everything) == pytest.approx({"a": 3.5, "b": 3.5, "c": 0.5, FIXED: 0})


def test_what_does_not_run_alone_goes_with_its_products(chain):
    class Fails(Table):
        def time(self, operator):
            if operator.inner == 32 == operator.columns:
                raise RunError("no")
            return super().time(operator)

    events = [Event("p", "MatMul", ms, (1, 32), True) for ms in (4.0, 6.0, 1.0)]
    clock = Clock(chain, Fails(blocks), events, 11.0)
    ranked, _ = lowest_first(chain, score="l1")
    keep = chain.keep(ranked[0].bundles[:16].ravel())
    assert clock.parts(keep) == pytest.approx({OTHERS: 3, "a": 2, "c": 1, FIXED: 0})


def test_the_path_jumps_to_widths_that_save_time(chain):
    """Steps lie at multiples of 8; `b` loses a tenth of what `a` does, and c's time is one block at any width."""
    ranked, _ = lowest_first(chain, score="l1")
    path = Knapsack(chain, ranked, told(chain, between=()), 1).path()
    assert path[0] == [0, 0] and path[1][0] == 0  # `b` goes first
    assert all((32 - lost) % 8 == 0 for counts in path for lost in counts)
    assert path[-1] == [24, 24]


def test_what_fits_is_given_back_the_highest_scores_first(chain):
    """By hand: 4 ms of `a` and `b` each; at 6 ms and one for c, 2 blocks may come back, and `a` is worth more."""
    ranked, _ = lowest_first(chain, score="l1")
    knapsack = Knapsack(chain, ranked, told(chain, between=(), extra=0.0), 1)
    assert knapsack.ratio([24, 24]) == pytest.approx(3 / 9)
    assert knapsack.given_back([24, 24], 5 / 9) == [8, 24]
    assert knapsack.given_back([24, 24], 7 / 9) == [0, 16]
    assert knapsack.given_back([24, 24], 3.5 / 9) == [24, 24]


def test_the_smallest_cut_as_measured_sets_the_scale(chain):
    """By hand: told to take 3 of 9 ms, it takes 0.5 of the whole's time, so that each told saving counts 3/4."""
    clock = told(chain, between=(), extra=0.0)
    ranked, _ = lowest_first(chain, score="l1")
    knapsack = Knapsack(chain, ranked, clock, 1)
    clock.anchor(knapsack.keep([24, 24]), 0.5)
    assert knapsack.ratio([24, 24]) == pytest.approx(0.5) and knapsack.ratio([0, 0]) == 1
    assert knapsack.ratio([8, 0]) == pytest.approx(1 - 0.75 / 9) and clock.ms_at(0.5) == pytest.approx(3)


@pytest.fixture
def slow(monkeypatch, chain):
    """The clock of `blocks`, on a target where every cut takes 1.2 times what it tells; returns what was timed."""
    timed = []
    clock = told(chain, between=())

    def time(self, removed):
        ms = clock.ms(chain.keep(removed)) * (1.2 if len(removed) else 1.0)
        timed.append(ms)
        ratio = ms / clock.ms(chain.everything)
        return Latency(ms, ms, ms, ratio, ratio - 0.01, ratio + 0.01, "faster", 16)

    monkeypatch.setattr(_stopwatch.Stopwatch, "_write", lambda self, model, name: None)
    monkeypatch.setattr(_timing.Timing, "_time", time)
    monkeypatch.setattr(_timing.Timing, "_make_clock", lambda self: clock)
    return timed


@pytest.mark.parametrize("latency", ["0.9x", "0.7x", "0.5x", "6ms"])
def test_what_is_chosen_holds_as_measured_where_the_clock_tells_too_little(chain, slow, latency):
    selection = prune.select(chain, latency=latency)
    limit = {"0.9x": 9.0, "0.7x": 7.0, "0.5x": 5.0, "6ms": 6.0}[latency]
    took = 1.2 * told(chain, between=()).ms(chain.keep(selection.removed))
    assert limit - 1.6 < took <= 0.97 * limit and len(slow) <= 8  # a block less is 1.2 ms
    assert selection.notes[-1].startswith(f"latency: {took:.3g} ms, {took / 10:.2f} (")
    assert "; operator times had told 0." in selection.notes[-1]


def test_a_model_that_is_fast_enough_stays_whole(chain, slow):
    assert not len(prune.select(chain, latency="11ms").removed) and len(slow) == 1


def test_a_time_out_of_reach_names_the_least_and_what_makes_it_up(chain, slow):
    message = (
        r"latency=0.2x is 1.94 ms, and the least that this model can be cut to is 4.8 \(0.480 of its 10\)\. "
        r"Nothing was cut\..* Most of what is left: 1 ms a, 1 ms b, 1 ms c, 1 ms calls that no width"
    )
    with pytest.raises(InfeasibleError, match=message):
        prune.select(chain, latency="0.2x")


def test_widths_are_multiples_of_what_is_asked_for(chain, slow):
    selection = prune.select(chain, latency="0.8x", multiple=16)
    assert set(selection.widths.values()) <= {16}


def test_a_real_network_is_made_as_fast_as_was_asked(monkeypatch, tmp_path):
    """Nothing here is told by hand: operators are timed, and the candidates."""
    monkeypatch.setattr(_stopwatch, "SECONDS", 0.2)
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 8))
    pruned = prune.channels(model, torch.randn(1, 64), latency="0.5x", score="l1")
    assert pruned.after["macs"] < 0.6 * pruned.before["macs"]
    assert (tmp_path / "operators" / "onnxruntime-1.json").exists()

import numpy as np
import pytest
import torch
from torch import nn

from paretune import prune
from paretune.prune._selection import knapsack
from paretune.prune._selection.knapsack import by_saving


class Net(nn.Module):
    """Two stages: a channel of `early` lies on 16 times as many positions as one of `late`."""

    def __init__(self):
        super().__init__()
        self.early, self.mid = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 1)
        self.late, self.head = nn.Conv2d(8, 16, 3, stride=4, padding=1), nn.Linear(16, 5)

    def forward(self, x):
        return self.head(torch.relu(self.late(torch.relu(self.mid(torch.relu(self.early(x)))))).mean((2, 3)))


IMAGE = torch.zeros(1, 3, 16, 16)


@pytest.fixture(scope="module")
def analysis():
    torch.manual_seed(0)
    return prune.analyze(Net(), IMAGE)


def units(analysis, layer):
    """Return the units of the channels that a layer makes."""
    return next(made for made in analysis.couplings.makes if made.tensor == f"{layer}.weight").units


@pytest.mark.parametrize("of", ["macs", "params"])
@pytest.mark.parametrize("before", [0, 3])
def test_the_saving_of_a_unit_is_what_goes_with_it(analysis, of, before):
    """By hand at the start: a channel of `early` makes 27 products at 256 positions, and is read by 8 there."""
    count = {"macs": analysis.macs_of, "params": analysis.params_of}[of]
    gone = units(analysis, "mid")[:before]
    saved = analysis.unit_savings(of, analysis.keep(gone))
    for layer in ("early", "mid", "late"):
        for unit in units(analysis, layer)[before:][:2]:
            more = np.append(gone, unit)
            assert saved[unit] == pytest.approx(count(analysis.keep(gone)) - count(analysis.keep(more)))
    if of == "macs" and not before:
        assert saved[units(analysis, "early")[0]] == 256 * (27 + 8)


def constant(weight):
    return torch.ones(len(weight))


def test_of_equal_scores_what_saves_most_goes_first(analysis):
    by_macs = prune.select(analysis, macs=0.7, score=constant).widths
    by_params = prune.select(analysis, params=0.7, score=constant).widths
    assert by_macs["early"] < 8 and "late" not in by_macs
    assert "late" in by_params or "mid" in by_params
    assert analysis.macs_of(analysis.keep(prune.select(analysis, macs=0.7, score=constant).removed)) <= (
        0.7 * analysis.macs
    )


class Stream(nn.Module):
    """A stream of 8 that four blocks of 32 read and add to."""

    def __init__(self):
        super().__init__()
        self.stem, self.head = nn.Linear(4, 8), nn.Linear(8, 2)
        self.up = nn.ModuleList(nn.Linear(8, 32) for _ in range(4))
        self.down = nn.ModuleList(nn.Linear(32, 8) for _ in range(4))

    def forward(self, x):
        x = self.stem(x)
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(torch.relu(up(x)))
        return self.head(x)


def test_what_a_channel_saves_is_taken_anew_as_its_neighbours_go(monkeypatch):
    """As the stream narrows, a channel of a block saves less than it did: more of them stay, and less of it."""

    def rising(weight):
        return torch.arange(1.0, len(weight) + 1).square()

    torch.manual_seed(0)
    analysis, kept = prune.analyze(Stream(), torch.zeros(1, 4)), {}
    for phases in (1, 64):
        monkeypatch.setattr(knapsack, "PHASES", phases)
        kept[phases] = prune.select(analysis, macs=0.2, score=rising).widths
    assert (kept[1]["stem"], kept[64]["stem"]) == (3, 2)
    assert all(kept[1][f"up.{block}"] < kept[64][f"up.{block}"] for block in range(4))


def test_every_bundle_has_its_own_place_and_keeps_its_units(analysis):
    from paretune.prune._selection.selection import _scored
    from paretune.prune._selection.spec import resolve_score

    ranked, _ = _scored(analysis, analysis.groups, resolve_score("l1"), "mean", normalise=True, data=None)
    placed = by_saving(analysis, ranked, "macs")
    everywhere = np.concatenate([r.scores for r in placed])
    assert sorted(everywhere) == list(range(len(everywhere)))
    for before, after in zip(ranked, placed, strict=True):
        assert (np.diff(after.scores) > 0).all()
        assert sorted(before.bundles.ravel()) == sorted(after.bundles.ravel())


def test_nothing_to_rank_stays_nothing(analysis):
    assert by_saving(analysis, [], "macs") == []


def test_losses_count_for_what_is_saved_whatever_their_sign():
    """By hand: 2 / 4 before 1 / 1; a removal that wins goes before all others, and more so where it saves more."""
    values = knapsack._per_saving(np.array([2.0, 1.0, -1.0, -1.0, 0.0, -5.0]), np.array([4.0, 1, 1, 3, 2, 0]))
    assert values.tolist() == [0.5, 1.0, -1.0, -3.0, 0.0, np.inf]

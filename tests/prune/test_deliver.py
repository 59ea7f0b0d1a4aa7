"""A selection becomes the user's own module where its code follows, else the graph, and is never a wrong model."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from paretune import prune
from paretune.errors import SurgeryError
from paretune.prune import _deliver
from paretune.prune._compare import difference, relative_gap
from paretune.prune._deliver import masked_outputs

ROWS = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Net(nn.Module):
    """5 -> 8 -> 3, with a number in the code where it is written."""

    def __init__(self, written=False):
        super().__init__()
        torch.manual_seed(0)
        self.written = written
        self.a, self.norm, self.drop, self.b = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)

    def forward(self, x):
        x = self.drop(F.relu(self.norm(self.a(x))))
        return self.b(x.view(-1, 8) if self.written else x)


def analysed(model=None):
    analysis = prune.analyze(model or Net().double(), ROWS)
    return analysis, prune.select(analysis, ratio=0.5)


@pytest.mark.parametrize(
    ("written", "form", "delivered"),
    [(False, "auto", "module"), (False, "module", "module"), (False, "graph", "graph"), (True, "auto", "graph")],
)
def test_the_form(written, form, delivered):
    model = Net(written).double()
    analysis, selection = analysed(model)
    pruned = prune.cut(analysis, selection, form=form)
    assert pruned.cuts.form == delivered and isinstance(pruned.model, Net) == (delivered == "module")
    said = [note for note in pruned.notes if "captured graph" in note]
    assert len(said) == (delivered == "graph") and ("does not follow" in "".join(said)) == (
        form == "auto" and written
    )
    # by hand: the rows and columns that stay
    rows = list(pruned.cuts.cuts[0].keep)
    model.eval()
    hidden = F.relu(model.norm(model.a(ROWS)))[:, rows]
    expected = hidden @ model.b.weight[:, rows].T + model.b.bias
    torch.testing.assert_close(pruned.model.eval()(ROWS), expected, rtol=0, atol=1e-12)
    assert set(pruned.model.state_dict()) == set(model.state_dict())


def test_both_forms_are_the_same_function_of_the_same_weights():
    analysis, selection = analysed()
    module, graph = (prune.cut(analysis, selection, form=form).model.eval() for form in ("module", "graph"))
    for batch in (1, 2, 7):
        x = torch.randn(batch, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(batch))
        torch.testing.assert_close(graph(x), module(x), rtol=0, atol=1e-14)
    graph.load_state_dict(module.state_dict())
    copied = copy.deepcopy(graph)
    with torch.no_grad():
        graph.a.weight.zero_()
    assert torch.equal(copied(ROWS), module(ROWS))  # a copy is a copy


def test_the_mode_of_the_model_is_that_of_the_result():
    for training in (True, False):
        analysis, selection = analysed(Net().double().train(training))
        for form in ("module", "graph"):
            model = prune.cut(analysis, selection, form=form).model
            assert {module.training for module in (model, model.norm)} == {training}
            first, second = model(ROWS), model(ROWS)
            assert torch.equal(first, second) is not training  # dropout draws in training


@pytest.mark.parametrize("form", ["auto", "module", "graph"])
def test_a_wrong_rule_is_refused_and_never_delivered(form, monkeypatch):
    """Whatever the rules said: what is handed over is compared with the model whose channels are masked."""
    analysis, selection = analysed()

    def shifted(*arguments, **how):
        return [tensor + 1e-6 for tensor in masked_outputs(*arguments, **how)]

    monkeypatch.setattr(_deliver, "masked_outputs", shifted)
    with pytest.raises(
        SurgeryError, match=r"computes another function than the masked model \(relative difference"
    ):
        prune.cut(analysis, selection, form=form)


def test_a_rewritten_graph_that_is_wrong_is_our_mistake_and_says_so(monkeypatch):
    analysis, selection = analysed(Net(written=True).double())
    right = _deliver.rewrite

    def wrong(pruned, *arguments):
        graph = right(pruned, *arguments)
        with torch.no_grad():
            graph.b.bias += 1.0
        return graph

    monkeypatch.setattr(_deliver, "rewrite", wrong)
    with pytest.raises(SurgeryError, match=r"the rewritten graph is wrong: .* please report the model; protect"):
        prune.cut(analysis, selection)


class Deep(nn.Module):
    """Its last step makes rounding 1e4 times as large: above 1e-5 in float32."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return torch.sin(1e4 * self.out(x))


def test_rounding_in_float32_is_told_from_another_function_in_float64():
    model, x = Deep(), torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    analysis = prune.analyze(model, x)
    keep = analysis.keep(prune.select(analysis, ratio=0.5, score="l1").removed)
    pruned = prune.cut(analysis, prune.select(analysis, ratio=0.5, score="l1"))
    assert pruned.cuts.form == "module"
    first = difference(masked_outputs(analysis, keep), pruned.model, x)
    assert first is not None and first.in_values  # the first look alone would have refused it


class FixedBatch(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x):
        return torch.stack([self.b(self.a(row).view(8)) for row in x])


def test_a_graph_of_one_batch_says_so():
    pruned = prune.channels(FixedBatch().double(), ROWS, ratio=0.5)
    assert pruned.cuts.form == "graph"
    assert "it runs at a batch of 2 only: the model's code fixes its batch" in pruned.notes
    assert pruned.model(ROWS).shape == (2, 3)


@pytest.mark.parametrize(
    ("a", "b", "gap"),
    [
        ([1.0, 2.0], [1.0, 2.0], 0.0),
        ([1.0, -4.0], [1.0, -3.0], 0.25),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([0.0], [1e-3], 1e27),
        ([math.nan, 1.0], [math.nan, 1.0], 0.0),
        ([math.nan, 1.0], [2.0, 1.0], math.inf),
        ([math.nan, 1.0], [0.0, 1.0], math.inf),
        ([-math.inf, 1.0], [math.inf, 1.0], math.inf),
        ([-math.inf, 1.0], [-math.inf, 3.0], 2.0),  # what masks is not the measure of what it leaves
        ([torch.finfo(torch.float32).min, 1.0], [torch.finfo(torch.float32).min, 3.0], 2.0),
        ([-1e9, 1.0], [-1e9, 3.0], 2.0),
        ([-1e9, 1.0], [-2e9, 1.0], 1.0),
        ([math.nan], [math.nan], 0.0),
        ([math.inf, 1.0], [math.inf, 1.0], 0.0),
        ([], [], 0.0),
    ],
)
def test_the_gap_by_hand(a, b, gap):
    assert relative_gap(torch.tensor(a), torch.tensor(b)) == pytest.approx(gap)


def test_the_gap_of_complex_numbers_by_hand():
    assert relative_gap(torch.tensor([2.0 + 1.0j]), torch.tensor([2.0 + 2.0j])) == pytest.approx(0.5)


def test_a_device_without_float64_is_compared_in_float32(monkeypatch):
    def refused(*_):
        raise TypeError(
            "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"
        )

    analysis = prune.analyze(Net(), ROWS.float())
    selection = prune.select(analysis, ratio=0.5)
    monkeypatch.setattr(torch.Tensor, "double", refused)
    assert prune.cut(analysis, selection).model.a.out_features == 4


def test_random_states_of_gpus_in_use_are_kept(monkeypatch):
    put_back = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: ["the state of a GPU"])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", put_back.extend)
    difference([torch.ones(2, 3)], nn.Identity(), torch.ones(2, 3))
    assert put_back == ["the state of a GPU"]


def test_what_differs_is_said_in_words():
    expected = [torch.ones(2, 3)]
    model = nn.Identity()
    assert difference(expected, model, torch.ones(2, 3)) is None
    assert difference(expected, model, torch.ones(2, 4)) == ("its outputs change from [(2, 3)] to [(2, 4)]", False)
    other = difference(expected, model, torch.zeros(2, 3))
    assert "relative difference 1.0e+00" in other.words and other.in_values
    assert difference([*expected, *expected], model, torch.ones(2, 3)).words.startswith("its outputs change from")
    assert difference(expected, nn.Linear(4, 3), torch.ones(2, 3)).words.startswith("RuntimeError: mat1 and mat2")

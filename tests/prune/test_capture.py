import pytest
import torch
from torch import nn

from paretune import prune
from paretune.errors import SurgeryError
from paretune.prune import _analysis, _cut
from paretune.prune._capture.capture import capture


def test_a_batch_of_one_is_captured_as_two_and_modes_are_restored():
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 2)).train()
    model[1].eval()
    captured = capture(model, torch.randn(1, 3))
    assert captured.repeat == 2 and captured.example.shape == (2, 3)
    assert [m.training for m in model] == [True, False, True]


def test_a_model_with_a_fixed_batch_is_captured_at_that_batch():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(x.view(1, 4))

    assert capture(Fixed(), torch.randn(1, 2, 2)).repeat == 1


def test_control_flow_on_values_is_refused_with_the_line():
    class Flow(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            if x.sum() > 0:
                return self.fc(x)
            return x

    with pytest.raises(
        SurgeryError, match=r"cannot capture .*test_capture.py:\d+: if x.sum\(\) > 0:.*torch.where"
    ):
        capture(Flow(), torch.ones(1, 4))


def test_an_example_that_does_not_fit_is_refused_with_its_shape():
    with pytest.raises(SurgeryError, match=r"does not accept the example input \(\(1, 5\) float32\)"):
        prune.analyze(nn.Linear(3, 2), torch.randn(1, 5))


@pytest.mark.parametrize("most", [_analysis.TRIED, 0])
def test_a_model_that_takes_long_to_run_is_first_run_when_it_is_cut(monkeypatch, most):
    """What only values show (here an index that is out of range) is seen by `analyze`, or else by `cut`."""
    monkeypatch.setattr(_analysis, "TRIED", most)
    monkeypatch.setattr(_cut, "TRIED", most)
    model = nn.Sequential(nn.Embedding(4, 8), nn.Linear(8, 8), nn.Linear(8, 2))
    example, said = torch.tensor([[1, 9]]), r"does not accept the example input .*IndexError"
    if most:
        with pytest.raises(SurgeryError, match=said):
            prune.analyze(model, example)
        return
    analysis = prune.analyze(model, example)
    with pytest.raises(SurgeryError, match=said):
        prune.cut(analysis, prune.select(analysis, ratio=0.5))


def test_parameters_that_only_training_uses_ask_for_a_second_graph():
    class Aux(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x):
            return (self.a(x), self.b(x)) if self.training else self.a(x)

    assert capture(Aux(), torch.randn(1, 3)).training is not None
    assert capture(nn.Linear(3, 2), torch.randn(1, 3)).training is None


class Cached(nn.Module):
    """Keeps in eval mode what it computes from a weight, until it is to be trained (LeViT)."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.cache = nn.Linear(4, 6), nn.Linear(6, 2), {}
        self.scale = nn.Parameter(torch.ones(6))

    def train(self, mode=True):
        self.cache = {} if mode else self.cache
        return super().train(mode)

    def forward(self, x):
        if "scale" not in self.cache:
            self.cache["scale"] = torch.exp(self.scale)
        return self.b(self.a(x) * self.cache["scale"])


def test_what_a_model_keeps_of_an_earlier_run_is_captured_anew_and_nothing_stays_behind():
    model, x = Cached().eval(), torch.randn(2, 4)
    before = model(x)
    captured = capture(model, x)
    assert not captured.program.constants
    assert all(node.users for node in captured.program.graph.nodes if node.op == "placeholder")
    assert torch.equal(model(x), before) and type(model.cache["scale"]) is torch.Tensor
    pruned = prune.channels(model, x, ratio=0.5)
    assert pruned.cuts.form == "module" and pruned.model(torch.randn(3, 4)).shape == (3, 2)


class Merging(nn.Linear):
    """Adds a product of small matrices to its weight in eval mode and takes it off in train mode (LoRA)."""

    def __init__(self):
        super().__init__(4, 6)
        self.low, self.merged = nn.Parameter(torch.randn(6, 1)), False

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            sign = -1 if mode else 1
            self.weight.data += sign * (self.low @ self.low.T)[:, :4]
            self.merged = not mode
        return self

    def forward(self, x):
        return super().forward(x) + (0 if self.merged else x @ (self.low @ self.low.T)[:, :4].T)


@pytest.mark.parametrize("training", [True, False])
def test_a_model_that_merges_weights_when_its_mode_changes_is_left_as_it_was(training):
    model = nn.Sequential(Merging(), nn.ReLU(), nn.Linear(6, 2)).train(training)
    weight, x = model[0].weight.clone(), torch.randn(2, 4)
    expected = model(x)
    if training:  # its weights are not those of the graph, which is what eval mode computes
        with pytest.raises(SurgeryError, match=r"captured graph is not the model .*give it in eval mode"):
            prune.channels(model, x, ratio=0.5)
    else:
        prune.channels(model, x, ratio=0.5)
    assert model.training is training and model[0].merged is not training
    torch.testing.assert_close(model[0].weight, weight)
    torch.testing.assert_close(model(x), expected)

import copy

import pytest
import torch
from torch import nn

from paretune import prune
from paretune.prune._repair import norms as _norms
from paretune.prune._repair import repair as _repair
from paretune.prune._repair.norms import VECTORS, Spread, norms_behind


class Net(nn.Module):
    """A norm behind a convolution that is cut, and one that reads a sum."""

    def __init__(self, affine=True):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 6, 1)
        self.norm, self.out, self.head = (
            nn.BatchNorm2d(6, affine=affine), nn.BatchNorm2d(6), nn.Linear(6, 2)
        )  # fmt: skip

    def forward(self, x):
        x = self.b(torch.relu(self.a(x)))
        return self.head(self.out(x + torch.relu(self.norm(x))).mean((2, 3)))


IMAGES = torch.randn(64, 3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def net(**how):
    torch.manual_seed(0)
    model = Net(**how).double()
    for module in (model.norm, model.out):
        module.running_mean.normal_()
        module.running_var.uniform_(0.5, 2)
        if module.affine:
            module.weight.data.normal_()
            module.bias.data.normal_()
    return model.eval()


def repaired(model, monkeypatch=None):
    """Return the model with half of its first layer gone; with a monkeypatch, its norms are left alone."""
    if monkeypatch is not None:
        monkeypatch.setattr(_repair, "settle", lambda twins, norm: None)
    return prune.channels(model, IMAGES[:1], widths={"a": 4}, score="l1", data=(IMAGES,)).model


def test_the_spread_of_three_numbers_by_hand():
    spread = Spread()
    spread.add(torch.tensor([[[1.0], [2.0]]]))
    spread.add(torch.tensor([[[6.0]]]))
    assert spread.mean().tolist() == [[3.0]]
    assert spread.variance().tolist() == [[pytest.approx(14 / 3)]]  # (4 + 1 + 9) / 3


def test_one_norm_by_hand(monkeypatch):
    """It gave 2 * (x - 1) / 2 + 3 = x + 2, and reads x of -1 and 5: mean 2, variance 9. So 3 * (x - 2) / 3 + 4."""
    model = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1, eps=0)).eval()
    analysis = prune.analyze(model, torch.zeros(2, 2))
    monkeypatch.setattr(_norms, "ROWS", 2)
    (norm,) = norms_behind(analysis, list(analysis.captured.program.graph.nodes))
    own = dict(zip(norm.vectors.values(), (torch.tensor([value]) for value in (2.0, 3.0, 1.0, 4.0)), strict=True))

    class Twins:
        def stop_at(self, node):
            assert node is norm.node
            yield self

        def read(self, source):
            assert source is norm.source
            return {}, torch.tensor([[-1.0], [5.0]])

        def own(self, node):
            return own[node]

    _norms.settle(Twins(), norm)
    assert [own[norm.vectors[name]].item() for name in VECTORS] == pytest.approx([3.0, 4.0, 2.0, 9.0])


def test_what_a_norm_reads_is_scaled_and_its_output_stays():
    """By hand: 2 * (x - 1) / sqrt(3 + 1) + 3; with x half as large, var 3 / 4 and s = sqrt(7 / 4)."""
    weight = torch.tensor([4.0])
    own = dict(zip("abcd", (torch.tensor([value]) for value in (2.0, 3.0, 1.0, 3.0)), strict=True)) | {"w": weight}

    class Twins:
        def own(self, node):
            return own[node]

    norm = _norms.Norm(None, None, dict(zip(VECTORS, "abcd", strict=True)), {}, eps=1.0)
    _norms.rescale(Twins(), norm, 0.5, ["w"])
    assert weight.item() == 2
    scale, shift, mean, var = (own[name].item() for name in "abcd")
    assert (shift, mean, var) == (3, 0.5, 0.75)
    assert scale == pytest.approx(2 * (7 / 4) ** 0.5 / (0.5 * 2))
    for x in (-1.0, 0.3):
        assert scale * (x / 2 - mean) / (var + 1) ** 0.5 + shift == pytest.approx(2 * (x - 1) / 2 + 3)


@pytest.mark.parametrize("bias", [True, False])
def test_weights_before_a_norm_keep_their_length(bias):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 1, bias=bias), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 2),
    ).double().eval()  # fmt: skip
    with torch.no_grad():  # what goes can be made up for
        for vector in (model[0].weight, model[0].bias):
            vector[4:] = 0.9 * vector[:4]
        model[2].weight[:, 4:] = model[2].weight[:, :4]
    cut = {"widths": {"0": 4}, "score": "l1", "data": (IMAGES,)}
    bare = prune.channels(model, IMAGES[:1], repair=False, **cut).model
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_repair, "rescale", lambda *given: None)
        long = prune.channels(model, IMAGES[:1], **cut).model
    kept = prune.channels(model, IMAGES[:1], **cut).model
    assert long[2].weight.norm() > 1.05 * bare[2].weight.norm()
    torch.testing.assert_close(kept[2].weight.norm(), bare[2].weight.norm())
    torch.testing.assert_close(kept[5].weight, long[5].weight)  # no norm follows
    with torch.no_grad():
        torch.testing.assert_close(kept(IMAGES), long(IMAGES))
        torch.testing.assert_close(kept.train()(IMAGES), long.eval()(IMAGES), rtol=1e-3, atol=1e-3)


def test_outputs_stay_what_they_were_and_training_gives_the_same(monkeypatch):
    model = net()
    settled = repaired(model)
    with torch.no_grad():
        at_inference, in_training = settled(IMAGES), copy.deepcopy(settled).train()(IMAGES)
    torch.testing.assert_close(in_training, at_inference, rtol=1e-10, atol=1e-10)
    left = repaired(model, monkeypatch)
    with torch.no_grad():
        torch.testing.assert_close(left(IMAGES), at_inference, rtol=1e-10, atol=1e-10)
        assert (copy.deepcopy(left).train()(IMAGES) - at_inference).norm() > 0.1 * at_inference.norm()


def test_statistics_are_those_of_what_is_read():
    settled, read = repaired(net()), {}
    for name in ("norm", "out"):
        settled.get_submodule(name).register_forward_pre_hook(
            lambda module, given, name=name: read.__setitem__(name, given[0])
        )
    settled(IMAGES)
    for name, value in read.items():
        norm = settled.get_submodule(name)
        torch.testing.assert_close(norm.running_mean, value.mean((0, 2, 3)))
        torch.testing.assert_close(norm.running_var, value.var((0, 2, 3), unbiased=False))


def test_a_norm_without_a_scale_is_left_as_it_is():
    model = net(affine=False)
    settled = repaired(model)
    assert torch.equal(settled.norm.running_var, model.norm.running_var)
    assert not torch.equal(settled.out.running_var, model.out.running_var)


def test_a_norm_that_is_used_twice_is_left_as_it_is():
    class Twice(Net):
        def forward(self, x):
            x = self.norm(self.b(torch.relu(self.a(x))))
            return self.head(self.norm(torch.relu(x)).mean((2, 3)))

    torch.manual_seed(0)
    model = Twice().double().eval()
    settled = repaired(model)
    assert torch.equal(settled.norm.running_var, model.norm.running_var)
    assert torch.equal(settled.norm.weight, model.norm.weight)


def test_values_that_are_not_finite_change_nothing():
    model = net()
    with torch.no_grad():
        model.b.bias[0] = torch.inf
    settled = prune.channels(model, IMAGES[:1], widths={"a": 4}, score="l1", data=(IMAGES,)).model
    for name in ("norm", "out"):
        assert torch.equal(settled.get_submodule(name).running_var, model.get_submodule(name).running_var)


def test_norms_before_the_first_repaired_layer_are_left_as_they_are():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6), nn.BatchNorm1d(6),
        nn.Linear(6, 2),
    ).double().eval()  # fmt: skip
    x = torch.randn(64, 4, dtype=torch.float64)
    settled = prune.channels(model, x[:1], widths={"2": 4}, score="l1", data=(x,)).model
    assert torch.equal(settled[1].running_var, model[1].running_var)
    assert not torch.equal(settled[5].running_var, model[5].running_var)


def test_few_rows_say_nothing_of_a_variance():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).eval()
    x = torch.randn(32, 4)
    for count in (31, 32):
        settled = prune.channels(model, x[:1], widths={"0": 4}, score="l1", data=(x[:count],)).model
        spread = settled[3].running_var  # scaled as a whole with the weights before it
        assert torch.allclose(spread, spread.mean()) == (count < 32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision_the_shift_is_that_of_the_rounded_mean(dtype):
    """A mean of 50 standard deviations is rounded by a part of one; what is given must not move with it."""
    torch.manual_seed(0)
    norm = nn.BatchNorm1d(1, eps=0).to(dtype)
    own = dict(zip(VECTORS, (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var), strict=True))
    reads = (50.13 + torch.randn(64, 1)).to(dtype)

    class Twins:
        def stop_at(self, node):
            yield self

        def read(self, source):
            return {}, reads

        def own(self, node):
            return own[node]

    before = norm.eval()(reads).double()
    _norms.settle(Twins(), _norms.Norm(None, None, dict(zip(VECTORS, VECTORS, strict=True)), {}, eps=0.0))
    step = float(torch.finfo(dtype).eps) * 50
    assert float((norm.eval()(reads).double() - before).mean().abs()) < step

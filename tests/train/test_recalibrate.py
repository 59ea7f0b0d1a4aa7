import pytest
import torch
from torch import nn

from paretune.data import Data
from paretune.errors import DataError
from paretune.train import recalibrate_batch_norm

X = torch.randn(96, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 3 + 2
Y = torch.zeros(96, dtype=torch.long)


class Dict(nn.Module):
    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(3)

    def forward(self, image, scale):
        return {"logits": self.bn(image * scale[:, None, None, None]).mean((2, 3))}


def test_running_mean_is_the_mean_over_the_samples_and_variance_the_mean_of_batch_variances():
    model = nn.Sequential(nn.BatchNorm2d(3))
    recalibrate_batch_norm(model, Data((X, Y), batch_size=96), samples=96)
    torch.testing.assert_close(model[0].running_mean, X.mean((0, 2, 3)))
    torch.testing.assert_close(model[0].running_var, X.var((0, 2, 3)))  # one batch: the unbiased variance of it


def test_uneven_counts_are_cut_into_nearly_equal_batches_so_every_sample_weighs_the_same():
    model = nn.Sequential(nn.BatchNorm2d(3))
    # 90 samples at most 64 a batch: 64 + 26 would weigh the last 26 like the first 64; 45 + 45 do not
    recalibrate_batch_norm(model, Data((X[:90], Y[:90]), batch_size=64))
    torch.testing.assert_close(model[0].running_mean, X[:90].mean((0, 2, 3)))
    assert model[0].num_batches_tracked == 2


def test_recalibrated_output_has_zero_mean_and_unit_variance():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)).eval()
    with torch.no_grad():
        model[0].weight.mul_(7)  # what surgery does: the statistics no longer fit
        assert abs(model(X).var() - 1) > 1
        recalibrate_batch_norm(model, Data((X, Y), batch_size=32))
        out = model(X)
    assert out.mean((0, 2, 3)).abs().max() < 1e-5
    torch.testing.assert_close(out.var((0, 2, 3)), torch.ones(8), rtol=0.05, atol=0.05)


def test_modes_momentum_weights_and_other_modules_are_as_before():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, momentum=0.3), nn.Dropout(0.5))
    model.train()
    model[1].eval()
    weight = model[0].weight.detach().clone()
    returned = recalibrate_batch_norm(model, Data((X, Y)))
    assert returned is model
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert model[1].momentum == 0.3
    assert torch.equal(model[0].weight, weight)


def test_modes_come_back_when_a_batch_fails():
    model = nn.Sequential(nn.BatchNorm2d(3, momentum=0.3)).eval()
    with pytest.raises(RuntimeError):
        recalibrate_batch_norm(model, Data((X[:, :2], Y)))
    assert not model.training and not model[0].training and model[0].momentum == 0.3


def test_dropout_is_off_so_statistics_describe_inference():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.9), nn.BatchNorm2d(3)).train()
    recalibrate_batch_norm(model, Data((X, Y), batch_size=96))
    torch.testing.assert_close(model[1].running_var, X.var((0, 2, 3)))


def test_model_without_running_statistics_is_untouched():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False), nn.LayerNorm(2))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    assert recalibrate_batch_norm(model, Data((torch.randn(1, 2), Y[:1]))) is model
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_keyword_inputs_and_augmentation():
    model = Dict()
    data = Data(({"image": X, "scale": torch.full((96,), 2.0)}, Y), batch_size=96)
    recalibrate_batch_norm(model, data)
    torch.testing.assert_close(model.bn.running_mean, 2 * X.mean((0, 2, 3)))
    recalibrate_batch_norm(model, data, augment=lambda inputs, _: {**inputs, "image": inputs["image"] + 10})
    torch.testing.assert_close(model.bn.running_mean, 2 * (X.mean((0, 2, 3)) + 10))


def test_augmentation_is_fixed_by_the_seed():
    def jitter(inputs, generator):
        return inputs + torch.randn(inputs.shape, generator=generator)

    means = [
        recalibrate_batch_norm(nn.Sequential(nn.BatchNorm2d(3)), Data((X, Y)), augment=jitter, seed=seed)[
            0
        ].running_mean
        for seed in (0, 0, 1)
    ]
    assert torch.equal(means[0], means[1])
    assert not torch.equal(means[0], means[2])


def test_a_last_single_sample_is_left_out_and_a_lone_one_refused():
    model = nn.Sequential(nn.BatchNorm1d(3))
    flat = X[:, :, 0, 0]
    recalibrate_batch_norm(model, Data((flat[:5], Y[:5]), batch_size=2))  # 2 + 2 + 1
    assert model[0].num_batches_tracked == 2
    with pytest.raises(DataError, match=r"needs at least 2 samples of task\.train, and would get 1"):
        recalibrate_batch_norm(model, Data((flat[:1], Y[:1]), name="train"))

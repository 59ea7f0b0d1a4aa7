import torch

from paretune.prune.scores import random

WEIGHT = torch.randn(4000, 3, generator=torch.Generator().manual_seed(0))


def test_is_fixed_by_the_seed_and_the_channels_own_weights():
    assert torch.equal(random(WEIGHT), random(WEIGHT.clone()))
    assert not torch.equal(random(WEIGHT), random(WEIGHT, seed=1))
    assert torch.equal(random(WEIGHT[7:9]), random(WEIGHT)[7:9])


def test_is_uniform_and_has_nothing_to_do_with_the_size_of_the_weights():
    scores = random(WEIGHT).double()
    counts = torch.histc(scores, 10, 0, 1)
    assert (
        (counts - 400).square().sum() / 400
    ) < 27.9  # chi square, 9 degrees of freedom: one in a thousand above
    assert abs(torch.corrcoef(torch.stack([scores, WEIGHT.abs().sum(1).double()]))[0, 1]) < 0.06


def test_takes_any_type_of_weight():
    for dtype in (torch.bfloat16, torch.float64):
        assert random(WEIGHT[:3].to(dtype)).dtype == torch.float32

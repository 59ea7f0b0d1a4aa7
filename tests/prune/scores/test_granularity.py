"""Any score at any granularity: the first axis is the unit, and a coarser unit is a reshaped weight."""

import pytest
import torch

from paretune.prune.scores import (
    apoz,
    fisher,
    gradient_norm,
    grasp,
    l1,
    l2,
    obc,
    snip,
    sparsegpt,
    synflow,
    taylor,
    wanda,
)

G = torch.Generator().manual_seed(0)
WEIGHT, OTHER = torch.randn(6, 4, 3, 3, generator=G), torch.randn(6, 4, 3, 3, generator=G)
POSITIVE = OTHER.abs() + 0.1

ADDITIVE = {
    "l1": lambda shape: l1(WEIGHT.reshape(shape)),
    "l2": lambda shape: l2(WEIGHT.reshape(shape)).square(),
    "snip": lambda shape: snip(WEIGHT.reshape(shape), OTHER.reshape(shape)),
    "grasp": lambda shape: grasp(WEIGHT.reshape(shape), OTHER.reshape(shape)),
    "synflow": lambda shape: synflow(WEIGHT.reshape(shape), OTHER.reshape(shape)),
    "gradient_norm": lambda shape: gradient_norm(grad=OTHER.reshape(shape), of="weight"),
    "wanda": lambda shape: wanda(WEIGHT.reshape(shape), POSITIVE.reshape(shape)),
    "sparsegpt": lambda shape: sparsegpt(WEIGHT.reshape(shape), POSITIVE.reshape(shape)),
}


@pytest.mark.parametrize("score", ADDITIVE.values(), ids=ADDITIVE)
def test_weights_add_up_to_channels_and_channels_to_blocks(score):
    weights, channels, blocks = score((-1, 1)), score((6, 4, 3, 3)), score((3, 2, 4, 3, 3))
    assert len(weights) == WEIGHT.numel() and len(blocks) == 3
    torch.testing.assert_close(weights.reshape(6, -1).sum(1), channels)
    torch.testing.assert_close(channels.reshape(3, 2).sum(1), blocks)


def test_signed_sums_add_up_before_the_absolute_value():
    products = WEIGHT * OTHER
    for shape in ((-1, 1), (6, 36), (3, 72)):
        units = products.reshape(shape)
        torch.testing.assert_close(taylor(WEIGHT.reshape(shape), OTHER.reshape(shape)), units.sum(1).abs())


def test_heads_are_channels_with_more_positions():
    value, gradient = torch.randn(5, 6, 7, generator=G), torch.randn(5, 6, 7, generator=G)
    heads = value.reshape(5, 3, 2 * 7), gradient.reshape(5, 3, 2 * 7)
    own = 5 * (value * gradient).sum(2).reshape(5, 3, 2).sum(2)
    torch.testing.assert_close(fisher(*heads), own.square().sum(0) / 10)
    torch.testing.assert_close(apoz(heads[0].relu()), apoz(value.relu()).reshape(3, 2).mean(1))


def test_blocks_of_inputs_are_channels_with_more_within():
    x = torch.randn(50, 12, generator=G)
    weight = torch.randn(12, 4, generator=G)  # (in, out)
    blocks = weight.reshape(3, 4, 4).transpose(1, 2)  # (units, out, within)
    moment = x.T @ x  # without correlations across blocks, a block is its output's energy
    moment = moment * torch.block_diag(*[torch.ones(4, 4)] * 3)
    energy = torch.einsum(
        "uow,uwv,uov->u", blocks, torch.stack([moment[i : i + 4, i : i + 4] for i in (0, 4, 8)]), blocks
    )
    torch.testing.assert_close(obc(blocks, moment, damping=0), energy, rtol=1e-4, atol=0)
    torch.testing.assert_close(obc(blocks, torch.eye(12), damping=0), weight.square().reshape(3, -1).sum(1))

"""The table before and after, by hand."""

import torch
from torch import nn

from paretune.measure import layer_table
from paretune.measure._cost import macs_by_module


def network(width):
    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(width * 16, 2))


def test_macs_by_module_add_up():
    seen = macs_by_module(network(4), torch.zeros(3, 1, 4, 4))
    assert seen["0"] == 16 * 4 * 9 and seen["3"] == 4 * 16 * 2
    assert seen[""] == seen["0"] + seen["3"]


def test_rows_by_hand():
    conv, linear = layer_table(network(4), network(2), torch.zeros(3, 1, 4, 4), weight_bytes=1)
    assert conv == {
        "name": "0",
        "type": "Conv2d",
        "channels_before": 4,
        "channels_after": 2,
        "macs_before": 16 * 4 * 9,
        "macs_after": 16 * 2 * 9,
        "bytes_before": 4 * (4 * 9 + 4),
        "bytes_after": 2 * 9 + 2,
    }
    assert (linear["name"], linear["macs_before"], linear["macs_after"]) == ("3", 128, 64)


def test_a_layer_that_is_gone_costs_nothing():
    before, after = network(4), network(4)
    after[0] = nn.Identity()
    after[2] = nn.Sequential(nn.Flatten(), nn.ConstantPad1d((0, 48), 0.0))
    conv, _ = layer_table(before, after, torch.zeros(1, 1, 4, 4))
    assert (conv["channels_after"], conv["macs_after"], conv["bytes_after"]) == (0, 0, 0)

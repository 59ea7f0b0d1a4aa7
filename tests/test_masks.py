"""Masks: packed and read back, applied, carried, and held at zero by any training."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from paretune import masks, prune
from paretune.cuts import Cuts, replay
from paretune.errors import SurgeryError

ROWS = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def test_bits_by_hand():
    """1 0 1 1 0 0 0 0 | 1: nine weights are two bytes, 176 and 128."""
    stays = torch.tensor([[1, 0, 1], [1, 0, 0], [0, 0, 1]]).bool()
    mask = masks.Mask.of("a.weight", stays)
    assert mask.shape == (3, 3)
    import base64
    import zlib

    assert list(zlib.decompress(base64.b64decode(mask.bits))) == [0b10110000, 0b10000000]
    assert torch.equal(mask.stays(), stays)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_any_mask_comes_back(shape, seed):
    stays = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    assert torch.equal(masks.Mask.of("w", stays).stays(), stays)


@pytest.mark.parametrize("make", ["sgd", "adam", "adamw", "rmsprop"])
def test_zeros_stay_zero_under_every_optimizer_and_the_rest_learns(make):
    model = prune.weights(net(), ratio=0.6).model
    zero = {name: parameter == 0 for name, parameter in masks.masked(model).items()}
    assert sum(int(where.sum()) for where in zero.values()) == 27  # of 45
    before = copy.deepcopy(model.state_dict())
    with masks.held(model):
        optimizer = {
            "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
            "adam": lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
            "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
            "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.1, momentum=0.5),
        }[make](model.parameters())
        for _ in range(4):
            optimizer.zero_grad()
            (model(ROWS) - 1).square().sum().backward()
            optimizer.step()
    for name, where in zero.items():
        parameter = model.get_parameter(name)
        assert torch.equal(parameter == 0, where)
        assert not torch.equal(parameter[~where], before[name][~where])


def test_outside_of_held_gradients_are_whole_again():
    model = prune.weights(net(), ratio=0.6).model
    with masks.held(model):
        model(ROWS).sum().backward()
        inside = model[2].weight.grad.clone()
    model.zero_grad()
    model(ROWS).sum().backward()
    zero = model[2].weight == 0
    assert not inside[zero].any() and model[2].weight.grad[zero].any()


def test_a_model_without_masks_is_left_alone():
    model = net()
    with masks.held(model):
        model(ROWS).sum().backward()
    assert not masks.masked(model) and all(parameter.grad.all() for parameter in model.parameters())


def test_released_tensors_are_held_no_longer():
    model = prune.weights(net(), ratio=0.6).model
    zero = model[0].weight == 0
    released = masks.release(model, ["0.weight", "0.bias"])
    assert list(released) == ["0.weight"] and torch.equal(released["0.weight"], zero)
    assert list(masks.masked(model)) == ["2.weight"]


def test_copies_wrappers_and_tied_weights_know_their_masks():
    model = prune.weights(net(), ratio=0.5).model
    assert list(masks.masked(copy.deepcopy(model))) == ["0.weight", "2.weight"]
    assert list(masks.masked(nn.Sequential(nn.Identity(), model))) == ["1.0.weight", "1.2.weight"]
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    pruned = prune.weights(tied, ratio=0.5)
    assert list(masks.masked(pruned.model)) == ["0.weight"]
    assert pruned.model[1].weight is pruned.model[0].weight and pruned.after["nonzero"] == 8 + 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bits": "!"}, "the mask of '0.weight' is damaged"),
        ({"bits": "AAAA"}, "the mask of '0.weight' is damaged"),
        ({"bits": masks.Mask.of("w", torch.ones(3)).bits}, "it is not of 30 weights"),
        ({"bits": None}, "the mask of '0.weight' is damaged"),
        ({"tensor": "0.wait"}, r"no parameter '0.wait'\. Did you mean '0.weight'\?"),
        ({"shape": [6, 5]}, r"changed their shape since they were masked: they are \(5, 6\), and the mask is of"),
    ],
)
def test_a_damaged_mask_and_one_of_another_shape_change_nothing(change, message):
    content = prune.weights(net(), ratio=0.5).cuts.to_json()
    content["masks"][0] |= change
    fresh, whole = net(), net().state_dict()
    with pytest.raises(SurgeryError, match=message):
        replay(fresh, Cuts.from_json(content))
    assert all(torch.equal(tensor, whole[name]) for name, tensor in fresh.state_dict().items())


def test_masks_are_replayed_after_the_cut_that_they_followed():
    cut = prune.channels(net(), ROWS[:2], ratio=0.4, score="l1")
    sparse = prune.weights(cut.model, ratio=0.5)
    with pytest.raises(SurgeryError, match=r"changed their shape .* in the order in which they were made"):
        replay(net(), sparse.cuts)
    again = replay(replay(net(), cut.cuts), sparse.cuts)
    assert torch.equal(again(ROWS), sparse.model(ROWS))

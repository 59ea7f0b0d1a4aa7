import pytest
import torch
from torch import nn

from paretune.errors import TaskError
from paretune.train._optimizers import load_state_tensors, make_optimizer, state_tensors

SETTINGS = {"lr": 0.1, "weight_decay": 0.1, "momentum": 0.9}


def _step(model, optimizer):
    optimizer.zero_grad()
    model(torch.ones(2, 3)).square().sum().backward()
    optimizer.step()


def _model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_a_fresh_optimizer_with_the_state_loaded_takes_the_same_step(name):
    model, twin = _model(), _model()
    optimizer = make_optimizer(model, name, **SETTINGS)
    for _ in range(3):
        _step(model, optimizer)
    twin.load_state_dict(model.state_dict())
    restored = make_optimizer(twin, name, **SETTINGS)
    load_state_tensors(restored, twin, {k: v.clone() for k, v in state_tensors(optimizer, model).items()})
    _step(model, optimizer), _step(twin, restored)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_state_comes_back_with_the_strides_of_the_parameter():
    model = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = make_optimizer(model, "sgd", **SETTINGS)
    load_state_tensors(optimizer, model, {"weight/momentum_buffer": torch.ones(4, 3, 3, 3)})
    assert optimizer.state[model.weight]["momentum_buffer"].stride() == model.weight.stride()


def test_biases_and_norms_do_not_decay_and_frozen_parameters_are_left_out():
    model = _model()
    model[2].weight.requires_grad_(False)
    groups = make_optimizer(model, "adamw", **SETTINGS).param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert {n: decay.get(id(p)) for n, p in model.named_parameters()} == {
        "0.weight": 0.1, "0.bias": 0.0, "1.weight": 0.0, "1.bias": 0.0, "2.weight": None, "2.bias": 0.0,
    }  # fmt: skip


def test_one_sgd_step_by_hand():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 2.0)
    optimizer = make_optimizer(model, "sgd", lr=0.5, weight_decay=0.1, momentum=0.9)
    model(torch.tensor([[3.0]])).sum().backward()  # gradient 3, plus decay 0.1 * 2
    optimizer.step()
    assert model.weight.item() == pytest.approx(2 - 0.5 * 3.2)


def test_nothing_to_train_is_said():
    with pytest.raises(TaskError, match="no parameter with requires_grad=True"):
        make_optimizer(nn.Linear(2, 2).requires_grad_(False), "sgd", **SETTINGS)

"""`check`: exact shapes and costs after a cut, worked out by hand, and reasons where none is possible."""

import pytest
import torch
from torch import nn

from paretune.errors import InputError, TaskError
from paretune.inspection import check
from paretune.recipe import parse_recipe
from paretune.task import Task


def net():
    """Two convolutions and a classifier, without biases: 8x8 images of one channel."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4, bias=False),
    )  # fmt: skip


def task(model=net):
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(8, 1, 8, 8, generator=generator), torch.arange(8) % 4
    return Task(name="small", model=model, train=(images, labels), val=(images, labels))


def checked(*steps, model=net):
    return check(parse_recipe({"steps": list(steps)}), task(model))


def test_the_random_state_is_left_as_it_was():
    before = torch.get_rng_state()
    checked({"prune.channels": {"ratio": 0.5}})
    assert torch.equal(torch.get_rng_state(), before)


def test_costs_and_shapes_after_a_cut_as_counted_by_hand():
    found = checked({"prune.channels": {"ratio": 0.5, "scope": "local"}}, "quantize.static")
    # 9 taps a filter on 64 pixels: 1x8 and 8x16 filters, then 16x4; after the cut 1x4, 4x8 and 8x4
    assert found["model"] == {
        "macs": 9 * 64 * (8 + 128) + 64,
        "params": 9 * (8 + 128) + 64,
        "weight_bytes": 4 * 1288,
    }
    prune, quantize = found["steps"]
    assert prune["after"] == {"macs": 9 * 64 * (4 + 32) + 32, "params": 9 * (4 + 32) + 32, "weight_bytes": 4 * 356}
    assert quantize["after"] == prune["after"] | {"weight_bytes": 356}
    layers = {row["layer"]: row for row in found["layers"]}
    assert (layers["0"]["shape"], layers["0"]["after"]) == ([1, 8, 8, 8], [1, 4, 8, 8])
    assert (layers["2"]["shape"], layers["2"]["after"]) == ([1, 16, 8, 8], [1, 8, 8, 8])
    assert found["ok"] is True


def test_the_ceiling_is_one_channel_a_layer():
    (prune,) = checked({"prune.channels": {"ratio": 0.5}})["steps"]
    assert prune["ceiling"] == {"macs": 9 * 64 * (1 + 1) + 4, "params": 9 * 2 + 4, "weight_bytes": 4 * 22}


def test_a_layer_that_cannot_be_pruned_says_why():
    last = checked({"prune.channels": {"ratio": 0.5}})["layers"][-1]
    assert last["layer"] == "6" and last["prunable"] == 0
    assert "output" in last["reason"]
    assert last["after"] == last["shape"]


def test_a_second_cut_starts_where_the_first_ended():
    once = {"prune.channels": {"ratio": 0.5, "scope": "local"}}
    first, second = checked(once, once)["steps"]
    assert second["after"]["params"] == 9 * (2 + 2 * 4) + 4 * 4 < first["after"]["params"]


def test_steps_that_only_train_change_no_shape():
    found = checked({"train": {"epochs": 1}}, {"distill": {"epochs": 1}})
    assert [step["after"] for step in found["steps"]] == [found["model"]] * 2


def test_a_cut_that_cannot_be_done_is_a_problem_and_the_rest_is_still_checked():
    found = checked({"prune.channels": {"macs": 0.0001}}, "quantize.static")
    prune, quantize = found["steps"]
    assert "macs=0.0001" in prune["problem"]
    assert prune["after"] == found["model"]
    assert quantize["after"]["weight_bytes"] == 1288
    assert found["ok"] is False


def test_the_users_model_is_not_changed():
    model = net()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    checked({"prune.channels": {"ratio": 0.5}}, model=model)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_recipe_without_a_task_and_a_task_that_does_not_fit_are_bad_input():
    with pytest.raises(InputError, match="the recipe names no task"):
        check(parse_recipe({"steps": ["train"]}))
    with pytest.raises(TaskError, match="does not accept the example input"):
        checked("train", model=lambda: nn.Linear(3, 4))


class Adds(nn.Module):
    """One residual block between two linear layers, on 4 numbers."""

    def __init__(self, blocks=2):
        super().__init__()
        self.first = nn.Linear(4, 6, bias=False)
        self.blocks = nn.ModuleList(Residual() for _ in range(blocks))
        self.last = nn.Linear(6, 2, bias=False)

    def forward(self, x):
        x = self.first(x)
        for block in self.blocks:
            x = block(x)
        return self.last(x)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(6, 8, bias=False), nn.Linear(8, 6, bias=False)

    def forward(self, x):
        return x + self.down(self.up(x).relu())


def test_blocks_that_go_are_gone_from_the_layers_and_counted_by_hand():
    data = (torch.randn(8, 4, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 2)
    adds = Task(name="adds", model=Adds, train=data, val=data)
    found = check(parse_recipe({"steps": [{"prune.blocks": {"names": ["blocks.0"]}}]}), adds)
    (step,) = found["steps"]
    assert found["model"]["macs"] == 6 * 4 + 2 * (2 * 6 * 8) + 6 * 2
    assert step["after"]["macs"] == step["after"]["params"] == 6 * 4 + 2 * 6 * 8 + 6 * 2
    after = {row["layer"]: row["after"] for row in found["layers"]}
    assert after["blocks.0.up"] is None and after["blocks.1.up"] == [1, 8] and after["last"] == [1, 2]


def test_groups_say_what_can_go_with_them():
    found = check(parse_recipe({"steps": ["quantize.static"]}), task())
    groups = {row["group"]: row for row in found["groups"]}
    # one channel stays: 7 of 8 take 7/8 of both convolutions, 15 of 16 that of the second and of the classifier
    assert groups["0"]["macs"] == 9 * 64 * 7 * (1 + 16) and groups["0"]["params"] == 9 * 7 * (1 + 16)
    assert groups["2"]["params"] == 15 * (9 * 8 + 4)


def images_task():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
    )  # fmt: skip
    images = torch.randn(32, 3, 8, 8)
    data = (images, (images[:, 0, 0, 0] > 0).long())
    return Task(name="images", model=lambda: model, train=data, val=data, batch_size=16)


@pytest.mark.parametrize(
    ("step", "macs"),
    [
        ({"prune.resolution": {"ratio": 0.5}}, 16 * (27 * 8 + 72 * 8) + 16),
        ({"prune.neighbours": {"ratio": 0.5}}, 64 * (27 * 4 + 36 * 4) + 8),
        ({"prune.group_lasso": {"ratio": 0.5}}, None),
        ({"prune.greg": {"macs": 0.5}}, None),
        ({"prune.learned": {"macs": 0.5}}, None),
        ({"prune.iterative": {"prune": {"prune.channels": {"macs": 0.4}}}}, None),
        ({"prune.iterative": {"prune": {"prune.resolution": {"ratio": 0.5}}}}, 16 * (27 * 8 + 72 * 8) + 16),
        ({"prune.activations": {"count": 2}}, None),
    ],
)
def test_what_every_step_that_cuts_leaves(step, macs):
    checked = check(parse_recipe({"steps": [step]}), images_task())
    (entry,) = checked["steps"]
    whole = 64 * (27 * 8 + 72 * 8) + 16
    assert checked["ok"] and checked["model"]["macs"] == whole
    if macs is not None:
        assert entry["after"]["macs"] == macs
    elif "prune.activations" in step:  # two 3x3 layers as one would take more: nothing to gain
        assert entry["after"]["macs"] == whole
    else:
        assert 0.2 * whole < entry["after"]["macs"] <= 0.55 * whole
        assert "of the MACs" in entry["gains"]


@pytest.mark.parametrize(
    ("step", "said"),
    [
        ({"prune.weights": {"threshold": 99}}, "every weight would go"),
        ({"prune.weights": {"n_m": [3, 7]}}, "m=7 must divide"),
        ({"prune.weights": {"ratio": 0.5, "protect": ["zz"]}}, "'zz' matches nothing"),
        ({"prune.greg": {"macs": 0.00001}}, "macs=1e-05"),
        ({"prune.group_lasso": {"ratio": 0.5, "protect": ["*"]}}, "protect"),
    ],
)
def test_a_step_that_cannot_be_done_is_told_before_it_runs(step, said):
    checked = check(parse_recipe({"steps": [step]}), images_task())
    assert not checked["ok"] and said in checked["steps"][0]["problem"]

"""Resolution: the scaling by hand, what admits it and what does not, and everything that may come after it."""

import json
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from paretune import prune
from paretune._resized import resized, size_of
from paretune.cuts import Cuts, replay
from paretune.distill import Distill
from paretune.errors import InfeasibleError, InputError, RecipeError, SurgeryError
from paretune.export import certify, export_onnx, save, strip
from paretune.measure import macs
from paretune.prune import Channels, Resolution, Weights
from paretune.quantize import Static
from paretune.recipe import Context, parse_recipe
from paretune.task import Task

IMAGES = torch.rand(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = (IMAGES[:, 0, :8].mean((1, 2)) > IMAGES[:, 0, 8:].mean((1, 2))).long()
FIXED = {"precision": "float32", "layout": "contiguous", "warmup": 0.0, "lr": 1e-3, "epochs": 1}


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3, stride=2, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 2),
    )  # fmt: skip


def task(model=net):
    return Task(name="images", model=model, train=(IMAGES, LABELS), val=(IMAGES, LABELS), batch_size=16)


def test_the_scaling_by_hand():
    """A row of four, halved: the triangle around each new pixel is two old pixels wide to either side.

    The first is centred at 1.0, the old ones at 0.5, 1.5, 2.5: weights 3, 3 and 1, seventh parts.
    """
    small = resized(nn.Identity(), (1, 2))(torch.tensor([[[[7.0, 14.0, 21.0, 0.0]]]]))
    assert small.shape == (1, 1, 1, 2)
    assert small.flatten().tolist() == pytest.approx([3 * 1 + 3 * 2 + 3, 2 + 3 * 3 + 0])
    constant = torch.full((1, 1, 4, 4), 3.0)
    assert torch.allclose(resized(nn.Identity(), (3, 3))(constant), torch.full((1, 1, 3, 3), 3.0))


def test_smaller_images_inside_of_the_model():
    model = net().eval()
    made = prune.resolution(model, IMAGES[:1], ratio=0.5)
    assert size_of(made.model) == (8, 8) and size_of(model) is None and type(model) is nn.Sequential
    by_hand = nn.functional.interpolate(IMAGES, size=(8, 8), mode="bilinear", antialias=True)
    assert torch.equal(made.model.eval()(IMAGES), model(by_hand))
    assert made.after["macs"] == macs(model, by_hand[:1]) < 0.3 * made.before["macs"]
    assert list(made.model.state_dict()) == list(model.state_dict())
    assert "16x16 are scaled to 8x8" in made.notes[0]
    again = replay(net(), Cuts.from_json(json.loads(json.dumps(made.cuts.to_json())))).eval()
    assert torch.equal(again(IMAGES), made.model(IMAGES))


def test_a_second_size_replaces_the_first():
    once = prune.resolution(net(), IMAGES[:1], size=12).model
    twice = prune.resolution(once, IMAGES[:1], ratio=0.5).model
    assert size_of(twice) == (6, 6) and size_of(once) == (12, 12)
    assert torch.equal(twice.eval()(IMAGES), prune.resolution(net(), IMAGES[:1], size=(6, 6)).model.eval()(IMAGES))


def test_a_rewritten_graph_is_scaled_too_and_again():
    cut = prune.channels(net(), IMAGES[:2], ratio=0.4, form="graph").model.eval()
    once = prune.resolution(cut, IMAGES[:1], size=12).model.eval()
    twice = prune.resolution(once, IMAGES[:1], size=8).model.eval()
    assert (size_of(cut), size_of(once), size_of(twice)) == (None, (12, 12), (8, 8))
    by_hand = nn.functional.interpolate(IMAGES, size=(8, 8), mode="bilinear", antialias=True)
    assert torch.equal(twice(IMAGES), cut(by_hand))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (Resolution(size=12), Channels(ratio=0.4, recalibrate=32)),
        (Channels(ratio=0.4, recalibrate=32), Resolution(size=12)),
        (Channels(ratio=0.4, form="graph", recalibrate=32), Resolution(size=12)),
        (Resolution(size=12), Channels(ratio=0.4, form="graph", recalibrate=32)),
        (Resolution(size=12), Weights(ratio=0.5)),
        (Resolution(size=12), Distill(**FIXED)),
        (Distill(**FIXED), Resolution(ratio=0.7)),
    ],
)
def test_steps_after_and_before_then_int8(first, second, tmp_path):
    own, context = task(), Context(teacher=net().eval())
    model, cuts = net(), ()
    for step in (first, second):
        result = step.apply(model, own, context)
        model, cuts = result.model.eval(), (*cuts, *result.cuts)
    loaded = net()
    for manifest in cuts:
        loaded = replay(loaded, Cuts.from_json(manifest.to_json()))
    loaded.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(loaded.eval()(IMAGES), model(IMAGES))
    exported = export_onnx(loaded, own.inputs())
    assert sum(node.op_type == "Resize" for node in exported.graph.graph.node) == 1
    float_path, int8_path = tmp_path / "float.onnx", tmp_path / "int8.onnx"
    save(strip(exported.graph), float_path)
    assert certify(float_path, loaded, own, kind="float", exported=exported, split=None).ok
    save(strip(Static(calibration=32).apply_graph(exported.graph, own, context)), int8_path)
    assert certify(int8_path, loaded, own, kind="int8", float_path=float_path, split=None).ok


def test_the_step_recalibrates_and_is_a_step():
    (step,) = parse_recipe({"steps": [{"prune.resolution": {"size": [12, 8]}}]}).steps
    assert step == Resolution(size=(12, 8)) and Resolution().ratio == 0.75
    result = step.apply(net(), task(), Context())
    assert result.details["size"] == [12, 8] and json.dumps(result.details)
    plain = Resolution(size=(12, 8), recalibrate=0).apply(net(), task(), Context())
    assert not np.allclose(result.model[1].running_mean, plain.model[1].running_mean)


class Positions(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 4, 4, stride=4)
        self.positions = nn.Parameter(torch.zeros(16, 4))

    def forward(self, images):
        return (self.patches(images).flatten(2).mT + self.positions).mean(1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            nn.Sequential(nn.Flatten(), nn.Linear(768, 2)),
            "does not admit images of 12x12: .*a layer after flatten",
        ),
        (Positions(), "does not admit images of 12x12: .*It has fixed positions"),
        (nn.Conv2d(3, 2, 3), r"outputs would be .* instead of .*; they follow the size"),
    ],
)
def test_models_that_do_not_admit_it(model, message):
    with pytest.raises(InfeasibleError, match=message):
        prune.resolution(model, IMAGES[:1], size=12)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({}, "give size, in pixels, or ratio"),
        ({"size": 8, "ratio": 0.5}, "exactly one of the two"),
        ({"size": 0}, "size=0 must be"),
        ({"size": (8, 8, 8)}, r"size=\(8, 8, 8\) must be \(height, width\)"),
        ({"size": "8"}, "size='8' must be"),
        ({"size": 20}, "must not be larger than what the model looks at now, 16x16"),
        ({"ratio": 1.0}, r"ratio=1\.0 must be above 0 and below 1"),
        ({"ratio": 0.0}, r"ratio=0\.0 must be above 0 and below 1"),
    ],
)
def test_bad_input_is_told(how, message):
    with pytest.raises(InputError, match=message):
        prune.resolution(net(), IMAGES[:1], **how)


@pytest.mark.parametrize("example", [torch.zeros(1, 3), {"images": IMAGES[:1]}, IMAGES[:1].long()])
def test_what_is_no_image_is_refused(example):
    with pytest.raises(InputError, match="must be images, float"):
        prune.resolution(net(), example, ratio=0.5)


def test_a_recipe_is_told_at_once():
    with pytest.raises(RecipeError, match="size=0 must be"):
        parse_recipe({"steps": [{"prune.resolution": {"size": 0}}]})


def test_a_damaged_manifest_is_refused():
    content = prune.resolution(net(), IMAGES[:1], ratio=0.5).cuts.to_json()
    for wrong in ([8], [8, 0], "8", [8, 8.5]):
        with pytest.raises(SurgeryError, match="no manifest of cuts"):
            Cuts.from_json(content | {"resolution": wrong})
    assert pickle.loads(pickle.dumps(content)) == content


class Named(nn.Module):
    """A model whose images have a name of their own."""

    def __init__(self):
        super().__init__()
        self.net = net()

    def forward(self, pixels, scale: float = 1.0):
        return self.net(pixels) * scale


def test_callers_see_the_model_that_they_gave():
    """The name of the input, keywords, pickle, the mode, and half precision."""
    model = Named().train()
    made = prune.resolution(model, IMAGES[:1], ratio=0.5).model
    assert model.training and made.training
    made.eval()
    assert torch.equal(made(pixels=IMAGES), made(IMAGES, 1.0))
    assert [value.name for value in export_onnx(made, IMAGES[:2]).graph.graph.input] == ["pixels"]
    again = pickle.loads(pickle.dumps(made))
    assert size_of(again) == (8, 8) and torch.equal(again(IMAGES), made(IMAGES))
    half = made.to(torch.bfloat16)
    assert half(IMAGES.bfloat16()).dtype == torch.bfloat16

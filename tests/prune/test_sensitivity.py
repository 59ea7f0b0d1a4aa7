"""Sensitivity: a network whose answer is known, costs against the cut itself, and the drawing."""

import json
from xml.etree import ElementTree

import pytest
import torch
from torch import nn

from paretune import prune
from paretune.errors import InfeasibleError, InputError, TaskError
from paretune.measure import macs
from paretune.recipe import Context
from paretune.report import sensitivity_page, sensitivity_text
from paretune.report._sensitivity import sensitivity_drawings
from paretune.task import Task

ROWS = torch.randn(200, 4, generator=torch.Generator().manual_seed(0))
LABELS = (ROWS[:, 0] > 0).long()


def net():
    """Of eight hidden units two carry the answer, the sign of the first input; the others are small and
    useless."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    with torch.no_grad():
        for layer in (model[0], model[2], model[4]):
            layer.weight.mul_(1e-3)
            layer.bias.zero_()
        model[0].weight[3, 0], model[0].weight[5, 0] = 1.0, -1.0
        for row in range(6):  # every unit of the second layer has the answer
            model[2].weight[row, 3 if row % 2 else 5] = 1.0
            model[4].weight[row % 2, row] = 1.0
    return model


def task(**changed):
    return Task(**{"name": "rows", "model": net, "train": (ROWS, LABELS), "val": (ROWS, LABELS)} | changed)


def test_which_layer_hurts_by_hand():
    """The first layer can lose six of its eight units, the second four of six; then it is a coin."""
    events = []
    context = Context(emit=lambda kind, fields: events.append((kind, fields["done"], fields["total"])))
    found = prune.sensitivity(net(), task(), ratios=[0.25, 0.75, 0.875], score="l1", context=context)
    assert found.baseline.value == 1.0
    first, second = found.groups
    assert [(group.group, group.width) for group in found.groups] == [("0", 8), ("2", 6)]
    assert [(point.width, point.value == 1.0) for point in first.points] == [(6, True), (2, True), (1, False)]
    assert first.points[1].drop == 0 and first.points[2].drop == pytest.approx(100 * (1 - first.points[2].value))
    assert [point.width for point in second.points] == [5, 2, 1]
    for point in (*first.points, *second.points):
        assert point.low <= point.value <= point.high and point.drop_low <= point.drop <= point.drop_high
    assert events == [("measuring", done, 6) for done in range(1, 7)]


def test_what_is_saved_is_what_the_cut_saves():
    found = prune.sensitivity(net(), task(), ratios=[0.5], score="l1")
    whole, model = macs(net(), ROWS[:1]), net()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    for group, name in zip(found.groups, ("0", "2"), strict=True):
        cut = prune.channels(model, ROWS[:2], widths={name: group.points[0].width}, score="l1")
        assert group.points[0].macs == pytest.approx(1 - macs(cut.model, ROWS[:1]) / whole)
        assert group.points[0].params == pytest.approx(1 - cut.after["params"] / parameters)
        least = prune.channels(model, ROWS[:2], widths={name: 1}, score="l1")
        assert group.macs == pytest.approx(1 - macs(least.model, ROWS[:1]) / whole)


def test_the_model_given_stays_and_a_repair_helps():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    target = model(ROWS).argmax(1)
    own = task(model=lambda: model, train=(ROWS, target), val=(ROWS, target))
    bare, repaired = (
        prune.sensitivity(model, own, ratios=[0.75], score="l1", repair=repair).groups[0].points[0]
        for repair in (0, 200)
    )
    assert repaired.value > bare.value
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_ratios_that_come_to_the_same_count_once_and_protected_layers_are_left_out():
    found = prune.sensitivity(net(), task(), ratios=[0.5, 0.51, 0.99], score="l1", protect="2", samples=50)
    (only,) = found.groups
    assert [point.width for point in only.points] == [4, 1] and found.baseline.n == 50


def test_text_page_and_json_say_the_same():
    found = prune.sensitivity(net(), task(), ratios=[0.25, 0.875], score="l1").to_json()
    assert json.loads(json.dumps(found)) == found
    text, page = sensitivity_text(found), sensitivity_page(found, "a <task>")
    assert "whole: accuracy 100.0 % on 200 validation samples" in text
    assert len(text.splitlines()) == 2 + 1 + 4 and "6 of 8" in text
    (drawing,) = sensitivity_drawings(found)
    assert len(list(ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}polyline"))) == 2
    assert "a &lt;task&gt;" in page and "6 of 8" in page and drawing[:60] in page


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"ratios": []}, InputError, "must be fractions to remove"),
        ({"ratios": [1.0]}, InputError, "must be fractions to remove"),
        ({"ratios": ["x"]}, InputError, "must be fractions to remove"),
        ({"samples": 0}, InputError, "samples=0 must be a whole number of at least 1"),
        ({"repair": -1}, InputError, "repair=-1 must be a whole number of at least 0"),
        ({"score": "tailor"}, InputError, r"Did you mean 'taylor'\?"),
        ({"protect": "9"}, InputError, "'9' matches no layer"),
        ({"structures": "heads"}, InfeasibleError, "has no heads"),
    ],
)
def test_bad_input_is_told(how, error, message):
    with pytest.raises(error, match=message):
        prune.sensitivity(net(), task(), **how)


def test_without_validation_data_there_is_nothing_to_see():
    with pytest.raises(TaskError, match="evaluates on validation data, and the task has none"):
        prune.sensitivity(net(), task(val=None))


def test_nothing_to_cut_is_told():
    data = (ROWS, LABELS)
    with pytest.raises(InfeasibleError, match="all channels are protected"):
        prune.sensitivity(net(), Task(name="rows", model=net, train=data, val=data), protect=["*"])

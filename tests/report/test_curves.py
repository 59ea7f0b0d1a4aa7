from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from paretune.report._curves import group_epochs, training_curves

METRIC = {"name": "accuracy", "n": 899}


def epoch(number: int, step: str = "train", **fields: Any) -> dict[str, Any]:
    return {"kind": "epoch", "step": step, "epoch": number, "epochs": 9, "loss": 1 / number, **fields}


def numbers(events: list[dict[str, Any]]) -> list[list[int]]:
    return [[event["epoch"] for event in group] for group in group_epochs(events)]


def test_each_step_is_a_training() -> None:
    assert numbers([epoch(1), {"kind": "note"}, epoch(2), epoch(1, "distill"), epoch(2, "distill")]) == [
        [1, 2],
        [1, 2],
    ]


def test_a_training_that_starts_again_is_another_one() -> None:
    assert numbers([epoch(1), epoch(2), epoch(1), epoch(2)]) == [[1, 2], [1, 2]]


def test_what_a_resumed_run_repeats_replaces_what_it_repeats() -> None:
    groups = group_epochs([epoch(1), epoch(2), epoch(3), epoch(3, loss=7.0), epoch(4)])
    assert [[e["epoch"] for e in group] for group in groups] == [[1, 2, 3, 4]]
    assert groups[0][2]["loss"] == 7.0


@given(st.lists(st.integers(1, 6), max_size=20))
def test_epochs_rise_in_every_training(order: list[int]) -> None:
    for group in numbers([epoch(number) for number in order]):
        assert group == sorted(set(group))


def test_loss_and_metric_each_get_a_drawing_and_terms_a_line_each() -> None:
    events = [epoch(i, value=0.9, best=0.9, metric="accuracy", terms={"kl": 0.5, "ce": 0.1}) for i in (1, 2, 3)]
    (made,) = training_curves(events, METRIC, 120)
    assert made.title == "train"
    assert made.caption == "stopped after epoch 3 of 9, best 90.0 %"
    loss, metric = (ElementTree.fromstring(drawing) for drawing in made.drawings)
    assert len(list(loss.iter("{http://www.w3.org/2000/svg}polyline"))) == 3
    assert len(list(metric.iter("{http://www.w3.org/2000/svg}polyline"))) == 1


def test_a_training_without_validation_has_a_loss_only() -> None:
    (made,) = training_curves([epoch(1, value=None, best=None), epoch(2, value=None)], METRIC, 120)
    assert len(made.drawings) == 1


def test_trainings_of_one_name_are_numbered() -> None:
    made = training_curves([epoch(1), epoch(1), epoch(1, "distill")], METRIC, 120)
    assert [curves.title for curves in made] == ["train 1", "train 2", "distill"]


def test_a_long_training_is_thinned_but_keeps_its_ends() -> None:
    (made,) = training_curves([epoch(i) for i in range(1, 5001)], METRIC, 50)
    samples = [
        e.get("data-tip") for e in ElementTree.fromstring(made.drawings[0]).iter() if e.get("class") == "sample"
    ]
    assert len(samples) == 50
    assert "epoch 1" in samples[0] and "epoch 5000" in samples[-1]


def test_epochs_without_a_number_or_a_loss_do_not_break_it() -> None:
    made = training_curves(
        [{"kind": "epoch"}, {"kind": "epoch", "epoch": "2"}, {"kind": "epoch", "epoch": 3}], METRIC, 9
    )
    assert [curves.drawings for curves in made] == [()]

"""The rounds of iterative pruning in the report: a row and a point for each."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from paretune.report._rounds import iterations


def turn(number: Any, value: float = 0.9, macs: float = 1000, **fields: Any) -> dict[str, Any]:
    metric = {
        "name": "accuracy",
        "value": value,
        "low": value - 0.01,
        "high": value + 0.01,
        "n": 899,
        "fraction": True,
    }
    latency = {"median_ms": 0.1, "ratio": macs / 1000, "low": macs / 1000 - 0.02, "high": macs / 1000 + 0.02}
    told = {"metric": metric, "macs": macs, "params": 50, "nonzero": 40, "latency": latency, "teacher": "first"}
    return {"kind": "round", "step": "prune.iterative", "round": number, "before": 0.5, **told, **fields}


def test_a_row_and_a_point_for_each_round() -> None:
    events = [turn(0), turn(1, 0.89, 700), {"kind": "note"}, turn(2, 0.88, 500), turn("one-shot", 0.86, 500)]
    (made,) = iterations(events)
    assert [row["name"] for row in made.rows] == ["incoming", "round 1", "round 2", "one-shot"]
    assert made.rows[2] == {
        "name": "round 2", "teacher": "first", "before": "50.0 %", "value": "88.0 %", "interval": "87.0 to 89.0",
        "macs": "500", "macs_ratio": "0.50x", "params": "40", "latency": "0.50x",
        "latency_interval": "0.48x to 0.52x",
    }  # fmt: skip
    drawing = ElementTree.fromstring(made.drawing)
    assert len([node for node in drawing.iter() if "data-tip" in node.attrib]) == 4


def test_a_resumed_pruning_replaces_what_it_repeats_and_each_step_has_its_own() -> None:
    events = [turn(0), turn(1), turn(0), turn(1), turn(2), turn(0, step="other"), turn(1, step="other")]
    assert [(made.title, len(made.rows)) for made in iterations(events)] == [("prune.iterative", 3), ("other", 2)]


def test_without_metric_or_latency_there_are_rows_alone() -> None:
    (made,) = iterations([turn(0, metric=None, latency=None), turn(1, metric=None, latency=None)])
    assert made.drawing == "" and made.rows[1]["value"] == made.rows[1]["latency"] == "-"


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["round", "metric", "latency", "macs", "before", "step"]),
            st.none() | st.integers(-1, 2) | st.text(max_size=3) | st.floats() | st.just({"value": "x"}),
        )
    )
)
def test_whatever_an_event_holds_it_is_shown(events: list[dict[str, Any]]) -> None:
    for made in iterations([{"kind": "round", **event} for event in events]):
        assert made.rows and (not made.drawing or ElementTree.fromstring(made.drawing) is not None)

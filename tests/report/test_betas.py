"""The way of beta, drawn: a line for each layer, and nothing for what cannot be drawn."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from paretune.report._betas import beta_curves

SVG = "{http://www.w3.org/2000/svg}"


def way(group: str, channels: int = 8, points: int = 3, **fields: Any) -> dict[str, Any]:
    rows = [[-1.0 - i, 0.5 - i, 1.0, 1.5, 2.0] for i in range(points)]
    steps = [10 * i for i in range(points)]
    event = {"kind": "beta", "step": "prune.learned", "group": group, "channels": channels, "steps": steps}
    return event | {"quantiles": rows} | fields


def samples(drawing: str) -> list[str]:
    """Return what hovering shows (as an attribute the line feeds are spaces to a reader of XML)."""
    circles = (e for e in ElementTree.fromstring(drawing).iter() if e.get("class") == "sample")
    return [str(circle.findtext(f"{SVG}title")) for circle in circles]


def test_median_and_lower_quartile_with_a_line_for_each_layer() -> None:
    (made,) = beta_curves([{"kind": "note"}, way("conv1"), way("fc")], 30)
    assert made.title == "prune.learned, beta" and made.caption.startswith("2 groups of channels")
    assert len(made.drawings) == 2
    for drawing, name in zip(made.drawings, ("median", "lower quartile"), strict=True):
        tree = ElementTree.fromstring(drawing)
        assert len(list(tree.iter(f"{SVG}polyline"))) == 2
        assert tree.get("aria-label") == f"prune.learned, beta, {name}: conv1, fc"
    assert samples(made.drawings[0])[1] == "conv1, step 10\nbeta 1, half of them -0.5 to 1.5\nall -2 to 2"


def test_many_layers_share_drawings_and_the_widest_are_shown() -> None:
    (made,) = beta_curves([way(f"layer{i}", channels=i) for i in range(1, 21)], 30)
    assert len(made.drawings) == 4 and made.caption.startswith("12 of 20 groups")
    assert "layer20" in made.drawings[-1] and not any('"layer8"' in drawing for drawing in made.drawings)


def test_a_line_is_thinned_but_keeps_its_ends() -> None:
    (made,) = beta_curves([way("conv1", points=33)], 10)
    tips = samples(made.drawings[0])
    assert len(tips) == 10 and "step 0\n" in tips[0] and "step 320\n" in tips[-1]


def test_trainings_are_numbered() -> None:
    made = beta_curves([way("conv1"), way("fc"), way("conv1"), way("fc"), way("conv2", candidate="a")], 30)
    assert [curves.title for curves in made] == [f"prune.learned {number}, beta" for number in (1, 2, 3)]
    assert [curves.caption[:2] for curves in made] == ["2 ", "2 ", "1 "]


@pytest.mark.parametrize(
    "event",
    [
        {"kind": "beta"},
        {"kind": "pruned", "group": "conv1"},
        way("conv1", points=0),
        way("conv1", steps=[0]),
        way("conv1", steps="all"),
        way("conv1", channels=None),
        way("conv1", quantiles=[[1.0] * 4] * 3),
        way("conv1", quantiles=[[1.0, 2.0, None, 3.0, 4.0]] * 3),
        way("conv1", steps=[0, float("nan"), 2]),
    ],
)
def test_what_cannot_be_drawn_is_left_out(event: dict[str, Any]) -> None:
    assert beta_curves([event], 30) == []

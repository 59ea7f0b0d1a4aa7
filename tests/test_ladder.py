"""Which ratio the ladder settles on, with shapes whose costs are made up."""

from types import SimpleNamespace
from typing import Any

import pytest

from paretune import ladder
from paretune.recipe import Constraints


def settle(
    monkeypatch: pytest.MonkeyPatch, cost: Any, constraints: Constraints
) -> tuple[Any, list[Any], list[str]]:
    """Return what `_least_ratio` says, the (ratio, int8) it probed, and its warnings."""
    probed, said = list[Any](), list[str]()

    def probe(flow: Any, baseline: Any, ratio: float, int8: bool) -> dict[str, Any]:
        probed.append((ratio, int8))
        return {"latency": cost(ratio, int8), "size": cost(ratio, int8)}

    monkeypatch.setattr(ladder, "_probe", probe)
    folder = SimpleNamespace(emit=lambda kind, fields: said.append(fields["text"]))
    found = ladder._least_ratio(SimpleNamespace(folder=folder), None, constraints)  # type: ignore[arg-type]
    return found, probed, said


def test_the_least_ratio_that_fits_is_found_within_its_precision(monkeypatch: pytest.MonkeyPatch):
    (ratio, int8), probed, _ = settle(monkeypatch, lambda r, q: 1 - r, Constraints(max_latency="0.6x"))
    assert int8
    assert 1 - 0.6 * ladder.MARGIN <= ratio <= 1 - 0.6 * ladder.MARGIN + ladder.PRECISION
    assert len(probed) <= 6


def test_float_shapes_are_tried_where_int8_is_no_gain(monkeypatch: pytest.MonkeyPatch):
    cost = lambda r, q: 1.2 if q else 1 - r  # noqa: E731
    (ratio, int8), _, said = settle(monkeypatch, cost, Constraints(max_latency="0.8x"))
    assert not int8
    assert 0.2 < ratio < 0.35
    assert said == []


def test_what_no_shape_meets_is_said(monkeypatch: pytest.MonkeyPatch):
    found, probed, said = settle(monkeypatch, lambda r, q: 1.0, Constraints(max_size="0.5x"))
    assert found[0] is None
    assert probed == [(0.9, True), (0.9, False)]
    assert "even with 90% of the channels removed" in said[0]


def test_without_a_bound_on_speed_half_is_where_it_begins(monkeypatch: pytest.MonkeyPatch):
    found, probed, _ = settle(monkeypatch, lambda r, q: 1.0, Constraints(max_drop=1))
    assert found == (0.5, True)
    assert probed == []

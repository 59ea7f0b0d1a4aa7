"""Times: budgets of runs in seconds, and a search that ends at a date; every bad one is told."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

import pytest

from paretune.errors import InputError, RecipeError
from paretune.search import Float, Space, minimize
from paretune.search._study.limits import limits_of
from paretune.search._study.method import method_of

SPACE = Space({"x": Float(0, 1)})


def test_budgets_in_seconds_by_hand():
    """3 min, then thirds down to 5 s: 60, 20, and 6.67 s; the objective gets the seconds."""
    sampler = method_of({"bohb": {"min": "5s", "max": "3min"}})
    assert sampler.budgets == pytest.approx((180 / 27, 20.0, 60.0, 180.0)) and sampler.unit == "seconds"
    assert all(isinstance(budget, float) for budget in sampler.budgets)
    assert method_of({"asha": {"max": "27s"}}).budgets == (1.0, 3.0, 9.0, 27.0), (
        "a number beside a time is seconds"
    )
    assert method_of({"bohb": {"min": 1, "max": 9}}).unit == "", "numbers stay what they are"


def test_an_objective_that_runs_for_its_budget(tmp_path):
    """A study by budgets in seconds keeps its deadline, and goes on from its storage."""

    def trains(config, budget):
        time.sleep(budget)
        return (config["x"] - 0.3) ** 2 + 0.01 / budget

    method, url = {"hyperband": {"min": "20ms", "max": "180ms"}}, f"sqlite:///{tmp_path}/study.db"
    began = time.monotonic()
    result = minimize(trains, SPACE, method, {"wall": "2s"}, storage=url)
    assert time.monotonic() - began < 4.0 and result.best.budget == pytest.approx(0.18)
    for trial in result.trials:
        assert trial.budget <= trial.seconds < trial.budget + 0.1
    again = minimize(trains, SPACE, method, {"trials": len(result.trials) + 1}, storage=url)
    assert len(again.trials) == len(result.trials) + 1


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"min": "5 sec", "max": "3mins"}, InputError, "bohb: max='3mins': no unit 'mins'. Did you mean 'min'"),
        ({"min": "fast", "max": "3min"}, InputError, "bohb: min='fast' must be a time above 0"),
        ({"min": "0s", "max": "3min"}, InputError, "bohb: min='0s' must be a time above 0"),
        ({"min": "5min", "max": "3min"}, InputError, "min=300 is above max=180"),
        ({"min": "3min", "max": "3min"}, InputError, "min=180 equals max"),
        ({"min": "5s", "max": "3min", "unit": "epochs"}, InputError, "are times, and unit='epochs' is none"),
        ({"min": [1], "max": "3min"}, RecipeError, "bohb: min="),
    ],
)
def test_bad_times_of_budgets(settings, error, said):
    with pytest.raises(error, match=said):
        method_of({"bohb": settings})


def test_a_search_that_ends_at_a_date():
    soon = datetime.now() + timedelta(hours=2)
    for written in (soon, str(soon), soon.isoformat(), soon.astimezone(timezone(timedelta(hours=9))).isoformat()):
        assert limits_of({"until": written}).wall == pytest.approx(7200, abs=5)
    both = limits_of({"wall": "30min", "until": soon, "trials": 7})
    assert both.wall == 1800.0 and both.trials == 7
    assert limits_of({"until": soon, "wall": "5h"}).wall == pytest.approx(7200, abs=5)


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        ({"until": "2020-01-01 08:00"}, r"until='2020-01-01 08:00' is in the past \(it is \d{4}-\d\d-\d\d "),
        ({"until": "tomorrow"}, "until='tomorrow' must be a date and time as '2026-12-01 08:00'"),
        ({"until": 3}, "until=3 must be a date and time"),
        ({"untill": "2020-01-01"}, "no limit 'untill'. Did you mean 'until'"),
        ({"wall": "-5min"}, "wall='-5min' must be a time above 0"),
    ],
)  # fmt: skip
def test_bad_ends(budget, said):
    with pytest.raises(InputError, match=said):
        limits_of(budget)

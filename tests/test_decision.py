"""Verdicts on drops: by hand, by simulation, and their symmetry in the metric's direction."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.decision import behaviour, class_drop, decide, flips
from paretune.errors import InputError, RunError
from paretune.measurement import Evaluation
from paretune.metrics import METRICS, Metric


def evaluation(rows, metric="accuracy", **classes):
    metric = METRICS[metric] if isinstance(metric, str) else metric
    rows = np.asarray(rows, dtype=np.float32).reshape(len(rows), -1)
    return Evaluation(metric=metric, rows=rows, value=metric.value(rows), low=0.0, high=1.0, **classes)


def pair(both, lost, won, neither):
    a = [1] * both + [1] * lost + [0] * won + [0] * neither
    b = [1] * both + [0] * lost + [1] * won + [0] * neither
    return evaluation(a), evaluation(b)


def classified(predicted, target, confidence):
    predicted, target = np.array(predicted), np.array(target)
    return evaluation(predicted == target, predicted=predicted, target=target, confidence=np.array(confidence))


def test_few_samples_cannot_tell_and_say_how_many_would():
    decision = decide(*pair(290, 2, 1, 7), max_drop=2.0)
    assert decision.verdict == "cannot tell"
    assert decision.drop == pytest.approx(100 / 300, abs=1e-4) and decision.unit == "points"
    assert decision.low < 0 < decision.high and decision.high > 2.0
    assert 300 < decision.n_needed < 2000
    assert decision.text().startswith("cannot tell with 300 samples; about ")
    assert decision.text().endswith(" would tell")


def test_many_samples_tell_either_way():
    within = decide(*pair(9400, 60, 50, 490), max_drop=1.0)
    assert (within.verdict, within.n_needed) == ("within", None)
    assert within.text().startswith("within 1 points: drop 0.10 points (95 %: ")
    broken = decide(*pair(9200, 260, 50, 490), max_drop=1.0)
    assert broken.verdict == "not within" and broken.low > 1.0
    assert broken.p_value < 1e-20


def test_no_number_of_samples_separates_a_model_from_itself():
    decision = decide(*pair(95, 0, 0, 5), max_drop=0.0)
    assert (decision.verdict, decision.n_needed, decision.drop) == ("cannot tell", None, 0.0)
    assert decision.text() == "cannot tell with 100 samples; more would not help"


def test_a_drop_is_positive_where_worse_whatever_the_direction():
    generator = np.random.default_rng(0)
    base = generator.exponential(1.0, 400)
    worse = base * 1.1 + generator.normal(0, 0.01, 400)
    error = decide(evaluation(base, "mse"), evaluation(worse, "mse"), max_drop=5.0)
    assert (error.verdict, error.unit, error.p_value) == ("not within", "percent", None)
    assert error.drop == pytest.approx(10, abs=0.5) and error.low < error.drop < error.high
    score = Metric("score", METRICS["mse"].rows, METRICS["mse"].value, greater_is_better=True)
    better = decide(evaluation(base, score), evaluation(worse, score), max_drop=0.0)
    assert better.verdict == "within" and better.drop == pytest.approx(-error.drop)
    assert (better.low, better.high) == pytest.approx((-error.high, -error.low), rel=0.05)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(1, 300), st.floats(0, 5))
@settings(max_examples=50, deadline=None)
def test_verdict_follows_the_interval_and_loosening_never_breaks_it(lost, won, both, max_drop):
    decision = decide(*pair(both, lost, won, 3), max_drop=max_drop)
    expected = (
        "within" if decision.high <= max_drop else "not within" if decision.low > max_drop else "cannot tell"
    )
    assert decision.verdict == expected
    if decision.verdict == "within":
        assert decide(*pair(both, lost, won, 3), max_drop=max_drop + 1).verdict == "within"
    if decision.n_needed is not None:
        assert decision.n_needed > decision.n


def test_a_model_exactly_at_the_bound_is_rarely_called_within():
    """The error of the first kind: a true drop of the bound itself is passed in about 2.5 % of draws."""
    draws = np.random.default_rng(1).multinomial(400, [0.93, 0.03, 0.01, 0.03], 500)
    passed = np.mean([decide(*pair(*draw), max_drop=2.0).verdict == "within" for draw in draws])
    assert passed <= 0.05


def test_unlike_evaluations_are_refused():
    a, b = evaluation([1, 0, 1]), evaluation([1, 0])
    with pytest.raises(InputError, match=r"on 3 samples, the candidate by accuracy on 2; .* same limit"):
        decide(a, b, 1.0)
    with pytest.raises(InputError, match="by accuracy on 3 samples, the candidate by mse on 3"):
        flips(a, evaluation([1, 0, 1], "mse"))


def test_a_baseline_of_zero_has_no_percent():
    with pytest.raises(InputError, match="percent of the baseline's mse, and that is 0"):
        decide(evaluation([0.0, 0.0], "mse"), evaluation([0.1, 0.0], "mse"), 1.0)


def test_a_metric_that_is_no_number_is_told():
    with pytest.raises(RunError, match="the candidate's mse is nan, so no drop can be told"):
        decide(evaluation([0.1, 0.2], "mse"), evaluation([0.1, np.nan], "mse"), 1.0)


def test_flips_worst_class_and_calibration_by_hand():
    base = classified([0, 0, 1, 1, 2], [0, 0, 1, 1, 1], [1.0, 1.0, 1.0, 1.0, 1.0])  # the last is wrong
    now = classified([0, 1, 1, 1, 1], [0, 0, 1, 1, 1], [0.5, 0.5, 0.5, 0.5, 0.5])  # loses one 0, wins the last 1
    assert flips(base, now) == 20.0
    worst = class_drop(base, now)
    assert (worst.label, worst.drop, worst.n) == (0, 50.0, 2)
    seen = behaviour(base, now)
    assert seen["worst_class"] == {"label": 0, "drop": 50.0, "n": 2}
    assert seen["calibration_error"] == {"before": pytest.approx(0.2), "after": pytest.approx(0.3)}


def test_top5_flips_are_of_top5():
    """Right or wrong is the metric's word: a sample still among the five is no flip, whatever came first."""
    base = evaluation([1, 1], "top5", predicted=np.array([0, 1]), target=np.array([0, 1]))
    now = evaluation([1, 0], "top5", predicted=np.array([3, 3]), target=np.array([0, 1]))
    assert flips(base, now) == 50.0


def test_regression_has_no_classes():
    a, b = evaluation([0.1, 0.2], "mse"), evaluation([0.1, 0.3], "mse")
    assert behaviour(a, b) == {"flips": None, "worst_class": None, "calibration_error": None}


def test_to_json_is_plain():
    content = decide(*pair(290, 2, 1, 7), max_drop=2.0).to_json()
    assert set(content) == {
        "verdict", "max_drop", "drop", "low", "high", "n", "n_needed", "p_value", "unit", "text",
    }  # fmt: skip
    assert all(type(value) in (str, float, int, type(None)) for value in content.values())

"""Is a candidate good enough? A decision from two evaluations on the same samples, or "cannot tell".

`max_drop` is compared with an interval of the paired difference, never with a number: with 300 samples a drop
of 0.3 points is one sample, and neither holds nor breaks a bound of 0.5. Beside the metric stand what a mean
hides: samples that flip from right to wrong, the class that loses most, and how far confidence can be believed.

Source: Tango 1998 and McNemar 1947, as `paretune.statistics` cites them.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from paretune.errors import InputError, RunError
from paretune.measurement import Evaluation
from paretune.statistics import calibration_error, discordant, mcnemar, paired_difference, samples_needed

DropVerdict = Literal["within", "not within", "cannot tell"]


@dataclass(frozen=True)
class Decision:
    """Whether a candidate's drop is within `max_drop`, and what that is known from."""

    verdict: DropVerdict
    max_drop: float
    drop: float
    """How much worse the candidate is, positive = worse whatever the metric's direction, in `unit`."""
    low: float
    """Ends of the 95 % interval of the drop."""
    high: float
    n: int
    n_needed: int | None
    """Samples that would tell, where this many cannot; None where the verdict stands, or where none would."""
    p_value: float | None
    """McNemar's exact test that nothing changed; None where samples are not right or wrong."""
    unit: Literal["points", "percent"]
    """Points of a percentage where the metric is a fraction of samples, else percent of the baseline's value."""

    def text(self) -> str:
        """Return the decision in one sentence, as the report prints it."""
        seen = f"drop {self.drop:.2f} {self.unit} (95 %: {self.low:.2f} to {self.high:.2f})"
        if self.verdict != "cannot tell":
            return f"{self.verdict} {self.max_drop:g} {self.unit}: {seen}, {self.n:,} samples"
        more = f"about {_rounded(self.n_needed):,} would tell" if self.n_needed else "more would not help"
        return f"cannot tell with {self.n:,} samples; {more}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields and the sentence as plain JSON."""
        return {**asdict(self), "text": self.text()}


@dataclass(frozen=True)
class ClassDrop:
    """The class that lost most."""

    label: int
    drop: float
    """Points of its own accuracy, positive = worse."""
    n: int
    """Samples of that class."""


def decide(baseline: Evaluation, candidate: Evaluation, max_drop: float) -> Decision:
    """Decide whether the candidate's metric is at most `max_drop` below the baseline's.

    max_drop: points of a percentage where the metric is a fraction of samples, else percent of the baseline's
    value. `within` where the whole 95 % interval of the drop is at most that, `not within` where all of it is
    above, else `cannot tell`.
    """
    _check_same_samples(baseline, candidate)
    metric, pair = baseline.metric, (baseline.rows, candidate.rows)
    scale = _worse_per_unit(baseline)
    drop, *ends = (scale * end for end in paired_difference(metric, *pair))
    low, high = sorted(ends)
    verdict: DropVerdict = "within" if high <= max_drop else "not within" if low > max_drop else "cannot tell"
    binary = metric.fraction and all(np.isin(rows, (0, 1)).all() for rows in pair)
    return Decision(
        verdict=verdict,
        max_drop=float(max_drop),
        drop=drop + 0.0,  # no -0.0 in a report
        low=low,
        high=high,
        n=baseline.n,
        n_needed=samples_needed(metric, *pair, max_drop / scale) if verdict == "cannot tell" else None,
        p_value=mcnemar(*discordant(*pair)) if binary else None,
        unit="points" if metric.fraction else "percent",
    )


def flips(baseline: Evaluation, candidate: Evaluation) -> float | None:
    """Return the percent of samples right before and wrong now; None where no sample is right or wrong."""
    _check_same_samples(baseline, candidate)
    before, now = _right(baseline), _right(candidate)
    return None if before is None or now is None else 100 * float(np.mean(before & ~now))


def class_drop(baseline: Evaluation, candidate: Evaluation) -> ClassDrop | None:
    """Return the class whose accuracy fell most, in points; None where this is no classification.

    The worst of many classes is below the average by chance alone; `n` says how few samples it may rest on.
    """
    _check_same_samples(baseline, candidate)
    if baseline.target is None or baseline.predicted is None or candidate.predicted is None:
        return None
    change = (baseline.predicted == baseline.target).astype(float) - (candidate.predicted == baseline.target)
    labels, which, counts = np.unique(baseline.target, return_inverse=True, return_counts=True)
    drops = 100 * np.bincount(which, weights=change) / counts
    worst = int(np.argmax(drops))
    return ClassDrop(int(labels[worst]), float(drops[worst]), int(counts[worst]))


def behaviour(baseline: Evaluation, candidate: Evaluation) -> dict[str, Any]:
    """Return what a metric's mean hides, as plain JSON; None wherever this is no classification.

    Keys: flips (percent), worst_class {label, drop (points), n}, calibration_error {before, after} (fraction).
    """
    worst = class_drop(baseline, candidate)
    before, after = _calibration(baseline), _calibration(candidate)
    return {
        "flips": flips(baseline, candidate),
        "worst_class": asdict(worst) if worst else None,
        "calibration_error": None if before is None or after is None else {"before": before, "after": after},
    }


def _worse_per_unit(baseline: Evaluation) -> float:
    """Return what one unit of metric(candidate) - metric(baseline) is as a drop, sign included."""
    sign = -1.0 if baseline.metric.greater_is_better else 1.0
    if baseline.metric.fraction:
        return sign * 100
    if baseline.value == 0:
        raise InputError(
            f"max_drop is in percent of the baseline's {baseline.metric.name}, and that is 0; "
            "give a metric that is not 0 for the baseline"
        )
    return sign * 100 / abs(baseline.value)


def _right(evaluation: Evaluation) -> np.ndarray | None:
    """Return (samples,) which are right, by the metric where it says so, else by the predicted class."""
    rows = evaluation.rows
    if evaluation.metric.fraction and rows.shape[1] == 1 and np.isin(rows, (0, 1)).all():
        return rows[:, 0] > 0.5
    if evaluation.predicted is None or evaluation.target is None:
        return None
    return np.asarray(evaluation.predicted == evaluation.target)


def _calibration(evaluation: Evaluation) -> float | None:
    if evaluation.confidence is None or evaluation.predicted is None or evaluation.target is None:
        return None
    return calibration_error(evaluation.confidence, evaluation.predicted == evaluation.target)


def _check_same_samples(baseline: Evaluation, candidate: Evaluation) -> None:
    if baseline.metric.name != candidate.metric.name or baseline.n != candidate.n:
        raise InputError(
            f"the baseline was evaluated by {baseline.metric.name} on {baseline.n} samples, the candidate by "
            f"{candidate.metric.name} on {candidate.n}; a drop is decided on the same samples: evaluate both "
            "on the same data with the same limit"
        )
    for which, evaluation in (("baseline", baseline), ("candidate", candidate)):
        if not math.isfinite(evaluation.value):
            raise RunError(
                f"the {which}'s {evaluation.metric.name} is {evaluation.value}, so no drop can be told; look for "
                "the first layer whose output is not finite"
            )


def _rounded(n: int) -> int:
    """Round up to two digits: a plan, not a promise.

    >>> _rounded(1163)
    1200
    """
    step = int(10 ** max(len(str(n)) - 2, 0))
    return -(-n // step) * step

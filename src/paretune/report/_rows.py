"""The candidates of a summary as rows of text, the same for the terminal and the page; and the headline.

Nothing is judged here: verdicts and decisions are repeated as the run made them. Only ratios of exact counts
(bytes, MACs, parameters) are computed, against the first candidate, the baseline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from paretune.report._format import (
    MISSING,
    bytes_text,
    count_text,
    interval_text,
    is_number,
    metric_text,
    milliseconds_text,
    plain_text,
    ratio_text,
    seconds_text,
)


@dataclass(frozen=True)
class Final:
    """The metric as it was seen last: on test data where the candidate was confirmed there, ready to print."""

    label: str
    value: str
    before: str
    """The baseline's, on the same data."""
    interval: str
    verdict: str


@dataclass(frozen=True)
class Row:
    """One candidate, ready to print."""

    name: str
    role: str
    """`baseline`, `best` or `other`."""
    value: str
    interval: str
    samples: str
    drop: str
    decision: str
    """The verdict: `within`, `not within` or `cannot tell`; empty where none was made."""
    decision_text: str
    test_text: str
    """What was measured on the test data, in one sentence; empty where nothing was."""
    final: Final
    latency: str
    p99: str
    ratio: str
    ratio_interval: str
    verdict: str
    bytes: str
    bytes_ratio: str
    params: str
    params_ratio: str
    macs: str
    macs_ratio: str
    memory: str
    load: str
    train: str
    command: str
    tip: str
    """Everything in a few lines, for hovering over its point."""


def rows(summary: Mapping[str, Any]) -> list[Row]:
    """Return a row for each candidate, in the order of the summary; the first is the baseline."""
    baseline = summary["candidates"][0]
    return [_row(candidate, baseline, summary.get("best")) for candidate in summary["candidates"]]


def headline(summary: Mapping[str, Any], constraints: Mapping[str, Any] | None = None) -> str:
    """Return the result in one sentence, from the test data where the best was confirmed there.

    constraints: what was asked for, named where nothing was reached; the summary's own where not given.
    """
    baseline = summary["candidates"][0]
    best = next((row for row in summary["candidates"] if row["name"] == summary["best"]), None)
    if best is None:
        return _nothing_found(summary, summary.get("constraints") if constraints is None else constraints)
    metric, before, decision, where = _final(best, baseline)
    values = f"{metric['name']} {metric_text(metric['value'], metric)}"
    if best is baseline:
        return f"The baseline is the best there is: {values}{where}."
    sentence = (
        f"{ratio_text(best['latency']['ratio'])} the latency and {ratio_text(_ratio(best, baseline, 'bytes'))} "
        f"the bytes, {values} against {metric_text(before['value'], before)}{where}"
    )
    return f"{sentence}: {_judged(decision)}." if decision.get("verdict") else f"{sentence}."


def _nothing_found(summary: Mapping[str, Any], constraints: Mapping[str, Any] | None) -> str:
    if isinstance(summary.get("infeasible"), str):
        text = summary["infeasible"].strip().rstrip(".")
        return f"{text[:1].upper()}{text[1:]}."
    asked = ", ".join(
        f"{key} {plain_text(value)}" for key, value in (constraints or {}).items() if value is not None
    )
    return f"No candidate meets the constraints{f' ({asked})' if asked else ''}; the baseline stays as it is."


def _final(
    best: Mapping[str, Any], baseline: Mapping[str, Any]
) -> tuple[Mapping[str, Any], Mapping[str, Any], Mapping[str, Any], str]:
    """Return (metric, baseline's metric, decision, where): on test data if both have it, else as it was chosen."""
    if test_of(best) and test_of(baseline):
        decision = test_of(best).get("decision")
        judged = decision if isinstance(decision, Mapping) else {}
        return test_of(best)["metric"], test_of(baseline)["metric"], judged, " on test data"
    return best["metric"], baseline["metric"], decision_of(best), ""


def _final_text(candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> Final:
    metric, before, decision, where = _final(candidate, baseline)
    return Final(
        label=f"{metric['name']}{where.removesuffix(' data')}".capitalize(),
        value=metric_text(metric["value"], metric),
        before=metric_text(before["value"], before),
        interval=interval_text(metric["low"], metric["high"], metric),
        verdict=_short(decision.get("verdict")),
    )


def test_of(candidate: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what was measured of a candidate on the test data: metric, decision; empty where nothing was."""
    test = candidate.get("test")
    return test if isinstance(test, Mapping) and isinstance(test.get("metric"), Mapping) else {}


def decision_of(candidate: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a candidate's decision about the drop; empty where none was made."""
    decision = candidate.get("decision")
    return decision if isinstance(decision, Mapping) else {}


def drop_text(decision: Mapping[str, Any], *, interval: bool = False) -> str:
    """Return `0.3 points`, with the ends of its interval if asked."""
    if not is_number(decision.get("drop")):
        return MISSING
    text = f"{_signed(decision['drop'])} {_unit(decision, decision['drop'])}".rstrip()
    if interval and is_number(decision.get("low")) and is_number(decision.get("high")):
        text += f" ({_signed(decision['low'])} to {_signed(decision['high'])})"
    return text


def reasons_against(candidate: Mapping[str, Any]) -> list[str]:
    """Return why a candidate did not help: not faster, or its drop not within the bound; empty where it did."""
    latency, decision = candidate["latency"], decision_of(candidate)
    reasons = []
    if latency.get("verdict") not in ("faster", None):
        seen = f"{ratio_text(latency['ratio'])} the latency ({_ratio_interval(latency)})"
        reasons.append(f"not shown to be faster: {latency['verdict']}, {seen}")
    if decision.get("verdict") and decision["verdict"] != "within":
        reasons.append(decision.get("text") or f"{decision['verdict']}: drop {drop_text(decision, interval=True)}")
    return [str(reason) for reason in reasons]


def behaviour_rows(behaviour: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return (what, value) for each entry of a candidate's behaviour, in words where the entry is known."""
    return [_in_words(key, value) for key, value in behaviour.items() if value is not None]


def _in_words(key: str, value: Any) -> tuple[str, str]:
    if key == "flips" and is_number(value):
        return "flips", f"{value:.2f} % of the samples were right before and are wrong now"
    if key == "worst_class" and isinstance(value, Mapping) and is_number(value.get("drop")):
        samples = f", seen on {value['n']:,} samples" if is_number(value.get("n")) else ""
        return (
            "worst class",
            f"class {plain_text(value.get('label'))} lost {_signed(value['drop'])} points{samples}",
        )
    if key == "calibration_error" and isinstance(value, Mapping) and "before" in value and "after" in value:
        before, after = (
            f"{100 * v:.1f} %" if is_number(v) else MISSING for v in (value["before"], value["after"])
        )
        return "calibration error", f"{after}, before {before} (confidence against accuracy)"
    return key.replace("_", " "), plain_text(value)


def _row(candidate: Mapping[str, Any], baseline: Mapping[str, Any], best: str | None) -> Row:
    metric, latency, decision = candidate["metric"], candidate["latency"], decision_of(candidate)
    name = str(candidate["name"])
    first = candidate is baseline
    return Row(
        name=name,
        role="baseline" if first else "best" if candidate["name"] == best else "other",
        value=metric_text(metric["value"], metric),
        interval=interval_text(metric["low"], metric["high"], metric),
        samples=plain_text(metric["n"]),
        drop=drop_text(decision),
        decision=_short(decision.get("verdict")),
        decision_text=_sentence(decision),
        test_text=_test_text(candidate),
        final=_final_text(candidate, baseline),
        latency=milliseconds_text(latency["median_ms"]),
        p99=milliseconds_text(latency["p99_ms"]),
        ratio=ratio_text(latency["ratio"]),
        ratio_interval="" if first else _ratio_interval(latency),
        verdict=str(latency["verdict"] or ""),
        bytes=bytes_text(candidate["bytes"]),
        bytes_ratio=_ratio_text(candidate, baseline, "bytes"),
        params=count_text(candidate["params"]),
        params_ratio=_ratio_text(candidate, baseline, "params"),
        macs=count_text(candidate["macs"]),
        macs_ratio=_ratio_text(candidate, baseline, "macs"),
        memory=bytes_text(candidate["peak_memory_bytes"]),
        load=milliseconds_text(candidate["load_ms"]),
        train=seconds_text(candidate["train_seconds"]),
        command=str(candidate.get("command") or ""),
        tip=_tip(candidate, baseline),
    )


def _tip(candidate: Mapping[str, Any], baseline: Mapping[str, Any]) -> str:
    metric, latency, decision = candidate["metric"], candidate["latency"], decision_of(candidate)
    verdict = f", {latency['verdict']}" if latency["verdict"] else ""
    lines = [
        str(candidate["name"]),
        f"{metric['name']} {metric_text(metric['value'], metric)} "
        f"({interval_text(metric['low'], metric['high'], metric)}, n = {plain_text(metric['n'])})",
        f"latency {milliseconds_text(latency['median_ms'])}, {ratio_text(latency['ratio'])} "
        f"({_ratio_interval(latency)}){verdict}",
        f"size {bytes_text(candidate['bytes'])}, {_ratio_text(candidate, baseline, 'bytes') or '1.00x'}",
    ]
    if decision.get("verdict"):
        lines.append(f"drop {drop_text(decision, interval=True)}: {decision['verdict']}")
    return "\n".join(lines)


def _sentence(decision: Mapping[str, Any]) -> str:
    text = str(decision.get("text") or "").strip()
    return f"{text[:1].upper()}{text[1:]}." if text else ""


def _test_text(candidate: Mapping[str, Any]) -> str:
    if not test_of(candidate):
        return ""
    metric, decision = test_of(candidate)["metric"], test_of(candidate).get("decision")
    seen = (
        f"On test data: {metric.get('name')} {metric_text(metric.get('value'), metric)} "
        f"({interval_text(metric.get('low'), metric.get('high'), metric)}, n = {plain_text(metric.get('n'))})."
    )
    return f"{seen} {_sentence(decision)}".rstrip() if isinstance(decision, Mapping) else seen


def _ratio_interval(latency: Mapping[str, Any]) -> str:
    if not (is_number(latency["ratio_low"]) and is_number(latency["ratio_high"])):
        return ""
    return f"{ratio_text(latency['ratio_low'])[:-1]} to {ratio_text(latency['ratio_high'])[:-1]}"


def _ratio(candidate: Mapping[str, Any], baseline: Mapping[str, Any], key: str) -> float | None:
    """Return candidate / baseline of an exact count, or None where either was not measured."""
    value, base = candidate[key], baseline[key]
    return value / base if is_number(value) and is_number(base) and base > 0 else None


def _ratio_text(candidate: Mapping[str, Any], baseline: Mapping[str, Any], key: str) -> str:
    ratio = None if candidate is baseline else _ratio(candidate, baseline, key)
    return "" if ratio is None else ratio_text(ratio)


def _short(verdict: Any) -> str:
    """Return `cannot tell` of `cannot tell with 899 samples`."""
    text = str(verdict or "")
    return "cannot tell" if text.startswith("cannot tell") else text


def _judged(decision: Mapping[str, Any]) -> str:
    """Return the verdict with its bound: `within 1 point`."""
    verdict, bound = str(decision["verdict"]), decision.get("max_drop")
    limit = f"{bound:g} {_unit(decision, bound)}".rstrip() if is_number(bound) else ""
    if not verdict.startswith("cannot tell"):
        return f"{verdict} {limit}".rstrip()
    samples = f" with {decision['n']:,} samples" if is_number(decision.get("n")) else ""
    return f"cannot tell{samples}" + (f" whether the drop is within {limit}" if limit else "")


def _unit(decision: Mapping[str, Any], amount: float) -> str:
    unit = str(decision.get("unit") or "")
    return "point" if unit == "points" and amount == 1 else unit


def _signed(value: float) -> str:
    text = f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"
    return text.rstrip("0").rstrip(".") if float(text) else "0"

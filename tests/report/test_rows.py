from __future__ import annotations

from paretune.report import headline
from paretune.report._rows import behaviour_rows, reasons_against, rows


def test_the_headline_is_the_result_on_test_data(summary) -> None:
    assert headline(summary) == (
        "0.14x the latency and 0.066x the bytes, accuracy 98.1 % against 98.3 % on test data: within 1 point."
    )


def test_without_test_data_the_headline_is_of_the_data_it_was_chosen_on(summary) -> None:
    for candidate in summary["candidates"]:
        candidate.pop("test", None)
    assert headline(summary).endswith("accuracy 98.0 % against 98.3 %: within 1 point.")


def test_a_decision_that_cannot_tell_says_with_how_many_samples(summary) -> None:
    summary["best"] = "distilled"
    assert headline(summary).endswith("cannot tell with 899 samples whether the drop is within 1 point.")


def test_no_best_says_what_was_asked_or_what_was_reached(summary) -> None:
    summary["best"] = None
    assert headline(summary) == (
        "No candidate meets the constraints (max_drop 1, max_latency 0.5x); the baseline stays as it is."
    )
    summary["infeasible"] = "no candidate holds the constraints; the best that was reached is 'pruned'"
    assert headline(summary) == "No candidate holds the constraints; the best that was reached is 'pruned'."


def test_a_run_of_the_baseline_alone(summary) -> None:
    summary["candidates"], summary["best"] = summary["candidates"][:1], "baseline"
    assert headline(summary) == "The baseline is the best there is: accuracy 98.3 % on test data."
    assert [row.role for row in rows(summary)] == ["baseline"]


def test_a_candidate_without_a_decision_is_shown_without_one(summary) -> None:
    del summary["candidates"][3]["decision"], summary["candidates"][3]["test"]
    assert headline(summary).endswith("against 98.3 %.")
    assert (rows(summary)[3].drop, rows(summary)[3].decision) == ("-", "")


def test_a_row_by_hand(summary) -> None:
    row = rows(summary)[3]
    assert (row.name, row.role, row.value, row.interval) == ("quantized", "best", "98.0 %", "97.1 to 98.8")
    assert (row.latency, row.ratio, row.ratio_interval, row.verdict) == (
        "0.33 ms",
        "0.14x",
        "0.13 to 0.15",
        "faster",
    )
    assert (row.bytes, row.bytes_ratio) == ("271 KB", "0.066x")  # 271 / 4110
    assert (row.macs, row.macs_ratio) == ("9.62 M", "0.25x")  # 9.62 / 37.9
    assert (row.drop, row.decision) == ("0.2 points", "within")
    assert row.tip.splitlines()[0] == "quantized"
    assert (row.final.label, row.final.value, row.final.before) == ("Accuracy on test", "98.1 %", "98.3 %")


def test_the_baseline_has_no_ratios(summary) -> None:
    row = rows(summary)[0]
    assert (row.ratio, row.ratio_interval, row.bytes_ratio, row.verdict, row.role) == (
        "1.00x",
        "",
        "",
        "",
        "baseline",
    )


def test_what_was_not_measured_is_missing_not_zero(summary) -> None:
    summary["candidates"][1].update(peak_memory_bytes=None, load_ms=None)
    summary["candidates"][0]["macs"] = 0
    assert (rows(summary)[1].memory, rows(summary)[1].load, rows(summary)[1].macs_ratio) == ("-", "-", "")


def test_why_a_candidate_did_not_help(summary) -> None:
    _, pruned, distilled, quantized, slower = summary["candidates"]
    assert reasons_against(quantized) == []
    assert reasons_against(pruned) == ["not within 1 points: drop 5.20 points (95 %: 4.70 to 5.70), 899 samples"]
    assert reasons_against(distilled) == ["cannot tell with 899 samples; about 2,400 would tell"]
    assert reasons_against(slower) == ["not shown to be faster: slower, 1.05x the latency (1.03 to 1.07)"]


def test_behaviour_in_words_and_what_is_unknown_as_it_stands() -> None:
    assert behaviour_rows(
        {
            "flips": 0.444,
            "worst_class": {"label": 8, "drop": 1.1, "n": 1087},
            "calibration_error": {"before": 0.012, "after": 0.0091},
            "words_per_second": 3,
            "nothing": None,
        }
    ) == [
        ("flips", "0.44 % of the samples were right before and are wrong now"),
        ("worst class", "class 8 lost 1.1 points, seen on 1,087 samples"),
        ("calibration error", "0.9 %, before 1.2 % (confidence against accuracy)"),
        ("words per second", "3"),
    ]

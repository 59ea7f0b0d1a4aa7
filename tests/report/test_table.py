from __future__ import annotations

import io

import pytest
from rich.console import Console

from paretune.report import table, text


def render(summary, width: int = 80, **options) -> str:
    out = io.StringIO()
    Console(file=out, width=width, **options).print(table(summary))
    return out.getvalue()


def test_every_number_of_a_candidate_stands_in_its_two_lines(summary) -> None:
    lines = text(summary).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("quantized "))
    assert lines[at].split() == [
        "quantized",
        "98.0",
        "%",
        "0.14x",
        "faster",
        "271",
        "KB",
        "9.62",
        "M",
        "263",
        "k",
        "0.2",
    ]
    assert lines[at + 1].split() == ["*", "best", "97.1-98.8", "0.13-0.15", "0.066x", "0.25x", "0.26x", "within"]
    assert lines[0].startswith("0.14x the latency and 0.066x the bytes")


def test_it_fits_in_80_columns_with_the_widest_numbers(summary) -> None:
    row = summary["candidates"][1]
    row["name"] = "pruned-0.50-and-a-name-without-an-end"
    row["metric"].update(n=10_000, value=0.92637, low=0.92111, high=0.93138)
    row["latency"].update(ratio=0.0461, ratio_low=0.0449, ratio_high=0.0489, verdict="too noisy")
    row.update(bytes=45_200, macs=999_400_000, params=999_400)
    shown = text(summary)
    assert max(map(len, shown.splitlines())) <= 80
    for number in ("92.64 %", "92.11-93.14", "0.046x too noisy", "0.045-0.049", "45.2 KB", "999 M", "999 k"):
        assert number in shown
    assert "…" not in shown


def test_text_is_ascii_without_colour_even_where_colour_is_forced(
    summary, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert text(summary).isascii()
    assert "\x1b" not in text(summary)


def test_no_color_takes_the_colours_and_leaves_the_words(summary, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "\x1b[32m" in render(summary, force_terminal=True, color_system="standard")  # green: faster
    monkeypatch.setenv("NO_COLOR", "1")
    plain = render(summary, force_terminal=True)
    assert "\x1b[32m" not in plain and "\x1b[31m" not in plain and "faster" in plain


def test_markup_in_a_name_is_a_name(summary) -> None:
    summary["candidates"][1]["name"] = "[red]x[/]"
    assert "[red]x[/]" in text(summary)


def test_a_summary_without_decisions(summary) -> None:
    for candidate in summary["candidates"]:
        candidate.pop("decision", None)
        candidate.pop("test", None)
    assert "drop" in text(summary) and "within" not in text(summary)

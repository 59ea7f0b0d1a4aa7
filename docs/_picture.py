"""Draw `docs/demo.svg`, the picture of the README, from the saved result of `benchmarks/demo.py`.

`python docs/_picture.py`; a test draws it again and compares.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULT = HERE.parent / "benchmarks" / "results" / "demo.json"
LEFT, COLUMN, ROW, TOP, BAR = 96, 216, 30, 58, 16
STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #24292f; }
  .head { font-weight: 600; } .small { font-size: 11px; fill: #57606a; }
  .bar { fill: #8c959f; } .best { fill: #1a7f37; } .whisker { stroke: #24292f; stroke-width: 1.2; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .small { fill: #9198a1; } .bar { fill: #6e7681; } .best { fill: #3fb950; }
    .whisker { stroke: #e6edf3; }
  }
"""


def picture(result: dict[str, Any]) -> str:
    """Return the SVG: a row for each stage, columns for accuracy, latency, bytes; whiskers are 95 %."""
    rows, best, cpu = result["detail"]["candidates"], result["detail"]["best"], result["cpu"]
    base = rows[0]
    columns: list[tuple[str, Callable[[dict[str, Any]], tuple[float, float, float, str]]]] = [
        ("accuracy", lambda row: (*_accuracy(row), f"{100 * row['metric']['value']:.1f} %")),
        ("latency", lambda row: (*_latency(row), _latency_text(row))),
        ("bytes on disk", lambda row: (*[row["bytes"] / base["bytes"]] * 3, _bytes_text(row, base))),
    ]
    parts = []
    for index, (title, measure) in enumerate(columns):
        x = LEFT + index * COLUMN
        parts.append(f'<text class="head" x="{x}" y="{TOP - 16}">{title}</text>')
        for number, row in enumerate(rows):
            parts.append(_bar(x, TOP + number * ROW, *measure(row), chosen=row["name"] == best))
    names = [f'<text x="0" y="{TOP + number * ROW + 13}">{row["name"]}</text>' for number, row in enumerate(rows)]
    height = TOP + len(rows) * ROW + 22
    foot = (
        f"make demo: 8x8 digits, {base['metric']['n']} validation images, whiskers 95 %; ONNX Runtime, 1 thread, "
        f"{cpu['name']}; {result['value']:.0f} s in all"
    )
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 760 {height}" width="760" height="{height}" '
            'role="img" aria-label="Accuracy, latency and bytes of each stage of the demo">',
            f"<style>{STYLE}</style>",
            '<text class="head" x="0" y="16">What each stage of the demo brings, measured</text>',
            *names,
            *parts,
            f'<text class="small" x="0" y="{height - 4}">{foot}</text>',
            "</svg>\n",
        ]
    )


def _bar(x: float, y: float, value: float, low: float, high: float, text: str, *, chosen: bool) -> str:
    """Draw one bar of at most 110 px with its interval and its number."""
    scale, middle = 110, y + BAR / 2
    left, right, end = x + scale * low, x + scale * high, x + scale * max(value, high)
    line = f'<line class="whisker" x1="{left:.1f}" x2="{right:.1f}" y1="{middle}" y2="{middle}"/>'
    whisker = line if high > low else ""
    return (
        f'<rect class="{"best" if chosen else "bar"}" x="{x}" y="{y}" width="{scale * value:.1f}" height="{BAR}"/>'
        f'{whisker}<text x="{end + 6:.1f}" y="{y + 13}">{text}</text>'
    )


def _accuracy(row: dict[str, Any]) -> tuple[float, float, float]:
    metric = row["metric"]
    return metric["value"], metric["low"], metric["high"]


def _latency(row: dict[str, Any]) -> tuple[float, float, float]:
    latency = row["latency"]
    return latency["ratio"], latency["ratio_low"], latency["ratio_high"]


def _latency_text(row: dict[str, Any]) -> str:
    latency = row["latency"]
    return f"{latency['median_ms']:.3f} ms" if latency["verdict"] is None else f"{latency['ratio']:.2f}x"


def _bytes_text(row: dict[str, Any], base: dict[str, Any]) -> str:
    if row is base:
        return f"{row['bytes'] / 1e6:.2f} MB"
    return f"{row['bytes'] / base['bytes']:.3f}x"


if __name__ == "__main__":
    (HERE / "demo.svg").write_text(picture(json.loads(RESULT.read_text())))

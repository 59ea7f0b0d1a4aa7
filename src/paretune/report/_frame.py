"""What every drawing has: its SVG element, a grid with the numbers of its axes, text, and words made safe."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from html import escape

from paretune.report._axes import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, log_ticks, ticks

Format = Callable[[float], str]
MOST = sys.float_info.max


def xml(text: str) -> str:
    """Escape text for XML and HTML, inside quotes too; characters that XML forbids are left out."""
    return escape(re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "", text), quote=True)


def svg(label: str, parts: Sequence[str], width: int = WIDTH) -> str:
    """Return the drawing; label: what a screen reader says of it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 0 {width} {HEIGHT}" '
        f'role="group" aria-label="{xml(label)}">{"".join(parts)}</svg>'
    )


def empty(title: str) -> str:
    """Return a drawing that says that there is nothing to draw."""
    return svg(f"{title}: nothing to draw", [caption("axis", WIDTH / 2, HEIGHT / 2, "nothing to draw", "middle")])


def caption(look: str, x: float, y: float, text: str, anchor: str = "start") -> str:
    """Return words at a place; look: their class. anchor: which end of them stands there."""
    return f'<text class="{look}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{xml(text)}</text>'


def padded(values: Sequence[float], start: float, end: float) -> Axis:
    """Return an axis that has all values inside, with some room at both ends."""
    low, high = min(values), max(values)
    # Values that differ only by rounding would otherwise fill the whole height.
    room = max(0.12 * high - 0.12 * low, 1e-3 * max(abs(low), abs(high)), 1e-9)
    return Axis(max(low - room, -MOST), min(high + room, MOST), start, end)


def grid(
    x: Axis,
    y: Axis,
    x_label: str,
    y_label: str,
    x_format: Format,
    y_format: Format,
    *,
    whole: bool = False,
    x_ticks: Sequence[float] | None = None,
    y_ticks: Sequence[float] | None = None,
) -> str:
    """Return lines and numbers at round values of both axes, or at those given; whole: whole ones along x."""
    parts = []
    for value in _ticks(x, 6, whole=whole) if x_ticks is None else x_ticks:
        at = f"{x(value):.1f}"
        parts.append(f'<line class="grid" x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(caption("axis", x(value), HEIGHT - BOTTOM + 17, x_format(value), "middle"))
    for value in _ticks(y, 5) if y_ticks is None else y_ticks:
        at = f"{y(value):.1f}"
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(caption("axis", LEFT - 8, y(value) + 4, y_format(value), "end"))
    parts.append(caption("label", LEFT, TOP - 16, y_label))
    parts.append(caption("label", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, "middle"))
    return f'<g aria-hidden="true">{"".join(parts)}</g>'


def _ticks(axis: Axis, count: int, *, whole: bool = False) -> list[float]:
    return log_ticks(axis.low, axis.high) if axis.log else ticks(axis.low, axis.high, count, whole=whole)

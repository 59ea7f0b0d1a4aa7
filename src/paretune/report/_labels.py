"""Where the names of marks stand, so that none covers a mark or another name: greedy, the best place first.

Greedy placement over eight positions around each mark: Christensen, Marks and Shieber, "An empirical study of
algorithms for point-feature label placement", ACM TOG 14, 1995. Not optimal: with many marks some
names find no place, and hovering shows them.
"""

from __future__ import annotations

from collections.abc import Sequence

from paretune.report._axes import BOTTOM, HEIGHT, LEFT, TOP, WIDTH

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""
Place = tuple[float, float, str]
"""x, y, and the end of the text that stands there."""
OFFSETS = (
    (11.0, 4.0, "start"), (-11.0, 4.0, "end"), (0.0, -12.0, "middle"), (0.0, 20.0, "middle"),
    (9.0, -9.0, "start"), (9.0, 17.0, "start"), (-9.0, -9.0, "end"), (-9.0, 17.0, "end"),
)  # fmt: skip
"""Where a label may stand beside its mark, the best place first."""
CHARACTER = 7.0
"""Width of a character of a 12 px label, on the wide side, to keep labels apart."""


def place_labels(
    at: Sequence[tuple[float, float]], names: Sequence[str], avoid: Sequence[Box] = ()
) -> list[tuple[float, float, str, str] | None]:
    """Return (x, y, anchor, text) for each label, or None where it has no name or no free place.

    at: pixels of the marks. Each label tries right, left, above and below of its mark, and takes the first
    place that covers no mark, no earlier label and no edge; and none of `avoid`, if there is such a place.
    """
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in at]
    placed: list[tuple[float, float, str, str] | None] = []
    for (x, y), name in zip(at, names, strict=True):
        places = [_label_box(x, y, len(name), *offset) for offset in OFFSETS] if name else []
        free = [place for place in places if _inside(place[0]) and not _hits(place[0], taken)]
        box, label = next((p for p in free if not _hits(p[0], avoid)), free[0] if free else (None, None))
        placed.append((*label, name) if label else None)
        taken += [box] if box else []
    return placed


def _label_box(x: float, y: float, length: int, dx: float, dy: float, anchor: str) -> tuple[Box, Place]:
    width = CHARACTER * length
    left = x + dx - {"start": 0.0, "middle": width / 2, "end": width}[anchor]
    return (left - 2, y + dy - 11, left + width + 2, y + dy + 3), (x + dx, y + dy, anchor)


def _inside(box: Box) -> bool:
    return box[0] >= LEFT and box[2] <= WIDTH and box[1] >= TOP - 14 and box[3] <= HEIGHT - BOTTOM


def _hits(box: Box, others: Sequence[Box]) -> bool:
    return any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in others)


def shorten(text: str, length: int = 26) -> str:
    """Return the text, its middle left out where it is long: both ends tell names apart."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"

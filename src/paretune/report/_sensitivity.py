"""Sensitivity for people: a table for the terminal, and one self-contained page with a drawing of every group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from paretune.report._charts import Line, lines
from paretune.report._format import interval_text, metric_text

EACH = 6
"""Groups in one drawing: so many looks a line can have."""


def sensitivity_text(found: Mapping[str, Any]) -> str:
    """Return the table: a row for each group and ratio."""
    metric = found["metric"]
    cells = [("group", "left", metric["name"], "95 % interval", "drop", "saves MACs", "saves parameters")]
    for group in found["groups"]:
        cells += [
            (
                group["group"] if not index else "",
                f"{point['width']} of {group['width']}",
                metric_text(point["value"], metric),
                interval_text(point["low"], point["high"], metric),
                f"{point['drop']:.2f}",
                f"{100 * point['macs']:.1f} %",
                f"{100 * point['params']:.1f} %",
            )
            for index, point in enumerate(group["points"])
        ]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    rows = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells
    ]
    whole = f"whole: {metric['name']} {metric_text(metric['value'], metric)} on {metric['n']:,} validation samples"
    return "\n".join([whole, "", *rows, *(["", *found["notes"]] if found["notes"] else [])])


def sensitivity_page(found: Mapping[str, Any], task: str) -> str:
    """Return the page: drawings of the metric against what is removed, and the table."""
    from paretune.report._html import rendered

    return rendered(
        "sensitivity.html",
        task=task,
        metric=found["metric"]["name"],
        whole=metric_text(found["metric"]["value"], found["metric"]),
        samples=f"{found['metric']['n']:,}",
        drawings=[Markup(drawing) for drawing in sensitivity_drawings(found)],
        groups=[_group(group, found["metric"]) for group in found["groups"]],
        notes=found["notes"],
    )


def sensitivity_drawings(found: Mapping[str, Any]) -> list[str]:
    """Return a drawing for every few groups: the metric against the percentage of channels removed."""
    metric, groups = found["metric"], [group for group in found["groups"] if group["points"]]
    return [
        lines(
            [_line(group, metric) for group in groups[start : start + EACH]],
            x_label="% of the group's channels removed",
            y_label=str(metric["name"]),
            y_format=lambda value: metric_text(value, metric),
            title=f"{metric['name']} against what one group loses",
        )
        for start in range(0, len(groups), EACH)
    ]


def _line(group: Mapping[str, Any], metric: Mapping[str, Any]) -> Line:
    points: Sequence[Mapping[str, Any]] = group["points"]
    tips = [
        f"{group['group']}, {point['width']} of {group['width']} channels\n"
        f"{metric_text(point['value'], metric)} ({interval_text(point['low'], point['high'], metric)})\n"
        f"saves {100 * point['macs']:.1f} % of the MACs"
        for point in points
    ]
    whole = f"{group['group']}, whole\n{metric_text(metric['value'], metric)}"
    xy = [(0.0, metric["value"]), *((100 * point["ratio"], point["value"]) for point in points)]
    return Line(group["group"], xy, [whole, *tips])


def _group(group: Mapping[str, Any], metric: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": group["group"],
        "structure": group["structure"],
        "most": f"{100 * group['macs']:.1f} %",
        "most_params": f"{100 * group['params']:.1f} %",
        "points": [
            {
                "left": f"{point['width']} of {group['width']}",
                "value": metric_text(point["value"], metric),
                "interval": interval_text(point["low"], point["high"], metric),
                "drop": f"{point['drop']:.2f}",
                "drop_interval": f"{point['drop_low']:.2f} to {point['drop_high']:.2f}",
                "macs": f"{100 * point['macs']:.1f} %",
                "params": f"{100 * point['params']:.1f} %",
            }
            for point in group["points"]
        ],
    }

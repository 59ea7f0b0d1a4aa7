"""Write `benchmarks/README.md` from the saved results: `python benchmarks/_readme.py`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
HEAD = """# Benchmarks

One script for each claim. Each prints one JSON line last; `--quick` is a small honest version in under a minute,
`--save` writes `results/NAME.json`. A goal that is missed is saved as missed. This page is generated from the
saved results by `python benchmarks/_readme.py`; do not edit it.

"""


def page(results: list[dict[str, Any]]) -> str:
    """Return the page: a table of claims, then what each run found in detail."""
    rows = ["| benchmark | measured | goal | met | beside it | seeds |", "|---|---|---|---|---|---|"]
    rows += [_row(result) for result in results]
    return HEAD + "\n".join(rows) + "\n\n" + "\n\n".join(map(_section, results)) + "\n"


def saved() -> list[dict[str, Any]]:
    """Return every saved result in the order of their names."""
    return [json.loads(path.read_text()) for path in sorted((HERE / "results").glob("*.json"))]


def _row(result: dict[str, Any]) -> str:
    name, peer = result["benchmark"], result["peer"]
    beside = f"{peer['name']}: {_number(peer['value'])}" if peer else ""
    quick = " (quick)" if result["detail"].get("quick") else ""
    return (
        f"| [{name}]({name}.py){quick} | {_number(result['value'])} {result['unit']} | {result['goal']} | "
        f"{'yes' if result['met'] else '**no**'} | {beside} | {', '.join(map(str, result['seeds']))} |"
    )


def _section(result: dict[str, Any]) -> str:
    cpu = result["cpu"]
    lines = [
        f"## {result['benchmark']}",
        "",
        f"{cpu['name']} ({cpu['architecture']}, {cpu['cores']} cores, flags {cpu['flags_hash']}); "
        f"{_number(result['seconds'])} s. [All numbers](results/{result['benchmark']}.json)",
        "",
        "| | |",
        "|---|---|",
    ]
    return "\n".join([*lines, *(f"| {name} | {value} |" for name, value in _flat(result["detail"]))])


def _flat(detail: dict[str, Any]) -> list[tuple[str, str]]:
    """Return the plain values of the details and of one level down, as (dotted name, text); the file has all."""
    leaves = []
    for key, value in detail.items():
        items = (
            {f"{key}.{name}": item for name, item in value.items()} if isinstance(value, dict) else {key: value}
        )
        leaves += [(name, _text(item)) for name, item in items.items() if not _nested(item)]
    return leaves


def _nested(value: Any) -> bool:
    return isinstance(value, dict) or (isinstance(value, list) and any(isinstance(item, dict) for item in value))


def _text(value: Any) -> str:
    text = ", ".join(map(_number, value)) if isinstance(value, list) else _number(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


if __name__ == "__main__":
    (HERE / "README.md").write_text(page(saved()))

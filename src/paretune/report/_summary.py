"""Read a run folder: `summary.json`, and what lies beside it. What is damaged is said, in the user's words.

The summary is needed, and its shape is checked. The rest (events, certificates, recipe) is shown as far as it
can be read: a run killed while it wrote an event leaves a last line cut in half, and its report is still due.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paretune.artifact import Certificate
from paretune.errors import InputError

SCHEMA = 1
"""The newest `summary.json` that is understood here."""
SUMMARY_FIELDS = ("schema", "task", "target", "candidates", "best")
CANDIDATE_FIELDS = (
    "name", "recipe", "certificate", "metric", "latency", "bytes", "params", "macs", "peak_memory_bytes",
    "load_ms", "train_seconds", "artifact",
)  # fmt: skip
PARTS = {
    "metric": ("name", "value", "low", "high", "n"),
    "latency": ("median_ms", "p99_ms", "ratio", "ratio_low", "ratio_high", "verdict"),
}


@dataclass(frozen=True)
class Run:
    """A run folder as read; only the summary is sure to be there."""

    folder: Path
    summary: dict[str, Any]
    events: list[dict[str, Any]] = field(default_factory=list)
    certificates: dict[str, Certificate] = field(default_factory=dict)
    """By candidate name where a candidate names it, else by artifact."""
    recipe: str = ""
    """`recipe.yaml` as it stands."""
    problems: tuple[str, ...] = ()
    """What could not be read, one sentence each."""


def read_run(folder: str | Path) -> Run:
    """Read the summary (an InputError where it cannot be), and the events, certificates and recipe beside it."""
    folder = Path(folder)
    summary = read_summary(folder)
    events, lost = read_events(folder)
    certificates, damaged = _certificates(folder, summary)
    recipe = folder / "recipe.yaml"
    text = recipe.read_text(errors="replace") if recipe.is_file() else ""
    many = f"{lost} lines of events.jsonl could not be read and are left out"
    cut = [many if lost > 1 else "1 line of events.jsonl could not be read and is left out"] if lost else []
    return Run(folder, summary, events, certificates, text, (*cut, *damaged))


def read_summary(folder: str | Path) -> dict[str, Any]:
    """Return `summary.json` of a run folder, its shape checked.

    A missing, damaged or newer one is an InputError that says what to do.
    """
    path = Path(folder) / "summary.json"
    if not Path(folder).is_dir():
        raise InputError(f"no run folder {folder}: give the folder that a run wrote, for example runs/demo")
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        unfinished = (path.parent / "events.jsonl").is_file() or (path.parent / "recipe.yaml").is_file()
        hint = (
            f"the run has not finished; `paretune run --resume {folder}` goes on with it"
            if unfinished
            else "it is no run folder; give the folder that a run wrote, for example runs/demo"
        )
        raise InputError(f"no summary.json in {folder}: {hint}") from None
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read: {error}. `paretune run --resume {folder}` writes it anew"
        ) from error
    _check(content, path)
    return content  # type: ignore[no-any-return]


def _check(content: Any, path: Path) -> None:
    """Raise an InputError for the first thing that is not as the schema has it."""
    if not isinstance(content, dict):
        raise InputError(f"{path}: a summary is a JSON object, not a {type(content).__name__}")
    schema = content.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise InputError(
            f"{path}: schema={schema!r} must be a whole number of at least 1; is it a paretune summary?"
        )
    if schema > SCHEMA:
        raise InputError(
            f"{path}: schema {schema} was written by a newer paretune; this one reads up to {SCHEMA}. "
            "Upgrade: pip install -U paretune"
        )
    _require(content, SUMMARY_FIELDS, str(path))
    if not isinstance(content["candidates"], list) or not content["candidates"]:
        raise InputError(f"{path}: candidates must be a list that starts with the baseline")
    for index, candidate in enumerate(content["candidates"]):
        where = f"{path}: candidates[{index}]"
        _require(candidate, CANDIDATE_FIELDS, where)
        for part, fields in PARTS.items():
            _require(candidate[part], fields, f"{where}.{part}")
    names = [candidate["name"] for candidate in content["candidates"]]
    if content["best"] is not None and content["best"] not in names:
        raise InputError(
            f"{path}: best={content['best']!r} is no candidate; there are {', '.join(map(str, names))}"
        )


def _require(content: Any, fields: tuple[str, ...], where: str) -> None:
    if not isinstance(content, dict):
        raise InputError(f"{where} must be a JSON object, not {content!r}")
    missing = [name for name in fields if name not in content]
    if missing:
        raise InputError(f"{where} lacks {', '.join(missing)}; it was not written by this paretune, or was cut")


def read_events(folder: str | Path) -> tuple[list[dict[str, Any]], int]:
    """Return the events of a run and how many lines could not be read; a cut last line is not counted."""
    path = Path(folder) / "events.jsonl"
    if not path.is_file():
        return [], 0
    events: list[dict[str, Any]] = []
    lost = 0
    lines = path.read_text(errors="replace").split("\n")
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line) if line.strip() else None
        except ValueError:
            lost += number < len(lines)  # without a line feed after it, the run was killed while it wrote
            continue
        if isinstance(event, dict):
            events.append(event)
    return events, lost


def _certificates(folder: Path, summary: dict[str, Any]) -> tuple[dict[str, Certificate], list[str]]:
    """Return the certificates of the candidates, then those nobody names, and what could not be read."""
    paths = {
        str(candidate["name"]): folder / candidate["certificate"]
        for candidate in summary["candidates"]
        if isinstance(candidate["certificate"], str)
    }
    named = set(paths.values())
    for path in sorted(folder.glob("artifacts/*.certificate.json")):
        if path not in named:
            paths.setdefault(path.name.removesuffix(".certificate.json"), path)
    certificates: dict[str, Certificate] = {}
    problems = []
    for name, path in paths.items():
        try:
            certificates[name] = Certificate.load(path)
        except InputError as error:
            problems.append(f"certificate of {name}: {error}")
    return certificates, problems

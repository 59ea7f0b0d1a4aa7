"""Surgery on every model there is: captured, pruned, right, trains, reloads, exports, and how small it gets.

Every torchvision model for classification, segmentation and video, and transformers' architectures from small
configs, random weights, half of every group removed, each in a process of its own with a time limit; torch-pruning
on the same models beside it. Rows are kept and skipped next time; they go into the saved result.

  --only PATTERN   names to try, a glob such as 'torchvision/swin*'
  --held-out       timm's unusual models instead: nothing was fitted to them
  --again          measure what was measured before anew (paretune's rows, with --only those of the pattern)
  --python PATH    an environment that has everything, instead of one made for this
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import median
from typing import Any

from _arms import code
from _common import RESULTS, Result, run, say
from _peers import PARETUNE, TORCH_PRUNING, environment
from paretune.files import write_json

CHILD = Path(__file__).with_name("_coverage_child.py")
REQUIREMENTS = (*PARETUNE, TORCH_PRUNING, "torchvision==0.28.0", "timm==1.0.31", "transformers==5.24.0")
QUICK = (
    "torchvision/resnet18",
    "torchvision/squeezenet1_1",
    "torchvision/mobilenet_v3_small",
    "transformers/bert",
    "transformers/vit",
)
LIMIT, PEER_LIMIT = 1800, 180
"""Seconds for one model: all our checks; torch-pruning's cut."""
HEAVY = (
    "*/regnet_y_128gf", "*/regnet_y_32gf", "*/regnet_x_32gf", "*/vit_h_14", "*/vit_l_*", "*/convnext_large",
    "*/convnext_base", "*/vgg*", "*/wide_resnet101_2", "*/efficientnet_v2_l", "*/swin_v2_b", "video/swin3d_b",
)  # fmt: skip
"""Run alone, after the others: two of them would not fit in memory, and the largest are timed undisturbed."""
CHECKS = ("captured", "pruned", "oracle", "trains", "reloads", "exported")
TORCHVISION = ("torchvision", "segmentation", "video")
FLOOR, ANALYSIS, SECONDS = 1.05, 2.0, 10.0
SHORT = (
    "name", *CHECKS, "form", "left", "over_floor", "macs_left", "export_s", "analysis_s", "cut_s", "onnx_notes",
    "uncut_exported", "oracle_note", "errors",
)  # fmt: skip


def measure(quick: bool, options: argparse.Namespace) -> Result:
    """Try every model, two at a time, and count."""
    python = options.python or environment("coverage", REQUIREMENTS)
    listed = [] if quick else ["--held-out"] if options.held_out else []
    names = list(QUICK) if quick else _lines(python, "--list", *listed)
    names = [name for name in names if fnmatchcase(name, options.only)]
    folder = RESULTS / "surgery_coverage"
    heavy = [name for name in names if any(fnmatchcase(name, pattern) for pattern in HEAVY)]
    light = [name for name in names if name not in heavy]
    start, done = time.monotonic(), [0]

    def both(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        again = options.again and not quick
        ours = kept(folder / "ours", name, python, (), LIMIT, again=again, fresh=quick)
        peer = kept(folder / TORCH_PRUNING, name, python, ("--peer",), PEER_LIMIT, again=False, fresh=quick)
        done[0] += 1
        left = (time.monotonic() - start) / done[0] * (len(names) - done[0])
        say(f"{done[0]}/{len(names)} {name}: {verdict(ours)}; peer {peer['status']}; {left / 60:.0f} minutes left")
        return ours, peer

    with ThreadPoolExecutor(2) as pool:
        pairs = list(pool.map(both, light))
    pairs += [both(name) for name in heavy]
    return result(pairs)


def kept(
    folder: Path, name: str, python: Path, options: Sequence[str], limit: float, *, again: bool, fresh: bool
) -> dict[str, Any]:
    """Return the row of a model, saved before or measured now; `fresh` neither reads nor saves."""
    path = folder / f"{name}.json"
    if path.exists() and not again and not fresh:
        saved: dict[str, Any] = json.loads(path.read_text())
        return saved
    row = {**child(python, [name, *options], limit), "code": code()}
    if not fresh:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, row)
    return row


def child(python: Path, arguments: Sequence[str], limit: float) -> dict[str, Any]:
    """Run one model in a process of its own; one that crashes or does not end is a row too."""
    process = subprocess.Popen(
        [str(python), str(CHILD), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    try:
        out, err = process.communicate(timeout=limit)
        problem = f"the process ended with {process.returncode}: {' '.join(err.split()[-40:])}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # its own children, such as the process that reloads, too
        out, err = process.communicate()
        problem = f"not ended after {limit:.0f} s"
    if process.returncode == 0 and out.strip():
        row: dict[str, Any] = json.loads(out.splitlines()[-1])
        return row
    stages = [line.removeprefix("stage: ") for line in err.splitlines() if line.startswith("stage: ")]
    status = f"{problem.split(':')[0]}: {stages[-1]}" if stages else problem
    return {"name": arguments[0], "status": status, "errors": {"process": problem}}


def _lines(python: Path, *arguments: str) -> list[str]:
    command = [str(python), str(CHILD), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def whole(row: dict[str, Any]) -> bool:
    """Tell whether every check of a model passed; one that cannot be exported uncut either is not held to that."""
    return all(row.get(check) or (check == "exported" and row.get("uncut_exported") is False) for check in CHECKS)


def verdict(row: dict[str, Any]) -> str:
    """Return in a few words how a model came out."""
    if whole(row):
        return f"whole as {row['form']}, {row['left']:.3f} left, {row['over_floor']:.3f}x its floor"
    return "; ".join(f"{stage}: {text[:160]}" for stage, text in row["errors"].items())


def result(pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]]) -> Result:
    """Return the counts, by family and for torchvision as a whole."""
    families = sorted({ours["name"].partition("/")[0] for ours, _ in pairs})
    table = {
        family: counts(pair for pair in pairs if pair[0]["name"].startswith(family + "/")) for family in families
    }
    say(json.dumps(table, indent=2))
    vision = [pair for pair in pairs if pair[0]["name"].partition("/")[0] in TORCHVISION] or list(pairs)
    rows = [ours for ours, _ in vision]
    share = sum(map(whole, rows)) / len(rows)
    # A cut that is delivered must be right; what cannot be cut says so and is counted above.
    silent = [ours["name"] for ours, _ in pairs if ours.get("pruned") and not ours.get("oracle")]
    worst = max((row["over_floor"] for row in rows if "over_floor" in row), default=None)
    slow = [row["name"] for row in rows if "analysis_s" in row and not in_time(row)]
    return Result(
        value=round(share, 4),
        unit="fraction of torchvision's models that pass every check",
        goal=f"1, parameters at most {FLOOR}x each model's floor, nothing wrong in silence, "
        f"analysis at most {ANALYSIS:g}x the export and {SECONDS:g} s",
        met=share == 1 and worst is not None and worst <= FLOOR and not silent and not slow,
        peer={
            "name": TORCH_PRUNING,
            "value": round(sum(peer["status"] == "ok" for _, peer in vision) / len(vision), 4),
        },
        detail={
            **table,
            "worst_over_floor": worst,
            "delivered_wrong": silent,
            "analysis_too_slow": slow,
            "code": sorted({ours["code"] for ours, _ in pairs}),
            "rows": [short(ours, peer) for ours, peer in pairs],
        },
    )


def counts(pairs: Iterable[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    """Return how many of a family pass each check, what is left, and how torch-pruning fares."""
    pairs = list(pairs)
    rows = [ours for ours, _ in pairs]
    found: dict[str, Any] = {"models": len(rows), "whole": sum(map(whole, rows))}
    found |= {check: sum(bool(row.get(check)) for row in rows) for check in CHECKS}
    found["not_exportable_uncut"] = sum(row.get("uncut_exported") is False for row in rows)
    found["form_graph"] = sum(row.get("form") == "graph" for row in rows)
    found |= _spread("left", [row["left"] for row in rows if "left" in row])
    found |= _spread("over_floor", [row["over_floor"] for row in rows if "over_floor" in row])
    found |= _spread("export_s", [row["export_s"] for row in rows if "export_s" in row])
    found |= _spread("analysis_s", [row["analysis_s"] for row in rows if "analysis_s" in row])
    found["peer_ok"] = sum(peer["status"] == "ok" for _, peer in pairs)
    found["peer_trains"] = sum(bool(peer.get("trains")) for _, peer in pairs)
    return found | _spread("peer_left", [peer["left"] for _, peer in pairs if peer["status"] == "ok"])


def _spread(name: str, values: Sequence[float]) -> dict[str, float]:
    if not values:
        return {}
    return {f"{name}_median": round(median(values), 4), f"{name}_max": round(max(values), 4)}


def in_time(row: dict[str, Any]) -> bool:
    """Tell whether the analysis took at most twice as long as torch.export, and at most 10 s."""
    return bool(row["analysis_s"] <= min(ANALYSIS * row["export_s"], SECONDS))


def short(ours: dict[str, Any], peer: dict[str, Any]) -> dict[str, Any]:
    """Return what is kept of a model in the saved result."""
    row = {key: ours[key] for key in SHORT if ours.get(key) not in (None, {}, [])}
    return row | {"peer": peer["status"]} | ({"peer_left": peer["left"]} if "left" in peer else {})


def options_of(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return this script's own options, and the arguments that are left for those of every benchmark."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--only", default="*")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--python", type=Path)
    return parser.parse_known_args(arguments)


def main(arguments: Sequence[str]) -> None:
    """Run with both kinds of options."""
    options, rest = options_of(arguments)
    measured: Callable[[bool], Result] = lambda quick: measure(quick, options)  # noqa: E731
    run("surgery_coverage", measured, rest)


if __name__ == "__main__":
    main(sys.argv[1:])

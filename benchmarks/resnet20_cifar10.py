"""ResNet-20 on CIFAR-10 at a half, a third and a quarter of its multiply-accumulates: ours and torch-pruning.

The same pretrained weights, the same six epochs of the task's own loss, the same seeds and machine; only the cut
differs. Ours is the step `prune.channels` at its defaults. torch-pruning cuts in its environment as its own
reproduction does (global, in small steps, group L2), with the help it needs on padded shortcuts, and once more
with whichever of its importances and helps is best on the even test images after the cut. Accuracy is that of the
odd test images, paired; of torch-pruning's arms the better one there is what we are held against.

  --distilled      adds an arm that learns from the unpruned network, which no comparison uses
  --python PATH    an environment that has torch-pruning and paretune, instead of one made for this
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from _arms import WORK, Arms, compared
from _cifar10 import make_task
from _common import RESULTS, Result, run, say
from _finetune import TRAINING, correct, cut_by_paretune, cut_by_peer, judged, threads, tune
from _peer_cut import IMPORTANCES, SHORTCUTS
from _peers import PARETUNE, TORCH_PRUNING, environment
from paretune.task import Task

SPEEDS, SEEDS, EPOCHS, GOAL = (2, 3, 4), (0, 1), 6, 0.5
DEPTH = 20


class Benchmark:
    """The arms of one run and what they share."""

    def __init__(self, quick: bool, options: argparse.Namespace):
        self.quick = quick
        self.speeds, self.seeds, self.epochs = ((2,), (0,), 1) if quick else (SPEEDS, SEEDS, EPOCHS)
        self.importances = IMPORTANCES[:1] if quick else IMPORTANCES
        self.shortcuts = SHORTCUTS[:1] if quick else SHORTCUTS
        self.folder = Path(tempfile.mkdtemp()) if quick else WORK / f"resnet{DEPTH}_cifar10"
        kept = None if quick else RESULTS / f"resnet{DEPTH}_cifar10"
        self.arms = Arms(self.folder / "ours", kept and kept / "ours")
        self.peer_arms = Arms(self.folder / TORCH_PRUNING, kept and kept / TORCH_PRUNING)
        self.python = options.python or environment("torch-pruning", (*PARETUNE, TORCH_PRUNING))
        self.distilled = options.distilled
        self.task: Task = make_task(quick, DEPTH)
        methods = 3 + self.distilled
        self.left = len(self.speeds) * len(self.seeds) * methods

    def ours(self, speed: int, seed: int, distilled: bool = False) -> dict[str, Any]:
        """Cut with paretune's defaults, fine-tune."""

        def arm(folder: Path) -> dict[str, Any]:
            model, told = cut_by_paretune(self.task, speed, seed)
            return self._tuned(model, told, seed, folder, distilled)

        name = f"{'distilled' if distilled else 'ours'}-{speed}x-seed{seed}"
        return self._finish(self.arms, name, {"speed": speed, "seed": seed}, arm)

    def peer(self, speed: int, seed: int, importance: str, shortcut: str) -> dict[str, Any]:
        """Cut with torch-pruning, fine-tune in the same way."""

        def arm(folder: Path) -> dict[str, Any]:
            model, told = self._cut_by_peer(speed, importance, shortcut, seed)
            return self._tuned(model, told, seed, folder, distilled=False)

        name = f"{importance}-{shortcut}-{speed}x-seed{seed}"
        return self._finish(self.peer_arms, name, {"speed": speed, "seed": seed}, arm)

    def screened(self, speed: int) -> dict[str, float]:
        """Return the accuracy on even images right after each cut of torch-pruning, by importance and help."""

        def arm(folder: Path) -> dict[str, Any]:
            found = {}
            for importance in self.importances:
                for shortcut in self.shortcuts:
                    model, _ = self._cut_by_peer(speed, importance, shortcut, 0)
                    found[f"{importance} {shortcut}"] = judged(model, self.task)["even"]["accuracy"]
                    say(f"  {importance} {shortcut}: {found[f'{importance} {shortcut}']:.2f}")
            return {"even": found}

        even: dict[str, float] = self.peer_arms.finish(f"screen-{speed}x", {"speed": speed}, arm)["even"]
        return even

    def _cut_by_peer(self, speed: int, importance: str, shortcut: str, seed: int) -> tuple[Any, dict[str, Any]]:
        path = self.peer_arms.folder / "cuts" / f"{importance}-{shortcut}-{speed}x-seed{seed}.safetensors"
        return cut_by_peer(
            self.task, self.python, path, depth=DEPTH, speed=speed, importance=importance, shortcut=shortcut,
            seed=seed, quick=self.quick,
        )  # fmt: skip

    def _tuned(self, model: Any, told: dict[str, Any], seed: int, folder: Path, distilled: bool) -> dict[str, Any]:
        before = judged(model, self.task)
        fitted = tune(
            model, self.task, epochs=self.epochs, seed=seed, folder=folder, distilled=distilled, left=self.left
        )
        how = {"precision": fitted.precision, "layout": fitted.layout, "training_s": fitted.seconds}
        cut = {half: before[half]["accuracy"] for half in before}
        return told | how | {"before": cut, **judged(fitted.model, self.task)}

    def _finish(self, arms: Arms, name: str, settings: dict[str, Any], arm: Any) -> dict[str, Any]:
        self.left -= 1
        row = arms.finish(name, settings | {"epochs": self.epochs, **TRAINING}, arm)
        say(f"  {name}: even {row['even']['accuracy']:.2f}, odd {row['odd']['accuracy']:.2f}, {row['speed']:.3f}x")
        return row


def measure(quick: bool, options: argparse.Namespace) -> Result:
    """Run every arm, or read it, and compare at each speed-up."""
    threads(quick)
    benchmark = Benchmark(quick, options)
    base = judged(benchmark.task.build(), benchmark.task)
    say(f"unpruned: even {base['even']['accuracy']:.2f}, odd {base['odd']['accuracy']:.2f}")
    table = {f"{speed}x": _at(benchmark, speed) for speed in benchmark.speeds}
    worst = min(row["odd"]["points"] for row in table.values())
    clear = all(row["odd"]["points"] >= GOAL and row["odd"]["low"] > 0 for row in table.values())
    return Result(
        value=round(worst, 3),
        unit="points of accuracy above torch-pruning, the least of all speed-ups",
        goal=f"at least {GOAL} at 2x, 3x and 4x, the interval over test images above 0",
        met=clear and not quick,
        peer={"name": TORCH_PRUNING, "value": 0},
        seeds=benchmark.seeds,
        detail={
            "unpruned": {half: base[half]["accuracy"] for half in ("odd", "even")},
            "epochs": benchmark.epochs,
            "training": TRAINING,
            **{f"{speed} {half}": row[half] for speed, row in table.items() for half in ("odd", "all")},
            "rows": list(table.values()),
        },
    )


def _at(benchmark: Benchmark, speed: int) -> dict[str, Any]:
    """Return every arm of one speed-up, and ours against the better of torch-pruning's."""
    ours = [benchmark.ours(speed, seed) for seed in benchmark.seeds]
    screened = benchmark.screened(speed)
    usual = max((way for way in screened if way.startswith("group_l2 ")), key=lambda way: screened[way])
    best = max(screened, key=lambda way: screened[way])
    peers = {}
    for way in dict.fromkeys((usual, best)):
        importance, shortcut = way.split()
        peers[way] = [benchmark.peer(speed, seed, importance, shortcut) for seed in benchmark.seeds]
    if usual == best:
        benchmark.left -= len(benchmark.seeds)
    strongest = max(peers, key=lambda way: np.mean([row["odd"]["accuracy"] for row in peers[way]]))
    row: dict[str, Any] = {"speed": speed, "against": strongest, "screened_even": screened}
    for half in ("odd", "all"):
        mine, theirs = ([correct(arm, half) for arm in arms] for arms in (ours, peers[strongest]))
        row[half] = compared(mine, theirs)
    row["ours"] = [_short(arm) for arm in ours]
    row["peers"] = {way: [_short(arm) for arm in arms] for way, arms in peers.items()}
    if benchmark.distilled:
        row["distilled"] = [_short(benchmark.ours(speed, seed, distilled=True)) for seed in benchmark.seeds]
    return row


def _short(arm: dict[str, Any]) -> dict[str, Any]:
    accuracy = {half: arm[half]["accuracy"] for half in ("odd", "even")}
    kept = ("name", "speed", "params", "before", "precision", "layout", "training_s", "widths", "notes", "code")
    return accuracy | {key: arm[key] for key in kept if key in arm}


def main(arguments: Sequence[str]) -> None:
    """Run with this script's own options and those of every benchmark."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--distilled", action="store_true")
    parser.add_argument("--python", type=Path)
    options, rest = parser.parse_known_args(arguments)
    run("resnet20_cifar10", lambda quick: measure(quick, options), rest)


if __name__ == "__main__":
    main(sys.argv[1:])

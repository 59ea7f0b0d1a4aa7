"""ResNet-20 on CIFAR-10, 30 % fewer multiply-accumulates, no training: what repair in closed form gives back.

Several scores are tried with several scopes, every channel free to go, and once with the residual sums kept whole.
Each cut is judged on the even test images (the validation set of these networks, `_cifar10`): as it is, with batch
norm recalibrated, and repaired on 512 training images. The way that is best repaired is repaired once more on
2,048 training images with three seeds, and the odd test images are read. Beside it stand the same cut without
repair, the step `prune.channels` at its defaults, and torch-pruning in whichever of its importances and helps is
best on the even images, with batch norm recalibrated, which it does not do itself.

  --python PATH    an environment that has torch-pruning and paretune, instead of one made for this
"""

from __future__ import annotations

import argparse
import copy
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from _arms import WORK, Arms, compared, estimate
from _cifar10 import make_task
from _common import RESULTS, Result, run, say
from _finetune import HALVES, RECALIBRATION, correct, cut_by_peer, judged
from _peer_cut import IMPORTANCES, SHORTCUTS
from _peers import PARETUNE, TORCH_PRUNING, environment
from paretune.evaluation import evaluate
from paretune.prune import Channels, cut, repair
from paretune.recipe import Context
from paretune.task import Task
from paretune.train import recalibrate_batch_norm

MACS, GOAL, DEPTH = 0.7, 2.0, 20
SCORES = ("ziplm", "l2", "geometric_median", "cosine", "wanda")
DEFAULT = "geometric_median"
"""What `prune.channels` takes where no score is named (decision 0012)."""
SCOPES = ("global", "isomorphic")
SUMS = ("conv1", "*.conv2")
"""The layers that make what residual sums add."""
KINDS = ("cut", "recalibrated", "repaired")
SCREENED_ON, SAMPLES, SEEDS, QUICK_SAMPLES = 512, 2048, (0, 1, 2), 128


@dataclass(frozen=True)
class Way:
    """One choice of channels."""

    score: str
    scope: str
    sums: str
    """`cut`: any channel may go; `kept`: those of residual sums stay."""

    def step(self) -> Channels:
        """Return the step that chooses so."""
        return Channels(score=self.score, scope=self.scope, macs=MACS, protect=SUMS if self.sums == "kept" else ())

    def __str__(self) -> str:
        return f"{self.score} {self.scope}, sums {self.sums}"


def ways(quick: bool) -> list[Way]:
    """Return what is tried; with the sums kept, all groups are of one kind, and `isomorphic` is `global`."""
    free = [Way(score, scope, "cut") for score, scope in product(SCORES, SCOPES)]
    kept = [Way(score, "global", "kept") for score in SCORES]
    return kept[:1] if quick else free + kept


class Benchmark:
    """The arms of one run and what they share."""

    def __init__(self, quick: bool, python: Path | None) -> None:
        self.quick = quick
        self.screened_on, self.samples = (QUICK_SAMPLES, QUICK_SAMPLES) if quick else (SCREENED_ON, SAMPLES)
        self.seeds = SEEDS[:1] if quick else SEEDS
        self.folder = Path(tempfile.mkdtemp()) if quick else WORK / "one_shot_repair"
        kept = self.folder if quick else RESULTS / "one_shot_repair"
        self.arms = Arms(self.folder / "ours", kept / "ours")
        self.peer_arms = Arms(self.folder / TORCH_PRUNING, kept / TORCH_PRUNING)
        self.python = python or environment("torch-pruning", (*PARETUNE, TORCH_PRUNING))
        self.task: Task = make_task(quick, DEPTH)

    def screened(self, way: Way) -> dict[str, Any]:
        """Cut in one way; return the accuracy on even images as it is, recalibrated, and repaired."""
        return self._ours("screen", way, self.screened_on, 0, KINDS, self._on_even)

    def final(self, way: Way, seed: int, *, beside: bool) -> dict[str, Any]:
        """Cut in one way and repair on more images; return which images of both halves are right.

        beside: also without repair, as cut and recalibrated.
        """
        kinds = KINDS if beside else KINDS[-1:]
        return self._ours("final", way, self.samples, seed, kinds, lambda model: judged(model, self.task))

    def _on_even(self, model: nn.Module) -> float:
        return evaluate(model, self.task.data("val"), self.task.resolved_metric()).value * 100

    def _ours(
        self, name: str, way: Way, samples: int, seed: int, kinds: Sequence[str], judge: Callable[[nn.Module], Any]
    ) -> dict[str, Any]:
        def arm(folder: Path) -> dict[str, Any]:
            return self._cut(way, samples, seed, kinds, judge)

        settings = {**vars(way), "macs": MACS, "samples": samples, "seed": seed}
        return self.arms.finish(re.sub(r"\W+", "-", f"{name} {way} seed{seed}"), settings, arm)

    def _cut(
        self, way: Way, samples: int, seed: int, kinds: Sequence[str], judge: Callable[[nn.Module], Any]
    ) -> dict[str, Any]:
        step, task, model = way.step(), self.task, self.task.build()
        analysis = step.analyze(model, task)
        selection = step.select(analysis, task, Context(seed=seed))
        bare = cut(analysis, selection)
        found: dict[str, Any] = {"macs": bare.after["macs"] / bare.before["macs"], "widths": bare.widths}
        for kind in kinds:
            pruned = copy.deepcopy(bare)
            if kind == "recalibrated":
                recalibrate_batch_norm(
                    pruned.model, task.data("train"), samples=RECALIBRATION, augment=task.augment, seed=seed
                )
            elif kind == "repaired":
                repair(analysis, selection, pruned, task.data("train"), samples=samples, seed=seed)
            found[kind] = judge(pruned.model)
        return found

    def peer(self, importance: str, shortcut: str) -> dict[str, Any]:
        """Cut with torch-pruning, recalibrate batch norm, and return which images are right."""

        def arm(folder: Path) -> dict[str, Any]:
            path = self.peer_arms.folder / "cuts" / f"{importance}-{shortcut}.safetensors"
            model, told = cut_by_peer(
                self.task, self.python, path, depth=DEPTH, speed=1 / MACS, importance=importance,
                shortcut=shortcut, seed=0, quick=self.quick,
            )  # fmt: skip
            return {"macs": 1 / told["speed"], "recalibrated": judged(model, self.task)}

        return self.peer_arms.finish(f"{importance}-{shortcut}", {"macs": MACS}, arm)


def measure(quick: bool, python: Path | None) -> Result:
    """Run every arm, or read it; choose on the even images, tell the odd ones."""
    benchmark = Benchmark(quick, python)
    whole = judged(benchmark.task.build(), benchmark.task)
    say(f"unpruned: even {whole['even']['accuracy']:.2f}, odd {whole['odd']['accuracy']:.2f}")
    default = Way(DEFAULT, Channels().scope, "cut")
    found = {}
    for index, way in enumerate(tried := ways(quick)):
        found[way] = benchmark.screened(way)
        say(f"  {way}: {_points(found[way])}")
        if index == 0:
            estimate("  all ways", found[way]["seconds"] * (len(tried) - 1))
    best = max(found, key=lambda way: found[way]["repaired"])
    finals = {
        way: [benchmark.final(way, seed, beside=(way, seed) == (best, 0)) for seed in benchmark.seeds]
        for way in dict.fromkeys((default, best))
    }
    peers = {way: benchmark.peer(*way) for way in product(*_helps(quick))}
    return result(whole, found, default, best, finals, peers, benchmark.seeds, quick)


def _helps(quick: bool) -> tuple[Sequence[str], Sequence[str]]:
    return (IMPORTANCES[:1], SHORTCUTS[-1:]) if quick else (IMPORTANCES, SHORTCUTS)


def _points(row: dict[str, Any]) -> dict[str, float]:
    return {kind: round(row[kind], 2) for kind in KINDS}


def result(
    whole: dict[str, Any],
    found: dict[Way, dict[str, Any]],
    default: Way,
    best: Way,
    finals: dict[Way, list[dict[str, Any]]],
    peers: dict[tuple[str, str], dict[str, Any]],
    seeds: Sequence[int],
    quick: bool,
) -> Result:
    """Return what was lost by the way that is best on even images, and what stands beside it."""

    def lost(rows: Sequence[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
        right = {half: [correct(row[kind], half) for row in rows] for half in HALVES}
        return {half: compared([correct(whole, half)] * len(rows), seen) for half, seen in right.items()}

    strongest = max(peers, key=lambda way: peers[way]["recalibrated"]["even"]["accuracy"])
    sides = {
        "best, repaired": lost(finals[best], "repaired"),
        "best, batch norm recalibrated": lost(finals[best][:1], "recalibrated"),
        "best, as cut": lost(finals[best][:1], "cut"),
        f"default ({default}), repaired": lost(finals[default], "repaired"),
        TORCH_PRUNING: lost([peers[strongest]], "recalibrated"),
    }

    def points(half: str) -> dict[str, float]:
        return {name: round(side[half]["points"], 3) for name, side in sides.items()}

    value = sides["best, repaired"]["odd"]["points"]
    table = [
        {"score": way.score, "scope": way.scope, "sums": way.sums, **_points(row), "macs": row["macs"]}
        for way, row in sorted(found.items(), key=lambda pair: -pair[1]["repaired"])
    ]
    return Result(
        value=round(value, 3),
        unit="points of accuracy lost at 0.7x multiply-accumulates without training",
        goal=f"at most {GOAL} points lost on the odd half",
        met=value <= GOAL and not quick,
        peer={
            "name": f"{TORCH_PRUNING}, {' '.join(strongest)}, batch norm recalibrated",
            "value": round(sides[TORCH_PRUNING]["odd"]["points"], 3),
        },
        seeds=seeds,
        detail={
            "unpruned": {half: whole[half]["accuracy"] for half in HALVES},
            "best_on_even": str(best),
            **{f"lost_{half}": points(half) for half in HALVES},
            "compared": sides,
            "macs": {"best": finals[best][0]["macs"], TORCH_PRUNING: peers[strongest]["macs"]},
            "widths": [f"{layer}: {width}" for layer, width in finals[best][0]["widths"].items()],
            "peers_even": {" ".join(way): row["recalibrated"]["even"]["accuracy"] for way, row in peers.items()},
            "code": sorted({row["code"] for row in (*found.values(), *finals[best])}),
            "rows": table,
        },
    )


def main(arguments: Sequence[str]) -> None:
    """Run with this script's own option and those of every benchmark."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--python", type=Path)
    options, rest = parser.parse_known_args(arguments)
    run("one_shot_repair", lambda quick: measure(quick, options.python), rest)


if __name__ == "__main__":
    main(sys.argv[1:])

"""ResNet-20 on CIFAR-10 at a third of its multiply-accumulates: three rounds of four epochs, against one cut.

The arms differ in two things only: rounds (three cuts, four epochs after each) or one cut with twelve epochs; and
distillation or the task's own loss. The teacher of the rounds is the first pruned network, the default of
`prune.iterative`; one cut is taught by the unpruned one. Every recovery has its own warm-up and cosine, trains in
bfloat16, and keeps the epoch that is best on the even test images; accuracy is that of the odd ones, paired. The
rounds with distillation are held against each of the other arms, the better of the one-cut arms included.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _arms import WORK, Arms, compared, estimate
from _cifar10 import make_task
from _common import RESULTS, Result, run, say
from _finetune import TRAINING, correct, judged, threads
from paretune import prune
from paretune.recipe import Context

MACS, ROUNDS, EPOCHS, SEEDS, GOAL = 1 / 3, 3, 4, (0, 1), 0.5
OURS = "rounds, distilled"
ARMS: dict[str, tuple[int, str]] = {
    OURS: (ROUNDS, "distill"),
    "rounds": (ROUNDS, "train"),
    "one cut, distilled": (1, "distill"),
    "one cut": (1, "train"),
}
"""Rounds and the step that recovers, by the name of the arm."""


def measure(quick: bool) -> Result:
    """Run every arm, or read it, and compare."""
    threads(quick)
    task = make_task(quick)
    folder = Path(tempfile.mkdtemp()) if quick else WORK / "prune_distill"
    arms = Arms(folder, None if quick else RESULTS / "prune_distill")
    seeds, epochs = (SEEDS[:1], 1) if quick else (SEEDS, EPOCHS)
    base = judged(task.build(), task)
    say(f"unpruned: even {base['even']['accuracy']:.2f}, odd {base['odd']['accuracy']:.2f}")
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in ARMS}
    for seed in seeds:
        for name, (rounds, recovery) in ARMS.items():
            training = {**TRAINING, "epochs": epochs * ROUNDS // rounds, "warmup": 0.5, "precision": "bfloat16"}
            settings = {"macs": MACS, "rounds": rounds, "recover": {recovery: training}, "seed": seed}
            arm = partial(_arm, task, settings, listener(epochs * ROUNDS))
            rows[name].append(
                arms.finish(f"{name.replace(', ', '-').replace(' ', '-')}-seed{seed}", settings, arm)
            )
            say(f"  {name}: odd {rows[name][-1]['odd']['accuracy']:.2f}")
    odd = {name: [correct(row, "odd") for row in found] for name, found in rows.items()}
    gained = {name: compared(odd[OURS], seen) for name, seen in odd.items() if name != OURS}
    worst = min(found["points"] for found in gained.values())
    return Result(
        value=round(worst, 3),
        unit="points of accuracy above the best of the other arms",
        goal=f"at least {GOAL} above one cut at equal epochs, and above the rounds without distillation",
        met=worst >= GOAL and not quick,
        peer={"name": min(gained, key=lambda name: gained[name]["points"]), "value": 0},
        seeds=seeds,
        detail={
            "unpruned": {half: base[half]["accuracy"] for half in ("odd", "even")},
            "against": gained,
            "arms": {name: [_short(row) for row in found] for name, found in rows.items()},
        },
    )


def _arm(task: Any, settings: dict[str, Any], listen: Callable[..., None], folder: Path) -> dict[str, Any]:
    made = prune.iterative(
        task.build(),
        task,
        prune={"prune.channels": {"macs": settings["macs"]}},
        recover=settings["recover"],
        rounds=settings["rounds"],
        latency=False,
        context=Context(seed=settings["seed"], folder=folder, emit=listen),
    )
    rows = [{key: row.get(key) for key in ("round", "macs", "before", "metric")} for row in made.rounds]
    return {"rounds": rows, "notes": list(made.notes), **judged(made.model, task)}


def listener(epochs: int) -> Callable[[str, dict[str, Any]], None]:
    """Return a listener that tells every epoch, and after the first how long the arm takes."""
    done = 0

    def listen(kind: str, fields: dict[str, Any]) -> None:
        nonlocal done
        if kind == "epoch":
            done += 1
            say(f"  epoch {done}/{epochs}: loss {fields['loss']:.4f}, even half {fields['value']:.4f}")
            if done == 1:
                estimate("  this arm", fields["seconds"] * (epochs - 1))

    return listen


def _short(row: dict[str, Any]) -> dict[str, Any]:
    accuracy = {half: row[half]["accuracy"] for half in ("odd", "even")}
    return accuracy | {key: row[key] for key in ("name", "rounds", "notes", "code", "seconds")}


if __name__ == "__main__":
    run("prune_distill", measure)

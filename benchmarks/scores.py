"""Every score at half of the multiply-accumulates, before and after two epochs of fine-tuning, on three networks.

An MLP (LeNet-300-100 on MNIST), a CNN (the pretrained ResNet-20 on CIFAR-10, 10,000 training images) and a small
transformer (AG News); the first and the last are trained here first. Every score is tried with the scopes that
rank unlike layers (the least important of all, the least important of every kind), on one seed; the best go on to
two more. The way with the best validation accuracy after fine-tuning, averaged over networks and seeds, should be
the default; test accuracy is told beside it and chose nothing.

A first version ranked the ways on every network and averaged the ranks, which gave hundredths of a point on MNIST
the weight of whole points elsewhere, and held out 1,000 texts, too few to tell ways apart.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import _agnews
import _cifar10
import _mnist
from _arms import WORK, Arms, estimate
from _common import RESULTS, Result, run, say
from _finetune import threads
from paretune.errors import InfeasibleError, InputError
from paretune.evaluation import evaluate
from paretune.methods import registry
from paretune.prune import Channels
from paretune.prune._selection.selection import DEFAULT as SCORE
from paretune.recipe import Context
from paretune.task import Task
from paretune.train import fit

SCOPES, QUICK_SCOPES = ("global", "isomorphic"), ("global",)
QUICK_SCORES = ("l1", "random", "taylor")
WEIGHTS_ALONE = ("l1", "l2", "bn_scale", "geometric_median", "cosine", "random")
"""Scores that look at weights alone."""
SEEDS, MACS, EPOCHS = (0, 1, 2), 0.5, 2
FINALISTS = 8
"""Ways that go on to the other seeds."""
MORE: tuple[dict[str, dict[str, Any]], ...] = ({"taylor": {"of": "output"}}, {"gradient_norm": {"of": "weight"}})
"""Scores with other options than their defaults."""
DEFAULT = ("default", Channels().scope)
"""What the step does by itself: `SCORE`."""


@dataclass(frozen=True)
class Subject:
    """A network, its data, and how it is fine-tuned."""

    name: str
    task: Task
    training: dict[str, Any]


def measure(quick: bool) -> Result:
    """Run every arm, or read it, and compare."""
    threads(quick)
    folder = Path(tempfile.mkdtemp()) if quick else WORK / "scores"
    arms = Arms(folder / "arms", None if quick else RESULTS / "scores")
    specs: list[Any] = list(QUICK_SCORES) if quick else [None, *registry("scores"), *MORE]
    scopes, seeds = (QUICK_SCOPES, SEEDS[:1]) if quick else (SCOPES, SEEDS)
    ways = [(spec, scope) for spec in specs for scope in scopes]
    subjects = [make(quick, folder) for make in (mlp, cnn, transformer)]
    base = {}
    for subject in subjects:
        base[subject.name] = judged(subject.task.build(), subject.task)
        say(f"{subject.name}, unpruned: {base[subject.name]}")
    rows = [row for subject in subjects for row in all_of(arms, subject, ways, seeds[:1])]
    best = [way[:2] for way in ranked(rows, list(base))[:FINALISTS]] + [DEFAULT]
    last = [way for way in ways if (label(way[0]), way[1]) in best]
    rows += [row for subject in subjects for row in all_of(arms, subject, last, seeds[1:])]
    return result(rows, base, seeds)


def all_of(
    arms: Arms, subject: Subject, ways: Sequence[tuple[Any, str]], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """Run arms of one network, with an estimate after the first."""
    rows = []
    for index, (spec, scope, seed) in enumerate([(*way, seed) for way in ways for seed in seeds]):
        rows.append(one(arms, subject, spec, scope, seed))
        if index == 0 and "seconds" in rows[0]:
            estimate(f"{subject.name}, {len(ways) * len(seeds)} arms", rows[0]["seconds"] * len(ways) * len(seeds))
    return rows


def one(arms: Arms, subject: Subject, spec: Any, scope: str, seed: int) -> dict[str, Any]:
    """Cut, judge, fine-tune, judge; where a score is not for this network, say why."""
    score = label(spec)
    settings = {"score": spec, "scope": scope, "seed": seed, "macs": MACS, **subject.training}

    def arm(folder: Path) -> dict[str, Any]:
        task = subject.task
        try:
            step = Channels(score=spec, scope=scope, macs=MACS)
            cut = step.apply(task.build(), task, Context(seed=seed))
        except (InputError, InfeasibleError) as error:
            return {"refused": " ".join(str(error).split())[:200]}
        before = judged(cut.model, task)
        context = Context(seed=seed, folder=folder)
        fitted = fit(cut.model, task, context=context, keep_best=False, **subject.training)
        kept = {key: cut.details["after"][key] / cut.details["before"][key] for key in ("macs", "params")}
        return {"before": before, "after": judged(fitted.model, task), **kept}

    name = re.sub(r"\W+", "-", f"{subject.name} {score} {scope} seed{seed}")
    found = arms.finish(name, settings, arm)
    return {**found, "network": subject.name, "score": score, "scope": scope, "seed": seed}


def label(spec: Any) -> str:
    """Return a score as it is read: `taylor of=output`."""
    if spec is None or isinstance(spec, str):
        return spec or "default"
    [(name, options)] = spec.items()
    return " ".join([name, *(f"{key}={value}" for key, value in options.items())])


def judged(model: nn.Module, task: Task) -> dict[str, float]:
    """Return the accuracy in points on validation and test data."""
    metric = task.resolved_metric()
    return {split: round(evaluate(model, task.data(split), metric).value * 100, 3) for split in ("val", "test")}


def ranked(rows: Sequence[dict[str, Any]], networks: Sequence[str]) -> list[tuple[str, str, float]]:
    """Return (score, scope, mean validation accuracy over networks and seeds), the best first.

    A way that some network has nothing for, such as scores of batch norm, is left out.
    """
    ways = dict.fromkeys((row["score"], row["scope"]) for row in rows)
    found = [(*way, float(np.mean([_mean(rows, way, n, "after", "val") for n in networks]))) for way in ways]
    return sorted((way for way in found if not np.isnan(way[2])), key=lambda way: -way[2])


def result(rows: Sequence[dict[str, Any]], base: dict[str, Any], seeds: Sequence[int]) -> Result:
    """Return the table, the best validation accuracy after fine-tuning first."""
    networks = list(base)
    order = ranked(rows, networks)
    tried = Counter((row["score"], row["scope"]) for row in rows if row["network"] == networks[0])
    order.sort(key=lambda way: -tried[way[:2]])  # those that went on are compared with each other alone
    winner, value = next((way[:2], way[2]) for way in order if way[0] != "default")
    blind = next((way[:2] for way in order if way[0] in WEIGHTS_ALONE), None)
    table = [
        {"score": score, "scope": scope, "val": round(val, 3), "seeds": tried[score, scope]}
        | {network: _cell(rows, (score, scope), network) for network in networks}
        for score, scope, val in order
    ]
    for row in table[:10]:
        say(f"{row['val']:.2f}  {row['score']} {row['scope']}: {[row[n]['after_test'] for n in networks]}")
    gain = [_mean(rows, winner, n, "after", "test") - _mean(rows, DEFAULT, n, "after", "test") for n in networks]
    return Result(
        value=round(float(np.mean(gain)), 3),
        unit="points of test accuracy, the best score above the default, mean of three networks",
        goal="the default score and scope are those of the best mean validation accuracy",
        met=winner == (SCORE, DEFAULT[1]),
        peer={"name": f"{' '.join(winner)}, validation accuracy", "value": round(value, 3)},
        seeds=seeds,
        detail={
            "winner": list(winner),
            "winner_without_data": blind,
            "default": [SCORE, DEFAULT[1]],
            "unpruned": {network: base[network]["test"] for network in networks},
            "refused": dict(Counter(f"{row['score']}: {row['refused']}" for row in rows if "refused" in row)),
            "code": sorted({row["code"] for row in rows}),
            "rows": table,
        },
    )


def _of(rows: Sequence[dict[str, Any]], way: tuple[str, str], network: str) -> list[dict[str, Any]]:
    return [row for row in rows if (row["score"], row["scope"], row["network"]) == (*way, network)]


def _mean(rows: Sequence[dict[str, Any]], way: tuple[str, str], network: str, when: str, split: str) -> float:
    found = [row[when][split] for row in _of(rows, way, network) if when in row]
    return float(np.mean(found)) if found else float("nan")


def _cell(rows: Sequence[dict[str, Any]], way: tuple[str, str], network: str) -> dict[str, Any] | None:
    """Return what stands in the table: accuracy before and after, and after for every seed."""
    found = [row for row in _of(rows, way, network) if "after" in row]
    if not found:
        return None
    cell: dict[str, Any] = {
        f"{when}_{split}": round(_mean(rows, way, network, when, split), 2)
        for when in ("before", "after")
        for split in ("val", "test")
    }
    return cell | {"after_test_by_seed": [row["after"]["test"] for row in found], "macs": found[0]["macs"]}


def mlp(quick: bool, folder: Path) -> Subject:
    """Return LeNet-300-100 on MNIST, trained here."""
    task = _mnist.make_task(quick)
    return trained_first("mlp", task, folder, epochs=1 if quick else 6, then=1 if quick else EPOCHS, lr=1e-3)


def cnn(quick: bool, folder: Path) -> Subject:
    """Return the pretrained ResNet-20, fine-tuned on the first 10,000 training images."""
    task = _cifar10.make_task(quick)
    images, labels = task.train
    task.train = (images[:10_000], labels[:10_000])
    epochs = 1 if quick else EPOCHS
    return Subject("cnn", task, {"optimizer": "sgd", "lr": 0.02, "epochs": epochs, "warmup": 0.25})


def transformer(quick: bool, folder: Path) -> Subject:
    """Return a small transformer on AG News, trained here."""
    return trained_first(
        "transformer",
        _agnews.make_task(quick),
        folder,
        epochs=1 if quick else 5,
        then=1 if quick else EPOCHS,
        lr=1e-3,
    )


def trained_first(name: str, task: Task, folder: Path, *, epochs: int, then: int, lr: float) -> Subject:
    """Train the network once, keep its weights, and return it as the subject, with a lower rate for later."""
    path = folder / f"{name}-{epochs}.safetensors"
    blank = task.model
    assert callable(blank)
    if not path.exists():
        torch.manual_seed(0)
        say(f"{name}: trained first")
        fitted = fit(task.build(), task, epochs=epochs, lr=lr, warmup=0.5, context=Context(seed=0, emit=_epoch))
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(fitted.model.state_dict(), str(path))
    task.model = partial(_loaded, blank, path)
    return Subject(name, task, {"optimizer": "adamw", "lr": lr / 2, "epochs": then, "warmup": 0.25})


def _loaded(blank: Callable[[], nn.Module], path: Path) -> nn.Module:
    model = blank()
    model.load_state_dict(load_file(str(path)))
    return model.eval()


def _epoch(kind: str, fields: dict[str, Any]) -> None:
    if kind == "epoch":
        say(f"  epoch {fields['epoch']}/{fields['epochs']}: {fields['value']:.4f}, {fields['seconds']:.0f} s")


if __name__ == "__main__":
    run("scores", measure)

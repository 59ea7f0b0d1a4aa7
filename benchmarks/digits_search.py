"""A search by the clock: 30 seconds, two workers, real training; BOHB against random search and Optuna.

A perceptron on scikit-learn's digits (`_digits_runs.py`), seven hyperparameters, at most 27 epochs. Everybody has
30 s from the call on two processes, their start among them; what ends later does not count. Optuna's workers share
a study through its journal file. Compared is the median over seeds of the error of the best full run; ours must
have ended within 2 s of the deadline. Wants a machine that does nothing else.
"""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from _arms import WORK, Arms
from _common import RESULTS, Result, run, say
from _digits_runs import EPOCHS, objective, optuna_worker
from paretune.search import Float, Int, Space, minimize

SEEDS, SECONDS, LATE, WORKERS = 8, 30.0, 2.0, 2
PEERS = ("random", "optuna_tpe", "optuna_hyperband")
SPACE = Space(
    {
        "lr": Float(1e-4, 1.0, log=True),
        "momentum": Float(0.0, 0.99),
        "batch": Int(8, 256, log=True),
        "width": Int(16, 512, log=True),
        "layers": Int(1, 3),
        "dropout": Float(0.0, 0.6),
        "decay": Float(1e-6, 1e-1, log=True),
    }
)


def ours(seed: int, limit: float, folder: Path) -> dict[str, Any]:
    """Return the error of the best full run at the deadline, and when the study had ended."""
    began, found, runs = time.monotonic(), [1.0], 0

    def listen(kind: str, fields: dict[str, Any]) -> None:
        nonlocal runs
        if kind == "run" and time.monotonic() - began <= limit:
            runs += 1
            if fields["budget"] == EPOCHS[-1] and fields["loss"] is not None:
                found.append(fields["loss"])

    method = {"bohb": {"min": EPOCHS[0], "max": EPOCHS[-1], "cost": True}}
    how: dict[str, Any] = {"seed": seed, "workers": WORKERS, "folder": folder / str(seed), "listen": listen}
    minimize(objective, SPACE, method, {"wall": limit}, **how)
    return {"error": min(found), "took": time.monotonic() - began, "runs": runs}


def peer(kind: str, seed: int, limit: float, folder: Path) -> dict[str, Any]:
    """Return the same of an Optuna study on two processes."""
    import optuna
    from optuna.storages.journal import JournalFileBackend

    storage, began = str(folder / f"{kind}-{seed}.journal"), time.time()
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=optuna_worker, args=(storage, kind, 1000 * seed + index, began + limit))
        for index in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took = time.time() - began
    journal = optuna.storages.JournalStorage(JournalFileBackend(storage))
    trials = optuna.load_study(study_name="digits", storage=journal).trials
    in_time = [t for t in trials if t.datetime_complete and t.datetime_complete.timestamp() <= began + limit]
    full = [t.value for t in in_time if t.state == optuna.trial.TrialState.COMPLETE and t.value is not None]
    return {"error": min(full, default=1.0), "took": took, "runs": len(in_time)}


def measure(quick: bool) -> Result:
    """Run every method with every seed, or read what was finished."""
    folder = Path(tempfile.mkdtemp()) if quick else WORK / "digits_search"
    arms = Arms(folder, None if quick else RESULTS / "digits_search")
    seeds, limit, peers = (1, 12.0, PEERS[:1]) if quick else (SEEDS, SECONDS, PEERS)
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in range(seeds):
        for name in ("bohb", *peers):
            body = partial(ours, seed, limit) if name == "bohb" else partial(peer, name, seed, limit)
            row = arms.finish(f"{name}-{seed}", {"seed": seed, "limit": limit, "workers": WORKERS}, body)
            rows.setdefault(name, []).append({key: row[key] for key in ("error", "took", "runs")})
    medians = {name: float(np.median([row["error"] for row in found])) for name, found in rows.items()}
    late = max(row["took"] for row in rows["bohb"]) - limit
    say(f"medians {medians}, late by {late:.2f} s")
    best = min(peers, key=lambda name: medians[name])
    return Result(
        value=round(medians["bohb"], 5),
        unit=f"median validation error of the best full run after {limit:g} s on {WORKERS} workers",
        goal=f"at most every peer's; the deadline kept within {LATE:g} s",
        met=not quick and medians["bohb"] <= medians[best] and late <= LATE,
        peer={"name": best, "value": round(medians[best], 5)},
        seeds=tuple(range(seeds)),
        detail={"medians": medians, "late": round(late, 2), "rows": rows},
    )


if __name__ == "__main__":
    run("digits_search", measure)

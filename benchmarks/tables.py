"""Error and size on complete tables of trained networks: the error under a bound on size, and the front of both.

Four tables of FC-Net (regression, four seeds each) and two of a multilayer perceptron (classification, five); a
run looks up a configuration's mean validation error over seeds and its number of parameters. 200 runs, 16 seeds;
the second and third of FC-Net were looked at before. The bound is the table's median size; its value is the
regret of the error's logarithm against the least that the table holds under the bound. A front is judged by its
hypervolume over the logarithms of both, each scaled to the table's range, as a part of what the whole table's
front has. Beside `bayes` and `random` stand Optuna's TPE and NSGA-II, with the same objectives and constraint
(`Trial.set_constraint`), told the same.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np

from _arms import WORK, Arms
from _common import RESULTS, Result, run, say
from paretune.search import Categorical, Ordered, Space, minimize

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "hpo" / "tables"
UNITS, RATES = (16, 32, 64, 128, 256, 512), (5e-4, 1e-3, 5e-3, 1e-2, 5e-2, 1e-1)
FC_NET: dict[str, tuple[Any, ...]] = {
    "activation_fn_1": ("relu", "tanh"),
    "activation_fn_2": ("relu", "tanh"),
    "batch_size": (8, 16, 32, 64),
    "dropout_1": (0.0, 0.3, 0.6),
    "dropout_2": (0.0, 0.3, 0.6),
    "init_lr": RATES,
    "lr_schedule": ("cosine", "const"),
    "n_units_1": UNITS,
    "n_units_2": UNITS,
}
"""In the order of a key's digits."""
MLP: dict[str, tuple[Any, ...]] = {
    "alpha": tuple(np.logspace(-8, 0, 10).tolist()),
    "batch_size": (4, 6, 10, 16, 25, 40, 64, 101, 161, 256),
    "depth": (1, 2, 3),
    "learning_rate_init": tuple(np.logspace(-5, 0, 10).tolist()),
    "width": (16, 25, 40, 64, 101, 161, 256, 406, 645, 1024),
}
TABLES = {
    "hpolib_naval_propulsion": FC_NET,
    "hpolib_parkinsons_telemonitoring": FC_NET,
    "hpolib_protein_structure": FC_NET,
    "hpolib_slice_localization": FC_NET,
    "hpobench_car": MLP,
    "hpobench_segment": MLP,
}
ENDS = {"hpobench_car": (21, 4), "hpobench_segment": (16, 7)}
"""Inputs, categories as one number each, and classes of the data that the perceptrons were trained on."""
RUNS, SEEDS = 200, 16
OURS, PEERS = ("bayes", "random"), ("TPESampler", "NSGAIISampler")
GOALS = ("bound", "front")


@cache
def table(name: str) -> dict[str, tuple[float, float]]:
    """Return logarithms of error and size by key, each scaled to [0, 1] over the table."""
    stored = np.load(SHARED / f"{name}.npz")
    keys = [str(key) for key in stored["key"]]
    if TABLES[name] is FC_NET:
        error = stored["val_loss"].mean(axis=1, dtype=np.float64)
        size = stored["model_size"].reshape(len(keys), -1)[:, 0].astype(np.float64)
    else:
        error = 1.0 - stored["val_acc"].mean(axis=1, dtype=np.float64)
        size = np.array([parameters(*ENDS[name], **configured(name, key)) for key in keys], np.float64)
    scaled = [
        (each - each.min()) / (each.max() - each.min()) for each in (np.log(np.maximum(error, 1e-4)), np.log(size))
    ]
    return {key: (float(a), float(b)) for key, a, b in zip(keys, *scaled, strict=True)}


def configured(name: str, key: str) -> dict[str, Any]:
    """Return the configuration of a key."""
    return {each: values[int(digit)] for (each, values), digit in zip(TABLES[name].items(), key, strict=True)}


def parameters(inputs: int, classes: int, *, width: int, depth: int, **other: Any) -> int:
    """Return the parameters of a perceptron of `depth` hidden layers of `width` units.

    >>> parameters(3, 2, width=4, depth=2)  # 16, 20 and 10
    46
    """
    ends = [inputs, *[width] * depth, classes]
    return sum((a + 1) * b for a, b in pairwise(ends))


@cache
def bound(name: str) -> float:
    """Return the median size of a table."""
    return float(np.median([size for _, size in table(name).values()]))


def looked_up(name: str, config: dict[str, Any]) -> dict[str, float]:
    """Return loss and size of a configuration."""
    key = "".join(str(values.index(config[each])) for each, values in TABLES[name].items())
    loss, size = table(name)[key]
    return {"loss": loss, "size": size}


def hypervolume(points: Sequence[tuple[float, float]]) -> float:
    """Return the area that points dominate, up to (1, 1).

    >>> hypervolume([(0.5, 0.5), (0.25, 0.75)])  # 0.5 x 0.5, and 0.25 x 0.25 beside it
    0.3125
    """
    area, lowest = 0.0, 1.0
    for a, b in sorted(points):
        if b < lowest:
            area, lowest = area + (1.0 - a) * (lowest - b), b
    return area


def space(name: str) -> Space:
    """Return the space of a table: numbers are ordered values."""
    return Space(
        {
            each: Ordered(values) if isinstance(values[0], int | float) else Categorical(values)
            for each, values in TABLES[name].items()
        }
    )


def ours(method: str, name: str, goal: str, seed: int, runs: int) -> list[tuple[float, float]]:
    """Return loss and size of every run of paretune."""
    how: dict[str, Any] = {"constraints": {"size": f"<= {bound(name)!r}"}}
    how = how if goal == "bound" else {"objectives": ("loss", "size")}
    found = minimize(partial(looked_up, name), space(name), method, budget=runs, seed=seed, **how)
    return [(float(trial.loss or 0.0), trial.values["size"]) for trial in found.trials]


def peer(sampler: str, name: str, goal: str, seed: int, runs: int) -> list[tuple[float, float]]:
    """Return loss and size of every run of one of Optuna's samplers."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seen: list[tuple[float, float]] = []

    def objective(trial: Any) -> Any:
        config = {
            each: values[trial.suggest_int(each, 0, len(values) - 1)]
            if isinstance(values[0], int | float)
            else trial.suggest_categorical(each, values)
            for each, values in TABLES[name].items()
        }
        told = looked_up(name, config)
        seen.append((told["loss"], told["size"]))
        if goal == "front":
            return told["loss"], told["size"]
        trial.set_constraint("size", told["size"] - bound(name))
        return told["loss"]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = getattr(optuna.samplers, sampler)(seed=seed)
        study = optuna.create_study(sampler=made, directions=["minimize"] * (1 if goal == "bound" else 2))
        study.optimize(objective, n_trials=runs)
    return seen


def worth(name: str, goal: str, seen: Sequence[tuple[float, float]]) -> float:
    """Return what runs found: the regret under the bound, or the hypervolume as a part of the table's."""
    if goal == "front":
        return hypervolume(seen) / hypervolume(list(table(name).values()))
    best = min(loss for loss, size in table(name).values() if size <= bound(name))
    return min((loss for loss, size in seen if size <= bound(name)), default=1.0) - best


def measure(quick: bool) -> Result:
    """Run every method on every table, or read what was finished, and compare."""
    folder = Path(tempfile.mkdtemp()) if quick else WORK / "tables"
    arms = Arms(folder, None if quick else RESULTS / "tables")
    names, seeds, runs_each = ([*TABLES][:1], 2, 15) if quick else ([*TABLES], SEEDS, RUNS)
    ways: dict[str, Callable[..., list[tuple[float, float]]]] = {
        **{method: partial(ours, method) for method in OURS},
        **{f"Optuna {sampler}": partial(peer, sampler) for sampler in PEERS},
    }
    found: dict[str, dict[str, dict[str, float]]] = {goal: {} for goal in GOALS}
    for goal, name, way in product(GOALS, names, ways):
        body = partial(_arm, ways[way], name, goal, seeds, runs_each)
        settings = {"goal": goal, "table": name, "seeds": seeds, "runs": runs_each}
        row = arms.finish(f"{goal}-{name}-{way.replace(' ', '-')}", settings, body)
        found[goal].setdefault(name, {})[way] = float(np.median(row["worth"]))
        say(f"{goal} {name} {way}: {found[goal][name][way]:.4f}")
    rivals = [way for way in ways if way not in OURS]
    ratios = {name: row["bayes"] / max(row[way] for way in rivals) for name, row in found["front"].items()}
    regrets = {name: row["bayes"] - min(row[way] for way in rivals) for name, row in found["bound"].items()}
    return Result(
        value=round(min(ratios.values()), 4),
        unit="hypervolume as a part of the better of Optuna's TPE and NSGA-II, the least of the tables",
        goal="at least 1.0x on every table, and a regret under the bound that is not above theirs",
        met=not quick and min(ratios.values()) >= 1.0 and max(regrets.values()) <= 0.0,
        peer={"name": "Optuna, the better sampler on each table", "value": 1.0},
        seeds=tuple(range(seeds)),
        detail={"medians": found, "hypervolume ratios": ratios, "regret above the peers'": regrets},
    )


def _arm(
    way: Callable[..., list[tuple[float, float]]], name: str, goal: str, seeds: int, runs_each: int, folder: Path
) -> dict[str, Any]:
    return {"worth": [worth(name, goal, way(name, goal, seed, runs_each)) for seed in range(seeds)]}


if __name__ == "__main__":
    run("tables", measure)

"""One run of a peer on a problem, in the peer's own environment: prints one JSON line with the regrets.

python _search_peer.py PEER PROBLEM SIZE SEED CHECKS...   (numpy and the peer alone are imported)
"""

from __future__ import annotations

import json
import logging
import math
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from _oracles import Choice, Track, track_of


def random(track: Track, seed: int) -> None:
    """Draw uniformly, on the full budget."""
    generator = np.random.default_rng([seed, 1])
    while not track.done:
        config: dict[str, Any] = {}
        for name, each in track.problem.space.items():
            if isinstance(each, Choice):
                config[name] = each.values[int(generator.integers(len(each.values)))]
            else:
                config[name] = each.low + float(generator.random()) * (each.high - each.low)
        track.evaluate(config, track.budgets[-1])


def space(track: Track, seed: int) -> Any:
    """Return the ConfigSpace of a problem."""
    import ConfigSpace

    found = ConfigSpace.ConfigurationSpace(seed=seed)
    for name, each in track.problem.space.items():
        if isinstance(each, Choice):
            found.add(ConfigSpace.CategoricalHyperparameter(name, list(each.values)))
        else:
            found.add(ConfigSpace.UniformFloatHyperparameter(name, each.low, each.high))
    return found


def hpbandster(track: Track, seed: int) -> None:
    """HpBandSter's own sampler under its brackets; its network layer hangs today and is left out."""
    from hpbandster.optimizers.config_generators.bohb import BOHB

    class Job:
        exception = None

    np.random.seed(seed)
    sampler, number, rungs = BOHB(space(track, seed)), 0, len(track.budgets)
    while not track.done:
        stop = rungs - 1 - number % rungs
        number += 1
        first = rungs // (stop + 1) * 3**stop
        kept: list[Any] = []
        for step in range(stop + 1):
            budget, count = track.budgets[rungs - 1 - stop + step], max(1, first // 3**step)
            losses = []
            for index in range(count):
                if step == 0:
                    kept.append(sampler.get_config(budget)[0])
                if track.done:
                    return
                loss = track.evaluate(kept[index], budget)
                job = Job()
                job.id, job.result = (number, 0, index), {"loss": loss}
                job.kwargs = {"config": kept[index], "budget": budget}
                sampler.new_result(job)
                losses.append(loss)
            kept = [kept[index] for index in np.argsort(losses)[: max(1, count // 3)]]


def dehb(track: Track, seed: int) -> None:
    """DEHB by ask and tell."""
    import dehb as package

    search = package.DEHB(
        f=None, cs=space(track, seed), min_fidelity=track.budgets[0], max_fidelity=track.budgets[-1], eta=3,
        n_workers=1, seed=seed, output_path=tempfile.mkdtemp(), log_level="ERROR",
    )  # fmt: skip
    while not track.done:
        job = search.ask()
        budget = min(track.budgets, key=lambda known: abs(known - job["fidelity"]))
        loss = track.evaluate(dict(job["config"]), budget)
        search.tell(job, {"fitness": loss, "cost": budget})


def optuna_tpe(track: Track, seed: int, *, halved: bool = False) -> None:
    """Optuna's default sampler; halved: with its HyperbandPruner, every report paid from scratch."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    ends = track.budgets[0], track.budgets[-1]
    pruner = optuna.pruners.HyperbandPruner(*ends, 3) if halved else optuna.pruners.NopPruner()
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed), pruner=pruner)

    def objective(trial: Any) -> float:
        config = {
            name: trial.suggest_categorical(name, list(each.values))
            if isinstance(each, Choice)
            else trial.suggest_float(name, each.low, each.high)
            for name, each in track.problem.space.items()
        }
        loss = math.inf
        for budget in track.budgets if halved else track.budgets[-1:]:
            loss = track.evaluate(config, budget)
            if track.done:
                study.stop()
                return loss
            trial.report(loss, budget)
            if halved and trial.should_prune():
                raise optuna.TrialPruned
        return loss

    study.optimize(objective)


def optuna_hyperband(track: Track, seed: int) -> None:
    """Optuna's sampler with its HyperbandPruner."""
    optuna_tpe(track, seed, halved=True)


def smac(track: Track, seed: int) -> None:
    """SMAC3's multi-fidelity facade by ask and tell; no benchmark has it yet, as pyrfr needs swig to be built."""
    from smac import MultiFidelityFacade, Scenario
    from smac.runhistory.dataclasses import TrialValue

    low, *_, high = track.budgets
    scenario = Scenario(
        space(track, seed), deterministic=True, min_budget=low, max_budget=high, n_trials=100_000, seed=seed,
        output_directory=tempfile.mkdtemp(),
    )  # fmt: skip
    intensifier = MultiFidelityFacade.get_intensifier(scenario, eta=3)
    facade = MultiFidelityFacade(
        scenario,
        lambda config, seed=0, budget=0: 0.0,
        intensifier=intensifier,
        overwrite=True,
        logging_level=False,
    )
    while not track.done:
        job = facade.ask()
        budget = min(track.budgets, key=lambda known: abs(known - job.budget))
        facade.tell(job, TrialValue(cost=track.evaluate(dict(job.config), budget)))


PEERS: dict[str, Callable[[Track, int], None]] = {
    each.__name__: each for each in (random, hpbandster, dehb, optuna_tpe, optuna_hyperband, smac)
}


def main() -> None:
    """Run one peer with one seed."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.CRITICAL)
    peer, name, size, seed, *checks = sys.argv[1:]
    track = track_of(name, size, int(seed), [float(check) for check in checks])
    began = time.perf_counter()
    PEERS[peer](track, int(seed))
    seconds = time.perf_counter() - began
    print(json.dumps({"regrets": track.regrets, "evaluations": track.evaluations, "took": seconds}))


if __name__ == "__main__":
    main()

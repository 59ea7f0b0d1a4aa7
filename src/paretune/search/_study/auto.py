"""`prior: auto`: what earlier studies in the same storage say of a parameter, fitted once, when a study begins.

Of each earlier study the best 15 % of its full runs count, two at least, where it had ten or more; of those the
values of a parameter of the same name and kind (number, whole number, linear or log, choice) that lie in its
range. A number's prior is normal in the parameter's own scale, with their mean and standard deviation, and a
tenth of the range at the least: earlier studies were of something else. Choices are weighted by how often each
was there, and once more. Where nothing can be learnt a parameter is uniform, which is told.

What was fitted is part of the space that is stored with the study; when it goes on, it is read, not fitted anew.
A hand-made prior is better where one is at hand: this one knows nothing of what has changed since.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np

from paretune.errors import InputError
from paretune.search._optuna import distribution_of, quiet
from paretune.search._space.parameters import Float, Int, Parameter
from paretune.search._space.priors import LogNormal, Normal
from paretune.search._space.space import Space
from paretune.search._study.opening import looked_at
from paretune.search._study.plain import parameters_from_json

TOP = 0.15
"""Share of a study's full runs that counts as good."""
RUNS, GOOD = 10, 2
"""Full runs that a study needs to count, and the least of them that count as good."""
NARROWEST = 0.1
"""Least standard deviation of a prior, as a part of the range in the parameter's own scale."""

Listen = Callable[[str, dict[str, Any]], None]


def settled(space: Space, storage: str | None, name: str, listen: Listen) -> Space:
    """Return a space whose `auto` priors are those that the stored study was begun with, or are fitted now.

    storage, name: of the study; other studies there are what is learnt from.
    listen: told of each that is fitted, as ("prior", {"parameter", "prior", "studies", "runs", "text"}); prior:
        the distribution or weights as text, None where there was nothing to learn from.
    """
    asked = [each for each in space.names if is_auto(space[each])]
    if not asked:
        return space
    begun, others = _stored(storage, name)
    found = dict(space.parameters)
    for each in asked:
        if each in begun and type(begun[each]) is type(space[each]) and not is_auto(begun[each]):
            found[each] = _with(space[each], _belief(begun[each]))
            continue
        values = [value for study in others for value in _values(study, each, space[each])]
        belief = None if len(values) < GOOD else _fitted(space[each], [value for _, value in values])
        found[each] = _with(space[each], belief)
        studies = len({study for study, _ in values})
        listen("prior", {
            "parameter": each, "prior": None if belief is None else repr(belief), "studies": studies,
            "runs": len(values), "text": _text(each, belief, storage, studies, len(values)),
        })  # fmt: skip
    return Space(found, forbid=space.forbid)


def is_auto(parameter: Parameter) -> bool:
    """Tell whether a parameter's prior, or its weights, are to be fitted."""
    return isinstance(_belief(parameter), str)


def _belief(parameter: Parameter) -> Any:
    return getattr(parameter, "prior" if isinstance(parameter, Float | Int) else "weights", None)


def _with(parameter: Any, belief: Any) -> Parameter:
    key = "prior" if isinstance(parameter, Float | Int) else "weights"
    found: Parameter = replace(parameter, **{key: belief})
    return found


@final
@dataclass(frozen=True)
class _Study:
    """The good runs of an earlier study."""

    name: str
    trials: tuple[Any, ...]


def _stored(storage: str | None, name: str) -> tuple[dict[str, Parameter], list[_Study]]:
    """Return the parameters that a study and its versions were begun with, and the studies beside it."""
    if storage is None:
        return {}, []
    import optuna

    begun: dict[str, Parameter] = {}
    others = []
    with quiet():
        opened = looked_at(storage)
        if opened is None:
            return {}, []
        for each in sorted(optuna.get_all_study_names(opened), key=_version):
            study = optuna.load_study(study_name=each, storage=opened)
            if re.fullmatch(rf"{re.escape(name)}(@\d+)?", each):
                if "space" in study.user_attrs:
                    begun |= parameters_from_json(study.user_attrs["space"])
            elif len(study.directions) == 1:
                others.append(_Study(each, _good(optuna, study)))
    return begun, others


def _version(name: str) -> tuple[str, int]:
    """Return what sorts names, and NAME@10 behind NAME@9."""
    stem, _, number = name.rpartition("@")
    return (stem, int(number)) if stem and number.isdigit() else (name, 0)


def _good(optuna: Any, study: Any) -> tuple[Any, ...]:
    """Return the best of a study's full runs, the best first."""
    trials = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(trials) < RUNS:
        return ()
    sign = 1 if study.direction == optuna.study.StudyDirection.MINIMIZE else -1
    ranked = sorted(trials, key=lambda trial: (sign * trial.value, trial.number))
    return tuple(ranked[: max(GOOD, math.ceil(TOP * len(trials)))])


def _values(study: _Study, name: str, parameter: Parameter) -> Iterator[tuple[str, Any]]:
    """Yield a study's name and the values in its good runs that a parameter can have, of one of the same kind."""
    own = distribution_of(parameter)
    for trial in study.trials:
        its = trial.distributions.get(name)
        if type(its) is not type(own) or getattr(its, "log", None) != getattr(own, "log", None):
            continue
        value = trial.params[name]
        if isinstance(parameter, Float | Int):
            if parameter.low <= value <= parameter.high:
                yield study.name, value
            continue
        try:
            parameter.encode(value)
        except InputError:
            continue
        yield study.name, value


def _fitted(parameter: Any, values: list[Any]) -> Any:
    """Return a prior for numbers, weights for choices."""
    if not isinstance(parameter, Float | Int):
        counts = np.ones(int(parameter.count))
        for value in values:
            counts[int(parameter.encode(value) * len(counts))] += 1
        return tuple((counts / counts.sum()).tolist())
    scaled, low, high = np.array(values, dtype=float), parameter.low, parameter.high
    if parameter.log:
        scaled, low, high = np.log(scaled), math.log(low), math.log(high)
    mean, std = float(scaled.mean()), max(float(scaled.std(ddof=1)), NARROWEST * (high - low))
    return LogNormal(math.exp(mean), std) if parameter.log else Normal(mean, std)


def _text(name: str, belief: Any, storage: str | None, studies: int, runs: int) -> str:
    if belief is not None:
        return f"{name}: the prior {belief} is fitted to {runs} good runs (earlier studies: {studies})"
    why = "there is no storage" if storage is None else f"no earlier study in {storage} tells anything of it"
    return f"{name}: warning: prior auto is uniform, as {why}"

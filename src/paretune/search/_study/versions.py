"""A study whose space was changed: a new one, NAME@2, in the same storage, with the old runs that lie inside.

The old study stays as it was. Runs that are taken over keep configuration, budget, values and times; they are
known to the sampler, and none of them is run again, but brackets begin anew and the budget of the search
counts new runs alone: a rung of which some runs lie outside of the space is no rung any more. What a
parameter is may not change (its kind, log against linear), since its old values would not mean the same to a
model; that a range, choices, priors, conditions or rules change is what versions are for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, final

from paretune.errors import InputError
from paretune.search._optuna import distribution_of, quiet, stored_value
from paretune.search._space.parameters import Constant
from paretune.search._space.space import Config, Space, key
from paretune.search._study.database import told
from paretune.search._study.opening import COPYING, name_metrics, versions_of
from paretune.search._study.plain import KINDS
from paretune.search._study.storage import OtherSpace, Store
from paretune.search._study.trial import LOST, TAKEN


def opened(
    storage: str | None,
    name: str,
    plan: dict[str, Any],
    space: Space,
    listen: Callable[[str, dict[str, Any]], None],
) -> Store:
    """Open a study's last version, begin it, or begin its next version where the space has changed.

    plan: what defines it. listen: is told of a new version as ("space", {"study", "of", "taken", "runs", "text"}).
    """
    try:
        return Store(storage, name, plan, resume=False)
    except OtherSpace as other:
        old = other.store
    check_kinds(old.study.user_attrs["space"], json.loads(json.dumps(plan["space"], default=repr)), old.name)
    with told(old.path, InputError), old.driven():  # one process makes the version, and none runs the old one
        following = f"{name}@{_number(old, name)}"
        taken, runs = _begin(old, following, name, space)
        old.write_plan(old.storage.get_study_id_from_name(following), plan)
    text = f"the space has changed: {taken} of {runs} runs of '{name}' lie in the new one and were taken over"
    fields = {"study": following, "of": old.name, "taken": taken, "runs": runs}
    listen("space", fields | {"text": f"{text}; this is study '{following}'"})
    return Store(storage, following, plan, resume=False)


def check_kinds(there: Mapping[str, Any], here: Mapping[str, Any], name: str) -> None:
    """Raise an InputError where a parameter of two spaces, as `space_to_json` writes them, is not of one kind."""
    for parameter, now in here["parameters"].items():
        before = there["parameters"].get(parameter)
        if before is None:
            continue
        kinds = [next(kind for kind in KINDS if kind in each) for each in (before, now)]
        scales = ["log" if each.get("log") else "linear" for each in (before, now)]
        for was, is_now in (kinds, scales):
            if was != is_now and "constant" not in kinds:
                raise InputError(
                    f"space: {parameter} is {was} in study '{name}' and {is_now} here, so that its runs cannot be "
                    "taken over; keep it as it was, or choose another name"
                )


def inside(space: Space, config: Config) -> Config | None:
    """Return a configuration as one of this space, with constants that it has not yet; None where it is none."""
    missing = {
        name: parameter.value
        for name, parameter in space.parameters.items()
        if isinstance(parameter, Constant) and name not in config
    }
    try:
        full = space.config(space.row(config))
        space.row(found := {name: {**missing, **config}[name] for name in full})
    except InputError:
        return None
    return found


@final
@dataclass(frozen=True)
class _Run:
    """A finished run of an earlier version, and what it is in the new space."""

    stored: Any
    config: Config


def _begin(old: Store, following: str, name: str, space: Space) -> tuple[int, int]:
    """Make a study with the runs of all versions that lie in a space; return how many do, and of how many."""
    import optuna

    # what another process began and did not end is no whole version yet, and ours
    with quiet():
        made = optuna.create_study(storage=old.storage, study_name=following, directions=old.study.directions)
    made.set_user_attr(COPYING, old.name)
    name_metrics(made, old.goals)
    identity = old.storage.get_study_id_from_name(following)
    numbers: dict[str, int] = {}
    seen: set[tuple[int, int, int]] = set()
    runs = list(_finished(old, name))
    for run in (_Run(stored, config) for stored in runs if (config := inside(space, stored.user_attrs["config"]))):
        number = numbers.setdefault(key(run.config), len(numbers))
        at = (number, run.stored.user_attrs["rung"], run.stored.user_attrs.get("repeat", 0))
        if at not in seen:
            seen.add(at)
            old.storage.create_new_trial(identity, template_trial=_template(optuna, run, number, space))
    return len(seen), len(runs)


def _finished(old: Store, name: str) -> Iterator[Any]:
    """Yield the finished runs of all whole versions as Optuna has them; what one took over is the other's."""
    for version in versions_of(old.storage, name).values():
        for trial in old.storage.get_all_trials(old.storage.get_study_id_from_name(version), deepcopy=False):
            outcome = trial.user_attrs.get("outcome")
            if outcome is None or not trial.state.is_finished() or trial.user_attrs["origin"] == TAKEN:
                continue
            if not outcome["error"].startswith(LOST):
                yield trial


def _template(optuna: Any, run: _Run, number: int, space: Space) -> Any:
    """Return a trial to be stored in the new version."""
    searched = [name for name in run.config if not isinstance(space[name], Constant)]
    own = {"config": run.config, "config_number": number, "origin": TAKEN}
    found = optuna.trial.create_trial(
        state=run.stored.state,
        values=run.stored.values,
        params={name: stored_value(run.config[name]) for name in searched},
        distributions={name: distribution_of(space[name]) for name in searched},
        user_attrs=run.stored.user_attrs | own,
        system_attrs=run.stored.system_attrs,
        intermediate_values=run.stored.intermediate_values,
    )
    found.datetime_start, found.datetime_complete = run.stored.datetime_start, run.stored.datetime_complete
    return found


def _number(old: Store, name: str) -> int:
    """Return the number of the next version, where there may be the leavings of one that was not ended."""
    following = max(versions_of(old.storage, name)) + 1
    names = {study.study_name: study for study in old.storage.get_all_studies()}
    while (there := names.get(f"{name}@{following}")) is not None:
        if COPYING in there.user_attrs or not old.storage.get_n_trials(there._study_id):
            old.storage.delete_study(there._study_id)
            break
        following += 1  # another's study
    return following

"""Where a study is kept: Optuna's storage, one trial for each run of a configuration on a budget.

A run's trial holds its parameters, and as attributes all that a search needs to go on. Below the largest budget
a finished run is reported at the step of its rung and PRUNED, which keeps its value; on the largest it is
COMPLETE: so that `best_trial`, importances and optuna-dashboard keep their meaning. Nothing else is stored:
schedules and models are made again from the trials.
"""

from __future__ import annotations

import json
import math
import secrets
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, final

from paretune.errors import InputError
from paretune.search._optuna import distribution_of, quiet, stored_value
from paretune.search._space.parameters import Constant
from paretune.search._space.space import Space
from paretune.search._study.database import path_at, told, writes
from paretune.search._study.driver import Driver, Seat
from paretune.search._study.goals import LOSS, goals_of
from paretune.search._study.guests import Desk
from paretune.search._study.opening import DEFINING, known, name_metrics, storage_of, versions_of
from paretune.search._study.rows import stored
from paretune.search._study.trial import LOST, Trial

ATTRIBUTES = ("config_number", "config", "budget", "rung", "bracket", "origin", "seen", "attempt")
"""What a trial says of its run from its begin on."""
RARE = ("repeat", "turn")
"""What it says where it is not 0."""
TOKEN = "token"
"""The attribute of what tells a study from others."""
MOMENT = 0.1
"""Seconds between two looks at a driver that is about to leave."""
SCHEMA = 1
"""Of the attributes; a study of a newer one is refused."""


class OtherSpace(InputError):
    """A study has another space."""

    def __init__(self, told: str, store: Store) -> None:
        super().__init__(told)
        self.store = store


@final
class Store:
    """The trials of one study."""

    def __init__(self, storage: str | None, name: str, plan: dict[str, Any], *, resume: bool) -> None:
        """Open a study or begin one. storage: an Optuna URL (sqlite:///study.db), None keeps it in memory.

        plan: what defines the study; a study of that name with another plan is an InputError.
        """
        import optuna

        self._optuna = optuna
        self.url, self._reads = storage, resume
        self.path = path_at(storage)
        self.seat: Seat | None = None
        """Where its driver sits; None in memory, which no other process sees."""
        self._ids: dict[int, int] = {}
        self.goals = goals_of(plan.get("objectives", LOSS), plan.get("constraints"))
        with quiet(), told(self.path, InputError):
            self.storage = known(storage, name) if resume else storage_of(storage)
            *_, name = versions_of(self.storage, name).values()
            study = optuna.create_study(
                storage=self.storage, study_name=name, load_if_exists=True, directions=self.goals.directions
            )
            self.study, self.name = study, name
            self._id = self.storage.get_study_id_from_name(name)
            if storage is not None:
                self.seat = Seat(self.storage, self._id, name)
            self._agree(plan, name)

    @contextmanager
    def driven(self, desk: Desk | None = None, *, strict: bool = False) -> Iterator[None]:
        """Drive the study in this process, which takes workers at a desk; an InputError where another one does."""
        door = ("", "") if desk is None else (desk.address, desk.key.hex())
        with ExitStack() as left:
            if self.seat is not None:
                with told(self.path, InputError):
                    left.enter_context(self.seat.taken(*door, strict=strict))
            yield

    def driver(self) -> Driver | None:
        """Return who drives the study, None where nobody does."""
        with told(self.path, InputError):
            found = None if self.seat is None else self.seat.look()
        return found if found is not None and found.alive else None

    def left(self, driver: Driver) -> bool:
        """Wait until a driver that has sent its workers home has left; return whether it did so by itself."""
        assert self.seat is not None
        while (now := self.driver()) is not None and now.token == driver.token:
            time.sleep(MOMENT)
        with told(self.path, InputError):
            record = self.seat.look()
        return record is None or record.token != driver.token

    def token(self) -> str:
        """Return what tells this study from all others, those of its name among them."""
        found = self.study.user_attrs.get(TOKEN)
        if found is None:
            found = secrets.token_hex(8)
            self.storage.set_study_user_attr(self._id, TOKEN, found)
        return str(found)

    def check_driver(self) -> None:
        """Raise a RunError where another process drives the study by now."""
        if self.seat is not None:
            self.seat.check()

    def _agree(self, plan: dict[str, Any], name: str) -> None:
        """Write the plan of a new study; raise an InputError where an old one has another."""
        wanted = json.loads(json.dumps(plan, default=repr))
        found = self.study.user_attrs
        if "paretune" not in found:
            if self._reads or self.study.get_trials(deepcopy=False):
                raise InputError(f"study '{name}' in {self.url} was not made by paretune; choose another name")
            name_metrics(self.study, self.goals)
            self.write_plan(self._id, plan)
            return
        if found["paretune"] > SCHEMA:
            raise InputError(
                f"study '{name}' was made by a newer paretune (schema {found['paretune']}); update this one"
            )
        for key in DEFINING:
            here, there = wanted.get(key), found.get(key)
            if here != there or (key == "objectives" and list(here or ()) != list(there or ())):  # in their order
                what = "objective" if key == "searched" else key
                told = (
                    f"study '{name}' in {self.url} has another {what}:\n  there {json.dumps(there)}\n"
                    f"  here  {json.dumps(here)}\nChoose another name, or give what it was begun with"
                )
                raise OtherSpace(told, self) if key == "space" else InputError(told)

    def write_plan(self, study: int, plan: dict[str, Any]) -> None:
        """Write what defines a study; its schema comes last, and says that the study is whole."""
        for key, value in (json.loads(json.dumps(plan, default=repr)) | {"paretune": SCHEMA}).items():
            self.storage.set_study_user_attr(study, key, value)

    @writes
    def begin(self, trial: Trial, space: Space) -> int:
        """Store that a run begins, and return its number."""
        template = self._optuna.trial.create_trial(
            state=self._optuna.trial.TrialState.RUNNING,
            params={n: stored_value(v) for n, v in trial.config.items() if not isinstance(space[n], Constant)},
            distributions={
                n: distribution_of(space[n]) for n in trial.config if not isinstance(space[n], Constant)
            },
            user_attrs={name: getattr(trial, name) for name in ATTRIBUTES}
            | {name: getattr(trial, name) for name in RARE if getattr(trial, name)},
        )
        identity = self.storage.create_new_trial(self._id, template_trial=template)
        number = int(self.storage.get_trial_number_from_id(identity))
        self._ids[number] = identity
        return number

    @writes
    def end(self, number: int, outcome: Any, rung: int, *, full: bool) -> None:
        """Store how a run ended."""
        states, identity = self._optuna.trial.TrialState, self._ids[number]
        attributes = {"seconds": outcome.seconds, "values": outcome.values, "error": outcome.error}
        attributes |= {"worker": outcome.worker} if outcome.worker else {}
        self.storage.set_trial_user_attr(identity, "outcome", attributes)
        if outcome.details:
            self.storage.set_trial_user_attr(identity, "traceback", outcome.details)
        if outcome.error:
            self.storage.set_trial_state_values(identity, states.FAIL)
            return
        values = self.goals.values(outcome)
        if not full and not self.goals.several:  # of several, Optuna takes no report
            self.storage.set_trial_intermediate_value(identity, rung, values[0])
        for key, value in _as_optuna(self._optuna, self.goals.excesses(outcome)).items():
            self.storage.set_trial_system_attr(identity, key, value)
        self.storage.set_trial_state_values(identity, states.COMPLETE if full else states.PRUNED, values)

    @writes
    def lose(self, number: int, why: str, seconds: float = 0.0) -> None:
        """Store that a run was lost with its process. seconds: how long it had run, where that is known."""
        states, identity = self._optuna.trial.TrialState, self._ids[number]
        attributes = {"seconds": seconds, "values": {}, "error": f"{LOST}: {why}"}
        self.storage.set_trial_user_attr(identity, "outcome", attributes)
        self.storage.set_trial_state_values(identity, states.FAIL)

    def read(self) -> list[Trial]:
        """Return all runs in the order of their numbers."""
        with told(self.path, InputError):
            rows = list(stored(self.path, self.storage, self._id))
        found = []
        for row in rows:
            self._ids[row.number] = row.identity
            attributes = row.attributes
            if not set(ATTRIBUTES) <= set(attributes):
                raise InputError(
                    f"study '{self.name}' in {self.url}: trial {row.number} was not made by paretune (by Optuna's "
                    "enqueue_trial?); nothing can be said of it, delete it there"
                )
            outcome = attributes.get("outcome", {"seconds": 0.0, "values": {}, "error": ""})
            own = {name: attributes[name] for name in ATTRIBUTES}
            own |= {name: attributes.get(name, 0) for name in RARE}
            loss = row.loss if row.loss in (None, math.inf) else self.goals.signed(row.loss)
            found.append(Trial(number=row.number, loss=loss, finished=row.finished, **own, **outcome))
        return found


def _as_optuna(optuna: Any, excesses: dict[str, float]) -> dict[str, Any]:
    """Return the attributes by which Optuna's samplers and `best_trials` know of constraints.

    They are its own affair; a trial that is not stored tells what they are.
    """
    if not excesses:
        return {}
    trial = optuna.trial.create_trial(value=0.0)
    for key, value in excesses.items():
        trial.set_constraint(key, value)
    found: dict[str, Any] = trial.system_attrs
    return found

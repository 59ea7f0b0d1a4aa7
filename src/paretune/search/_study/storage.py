"""Where a study is kept: Optuna's storage, one trial for each run of a configuration on a budget.

A run's trial holds its parameters, and as attributes all that a search needs to go on. Below the largest budget
a finished run is reported at the step of its rung and PRUNED, which keeps its value; on the largest it is
COMPLETE: so that `best_trial`, importances and optuna-dashboard keep their meaning. Nothing else is stored:
schedules and models are made again from the trials.

SQLite is opened in WAL mode with a busy timeout, so that readers (a dashboard) do not stop the one writer.
"""

from __future__ import annotations

import json
import math
import sqlite3
import time
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, final

from paretune.errors import InputError, nearest
from paretune.search._optuna import distribution_of, quiet
from paretune.search._schedule.ladder import Budget
from paretune.search._space.parameters import Constant
from paretune.search._space.space import Config, Space
from paretune.search._study.database import SQLITE, TIMEOUT, TURNS, check, path_of, reading, told, writes
from paretune.search._study.driver import Driver, Seat
from paretune.search._study.goals import LOSS, Goals, goals_of
from paretune.search._study.guests import Desk

LOST = "lost"
"""What the error of a run begins with whose process ended."""
KNOWN = 12
"""Optuna's schema, of which the tables are read here."""
ATTRIBUTES = ("config_number", "config", "budget", "rung", "bracket", "origin", "seen", "attempt")
"""What a trial says of its run from its begin on."""
DEFINING = ("method", "searched", "objectives", "constraints", "repeats", "space")
"""What of a study's plan must be the same when it goes on; the space may change, and is looked at last."""
TAKEN = "earlier"
"""The origin of a run that another version of the study made."""
COPYING = "copying"
"""The attribute of a version that is being made."""
RARE = ("repeat", "turn")
"""What it says where it is not 0."""
MOMENT = 0.1
"""Seconds between two looks at a driver that is about to leave."""
SCHEMA = 1
"""Of the attributes; a study of a newer one is refused."""


@final
@dataclass(frozen=True)
class Trial:
    """A run as it is stored."""

    number: int
    """Of the run, counted from 0."""
    config_number: int
    config: Config
    budget: Budget | None
    rung: int
    bracket: int
    origin: str
    seen: int
    """How many finished runs the suggestion was made from."""
    attempt: int
    loss: float | None
    """The first objective, the lower the better; None while it runs, infinity where it failed."""
    seconds: float
    values: dict[str, float]
    """What else it returned, `test` and the like among it."""
    error: str
    finished: datetime | None
    repeat: int = 0
    """Which one of several runs of the same configuration on the largest budget, counted from 0."""
    stderr: float | None = None
    """Standard error of the loss, where the run stands for the mean of several."""
    turn: int = 0
    """How many suggestions were set aside for it, for want of time."""
    worker: int = 0
    """Who ran it."""

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON; infinity is null."""
        loss = self.loss if self.loss is not None and math.isfinite(self.loss) else None
        found = {name: value for name, value in vars(self).items() if name != "finished"}
        state = "running" if self.loss is None else "failed" if self.error else "finished"
        return found | {"loss": loss, "state": state}


def best_of(trials: Iterable[Trial]) -> Trial | None:
    """Return the run of the least loss on the largest budget that any was finished on; None where none was."""
    finished = [(trial.loss, trial) for trial in trials if trial.loss is not None and not trial.error]
    top = max((trial.rung for _, trial in finished), default=0)
    ranked = sorted((loss, trial.number, trial) for loss, trial in finished if trial.rung == top)
    return ranked[0][2] if ranked else None


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
        self.path = path_of(storage) if isinstance(storage, str) and storage.startswith(SQLITE) else None
        self.seat: Seat | None = None
        """Where its driver sits; None in memory, which no other process sees."""
        self._ids: dict[int, int] = {}
        self.goals = goals_of(plan.get("objectives", LOSS), plan.get("constraints"))
        with quiet(), told(self.path, InputError):
            self.storage = _known(optuna, storage, name) if resume else _open(optuna, storage)
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
            params={n: v for n, v in trial.config.items() if not isinstance(space[n], Constant)},
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
            rows = list(self._stored())
        found = []
        for stored in rows:
            self._ids[stored.number] = stored.identity
            attributes = stored.attributes
            outcome = attributes.get("outcome", {"seconds": 0.0, "values": {}, "error": ""})
            own = {name: attributes[name] for name in ATTRIBUTES}
            own |= {name: attributes.get(name, 0) for name in RARE}
            loss = stored.loss if stored.loss in (None, math.inf) else self.goals.signed(stored.loss)
            found.append(Trial(number=stored.number, loss=loss, finished=stored.finished, **own, **outcome))
        return found

    def _stored(self) -> Iterator[_Stored]:
        """Yield what the storage holds: by SQL from a file whose schema is known, else through Optuna, slowly."""
        if self.url is not None and self.url.startswith(SQLITE):
            with closing(reading(path_of(self.url))) as connection:
                version = connection.execute("SELECT schema_version FROM version_info").fetchone()
                if version == (KNOWN,):
                    yield from _by_sql(connection, self._id)
                    return
        states = self._optuna.trial.TrialState
        for trial in self.storage.get_all_trials(self._id, deepcopy=False):
            loss: float | None = None
            if trial.state in (states.COMPLETE, states.PRUNED):
                loss = float(trial.values[0])
            elif trial.state == states.FAIL:
                loss = math.inf
            yield _Stored(trial.number, trial._trial_id, loss, trial.datetime_complete, trial.user_attrs)


@final
@dataclass(frozen=True)
class _Stored:
    """A trial as Optuna's storage has it."""

    number: int
    identity: int
    loss: float | None
    finished: datetime | None
    attributes: dict[str, Any]


def _by_sql(connection: sqlite3.Connection, study: int) -> Iterator[_Stored]:
    """Yield the trials of a study in the order of their numbers, in three queries."""
    attributes: dict[int, dict[str, Any]] = defaultdict(dict)
    rows = connection.execute(
        "SELECT a.trial_id, a.key, a.value_json FROM trial_user_attributes a JOIN trials t USING (trial_id) "
        "WHERE t.study_id = ? AND a.key != 'traceback'",
        (study,),
    )
    for identity, key, text in rows:
        attributes[identity][key] = json.loads(text)
    losses = dict(
        connection.execute(
            "SELECT v.trial_id, v.value FROM trial_values v JOIN trials t USING (trial_id) WHERE t.study_id = ? "
            "AND v.objective = 0",
            (study,),
        ).fetchall()
    )
    trials = connection.execute(
        "SELECT trial_id, number, state, datetime_complete FROM trials WHERE study_id = ? ORDER BY number",
        (study,),
    )
    for identity, number, state, finished in trials:
        loss = losses[identity] if state in ("COMPLETE", "PRUNED") else math.inf if state == "FAIL" else None
        ended = None if finished is None else datetime.fromisoformat(finished)
        yield _Stored(number, identity, loss, ended, attributes[identity])


def storage_of(url: str) -> Any:
    """Return Optuna's storage of an URL, made if there is none; one that cannot be used is an InputError."""
    import optuna

    return _open(optuna, url)


def name_metrics(study: Any, goals: Goals) -> None:
    """Tell Optuna's tools what the values of a study's trials are, where they are not the loss alone."""
    import optuna

    if not goals.plain:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([objective for objective, _ in goals.objectives])


def plan_of(storage: str, name: str) -> dict[str, Any]:
    """Return what a stored study was begun with: space, method, seed, and its goals where they are not the loss
    alone; a study that is not there is an InputError."""
    import optuna

    with quiet():
        opened = _known(optuna, storage, name)
        *_, name = versions_of(opened, name).values()
        attributes = optuna.load_study(study_name=name, storage=opened).user_attrs
    if "paretune" not in attributes:
        raise InputError(f"study '{name}' in {storage} was not made by paretune")
    return {key: attributes[key] for key in (*DEFINING, "seed") if key in attributes}


def versions_of(storage: Any, name: str) -> dict[int, str]:
    """Return the names of a study's versions by their numbers: {1: "digits", 2: "digits@2"}; 1 is always there."""
    found = {1: name}
    for study in storage.get_all_studies():
        before, _, number = study.study_name.rpartition("@")
        if before == name and number.isdecimal() and "paretune" in study.user_attrs:
            found[int(number)] = study.study_name
    return dict(sorted(found.items()))


def _known(optuna: Any, url: str | None, name: str) -> Any:
    """Return a storage that has a study of that name; where there is none, no file is made."""
    if isinstance(url, str) and url.startswith(SQLITE) and not path_of(url).exists():
        raise InputError(f"there is no study '{name}' yet: {path_of(url)} does not exist")
    opened = _open(optuna, url)
    names = set(optuna.get_all_study_names(opened))
    if name not in names:
        raise InputError(f"no study '{name}' in {url}.{nearest(name, names)} There are {sorted(names) or 'none'}")
    return opened


def _open(optuna: Any, url: str | None) -> Any:
    if url is None:
        return optuna.storages.InMemoryStorage()
    if not isinstance(url, str) or "://" not in url:
        raise InputError(f"storage={url!r} must be a URL as sqlite:///study.db")
    import sqlalchemy

    how: dict[str, Any] = {}
    if url.startswith(SQLITE):
        path = path_of(url)
        check(path)
        with told(path, InputError), closing(sqlite3.connect(path, timeout=TIMEOUT)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        how = {"connect_args": {"timeout": TIMEOUT / TURNS, "factory": _Relaxed}}
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=how)
    except (RuntimeError, ImportError, sqlalchemy.exc.ArgumentError) as error:  # its schema, its driver, its name
        raise InputError(f"storage: {url} cannot be used, and was left as it is. {error}") from error


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


class _Relaxed(sqlite3.Connection):
    """In WAL mode a commit needs no fsync to survive the end of the process, only to survive a power cut."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA synchronous=NORMAL").close()

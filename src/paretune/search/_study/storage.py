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
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, final

from paretune.errors import InputError, nearest
from paretune.search._optuna import distribution_of
from paretune.search._schedule.ladder import Budget
from paretune.search._space.parameters import Constant
from paretune.search._space.space import Config, Space

TIMEOUT = 60.0
"""Seconds that a write waits for another one."""
SQLITE = "sqlite:///"
LOST = "lost"
"""What the error of a run begins with whose process ended."""
KNOWN = 12
"""Optuna's schema, of which the tables are read here."""
ATTRIBUTES = ("config_number", "config", "budget", "rung", "bracket", "origin", "seen", "attempt")
"""What a trial says of its run from its begin on."""
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
    """None while it runs, infinity where it failed."""
    seconds: float
    values: dict[str, float]
    error: str
    finished: datetime | None

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


class Store:
    """The trials of one study."""

    def __init__(self, storage: str | None, name: str, plan: dict[str, Any], *, resume: bool) -> None:
        """Open a study or begin one. storage: an Optuna URL (sqlite:///study.db), None keeps it in memory.

        plan: what defines the study; a study of that name with another plan is an InputError.
        """
        import optuna

        self._optuna = optuna
        self.url = storage
        with _quiet(optuna):
            self.storage = _known(optuna, storage, name) if resume else _open(optuna, storage)
            study = optuna.create_study(
                storage=self.storage, study_name=name, load_if_exists=True, direction="minimize"
            )
        self.study = study
        self._id = self.storage.get_study_id_from_name(name)
        self._agree(plan, name)
        self._ids: dict[int, int] = {}

    def _agree(self, plan: dict[str, Any], name: str) -> None:
        """Write the plan of a new study; raise an InputError where an old one has another."""
        wanted = {"paretune": SCHEMA} | json.loads(json.dumps(plan, default=repr))
        found = self.study.user_attrs
        if "paretune" not in found:
            if self.study.get_trials(deepcopy=False):
                raise InputError(f"study '{name}' in {self.url} was not made by paretune; choose another name")
            for key, value in wanted.items():
                self.study.set_user_attr(key, value)
            return
        if found["paretune"] > SCHEMA:
            raise InputError(
                f"study '{name}' was made by a newer paretune (schema {found['paretune']}); update this one"
            )
        for key in ("space", "method"):
            if found.get(key) != wanted.get(key):
                raise InputError(
                    f"study '{name}' in {self.url} has another {key}:\n  there {json.dumps(found.get(key))}\n"
                    f"  here  {json.dumps(wanted.get(key))}\nChoose another name, or give what it was begun with"
                )

    def begin(self, trial: Trial, space: Space) -> int:
        """Store that a run begins, and return its number."""
        template = self._optuna.trial.create_trial(
            state=self._optuna.trial.TrialState.RUNNING,
            params={n: v for n, v in trial.config.items() if not isinstance(space[n], Constant)},
            distributions={
                n: distribution_of(space[n]) for n in trial.config if not isinstance(space[n], Constant)
            },
            user_attrs={name: getattr(trial, name) for name in ATTRIBUTES},
        )
        identity = self.storage.create_new_trial(self._id, template_trial=template)
        number = int(self.storage.get_trial_number_from_id(identity))
        self._ids[number] = identity
        return number

    def end(self, number: int, outcome: Any, rung: int, *, full: bool) -> None:
        """Store how a run ended."""
        states, identity = self._optuna.trial.TrialState, self._ids[number]
        attributes = {"seconds": outcome.seconds, "values": outcome.values, "error": outcome.error}
        self.storage.set_trial_user_attr(identity, "outcome", attributes)
        if outcome.details:
            self.storage.set_trial_user_attr(identity, "traceback", outcome.details)
        if outcome.error:
            self.storage.set_trial_state_values(identity, states.FAIL)
            return
        if not full:
            self.storage.set_trial_intermediate_value(identity, rung, outcome.loss)
        self.storage.set_trial_state_values(identity, states.COMPLETE if full else states.PRUNED, [outcome.loss])

    def lose(self, number: int, why: str) -> None:
        """Store that a run was lost with its process."""
        states, identity = self._optuna.trial.TrialState, self._ids[number]
        attributes = {"seconds": 0.0, "values": {}, "error": f"{LOST}: {why}"}
        self.storage.set_trial_user_attr(identity, "outcome", attributes)
        self.storage.set_trial_state_values(identity, states.FAIL)

    def read(self) -> list[Trial]:
        """Return all runs in the order of their numbers."""
        found = []
        for stored in self._stored():
            self._ids[stored.number] = stored.identity
            attributes = stored.attributes
            outcome = attributes.get("outcome", {"seconds": 0.0, "values": {}, "error": ""})
            own = {name: attributes[name] for name in ATTRIBUTES}
            found.append(Trial(number=stored.number, loss=stored.loss, finished=stored.finished, **own, **outcome))
        return found

    def _stored(self) -> Iterator[_Stored]:
        """Yield what the storage holds: by SQL from a file whose schema is known, else through Optuna, slowly."""
        if self.url is not None and self.url.startswith(SQLITE):
            with closing(sqlite3.connect(_path(self.url), timeout=TIMEOUT)) as connection:
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
            "SELECT v.trial_id, v.value FROM trial_values v JOIN trials t USING (trial_id) WHERE t.study_id = ?",
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


def plan_of(storage: str, name: str) -> dict[str, Any]:
    """Return what a stored study was begun with: space, method, seed; one that is not there is an InputError."""
    import optuna

    with _quiet(optuna):
        opened = _known(optuna, storage, name)
        attributes = optuna.load_study(study_name=name, storage=opened).user_attrs
    if "paretune" not in attributes:
        raise InputError(f"study '{name}' in {storage} was not made by paretune")
    return {key: attributes[key] for key in ("space", "method", "seed")}


def _known(optuna: Any, url: str | None, name: str) -> Any:
    """Return a storage that has a study of that name; where there is none, no file is made."""
    if isinstance(url, str) and url.startswith(SQLITE) and not _path(url).exists():
        raise InputError(f"there is no study '{name}' yet: {_path(url)} does not exist")
    opened = _open(optuna, url)
    names = set(optuna.get_all_study_names(opened))
    if name not in names:
        raise InputError(f"no study '{name}' in {url}.{nearest(name, names)} There are {sorted(names) or 'none'}")
    return opened


def _path(url: str) -> Path:
    return Path(url.removeprefix(SQLITE))


def _open(optuna: Any, url: str | None) -> Any:
    if url is None:
        return optuna.storages.InMemoryStorage()
    if not isinstance(url, str) or "://" not in url:
        raise InputError(f"storage={url!r} must be a URL as sqlite:///study.db")
    if not url.startswith(SQLITE):
        return optuna.storages.RDBStorage(url)
    path = _path(url)
    if not path.parent.is_dir():
        raise InputError(f"storage: there is no folder '{path.parent}' for {path.name}")
    try:
        with sqlite3.connect(path, timeout=TIMEOUT) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        connection.close()
        storage = optuna.storages.RDBStorage(
            url, engine_kwargs={"connect_args": {"timeout": TIMEOUT, "factory": _Relaxed}}
        )
    except sqlite3.DatabaseError as error:
        raise InputError(
            f"storage: {path} is no SQLite database that can be used ({error}); it was left as it is"
        ) from error
    return storage


class _Relaxed(sqlite3.Connection):
    """In WAL mode a commit needs no fsync to survive the end of the process, only to survive a power cut."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.execute("PRAGMA synchronous=NORMAL").close()


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Keep Optuna's log to warnings."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)

"""The search: ask the schedule what to run, the sampler for new configurations, run, store, tell, until a limit.

All that is known of a study lies in its storage. A study that is opened again takes in its trials: finished runs
are told to the schedule and the sampler as if they had ended now, and those that were under way are done again,
twice at most.
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import final

from paretune.errors import InputError, RunError
from paretune.search._cost import ENOUGH, cost_of
from paretune.search._ranking import Score
from paretune.search._results import Array, Growing
from paretune.search._schedule.ladder import share_of
from paretune.search._schedule.schedules import Job, NothingFits, Past
from paretune.search._space.space import Space
from paretune.search._study.checkpoints import folder_of
from paretune.search._study.deadline import (
    OUTSIDE,
    Choice,
    Deadline,
    Finals,
    deadline_of,
    left_of,
    nothing_fits,
    probable,
)  # fmt: skip
from paretune.search._study.events import Events, begin
from paretune.search._study.executors import Executor, InProcess, Lost
from paretune.search._study.executors import Job as Work
from paretune.search._study.front import found_by
from paretune.search._study.goals import hidden
from paretune.search._study.interrupt import noted
from paretune.search._study.limits import Limits
from paretune.search._study.objective import Outcome
from paretune.search._study.plan import Marks, plan, rest, seconds_of, too_small
from paretune.search._study.repeats import Repeats, seed_of
from paretune.search._study.result import Result
from paretune.search._study.storage import Store
from paretune.search._study.suggestions import Suggested, Suggestions
from paretune.search._study.trial import LOST, TAKEN, Trial
from paretune.search.samplers._base import Exhausted, Sampler, Suggestion

DRIVER = "the study's process ended"
INTERRUPTED = "interrupted"
ATTEMPTS = 3
"""A run that is lost is begun so many times in all."""
FIRST_FAILURES = 5
"""So many failures and nothing else at the beginning stop a study, and so does more than half of all runs."""


def place_of(trial: Trial) -> tuple[int, int, int]:
    """Return configuration, rung and repeat of a run: what its later attempts share."""
    return trial.config_number, trial.rung, trial.repeat


@final
class Search:
    """A study under way: this process decides and writes, an executor runs."""

    def __init__(
        self,
        executor: Executor,
        space: Space,
        sampler: Sampler,
        limits: Limits,
        store: Store,
        seed: int,
        folder: Path | None,
        listen: Events,
        repeats: int = 1,
    ) -> None:
        self.executor, self.space, self.sampler, self.limits = executor, space, sampler, limits
        self.store, self.seed, self.folder, self.listen = store, seed, folder, listen
        self.budgets, self.goals = sampler.budgets, store.goals
        self.repeats = Repeats(repeats, len(self.budgets) - 1)
        self.schedule = sampler.schedule(executor.slots)
        self.results = Growing(len(space), len(self.goals.objectives) if self.goals.by_points else 0)
        self.trials: dict[int, Trial] = {}
        self.configs = Suggestions(space, sampler, seed)
        self.again: list[Trial] = []
        """Runs that were lost, to be begun anew."""
        self.more: list[Trial] = []
        """Repeats that are due."""
        self.spent: tuple[int, float, float] = (0, 0.0, 0.0)
        """Runs, full-run equivalents and seconds of work, of all processes of the study."""
        self.running: dict[int, Job] = {}
        """What is under way, by the number of the run."""
        self.ended, self.failed = 0, 0
        """Runs that ended, and those of them that failed."""
        self.exhausted = ""
        """Why there are no more configurations; empty while there are."""
        self.finals = Finals(len(self.budgets) - 1)
        self.marks = Marks()
        self.since: dict[int, float] = {}
        """When each run began."""
        self.began = executor.clock()
        self._restore()
        self.before = self.ended, self.failed
        """Those of earlier processes: an objective may have been mended since."""

    def run(self) -> Result:
        """Run until a limit is reached or there is nothing left to try.

        Interrupted once, what runs is waited for and nothing more is begun; twice, it is stopped and will be run
        again when the study goes on.
        """
        ended: str | None = None
        self.listen("begin", begin(self))
        self._check()
        with ExitStack() as left:
            left.callback(self.executor.stop)
            interrupted = left.enter_context(noted(not isinstance(self.executor, InProcess)))
            while True:
                try:
                    if interrupted():
                        ended = INTERRUPTED
                    if ended != INTERRUPTED:
                        ended = self._fill()
                    if not self.running:
                        break
                    for number, outcome in self.executor.wait():
                        self._end(number, outcome)
                    self._stop_where_all_fails()
                except KeyboardInterrupt:
                    if ended == INTERRUPTED or interrupted() or isinstance(self.executor, InProcess):
                        raise
                    ended = INTERRUPTED
        assert ended is not None
        trials = tuple(self.trials[number] for number in sorted(self.trials))
        found = found_by(trials, self.goals, self.repeats.count, self.repeats.top)
        return Result(found.best, trials, ended, found, self.listen.told)

    def _fill(self) -> str | None:
        """Begin runs while there are free slots; return what ends the study, or None."""
        while len(self.running) < self.executor.slots:
            ended, deadline = self._ended(), self._deadline()
            lost = self._lost(deadline)
            if ended is not None and (lost is None or not ended.startswith(("trials", "runs"))):
                return ended  # what was lost is counted already, and done again
            try:
                trial, job = self._next(deadline, lost)
            except Exhausted as error:
                self.exhausted = str(error)
                self.schedule.close()
                continue
            except NothingFits:
                if self.running:
                    return None
                if self.exhausted and not self.again:
                    return self.exhausted
                assert deadline is not None
                return nothing_fits(deadline.left)
            self.running[trial.number], self.since[trial.number] = job, self.executor.clock()
            self.listen("start", trial.to_json())
            self._plan(job)
            self.executor.start(self._job(trial))
        return None

    def _plan(self, job: Job) -> None:
        """Tell what still fits, where it is time to."""
        if not self.listen.heard or not self.marks.due(job, len(self.configs), self.ended - self.failed >= ENOUGH):
            return
        trials, runs, work = self.spent
        left = rest(self.limits, trials=trials, runs=runs, wall=self.executor.clock() - self.began, work=work)
        told = plan(self.sampler, left, self.executor.slots, self._seconds(), self.repeats.count)
        self.listen("plan", told | {"bracket": job.bracket, "finished": self.ended})

    def _check(self) -> None:
        """Raise an InputError where the limits are smaller than one run, as far as that is known."""
        problem = too_small(replace(self.limits, work=None), self.budgets, self._seconds())
        if problem and self._ended() is None:
            raise InputError(problem)

    def _seconds(self) -> list[float] | None:
        """Return what a run on each budget takes; None where that is not known yet."""
        results = self.results.results()
        return seconds_of(cost_of(self.space, results, self.budgets), results.rows, self.budgets)

    def _ended(self) -> str | None:
        trials, runs, work = self.spent
        return self.limits.reached(trials=trials, runs=runs, wall=self.executor.clock() - self.began, work=work)

    def _pay(self, trial: Trial) -> None:
        """Count a run that begins; a lost one is counted once."""
        trials, runs, work = self.spent
        if trial.attempt == 1:
            self.spent = (trials + 1, runs + share_of(trial.budget, self.budgets[-1]), work)

    def _deadline(self) -> Deadline | None:
        """Return what fits into the time that is left; None where all does."""
        if self.limits.wall is None and self.limits.work is None:
            return None
        cost = cost_of(self.space, self.results.results(), self.budgets)
        if cost is None:
            return None
        now, running = self.executor.clock(), []
        for number in self.running:
            trial = self.trials[number]
            running.append(
                (probable(cost, self._row(trial.config_number), trial.budget), now - self.since[number])
            )
        idle = self.executor.slots - len(running) - 1
        left = left_of(self.limits, wall=now - self.began, work=self.spent[2], running=running, idle=idle)
        due = self.finals.due()
        row = None if due is None else self._row(due)
        return deadline_of(cost, self.budgets, left, row, whole=self.finals.whole)

    def _row(self, number: int) -> Array:
        return self.configs[number].row

    def _choose(self, deadline: Deadline | None) -> tuple[Job, Suggestion | None, int]:
        """Return the schedule's next job that fits, its configuration if that is new, and which turn it had.

        Where nothing else leaves time for the full run that is due, that one.
        """
        fits = Choice(deadline, self._row, self._suggest)
        due = self.finals.due()
        while True:
            try:
                job = self.schedule.next(fits)
            except NothingFits:
                if deadline is None or due is None or not deadline.final:
                    raise
                return Job(self.finals.top, OUTSIDE, due), None, 0
            if not self.finals.stand_for(job, self.schedule):
                return job, fits.chosen if job.config is None else None, fits.turn if job.config is None else 0

    def _lost(self, deadline: Deadline | None) -> Trial | None:
        """Return the first of the runs that were lost which there is time for."""
        return next((trial for trial in self.again if self._fits(trial, deadline)), None)

    def _fits(self, trial: Trial, deadline: Deadline | None) -> bool:
        return deadline is None or deadline.fits(self._row(trial.config_number), trial.rung)

    def _next(self, deadline: Deadline | None, lost: Trial | None) -> tuple[Trial, Job]:
        """Store that the next run begins, and return it."""
        if self.more and not self._fits(self.more[0], deadline):
            self.more.clear()  # there will not be time later
        if lost is not None:
            self.again.remove(lost)
            job = Job(lost.rung, lost.bracket)
            trial = replace(lost, attempt=lost.attempt + 1, loss=None, seconds=0.0, error="", finished=None)
        elif self.more:
            trial = self.more.pop(0)
            job = Job(trial.rung, trial.bracket, trial.config_number)
        else:
            job, offer, turn = self._choose(deadline)
            number = len(self.configs) if job.config is None else job.config
            if job.config is None:
                found = self._new(job) if offer is None else offer
                row = self.space.row(found.config)  # as it is read again after a crash
                self.configs.add(Suggested(row, found.config, found.origin, len(self.results)))
            made = self.configs[number]
            trial = Trial(
                number=-1, config_number=number, config=made.config, budget=self.budgets[job.rung], rung=job.rung,
                bracket=job.bracket, origin=made.origin if job.config is None else "promoted", seen=made.seen,
                attempt=1, loss=None, seconds=0.0, values={}, error="", finished=None, turn=turn,
            )  # fmt: skip
            self.more = self.repeats.others(trial)
        trial = replace(trial, number=self.store.begin(trial, self.space))
        self._pay(trial)
        self.finals.begin(trial.config_number, trial.rung, job.bracket)
        self.trials[trial.number] = trial
        return trial, job

    def _suggest(self, turn: int = 0) -> Suggestion:
        """Return the configuration that comes next. turn: another one."""
        running = [self.trials[number].config_number for number in self.running]
        return self.configs.next(self.results, running, turn)

    def _new(self, job: Job) -> Suggestion:
        """Return the configuration of a job; where there is none, the schedule does not wait for it."""
        try:
            return self._suggest()
        except Exhausted:
            self.schedule.close(job)
            raise

    def _job(self, trial: Trial) -> Work:
        place = None
        if self.folder is not None:
            place = self.folder / folder_of(trial.config_number, trial.repeat)
            place.mkdir(parents=True, exist_ok=True)
        seed = seed_of(self.seed, trial.config_number, trial.repeat)
        return Work(trial.number, trial.config, trial.budget, seed, place)

    def _end(self, number: int, outcome: Outcome | Lost) -> None:
        """Store how a run ended, and tell the schedule; one that was lost is to be done again."""
        trial, job = self.trials[number], self.running.pop(number)
        if isinstance(outcome, Lost):
            if trial.attempt < ATTEMPTS:
                self.store.lose(number, outcome.why, outcome.seconds)
                self.again.append(trial)
                why = f"{LOST}: {outcome.why}"
                lost = replace(trial, loss=math.inf, seconds=outcome.seconds, error=why, finished=datetime.now())
                self.trials[number] = lost
                self._work(lost)
                self.listen("run", self.trials[number].to_json())
                return
            outcome = Outcome(math.inf, outcome.seconds, error=f"{outcome.why}, {ATTEMPTS} times")
        outcome = self.goals.judge(outcome)
        self.store.end(number, outcome, trial.rung, full=trial.rung == len(self.budgets) - 1)
        ended = replace(
            trial, loss=outcome.loss, seconds=outcome.seconds, values=outcome.values, error=outcome.error,
            finished=datetime.now(), worker=outcome.worker,
        )  # fmt: skip
        whole = self._take(ended)
        if outcome.error:
            self.more = [other for other in self.more if other.config_number != ended.config_number]
        twin = self.finals.twins.pop(trial.config_number, None) if whole and job.bracket == OUTSIDE else job
        if whole is not None and twin is not None:
            self.schedule.tell(twin, trial.config_number, self.goals.score(whole))
        told = {"values": hidden(ended.values)} | self.goals.told(ended)
        self.listen("run", ended.to_json() | told | self.listen.once(outcome.error, outcome.details))

    def _work(self, trial: Trial) -> None:
        """Count the seconds of a run that ended."""
        trials, runs, work = self.spent
        self.spent = (trials, runs, work + trial.seconds)

    def _take(self, trial: Trial) -> Trial | None:
        """Take in a finished run, and return what stands for its configuration; None while it has more repeats."""
        assert trial.loss is not None
        if trial.origin != TAKEN:
            self._work(trial)
            self.failed += bool(trial.error)
            self.ended += 1
        self.trials[trial.number] = trial
        if (whole := self.repeats.take(trial)) is not None:
            row, score = self._row(whole.config_number), self.goals.score(whole)
            self.results.add(row, score, whole.rung, trial.seconds, trial.worker)
            self.finals.end(whole.config_number, whole.rung, whole.bracket, score)
        return whole

    def _restore(self) -> None:
        """Take in what the storage holds."""
        stored = self.store.read()
        last: dict[tuple[int, int, int], Trial] = {}
        for trial in stored:
            self.trials[trial.number] = trial
            if trial.origin != TAKEN:
                self._pay(trial)
                if trial.error.startswith(LOST):
                    self._work(trial)
            if trial.config_number == len(self.configs):
                row = self.space.row(trial.config)
                self.configs.add(Suggested(row, trial.config, trial.origin, trial.seen))
            last[place_of(trial)] = trial  # a later attempt stands for an earlier one
        for trial in list(last.values()):
            under_way = trial.loss is None
            if under_way:
                self.store.lose(trial.number, DRIVER)
                why = f"{LOST}: {DRIVER}"
                self.trials[trial.number] = replace(trial, loss=math.inf, error=why, finished=datetime.now())
            if not under_way and not trial.error.startswith(LOST):
                continue
            if trial.attempt >= ATTEMPTS:
                last[place_of(trial)] = self.trials[trial.number]
            else:  # lost before, too: the process ended when that was stored, and the next attempt was not
                self.again.append(trial)
                last[place_of(trial)] = replace(trial, loss=None)
        for trial in last.values():
            self.finals.begin(trial.config_number, trial.rung, trial.bracket)
        finished = [trial for trial in last.values() if trial.loss is not None]
        scores: dict[tuple[int, int], Score] = {}
        for trial in sorted(finished, key=lambda trial: (trial.finished is None, trial.finished, trial.number)):
            if (whole := self._take(trial)) is not None:
                scores[whole.config_number, whole.rung] = self.goals.score(whole)
        self.schedule.restore(
            Past(trial.config_number, trial.rung, trial.bracket, scores.get((trial.config_number, trial.rung)))
            for trial in last.values()
            if trial.repeat == 0 and trial.origin != TAKEN and trial.bracket != OUTSIDE
        )
        self.more = self.repeats.missing(trial for trial in last.values() if trial.origin != TAKEN)

    def _stop_where_all_fails(self) -> None:
        ended, failures = self.ended - self.before[0], self.failed - self.before[1]
        if failures < FIRST_FAILURES or (failures < ended and failures <= ended / 2):
            return
        failed = [trial for trial in self.trials.values() if trial.error and not trial.error.startswith(LOST)]
        if not failed:
            return
        (reason, count), *_ = Counter(trial.error for trial in failed).most_common(1)
        example = next(trial for trial in failed if trial.error == reason)
        raise RunError(
            f"{failures} of {ended} runs failed, and the search was stopped. The commonest reason, "
            f"{count} times: {reason} (run {example.number}, {example.config!r})"
            + (". What was finished is kept" if self.store.url is not None else "")
        )

"""Schedules as state machines: random completions, failures and crashes, and every rule of the rungs holds."""

from __future__ import annotations

import math
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.search._schedule.ladder import brackets
from paretune.search._schedule.schedules import Flat, Halving, Hyperband, Job, NothingFits, Past
from paretune.search.samplers import Bohb

MAKE = {
    "hyperband": lambda: Hyperband(3, 3),
    "halving": lambda: Halving(3, 3),
    "wary hyperband": lambda: Hyperband(3, 3, trusting=False),
    "wary halving": lambda: Halving(3, 3, trusting=False),
}


class Driver:
    """A study without storage: begins jobs, ends them, and dies."""

    def __init__(self, make):
        self.make, self.schedule = make, make()
        self.running, self.done, self.configs = [], [], 0

    def begin(self):
        job = self.schedule.next()
        config = self.configs if job.config is None else job.config
        self.configs += job.config is None
        self.running.append((job, config))
        return job, config

    def end(self, index, loss):
        job, config = self.running.pop(index)
        self.schedule.tell(job, config, loss)
        self.done.append((job, config, loss))

    def crash(self):
        """Restore from what is known: finished runs with their loss, those under way without one."""
        self.schedule = self.make()
        runs = [(job, config, loss) for job, config, loss in self.done]
        runs += [(job, config, None) for job, config in self.running]
        self.schedule.restore(Past(config, job.rung, job.bracket, loss) for job, config, loss in runs)


@st.composite
def events(draw):
    return [
        (
            draw(st.sampled_from(["begin", "begin", "end", "end", "crash"])),
            draw(st.integers(0, 99)),
            draw(st.floats(0, 1)),
        )
        for _ in range(draw(st.integers(1, 120)))
    ]


def run(make, given_events):
    driver = Driver(make)
    for kind, index, loss in given_events:
        if kind == "begin" and len(driver.running) < 6:
            driver.begin()
        elif kind == "end" and driver.running:
            driver.end(index % len(driver.running), math.inf if index % 11 == 0 else round(loss, 2))
        elif kind == "crash":
            driver.crash()
    return driver


@settings(deadline=None, max_examples=80)
@given(events(), st.integers(2, 4), st.integers(2, 3))
def test_hyperband_holds_its_rules_whatever_happens(given_events, rungs, eta):
    driver = run(lambda: Hyperband(rungs, eta), given_events)
    plan, every = brackets(rungs, eta), [*driver.done, *((job, config, None) for job, config in driver.running)]
    by_step = defaultdict(list)
    for job, config, loss in every:
        by_step[job.bracket, job.rung].append((config, loss))
    for (number, rung), runs in by_step.items():
        bracket = plan[number % len(plan)]
        step = bracket.rungs.index(rung)
        assert len(runs) <= bracket.sizes[step] and len({config for config, _ in runs}) == len(runs)
        if step:  # the rung below is full, and none that stayed there was better than one that went on
            below = by_step[number, rung - 1]
            assert len(below) == bracket.sizes[step - 1] and all(loss is not None for _, loss in below)
            best = sorted((loss, config) for config, loss in below)[: bracket.sizes[step]]
            assert {config for config, _ in runs} <= {config for _, config in best}


@settings(deadline=None, max_examples=80)
@given(events(), st.integers(2, 4), st.integers(2, 3), st.sampled_from([None, 1]))
def test_halving_holds_its_rules_whatever_happens(given_events, rungs, eta, most):
    driver = run(lambda: Halving(rungs, eta, most=most), given_events)
    every = [*driver.done, *((job, config, None) for job, config in driver.running)]
    seen = defaultdict(list)
    for job, config, loss in every:
        seen[config].append((job.rung, loss))
    for runs in seen.values():  # each rung once, and one after the other
        rungs_of = sorted(rung for rung, _ in runs)
        assert rungs_of == list(range(rungs_of[0], rungs_of[0] + len(runs)))
        assert all(loss is not None for rung, loss in runs if rung < rungs_of[-1])
    starts = [min(rung for rung, _ in runs) for runs in seen.values()]
    assert most is None or set(starts) <= {0}
    for rung in range(rungs - 1):
        promoted = [config for config, runs in seen.items() if {rung, rung + 1} <= {r for r, _ in runs}]
        finished = [loss for job, _, loss in driver.done if job.rung == rung]
        assert len(promoted) <= len(finished) // eta
        assert all(math.isfinite(loss) for config in promoted for r, loss in seen[config] if r == rung)


@settings(deadline=None, max_examples=60)
@given(events(), st.sampled_from(list(MAKE)))
def test_a_crash_changes_nothing_of_what_comes_next(given_events, kind):
    make = MAKE[kind]
    driver = run(make, [event for event in given_events if event[0] != "crash"])
    straight = [driver.schedule.next() for _ in range(5)]
    driver.crash()
    again = [driver.schedule.next() for _ in range(5)]
    assert [(job.rung, job.bracket, job.config) for job in again] == [
        (job.rung, job.bracket, job.config) for job in straight
    ]


@settings(deadline=None, max_examples=80)
@given(events(), st.sampled_from(list(MAKE)), st.integers(0, 30))
def test_where_there_are_no_more_configurations_the_best_go_on_to_the_top(given_events, kind, index):
    driver = run(MAKE[kind], given_events)
    known = {config for _, config in driver.running} | {config for _, config, _ in driver.done}
    driver.schedule.close()
    generator = np.random.default_rng(index)
    for step in range(400):
        if step == index:
            driver.crash()
            driver.schedule.close()
        try:
            job, config = driver.begin()
        except NothingFits:
            if not driver.running:
                break
            job, config = driver.running[0]
        else:
            assert job.config in known, "nothing new is begun"
        place = driver.running.index((job, config))
        driver.end(place, float(generator.random()))
    assert not driver.running, "it comes to an end"
    counted = [(config, job.rung) for job, config, _ in driver.done]
    assert len(set(counted)) == len(counted)
    begun = {job.bracket for job, _, _ in driver.done}
    whole = {job.bracket for job, _, _ in driver.done if job.rung == 2}
    if "hyperband" in kind:
        assert begun == whole, "each bracket has a full run"
    for rung in range(2):
        good = any(job.rung == rung and math.isfinite(loss) for job, _, loss in driver.done)
        above = any(job.rung == rung + 1 for job, _, _ in driver.done)
        assert above or not good


def test_a_bracket_that_cannot_be_filled_by_hand():
    """Of nine there are four: two would be due by halves of three, one is at least, and goes on to the top."""
    schedule = Hyperband(3, 3)
    jobs = [schedule.next() for _ in range(5)]
    schedule.close(jobs[4])
    for config, loss in enumerate((0.4, 0.1, 0.3)):
        schedule.tell(jobs[config], config, loss)
    with pytest.raises(NothingFits):
        schedule.next()
    schedule.tell(jobs[3], 3, 0.2)
    assert schedule.next() == Job(1, 0, 1)
    schedule.tell(Job(1, 0, 1), 1, 0.1)
    assert schedule.next() == Job(2, 0, 1)
    with pytest.raises(NothingFits):
        schedule.next()


def test_hyperband_by_hand():
    """Two rungs, eta 3: three start, the best goes on; then two at the top."""
    schedule = Hyperband(2)
    jobs = [schedule.next() for _ in range(3)]
    assert [(job.rung, job.bracket, job.config) for job in jobs] == [(0, 0, None)] * 3
    assert schedule.next() == Job(1, 1), "the rung is not full yet: the next bracket begins"
    for config, loss in enumerate((0.3, 0.1, 0.2)):
        schedule.tell(jobs[config], config, loss)
    assert schedule.next() == Job(1, 0, 1)
    assert schedule.next() == Job(1, 1)
    assert schedule.next() == Job(0, 2)


def test_a_failure_is_the_worst_result_and_the_rung_goes_on():
    schedule = Hyperband(2)
    jobs = [schedule.next() for _ in range(3)]
    for config, loss in enumerate((math.inf, math.nan, 5.0)):
        schedule.tell(jobs[config], config, loss)
    assert schedule.next() == Job(1, 0, 2)


def test_halving_by_hand():
    """Of three one goes on, as soon as the third is in; of five still one, of six two."""
    schedule = Halving(2, most=1)
    jobs = [schedule.next() for _ in range(6)]
    assert all(job == Job(0, 0) for job in jobs)
    for config, loss in enumerate((0.3, 0.1)):
        schedule.tell(jobs[config], config, loss)
    assert schedule.next() == Job(0, 0)
    schedule.tell(jobs[2], 2, 0.2)
    assert schedule.next() == Job(1, 0, 1) and schedule.next() == Job(0, 0)
    for config, loss in ((3, 0.05), (4, 0.9)):
        schedule.tell(jobs[config], config, loss)
    assert schedule.next() == Job(0, 0), "one of five has gone on, which is all that is due"
    schedule.tell(jobs[5], 5, 0.8)
    assert schedule.next() == Job(1, 0, 3)


def test_new_configurations_start_where_hyperbands_brackets_do():
    schedule = Halving(3)
    starts = [schedule.next().rung for _ in range(150)]
    sizes = np.array([bracket.sizes[0] for bracket in brackets(3)])
    seen = np.array([starts.count(rung) for rung in range(3)])
    assert np.abs(seen / seen.sum() - sizes / sizes.sum()).max() < 0.02


def test_one_budget_is_always_a_new_configuration():
    schedule = Flat()
    schedule.tell(schedule.next(), 0, 1.0)
    assert schedule.next() == Job(0, 0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Hyperband(4),
        lambda: Halving(4),
        lambda: Hyperband(4, trusting=False),
        lambda: Halving(4, trusting=False),
    ],
)
def test_no_job_is_lost(make):
    """After a crash every run under way is done again, and nothing else is."""
    driver = Driver(make)
    for _ in range(40):
        driver.begin()
    for _ in range(30):
        driver.end(0, np.random.default_rng(len(driver.done)).random())
    lost = list(driver.running)
    driver.crash()
    for job, config in lost:
        driver.schedule.tell(job, config, 0.5)
    driver.done += [(job, config, 0.5) for job, config in lost]
    driver.running = []
    for _ in range(200):
        driver.begin()
        driver.end(0, np.random.default_rng(len(driver.done)).random())
    counted = [(config, job.rung) for job, config, _ in driver.done]
    assert len(set(counted)) == len(counted)


@settings(deadline=None, max_examples=60)
@given(events(), st.sampled_from(list(MAKE)), st.integers(0, 2))
def test_what_does_not_fit_is_left_for_what_does(given_events, kind, most):
    """Rungs up to `most` fit: nothing above is handed out, there always is something, and later it goes on.

    Where the order on low rungs misleads (as random losses do), nothing begins there: all must fit for there to be
    something.
    """
    driver = run(MAKE[kind], given_events)
    most = 2 if "wary" in kind else most
    before = [driver.schedule.next(lambda rung, config: rung <= most) for _ in range(8)]
    assert all(job.rung <= most for job in before)
    assert len({(job.rung, job.config) for job in before if job.config is not None}) == sum(
        job.config is not None for job in before
    ), "no promotion twice"
    with pytest.raises(NothingFits):
        driver.schedule.next(lambda rung, config: False)


def test_the_nearest_bracket_that_fits_is_opened_and_the_others_later_by_hand():
    """Of three brackets that begin at rungs 0, 1, 2, with the first full and nothing above rung 0 fitting."""
    schedule = Hyperband(3, 3)
    assert [schedule.next().bracket for _ in range(9)] == [0] * 9
    low = schedule.next(lambda rung, config: rung == 0)
    assert (low.rung, low.bracket) == (0, 3)
    assert (schedule.next().bracket, schedule.next().bracket) == (1, 1), "what was passed over comes first"
    flat = Flat()
    assert flat.next() == Job(0, 0)
    with pytest.raises(NothingFits):
        flat.next(lambda rung, config: False)


@pytest.mark.parametrize(("first", "then"), [(1, 2), (1, 4), (2, 1), (4, 1)])
def test_a_study_goes_on_with_another_number_of_workers(first, then):
    """Hyperband counts its brackets through all rounds, where the asynchronous schedule has those of one."""
    sampler = Bohb(min=1, max=9)
    generator, past, losses = np.random.default_rng(0), [], {}
    schedule = sampler.schedule(first)
    for _ in range(80):
        job = schedule.next()
        config = len(losses) if job.config is None else job.config
        loss = losses.setdefault(config, float(generator.random()))
        schedule.tell(job, config, loss)
        past.append(Past(config, job.rung, job.bracket, loss))
    following = sampler.schedule(then)
    following.restore(past)
    for _ in range(60):
        job = following.next()
        config = len(losses) if job.config is None else job.config
        assert (config, job.rung) not in {(run.config, run.rung) for run in past}
        loss = losses.setdefault(config, float(generator.random()))
        following.tell(job, config, loss)
        past.append(Past(config, job.rung, job.bracket, loss))
    assert sum(run.rung == 2 for run in past) > 8

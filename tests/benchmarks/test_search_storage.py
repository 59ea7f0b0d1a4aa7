"""The benchmarks of a study's storage, on a few runs: what they count, and what they write."""

from __future__ import annotations

import pytest


def test_runs_are_counted_as_lost_and_double():
    from crash import double, lost

    before = {0: ("0", "1", 0.5), 1: ("1", "1", 0.4)}
    assert lost(before, before | {2: ("2", "1", 0.3)}) == 0 == double(before)
    assert lost(before, {0: ("0", "1", 0.5)}) == 1 == lost(before, before | {1: ("1", "1", 0.41)})
    assert double(before | {2: ("1", "3", 0.4)}) == 0 and double(before | {2: ("1", "1", 0.4)}) == 1


def test_a_study_is_killed_and_comes_to_the_same(tmp_path):
    from crash import BOHB, Study, disturbed, finished, objective, regret
    from paretune.search import Float, minimize

    study = Study(tmp_path / "a.db", BOHB, 1, 0, 12)
    runs, count = disturbed(study, 2)
    assert dict(count) == {"drivers killed": 2, "lost": 0, "double": 0, "given up": 0} and len(runs) == 12
    straight = minimize(objective, {f"x{i}": Float(0, 1) for i in range(4)}, BOHB, 12)
    assert {(str(t.config_number), str(t.budget), t.loss) for t in straight.trials} == set(runs.values())
    assert finished(tmp_path / "none.db") == {} and regret(runs | {99: ("99", "9", 0.0)}) == 0.0


def test_what_is_stored_is_the_same_by_all_ways_and_is_resumed(tmp_path):
    import optuna

    from storage import DISTRIBUTIONS, resumed, written

    times = written(tmp_path, 3)
    assert set(times) == {"ours", "optuna", "optuna, WAL", "optuna, add_trial"} and min(times.values()) > 0
    kept = []
    for name in ("ours", "default", "wal", "over"):
        url = f"sqlite:///{tmp_path}/{name}.db"
        (study,) = optuna.get_all_study_names(url)
        trials = optuna.load_study(study_name=study, storage=url).trials
        assert len(trials) == 3 and all(trial.state.name == "COMPLETE" for trial in trials)
        assert all(trial.distributions == DISTRIBUTIONS and trial.value == 0.5 for trial in trials)
        kept.append([trial.user_attrs for trial in trials])
    for trial, *others in zip(*kept, strict=True):
        assert all(other.keys() == trial.keys() and other["outcome"] == trial["outcome"] for other in others)
    seconds = resumed(tmp_path / "long.db", 40)
    assert set(seconds) == {"ours", "cpu", "optuna"} and min(seconds.values()) > 0


@pytest.mark.parametrize("count", [40, 200])
def test_the_written_study_reads_as_one_that_was_run(tmp_path, count):
    from paretune.search import resume
    from storage import fill

    fill(tmp_path / "study.db", count)
    result = resume(lambda config, budget: 0.5, f"sqlite:///{tmp_path}/study.db", count)
    assert len(result.trials) == count and result.ended == f"trials={count}"
    assert len({(trial.config_number, trial.budget) for trial in result.trials}) == count

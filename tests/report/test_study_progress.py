"""The display of a study: what is folded from events by hand, the lines of a log, the bar on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from paretune.report._display import Silent
from paretune.report._study_progress import StudyLines, StudyLive, Tally, state, study_progress, timing


class Clock:
    """A clock that the test turns."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def begin(**other):
    fields = {
        "limits": {"trials": 40, "runs": None, "wall": None, "work": None},
        "budgets": [1, 3, 9],
        "workers": 2,
    }
    return "begin", fields | {"spent": {"trials": 0, "runs": 0.0, "work": 0.0}, "failed": 0, "best": None} | other


def ended(number, loss, budget=9, **other):
    fields = {"number": number, "loss": loss, "budget": budget, "rung": {1: 0, 3: 1, 9: 2}.get(budget, 0)}
    return "run", fields | {"seconds": 2.0, "error": "", "config": {"x": 0.25}} | other


def fold(*events):
    """Fold (seconds, (kind, fields)) into a Tally that began at 0."""
    tally = Tally(started=0.0)
    for now, (kind, fields) in events:
        tally.take(kind, fields, float(now))
    return tally


def test_trials_left_go_at_the_pace_seen():
    tally = fold((0, begin()), (10, ended(0, 1.0)), (20, ended(1, 0.5)))
    assert tally.fraction() == pytest.approx(2 / 40) and tally.left() == pytest.approx(38 * 10.0)


def test_a_study_that_goes_on_counts_its_own_pace():
    spent = {"trials": 30, "runs": 10.0, "work": 60.0}
    tally = fold((0, begin(spent=spent, failed=3)), (5, ended(30, 1.0)))
    assert tally.fraction() == pytest.approx(31 / 40) and tally.left() == pytest.approx(9 * 5.0)
    assert state(tally) == "31 of 40 runs, 0 of 2 workers busy, 3 failed"


def test_the_nearest_limit_counts():
    limits = {"trials": 1000, "runs": 4.0, "wall": 60.0, "work": 100.0}
    tally = fold((0, begin(limits=limits)), (10, ended(0, 1.0)), (12, ended(1, 1.0, 3)))
    # full runs: 1 + 1/3 of 4 in 12 s, so 24 s for the other 8/3; 48 s of wall time; 96 of 100 s of work in 288 s
    assert tally.left() == pytest.approx(24.0) and tally.fraction() == pytest.approx(1 / 3)
    assert timing(tally) == "0:12 elapsed, about 0:24 left"
    assert "1.3 of 4 full ones" in state(tally)
    assert fold((0, begin(limits={"wall": 60.0})), (45, ended(0, 1.0))).left() == pytest.approx(15.0)


def test_nothing_is_known_before_the_first_run():
    assert fold((0, begin())).left() is None and fold((0, begin(limits={}))).fraction() is None


def test_workers_are_busy_from_start_to_end_and_lost_runs_count_once():
    start = ("start", {"number": 0}), ("start", {"number": 1})
    tally = fold((0, begin()), (1, start[0]), (2, start[1]))
    assert "2 of 2 workers busy" in state(tally)
    tally.take(*ended(0, None, error="lost: its worker was ended by SIGKILL"), 3.0)
    assert tally.busy == {1} and tally.done["trials"] == 0 and tally.failed == 0
    tally.take(*ended(1, None, error="ValueError: no"), 4.0)
    assert not tally.busy and tally.done["trials"] == 1 and tally.failed == 1 and tally.best is None


def test_the_best_is_that_of_the_largest_budget():
    tally = fold((0, begin()), (1, ended(0, 0.1, 1)), (2, ended(1, 0.9, 9)), (3, ended(2, 0.2, 3)))
    assert tally.best["number"] == 1
    before = ended(7, 0.3)[1]
    assert fold((0, begin(best=before)), (1, ended(8, 0.4))).best["number"] == 7


def told(*events, quiet_for=0.0):
    """Return the lines of these events, one second apart."""
    stream, clock = io.StringIO(), Clock()
    with study_progress(stream, quiet=False, clock=clock) as listen:
        assert isinstance(listen, StudyLines)
        for kind, fields in events:
            clock.now += 1
            listen(kind, fields)
    return stream.getvalue().splitlines()


def test_lines_say_the_best_and_the_first_failure_of_a_kind():
    lines = told(
        begin(), ended(0, 2.0), ended(1, 3.0),
        ended(2, None, error="ValueError: no", traceback="Traceback\n  File train.py, line 3\nValueError: no\n"),
        ended(3, None, error="ValueError: no"), ended(4, 1.0),
    )  # fmt: skip
    assert lines == [
        "[0:01] search: trials=40, 2 workers",
        "[0:02] run 0: 2 at budget 9, the best so far",
        "[0:04] run 2 failed: ValueError: no",
        "Traceback",
        "  File train.py, line 3",
        "ValueError: no",
        "[0:06] run 4: 1 at budget 9, the best so far",
    ]


def test_now_and_then_a_line_says_how_far_it_is():
    lines = told(begin(), ended(0, 1.0), *(ended(number, 2.0) for number in range(1, 33)))
    assert lines[2:] == [
        "[0:17] 16 of 40 runs, 0 of 2 workers busy, 0:17 elapsed, about 0:26 left",
        "[0:32] 31 of 40 runs, 0 of 2 workers busy, 0:32 elapsed, about 0:09 left",
    ]
    assert told(begin(spent={"trials": 5}))[0].endswith("goes on after 5 runs")


def test_a_terminal_has_a_bar_and_lines_above_it():
    stream, clock = io.StringIO(), Clock()
    live = StudyLive(Console(file=stream, force_terminal=True, width=140), clock)
    with live:
        live(*begin())
        clock.now += 10
        live(*ended(0, 0.5, config={"lr": 0.001, "name": "x" * 200}))
        live._display.refresh()
    shown = stream.getvalue()
    assert "run 0: 0.5 at budget 9, the best so far" in shown and "1 of 40 runs, 0 of 2 workers busy" in shown
    assert "0:10 elapsed, about 6:30 left" in shown and "best 0.5 at budget 9: lr=0.001, name=xxx" in shown
    assert "x" * 100 not in shown, "a long configuration is cut"
    assert shown.endswith("\x1b[?25h") or "\x1b[?25h" in shown, "the cursor is back"


def test_quiet_shows_nothing_and_odd_events_break_nothing():
    stream = io.StringIO()
    assert isinstance(study_progress(stream, quiet=True), Silent)
    listen = study_progress(stream, quiet=False)
    for kind in ("begin", "start", "run", "report", "warning", "plan", "unheard of"):
        listen(kind, {})
    assert "warning" in stream.getvalue()

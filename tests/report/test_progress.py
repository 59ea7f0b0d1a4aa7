"""The display of a run: what is folded from events, the lines of a log, the live bar."""

import io

import pytest
from rich.console import Console

from paretune.report._display import Silent, duration
from paretune.report._progress import Lines, Live, Seen, describe, headline, progress_for, state


class Clock:
    """A clock that the test turns."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def fold(*events):
    """Fold (seconds, kind, fields) into a Seen that began at 0."""
    seen = Seen(started=0.0)
    for now, kind, fields in events:
        seen.take(kind, fields, float(now))
    return seen


def test_time_left_is_the_pace_seen_times_what_remains():
    seen = fold(
        (0, "step_started", {"step": "distill", "index": 1, "count": 3}),
        (0, "batch", {"epoch": 1, "epochs": 4, "done": 0, "total": 10}),
        (10, "batch", {"epoch": 1, "epochs": 4, "done": 5, "total": 10}),
    )
    assert seen.fraction() == pytest.approx(0.125)  # half of the first of four epochs
    assert seen.left() == pytest.approx(70.0)  # 10 s for an eighth, seven eighths remain


def test_time_left_of_a_resumed_step_counts_from_where_it_went_on():
    seen = fold(
        (0, "step_started", {"step": "train", "index": 0, "count": 1}),
        (5, "epoch", {"epoch": 9, "epochs": 10}),
        (8, "epoch", {"epoch": 10, "epochs": 10}),
    )
    assert seen.left() == pytest.approx(0.0)
    half = fold(
        (0, "step_started", {"step": "train"}),
        (5, "epoch", {"epoch": 8, "epochs": 10}),
        (8, "epoch", {"epoch": 9, "epochs": 10}),
    )
    assert half.left() == pytest.approx(3.0)  # 3 s an epoch, one remains; not 8 s for nine


def test_time_left_is_unknown_before_any_progress():
    assert fold((0, "step_started", {"step": "prune.channels"})).left() is None
    assert fold((0, "batch", {"epoch": 1, "epochs": 2, "done": 1, "total": 2})).left() is None


def test_a_new_step_forgets_the_numbers_of_the_one_before():
    seen = fold(
        (0, "step_started", {"step": "train", "index": 0, "count": 2}),
        (1, "epoch", {"epoch": 1, "epochs": 1, "loss": 0.5, "metric": "accuracy", "value": 0.9, "best": 0.9}),
        (2, "step_started", {"step": "prune.channels", "index": 1, "count": 2}),
    )
    assert headline(seen) == "step 2 of 2, prune.channels"
    assert state(seen) == ""


def test_the_fastest_candidate_so_far_is_kept():
    rows = [("baseline", 1.0), ("pruned", 0.4), ("quantized", 0.3), ("odd", 0.6)]
    seen = fold(
        *((i, "candidate", {"name": n, "row": {"latency": {"ratio": r}}}) for i, (n, r) in enumerate(rows))
    )
    assert seen.leader == "fastest so far quantized: 0.30x latency"


def test_lines_print_steps_epochs_candidates_and_warnings_with_the_time():
    clock, stream = Clock(), io.StringIO()
    lines = Lines(stream, clock)
    row = {"metric": {"name": "accuracy", "value": 0.98}, "latency": {"ratio": 0.5}, "bytes": 12_345}
    with lines as emit:
        emit("run_started", {"name": "a", "steps": ["train"]})
        emit("step_started", {"step": "train", "index": 0, "count": 1})
        emit("batch", {"epoch": 1, "epochs": 2, "done": 0, "total": 8, "loss": 2.0})
        clock.now += 61
        emit("epoch", {"epoch": 1, "epochs": 2, "loss": 0.25, "metric": "accuracy", "value": 0.875, "best": 0.875})
        emit("step_finished", {"step": "train", "index": 0, "seconds": 61.0})
        emit("candidate", {"name": "trained", "row": row})
        emit("warning", {"text": "a disk is nearly full"})
        emit("something_new", {})
    assert stream.getvalue().splitlines() == [
        "[0:00] run a: 1 steps",
        "[0:00] step 1 of 1, train",
        "[1:01] step 1 of 1, train, epoch 1 of 2, loss 0.25, accuracy 0.875, best so far 0.875, about 1:01 left",
        "[1:01] train: done in 1:01",
        "[1:01] trained: accuracy 0.98, 0.50x latency, 12 KB",
        "[1:01] warning: a disk is nearly full",
    ]


def test_lines_of_batches_are_rare():
    clock, stream = Clock(), io.StringIO()
    lines = Lines(stream, clock)
    for done in range(100):
        clock.now += 1
        lines("batch", {"step": "train", "epoch": 1, "epochs": 1, "done": done, "total": 100, "loss": 1.0})
    assert 2 <= len(stream.getvalue().splitlines()) <= 7


@pytest.mark.parametrize(
    "kind",
    [
        "run_started",
        "step_started",
        "batch",
        "epoch",
        "step_finished",
        "candidate",
        "measuring",
        "note",
        "warning",
    ],
)
def test_an_event_without_fields_breaks_nothing(kind):
    seen = Seen(started=0.0)
    seen.take(kind, {}, 1.0)
    assert isinstance(describe(kind, {}, seen), str)


def test_the_live_bar_shows_step_epoch_metric_time_and_what_is_left():
    clock, stream = Clock(), io.StringIO()
    console = Console(file=stream, force_terminal=True, width=120, color_system=None)
    live = Live(console, clock)
    with live as emit:
        emit("step_started", {"step": "distill", "index": 1, "count": 4})
        emit("epoch", {"epoch": 1, "epochs": 4, "loss": 0.5, "metric": "accuracy", "value": 0.9, "best": 0.9})
        clock.now += 10
        emit("epoch", {"epoch": 2, "epochs": 4, "loss": 0.4, "metric": "accuracy", "value": 0.8, "best": 0.9})
        emit("warning", {"text": "[red]not markup[/red]"})
        with console.capture() as capture:
            console.print(live.render())
    shown = capture.get()
    for part in (
        "step 2 of 4, distill, epoch 2 of 4",
        "0:10 elapsed, about 0:20 left",
        "accuracy 0.8",
        "best so far 0.9",
    ):
        assert part in shown
    assert "warning: [red]not markup[/red]" in stream.getvalue()


def test_the_stream_decides_how_progress_is_shown():
    assert isinstance(progress_for(io.StringIO(), quiet=True), Silent)
    assert isinstance(progress_for(io.StringIO(), quiet=False), Lines)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (75, "1:15"), (3671.2, "1:01:11")])
def test_durations(seconds, text):
    assert duration(seconds) == text

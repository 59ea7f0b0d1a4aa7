"""Ctrl-C as a wish: noted the first time, an exception the second.

An exception comes at any moment, between a run's end and its being stored, too, and would lose the run; a note is
looked at where nothing is half done.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def noted(wanted: bool) -> Iterator[Callable[[], bool]]:
    """Note a first Ctrl-C in the block, of which the function given tells; a second one raises KeyboardInterrupt.

    wanted: else, in other threads, and where the program has a handler of its own, Ctrl-C stays as it is.
    """
    ours = threading.current_thread() is threading.main_thread()
    seen: list[int] = []
    if not wanted or not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return

    def note(number: int, frame: Any) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)

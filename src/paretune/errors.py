"""What went wrong, and what to do about it.

Every error that a user can cause is a `ParetuneError`: its message says what was typed, the rule that it
breaks, and what to change. The command line prints the message without a traceback and exits with the
class's `exit_code`; anything else is a mistake of ours and exits with 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Real
from typing import Any


class ParetuneError(Exception):
    """An error with a message for the user; its subclasses fix the exit code."""

    exit_code = 1


class InputError(ParetuneError):
    """The user's input cannot be used as it is: a recipe, an option, a task, a file."""

    exit_code = 2


class RecipeError(InputError):
    """A recipe, a step or one of its fields is wrong."""


class TaskError(InputError):
    """The user's task is wrong: its model, example, loss, metric, or how they fit together."""


class DataError(InputError):
    """The user's data cannot be used: empty, damaged, labels outside the classes."""


class SurgeryError(InputError):
    """A model cannot be cut as asked, or a manifest of cuts does not fit the model."""


class InfeasibleError(ParetuneError):
    """No candidate meets the constraints; the best that was reached is in the message."""

    exit_code = 3


class VerificationError(ParetuneError):
    """An artifact does not compute what its certificate claims."""

    exit_code = 4


class RunError(ParetuneError):
    """A run failed under way: NaN, disk, memory. What was finished is kept."""

    exit_code = 5


def nearest(name: str, names: Iterable[str]) -> str:
    """Return ` Did you mean 'X'?` with the nearest of `names`, or nothing where none is near.

    >>> nearest("tailor", ["l1", "taylor"])
    " Did you mean 'taylor'?"
    """
    matches = get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def is_number(value: Any) -> bool:
    """Tell whether a value is a real number; True and False are none.

    >>> is_number(0.5), is_number("0.5"), is_number(True)
    (True, False, False)
    """
    return isinstance(value, Real) and not isinstance(value, bool)


def check_whole(name: str, value: Any, least: int = 1) -> None:
    """Raise an InputError where a value is neither None nor a whole number of at least `least`."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise InputError(f"{name}={value!r} must be a whole number of at least {least}")


def check_choice(name: str, value: Any, allowed: Iterable[str]) -> None:
    """Raise a RecipeError where a value is none of those that are allowed, with the nearest; name: of the option.

    >>> check_choice("bayes: model", "tpe", ("tpe", "gp"))
    """
    allowed = tuple(allowed)
    if value not in allowed:
        raise RecipeError(f"{name}='{value}' must be one of {', '.join(allowed)}.{nearest(str(value), allowed)}")


def names_of(argument: str, value: Any) -> list[str]:
    """Return the names that an argument lists; a single one need not stand in a list."""
    names = [value] if isinstance(value, str) else list(value) if isinstance(value, Iterable) else [value]
    for name in names:
        if not isinstance(name, str):
            raise InputError(f"{argument}={value!r} must be a name, or a list of names")
    return names

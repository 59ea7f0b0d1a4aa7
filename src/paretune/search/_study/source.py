"""Which version of an objective a study's runs come from: a hash of its source, kept with the study.

The source is that of the module, since an objective calls what stands beside it; in a script that is run
(`__main__`), where the study itself stands too, that of the function alone. What it imports is not looked at.
Builtins and what was typed into an interpreter have no source, and are not compared.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import sys
from collections.abc import Callable
from typing import Any

from paretune.errors import InputError
from paretune.search._study.objective import Objective

ATTRIBUTE = "objective"


def source_hash(objective: Objective) -> str | None:
    """Return a hash of an objective's source, 16 hexadecimal digits; None where it has none.

    >>> source_hash(len) is None, source_hash(source_hash) == source_hash(functools.partial(source_hash))
    (True, True)
    """
    found: Any = objective
    while isinstance(found, functools.partial):
        found = found.func
    found = getattr(found, "function", found)  # of a name, `Reference`
    found = inspect.unwrap(found)
    if not (inspect.isfunction(found) or inspect.ismethod(found)):
        found = type(found)
    module = getattr(found, "__module__", None)
    try:
        text = inspect.getsource(
            found if module in (None, "__main__", "__mp_main__") else sys.modules[str(module)]
        )
    except (OSError, TypeError, KeyError):
        return None
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_source(
    study: Any, objective: Objective, strict: bool, warn: Callable[[str], None], *, keep: bool = True
) -> None:
    """Compare an objective with the one that a study's runs come from.

    study: Optuna's. keep: it is the study's from now on. One with another source is warned of; where `strict` it
        is an InputError, and the study stays as it was.
    """
    here, there = source_hash(objective), study.user_attrs.get(ATTRIBUTE)
    if here is None or here == there:
        return
    if there is not None:
        text = f"the objective's source is not what it was (hash {here}, was {there} when the study was last run)"
        if strict:
            raise InputError(f"strict: {text}; go on with that version, choose another name, or leave strict out")
        warn(f"{text}; earlier runs may not compare with new ones")
    if keep:
        study.set_user_attr(ATTRIBUTE, here)

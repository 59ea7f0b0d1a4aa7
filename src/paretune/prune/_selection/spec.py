"""What a caller may give as a score: a name, a name with options, or a function."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from paretune.errors import InputError, nearest
from paretune.methods import find
from paretune.prune._evidence.evidence import Score, role

ScoreSpec = str | Mapping[str, Mapping[str, Any] | None]
"""`l1`, or with options `{"taylor": {"of": "output"}}`."""


def resolve_score(score: ScoreSpec | Score) -> Score:
    """Return the score that a name, a name with options, or a function stands for; check what it asks for."""
    function: Score
    if isinstance(score, str):
        function = find("scores", score)
    elif isinstance(score, Mapping):
        function = _with_options(score)
    elif callable(score):
        function = score
    else:
        raise InputError(
            f"prune.channels: score={score!r} must be a name that `paretune methods scores` lists, one with its "
            "options, for example {taylor: {of: output}}, or a function of weight or other evidence"
        )
    role(function)
    return function


def _with_options(spec: Mapping[str, Mapping[str, Any] | None]) -> Score:
    if len(spec) != 1 or not isinstance(next(iter(spec.values())), Mapping | None):
        raise InputError(
            f"prune.channels: score={dict(spec)} must be one name with its options, for example "
            "{taylor: {of: output}}"
        )
    name, options = next(iter(spec.items()))
    function: Score = find("scores", name)
    parameters = inspect.signature(function).parameters.values()
    known = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    for option in options or {}:
        if option not in known:
            raise InputError(
                f"prune.channels: score '{name}' has no option '{option}'.{nearest(str(option), known)} "
                f"It takes {', '.join(known) or 'none'}."
            )
    return partial(function, **(options or {}))

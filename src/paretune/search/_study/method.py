"""What a user names as the method of a search, made into a sampler."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from paretune.errors import InputError, RecipeError, nearest
from paretune.methods import find
from paretune.recipe import type_problems
from paretune.search.samplers._base import Sampler
from paretune.search.samplers._optuna import Optuna

Method = str | Mapping[str, Mapping[str, Any] | None] | Sampler
OPTUNA = "optuna."
"""What a name begins with that is one of Optuna's samplers: optuna.NSGAIISampler."""


def method_of(given: Method) -> Sampler:
    """Return the sampler of a name, or of a name with settings: {"bohb": {"min": 1, "max": 27}}.

    A sampler of Optuna is one by its name ("optuna.NSGAIISampler"), or as an object.
    """
    if isinstance(given, Sampler):
        return given
    if isinstance(given, str):
        given = {"optuna": {"sampler": given[len(OPTUNA) :]}} if given.startswith(OPTUNA) else {given: {}}
    if hasattr(given, "sample_relative"):  # what every sampler of Optuna has; it is not imported to ask
        return Optuna.of(given)
    if not isinstance(given, Mapping) or len(given) != 1:
        raise InputError(f"method={given!r} must be a name, or one name with its settings: {{bohb: {{max: 81}}}}")
    ((name, settings),) = given.items()
    kind = find("samplers", str(name))
    if settings is not None and not isinstance(settings, Mapping):
        raise InputError(f"method: {name}: {settings!r} must be settings with their names, as {{max: 81}}")
    settings = dict(settings or {})
    fields = [field.name for field in dataclasses.fields(kind) if field.init]
    for key in settings:
        if key not in fields:
            raise RecipeError(f"{name}: no setting '{key}'.{nearest(str(key), fields)} It has {', '.join(fields)}")
    problems = type_problems(kind, settings)
    if problems:
        raise RecipeError(f"{name}: {problems[0]}")
    made: Sampler = kind(**settings)
    return made

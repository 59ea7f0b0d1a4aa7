"""What defines a study, as plain values: it is stored with it, and must be the same when it goes on."""

from __future__ import annotations

import json
from typing import Any

from paretune.search._space.space import Space
from paretune.search._study.goals import LOSS_ALONE, Goals
from paretune.search._study.plain import space_to_json
from paretune.search.samplers._base import Sampler


def plan_to_json(
    space: Space, sampler: Sampler, seed: int, goals: Goals = LOSS_ALONE, repeats: int = 1, objective: Any = None
) -> dict[str, Any]:
    """Return what defines a study, as it is stored with it; goals and repeats where they are not the default.

    objective: has an `identity`, plain JSON, where what it computes depends on more than its source.
    """
    plan = {"space": space_to_json(space), "method": method_to_json(sampler), "seed": seed}
    identity = getattr(objective, "identity", None)
    own = {} if identity is None else {"searched": identity}
    return plan | goals.to_json() | ({"repeats": repeats} if repeats > 1 else {}) | own


def method_to_json(sampler: Sampler) -> dict[str, Any]:
    """Return a sampler's name and settings."""
    settings = {name: value for name, value in vars(sampler).items() if not name.startswith("_")}
    return {sampler.name: json.loads(json.dumps(settings, default=repr))}

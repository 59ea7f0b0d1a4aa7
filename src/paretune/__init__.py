"""paretune: make trained PyTorch models small and fast, and prove it on the runtime you ship.

Importing this package imports neither torch nor onnxruntime: each public name is loaded when it is used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paretune import distill, errors, export, measure, prune, quantize, report, train
    from paretune.cuts import Cuts
    from paretune.flow import Result, optimize, run
    from paretune.metrics import Metric
    from paretune.recipe import Constraints, Recipe, read_recipe
    from paretune.target import Target
    from paretune.task import Task
    from paretune.tuning import tune

__version__ = "0.1.0"

_HOMES = {
    "Task": "paretune.task",
    "Target": "paretune.target",
    "Metric": "paretune.metrics",
    "Cuts": "paretune.cuts",
    "Recipe": "paretune.recipe",
    "Constraints": "paretune.recipe",
    "read_recipe": "paretune.recipe",
    "optimize": "paretune.flow",
    "run": "paretune.flow",
    "tune": "paretune.tuning",
    "Result": "paretune.flow",
}
_PACKAGES = ("distill", "errors", "export", "measure", "prune", "quantize", "report", "train")

__all__ = [
    "Constraints",
    "Cuts",
    "Metric",
    "Recipe",
    "Result",
    "Target",
    "Task",
    "distill",
    "errors",
    "export",
    "measure",
    "optimize",
    "prune",
    "quantize",
    "read_recipe",
    "report",
    "run",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _PACKAGES:
        return import_module(f"paretune.{name}")
    raise AttributeError(f"module 'paretune' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)

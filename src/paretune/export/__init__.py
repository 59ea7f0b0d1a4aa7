"""Export to ONNX, strip, save, run, and prove from the file that it computes what the model computes.

Each name is loaded when it is used: the fresh process that checks a file imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paretune.export._fold import fold_batch_norms
    from paretune.export._folder import Verification, verify_folder
    from paretune.export._run import Outputs, evaluate_file, run_file, runner, session
    from paretune.export._save import save
    from paretune.export._strip import strip
    from paretune.export._verify import certify
    from paretune.export._writer import Exported, export_onnx

_HOMES = {
    "Exported": "_writer",
    "Outputs": "_run",
    "Verification": "_folder",
    "certify": "_verify",
    "evaluate_file": "_run",
    "export_onnx": "_writer",
    "fold_batch_norms": "_fold",
    "run_file": "_run",
    "runner": "_run",
    "save": "_save",
    "session": "_run",
    "strip": "_strip",
    "verify_folder": "_folder",
}

__all__ = [
    "Exported",
    "Outputs",
    "Verification",
    "certify",
    "evaluate_file",
    "export_onnx",
    "fold_batch_norms",
    "run_file",
    "runner",
    "save",
    "session",
    "strip",
    "verify_folder",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"paretune.export.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'paretune.export' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)

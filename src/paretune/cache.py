"""Nothing is computed twice: a step's result is stored under the hash of everything that went into it.

What goes in: the step's name, parameters and source code, the incoming weights and cuts, the source of the
model, loss, metric and augmentation, the seed, the device, the content of the data splits it reads, the teacher
where it has one, and PyTorch's version. A recipe that begins like another, a resumed run, and a search share it.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.checkpoint import CorruptCheckpoint, State, digest
from paretune.errors import InputError
from paretune.recipe import SIZE_UNITS, Context, Step, amount

if TYPE_CHECKING:
    from torch import nn

    from paretune.task import Task

LIMIT = "4GB"
"""Of the shared cache, unless `$PARETUNE_CACHE_LIMIT` says otherwise."""


def default_folder() -> Path:
    """Return the shared cache: `$PARETUNE_CACHE`, else `$XDG_CACHE_HOME/paretune`, else `~/.cache/paretune`."""
    own = os.environ.get("PARETUNE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(base) / "paretune"


def limit_bytes() -> int:
    """Return the shared cache's size limit: `$PARETUNE_CACHE_LIMIT` ("500MB", "2GB"), else 4 GB."""
    text = os.environ.get("PARETUNE_CACHE_LIMIT") or LIMIT
    size, relative = amount(text, {**SIZE_UNITS, "GB": 1e9}, "PARETUNE_CACHE_LIMIT")
    if relative:
        raise InputError(f"PARETUNE_CACHE_LIMIT={text!r} must be an amount such as 500MB or 2GB")
    return int(size)


def step_key(step: Step, state: State, model: nn.Module, task: Task, context: Context) -> str:
    """Return the hash of everything that `step` computes its result from, in hexadecimal."""
    import torch

    parts: dict[str, Any] = {
        "step": step.name,
        "parameters": step.parameters(),
        "code": [_package_hash(type(step)), _package_hash_of("paretune.train")],
        "torch": torch.__version__,
        "device": context.device,
        "seed": context.seed,
        "weights": digest(state.tensors),
        "cuts": [cuts.to_json() for cuts in state.cuts],
        "task": [_source(task.loss), _source(task.metric), _source(task.augment), _source(task.split)],
        "batch_size": task.batch_size,
        "model": _model_source(model),
        "data": {
            split: [task.data(split).fingerprint(), task.data(split).batch_size]
            for split in step.uses_data
            if any(source is not None for source in (getattr(task, split), task.val, task.test))
        },
        "teacher": digest(context.teacher.state_dict())
        if step.uses_teacher and context.teacher is not None
        else "",
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@dataclass(frozen=True)
class Store:
    """Finished steps by key: in the run's own `checkpoints/` first, then in the shared cache."""

    folder: Path
    """The run's `checkpoints/`."""
    shared: Path | None = None
    """The shared cache, None with `--no-cache`."""
    limit_bytes: int = field(default_factory=limit_bytes)
    """The shared cache's size; the entries that were not used for longest go first."""
    warn: Callable[[str], None] = lambda text: None

    def load(self, key: str, name: str) -> State | None:
        """Return the stored result, or None. A damaged file is set aside, and that is said."""
        own = self.path(key, name)
        shared = self._shared_path(key)
        for path in (own, shared):
            if path is None or not path.is_file():
                continue
            try:
                state = State.load(path)
            except CorruptCheckpoint as error:
                path.unlink(missing_ok=True)
                self.warn(f"{error}; going on from the step before")
                continue
            if path != own:
                own.parent.mkdir(parents=True, exist_ok=True)
                _copy(path, own)
            path.touch()
            return state
        return None

    def save(self, key: str, name: str, state: State) -> None:
        """Store a result in the run's folder, and in the shared cache."""
        own = self.path(key, name)
        state.save(own, key)
        shared = self._shared_path(key)
        if shared is not None:
            shared.parent.mkdir(parents=True, exist_ok=True)
            _copy(own, shared)
            self._trim()

    def path(self, key: str, name: str) -> Path:
        """Return where the run keeps this result: `checkpoints/NAME-KEY.safetensors`."""
        return self.folder / f"{name}-{key[:12]}.safetensors"

    def _shared_path(self, key: str) -> Path | None:
        return self.shared / key[:2] / f"{key}.safetensors" if self.shared else None

    def _trim(self) -> None:
        assert self.shared is not None
        entries = sorted(self.shared.glob("??/*.safetensors"), key=lambda path: path.stat().st_mtime)
        excess = sum(path.stat().st_size for path in entries) - self.limit_bytes
        for path in entries:
            if excess <= 0:
                break
            excess -= path.stat().st_size
            path.unlink(missing_ok=True)


def _copy(source: Path, target: Path) -> None:
    """Copy so that a reader sees all of it or nothing."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.copyfile(source, temporary)
    temporary.replace(target)


def _package_hash(kind: type) -> str:
    """Return the hash of the sources of the package (paretune.prune, a third party's module) a step lives in."""
    package = ".".join(kind.__module__.split(".")[:2])
    return _package_hash_of(package)


@functools.cache
def _package_hash_of(package: str) -> str:
    import importlib

    file = inspect.getsourcefile(importlib.import_module(package))
    root = Path(file) if file else Path()
    sources = sorted(root.parent.rglob("*.py")) if root.name == "__init__.py" else [root]
    hasher = hashlib.sha256()
    for source in sources:
        hasher.update(source.read_bytes())
    return hasher.hexdigest()


def _source(thing: Any) -> str:
    """Return a hash of the code behind a loss, metric or augmentation; a name stands for itself."""
    if thing is None or isinstance(thing, str):
        return str(thing)
    if isinstance(thing, functools.partial):
        return _source(thing.func) + repr((thing.args, sorted(thing.keywords.items())))
    function = getattr(thing, "rows", thing)
    try:
        code = inspect.getsource(function if inspect.isroutine(function) else type(function))
    except (OSError, TypeError):
        code = repr(getattr(getattr(function, "__code__", None), "co_code", type(function)))
    closure = [_value(cell.cell_contents) for cell in getattr(function, "__closure__", None) or ()]
    return hashlib.sha256((code + repr(closure)).encode()).hexdigest()


def _value(thing: Any) -> str:
    """Return what a closed-over value is worth: code by its source, tensors by their bytes, others as printed."""
    import torch

    if isinstance(thing, torch.Tensor):
        return digest({"": thing})
    return _source(thing) if callable(thing) else repr(thing)


def _model_source(model: nn.Module) -> str:
    """Return a hash of the model's structure as printed, and of the code of its own (not PyTorch's) classes."""
    hasher = hashlib.sha256(str(model).encode())
    kinds = {type(module) for module in model.modules()}
    for kind in sorted(kinds, key=lambda k: (k.__module__, k.__qualname__)):
        if not kind.__module__.startswith("torch."):
            hasher.update(_source(kind).encode() if _has_source(kind) else kind.__qualname__.encode())
    return hasher.hexdigest()


def _has_source(kind: type) -> bool:
    try:
        inspect.getsource(kind)
    except (OSError, TypeError):
        return False
    return True

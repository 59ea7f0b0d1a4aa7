"""Nothing is computed twice: a step's result is stored under the hash of everything that went into it.

What goes in: the step's name and parameters, the incoming weights and cuts, the code and attributes of the model,
loss, metric and augmentation, the seed, the device, the content of the data splits it reads, the teacher where it
has one, paretune's own source and PyTorch's version. Recipes that begin alike, resumed runs and searches share it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.checkpoint import CorruptCheckpoint, State, digest
from paretune.errors import InputError
from paretune.recipe import SIZE_UNITS, Context, Step, amount
from paretune.target import fingerprint as machine

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
    parts = _shared_parts(step, task, context) | {
        "weights": digest(state.tensors),
        "cuts": [cuts.to_json() for cuts in state.cuts],
        "model": fingerprint(model),
        "task": [fingerprint(part) for part in (task.loss, task.metric, task.augment, task.example)],
        "teacher": fingerprint(context.teacher) if step.uses_teacher else "",
        "target": context.target.to_json() if step.uses_target else "",
    }
    return _hash(parts)


def graph_key(step: Step, graph: bytes, task: Task, context: Context) -> str:
    """Return the hash of everything that a step on an exported graph computes its result from."""
    parts = _shared_parts(step, task, context) | {
        "graph": hashlib.sha256(graph).hexdigest(),
        "machine": machine()["flags_hash"],
    }
    return _hash(parts)


def _shared_parts(step: Step, task: Task, context: Context) -> dict[str, Any]:
    import torch

    return {
        "step": step.name,
        "parameters": step.parameters(),
        "code": [_own_source(), _code(type(step))],
        "torch": torch.__version__,
        "device": context.device,
        "seed": context.seed,
        "batch_size": task.batch_size,
        "split": fingerprint(task.split),
        "data": {
            split: [task.data(split).fingerprint(), task.data(split).batch_size]
            for split in step.uses_data
            if any(source is not None for source in (getattr(task, split), task.val, task.test))
        },
    }


def _hash(parts: dict[str, Any]) -> str:
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
            with contextlib.suppress(OSError):  # a cache that is only read keeps its times
                path.touch()
            return state
        return None

    def save(self, key: str, name: str, state: State) -> None:
        """Store a result in the run's folder, and in the shared cache."""
        own = self.path(key, name)
        state.save(own, key)
        shared = self._shared_path(key)
        if shared is None:
            return
        try:
            shared.parent.mkdir(parents=True, exist_ok=True)
            _copy(own, shared)
            self._trim()
        except OSError as error:
            self.warn(f"the shared cache {self.shared} cannot be written ({error.strerror}); going on without it")

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


@functools.cache
def _own_source() -> str:
    """Return the hash of every source file of paretune: edited code never meets results of the old."""
    hasher = hashlib.sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        hasher.update(source.read_bytes())
    return hasher.hexdigest()


def fingerprint(thing: Any) -> str:
    """Return a hash of what a model, a loss, a metric or any value is: its code, its state, its closure.

    Code is the whole source file it stands in, since functions call their neighbours; in a script or notebook
    (`__main__`), which also holds what is merely being tried, it is the function or class alone.
    """
    return hashlib.sha256(repr(_parts(thing, {})).encode()).hexdigest()


def _parts(thing: Any, seen: dict[int, Any]) -> Any:
    """Return nested plain values that differ wherever two things would compute differently."""
    import numpy as np
    import torch

    if isinstance(thing, str | bytes | int | float | complex | bool | type(None)):
        return thing
    if isinstance(thing, torch.Tensor):
        return digest({"": thing})
    if isinstance(thing, np.ndarray):
        return hashlib.sha256(thing.tobytes()).hexdigest(), str(thing.dtype), thing.shape
    if id(thing) in seen:
        return "seen"
    seen[id(thing)] = thing  # kept alive, so that no other object gets its id
    if isinstance(thing, Mapping):
        return [(_parts(key, seen), _parts(value, seen)) for key, value in thing.items()]
    if isinstance(thing, list | tuple):
        return [_parts(item, seen) for item in thing]
    if isinstance(thing, set | frozenset):
        return sorted(repr(_parts(item, seen)) for item in thing)
    if isinstance(thing, functools.partial):
        return _parts((thing.func, thing.args, thing.keywords), seen)
    if inspect.ismethod(thing):
        return _parts((thing.__self__, thing.__func__), seen)
    if inspect.isroutine(thing):
        cells = [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
        defaults = (getattr(thing, "__defaults__", None), getattr(thing, "__kwdefaults__", None))
        return _code(thing), _parts((cells, defaults), seen)
    if inspect.isclass(thing):
        return _code(thing)
    return _code(type(thing)), _parts(_state(thing), seen)


def _state(thing: Any) -> Any:
    """Return an object's attributes (a module's tensors and children are among them), else how it prints."""
    attributes = getattr(thing, "__dict__", None)
    return attributes or ("" if " at 0x" in repr(thing) else repr(thing))


def _code(thing: Any) -> str:
    """Return the name of a function or class, and a hash of its code unless PyTorch or Python wrote it."""
    name = f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"
    if name.startswith(("torch.", "builtins.", "numpy.", "None.")):
        return name
    try:
        source = inspect.getsource(thing)
        file = inspect.getsourcefile(thing) if thing.__module__ != "__main__" else None
    except (OSError, TypeError):  # typed in a shell, or compiled
        source, file = "", None
    return name + hashlib.sha256((source + _text(file) + _bytecode(thing)).encode()).hexdigest()


def _bytecode(thing: Any) -> str:
    """Return what a function was compiled to: tells two lambdas of one line apart, and code without a source."""
    code = getattr(thing, "__code__", None)
    constants = [value for value in code.co_consts if not inspect.iscode(value)] if code else []
    return repr((code.co_code, constants, code.co_names)) if code else ""


@functools.cache
def _text(file: str | None) -> str:
    return Path(file).read_text() if file and Path(file).is_file() else ""

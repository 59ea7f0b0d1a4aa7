"""A `Task`: what the user brings. A model, its data, a loss, a metric and an example input."""

from __future__ import annotations

import ast
import copy
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.errors import InputError, ParetuneError, TaskError, nearest

if TYPE_CHECKING:
    import torch
    from torch import nn

    from paretune.data import Data
    from paretune.metrics import Metric

LOSSES = ("cross_entropy", "binary_cross_entropy", "mse", "l1")


@dataclass(kw_only=True)
class Task:
    """A model with its data, and what counts as good.

    >>> Task(model=model, train=(x, y), val=(x, y), example=x[:1])  # doctest: +SKIP
    """

    model: nn.Module | Callable[[], nn.Module]
    """The model, or a factory without arguments. The user's own object is never changed: see `build`."""
    example: torch.Tensor | tuple[Any, ...] | dict[str, Any] | None = None
    """One example input (a tensor, positional inputs, or keyword inputs); the first of `val` if not given."""
    train: Any = None
    """Training data: a DataLoader, a Dataset, or a tuple of arrays (inputs, target)."""
    val: Any = None
    """Validation data: every choice is made on it."""
    test: Any = None
    """Test data: the chosen candidate is confirmed on it once. `val` where there is none, and that is said."""
    loss: str | Callable[[Any, Any], torch.Tensor] = "cross_entropy"
    """A name of LOSSES, or a function (output, target) -> scalar tensor."""
    metric: str | Metric | Callable[[Any, Any], Any] = "accuracy"
    """A name of `metrics.METRICS`, a Metric, or a function (outputs, targets) -> number."""
    augment: Callable[[Any, torch.Generator], Any] | None = None
    """(inputs, generator) -> inputs, applied to training batches; all its randomness from the generator."""
    split: Callable[[Any], tuple[Any, Any]] | None = None
    """One batch of the data -> (inputs, target), where the usual forms do not fit."""
    batch_size: int = 64
    """For data that are not DataLoaders."""
    name: str = "task"
    origin: str | None = None
    """FILE:FUNCTION or MODULE:FUNCTION that makes this task in a fresh process; set by `load_task`."""
    _data: dict[str, Data] = field(default_factory=dict, init=False, repr=False, compare=False)

    def build(self) -> nn.Module:
        """Return a fresh model: a deep copy of the module given, or what the factory makes."""
        from torch import nn

        if isinstance(self.model, nn.Module):
            return copy.deepcopy(self.model)
        if not callable(self.model):
            raise TaskError(f"task.model must be or make an nn.Module, not a {type(self.model).__name__}")
        try:
            made = self.model()
        except ParetuneError:
            raise
        except Exception as error:
            raise TaskError(
                f"task.model: the factory failed: {type(error).__name__}: {_first_line(error)}; "
                "it is called without arguments"
            ) from error
        if not isinstance(made, nn.Module):
            raise TaskError(f"task.model must be or make an nn.Module, not a {type(made).__name__}")
        return made

    def data(self, split: str) -> Data:
        """Return the `train`, `val` or `test` data; test falls back to val, and val to test."""
        if split not in self._data:
            other = {"test": self.val, "val": self.test}.get(split)
            source = getattr(self, split)
            self._data[split] = self._wrap(split, source if source is not None else other)
        return self._data[split]

    def _wrap(self, split: str, source: Any) -> Data:
        from paretune.data import Data

        if source is None:
            raise TaskError(f"this needs task.{split}, and the task has none: Task({split}=...)")
        return Data(source, batch_size=self.batch_size, split=self.split, name=split)

    def inputs(self) -> Any:
        """Return the example input, taken from the data where the task names none."""
        if self.example is not None:
            return self.example
        from paretune.data import map_tensors

        split = "val" if (self.val is not None or self.test is not None) else "train"
        return map_tensors(lambda tensor: tensor[:1], self.data(split).first(1)[0])

    def criterion(self) -> Callable[[Any, Any], torch.Tensor]:
        """Return the loss as a function (output, target) -> scalar tensor."""
        if callable(self.loss):
            return self.loss
        if self.loss not in LOSSES:
            raise TaskError(
                f"task.loss: no loss '{self.loss}'.{nearest(str(self.loss), LOSSES)} "
                f"Give one of {', '.join(LOSSES)}, or a function (output, target) -> scalar tensor"
            )
        return _named_loss(self.loss)

    def resolved_metric(self) -> Metric:
        """Return the metric as a `Metric`."""
        from paretune.metrics import resolve

        return resolve(self.metric)

    def check(self) -> None:
        """Raise a TaskError or DataError for whatever can be seen wrong before any work is done."""
        import torch

        from paretune.data import call, shapes_of

        self.criterion(), self.resolved_metric()
        model = self.build().eval()
        try:
            with torch.no_grad():
                call(model, self.inputs())
        except Exception as error:
            raise TaskError(
                f"the model does not accept the example input ({shapes_of(self.inputs())}): "
                f"{type(error).__name__}: {_first_line(error)}"
            ) from error
        for split in ("train", "val", "test"):
            if getattr(self, split) is not None:
                self._check_batch(model, split)

    def _check_batch(self, model: nn.Module, split: str) -> None:
        import torch

        from paretune.data import shapes_of
        from paretune.metrics import main_output

        output, target = self._try_batch(model, split)
        if target is None:
            if split == "train":
                return  # distillation may need none
            raise TaskError(f"task.{split} yields no target, and the metric needs one; yield (inputs, target)")
        logits = main_output(output)
        labels = isinstance(target, torch.Tensor) and not target.is_floating_point()
        if self.loss == "cross_entropy" and labels and logits.ndim > 1:
            self._check_labels(split, classes=logits.shape[1])
        for name, function in (("loss", self.criterion()), ("metric", self.resolved_metric().rows)):
            try:
                function(output, target)
            except ParetuneError:
                raise
            except Exception as error:
                raise TaskError(
                    f"task.{name} fails on a batch of task.{split} (output {shapes_of(output)}; target "
                    f"{shapes_of(target)}): {type(error).__name__}: {_first_line(error)}"
                ) from error

    def _try_batch(self, model: nn.Module, split: str) -> tuple[Any, Any]:
        """Return (output, target) of two samples, or of a whole batch where the model takes no other."""
        import torch

        from paretune.data import call, shapes_of

        data = self.data(split)
        inputs, target = data.first(2)
        with torch.no_grad():
            try:
                return call(model, inputs), target
            except Exception as error:
                try:
                    whole, target = data.first(data.batch_size)
                    return call(model, whole), target
                except Exception:  # the first error says more: its batch is small
                    raise TaskError(
                        f"the model does not accept a batch of task.{split} ({shapes_of(inputs)}): "
                        f"{type(error).__name__}: {_first_line(error)}"
                    ) from error

    def _check_labels(self, split: str, classes: int) -> None:
        """Raise a DataError for labels outside the classes: in all of val and test, in two samples of train.

        All of train is checked batch by batch where it is trained on; -100 is what the loss ignores.
        """
        from paretune.errors import DataError

        found: set[int] = set()
        for _, labels in self.data(split).batches(batch_size=1024, limit=2 if split == "train" else None):
            found |= set(labels.unique().tolist())
        low, high = min(found - {-100}, default=0), max(found - {-100}, default=0)
        if low < 0 or high >= classes:
            raise DataError(
                f"task.{split}: labels run from {low} to {high}, but the model has {classes} outputs, that is "
                f"classes 0 to {classes - 1}; renumber the labels or widen the model's last layer"
            )


def load_task(reference: str) -> Task:
    """Return the task that `path/to/file.py:make_task` or `package.module:make_task` makes.

    The function returns a Task. It is called without arguments, or with those that the reference gives:
    `file.py:make_task(width=32)`. `origin` is set, so that a fresh process can do the same.
    """
    bare, given = _arguments(reference)
    make, origin = load_function(bare, "task", "make_task")
    try:
        _check_arguments(make, given, reference)
        task = make(**given)
    except ParetuneError:
        raise
    except Exception as error:
        raise InputError(f"task: {reference} failed: {type(error).__name__}: {_first_line(error)}") from error
    if not isinstance(task, Task):
        raise InputError(f"task: {reference} returned a {type(task).__name__}; it must return a paretune.Task")
    task.origin = with_arguments(origin, given)
    return task


def with_arguments(reference: str, given: Mapping[str, Any]) -> str:
    """Return a reference that calls its function with arguments more than it has.

    >>> with_arguments("net.py:make_task(width=16)", {"activation": "relu", "width": 32})
    "net.py:make_task(width=32, activation='relu')"
    """
    bare, before = _arguments(reference)
    told = ", ".join(f"{name}={value!r}" for name, value in {**before, **given}.items())
    return f"{bare}({told})" if told else bare


def _arguments(reference: str) -> tuple[str, dict[str, Any]]:
    """Return a reference without its arguments, and these."""
    match = re.fullmatch(r"(.+:\s*[A-Za-z_]\w*)\((.*)\)", reference, re.DOTALL)
    if match is None:
        return reference, {}
    try:
        call = ast.parse(f"f({match[2]})", mode="eval").body
        assert isinstance(call, ast.Call)
        if call.args or any(keyword.arg is None for keyword in call.keywords):
            raise ValueError("each one needs its name")
        return match[1], {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise InputError(
            f"task: the arguments of '{reference}' cannot be read ({error}); write them as (width=32, kind='relu')"
        ) from error


def _check_arguments(make: Any, given: Mapping[str, Any], reference: str) -> None:
    """Raise an InputError for arguments that a task's function does not take, or lacks."""
    try:
        signature = inspect.signature(make)
    except (TypeError, ValueError):  # a builtin tells nothing
        return
    try:
        signature.bind(**given)
    except TypeError as error:
        unknown = [name for name in given if name not in signature.parameters]
        near = nearest(unknown[0], signature.parameters) if unknown else ""
        raise InputError(f"task: {reference}: {error}.{near} It is {make.__name__}{signature}") from error


def load_function(reference: str, what: str, example: str) -> tuple[Any, str]:
    """Return what `path/to/file.py:name` or `package.module:name` names, and the reference with its whole path.

    what, example: what it is to errors, and a name that it may have.
    """
    where, separator, name = reference.rpartition(":")
    if not separator or not where or not name:
        raise InputError(
            f"{what}: '{reference}' names no function; write path/to/file.py:{example} or package.module:{example}"
        )
    module = _import(where, reference, what)
    if not hasattr(module, name):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise InputError(f"{what}: {where} has no '{name}'.{nearest(name, public)}")
    return getattr(module, name), f"{Path(where).resolve()}:{name}" if where.endswith(".py") else reference


def _import(where: str, reference: str, what: str) -> Any:
    try:
        if not where.endswith(".py"):
            _find_neighbours(Path.cwd())
            return importlib.import_module(where)
        path = Path(where).resolve()
        if not path.is_file():
            siblings = [entry.name for entry in path.parent.glob("*.py")] if path.parent.is_dir() else []
            raise InputError(f"{what}: no file {where}.{nearest(path.name, siblings)}")
        if (name := f"paretune_task_{path.stem}") in sys.modules and sys.modules[name].__file__ == str(path):
            return sys.modules[name]
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        _find_neighbours(path.parent)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module
    except InputError:
        raise
    except Exception as error:
        raise InputError(
            f"{what}: cannot import {where} (from '{reference}'): {type(error).__name__}: {_first_line(error)}"
        ) from error


def _find_neighbours(folder: Path) -> None:
    """Let a task import the files beside it, now and later, as it can when it is run as a script."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _named_loss(name: str) -> Callable[[Any, Any], torch.Tensor]:
    from torch.nn import functional

    from paretune.metrics import main_output

    def loss(output: Any, target: torch.Tensor) -> torch.Tensor:
        prediction = main_output(output)
        if name == "cross_entropy":
            # labels read from files are often uint8 or int32, and torch takes int64 alone
            return functional.cross_entropy(prediction, target if target.is_floating_point() else target.long())
        target = target.reshape(prediction.shape).to(prediction.dtype)
        function: Any = {
            "mse": functional.mse_loss,
            "l1": functional.l1_loss,
            "binary_cross_entropy": functional.binary_cross_entropy_with_logits,
        }[name]
        result: torch.Tensor = function(prediction, target)
        return result

    loss.__name__ = name
    return loss


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0][:300]

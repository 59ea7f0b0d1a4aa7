"""`Skip`: what stands in a model where a block was removed. No weights; it hands its arguments on."""

from __future__ import annotations

import contextlib
import inspect
import json
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any

from torch import nn
from torch.utils import _pytree

from paretune.errors import SurgeryError


class Skip(nn.Module):
    """Returns its arguments in the structure that the caller of the removed module expects.

    Numbers and strings that the removed module held stay readable, since the code around a block may ask for
    them (`layer.attention_type`).
    """

    def __init__(self, removed: nn.Module, items: tuple[str | None, ...] = (), structure: str = "") -> None:
        """Take a module's place. items, structure: as in `paretune.cuts.Removed`."""
        super().__init__()
        own = vars(self).keys() - {"training"}
        vars(self).update({k: v for k, v in vars(removed).items() if k not in own and _is_plain(v)})
        self._positional = positional_arguments(removed)
        self._items = items
        self._structure = structure
        if structure:
            _structure(structure)  # what cannot be read is told when the cuts are replayed

    def __getattr__(self, name: str) -> Any:
        """Return a parameter, buffer or module of that name, as of any module: there is none."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(f"the code around a removed block reads its attribute '{name}'") from None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Return the first argument, or the items that the manifest names; an argument not given is None."""
        given = bind(self._positional, args, kwargs)
        if not self._structure:
            return next(iter(given.values()))
        items = [None if name is None else given.get(name) for name in self._items]
        return _pytree.tree_unflatten(items, _structure(self._structure))


def positional_arguments(module: nn.Module) -> tuple[str, ...]:
    """Return the names of the arguments of a module's forward that may be given by position, in order."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(module.forward).parameters
    return tuple(name for name, parameter in parameters.items() if parameter.kind in kinds)


def bind(positional: tuple[str, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name, in the order of the signature.

    positional: as `positional_arguments` returns them. What `*args` takes is named by its place: "0", "1".
    """
    names = [*positional[: len(args)], *map(str, range(len(positional), len(args)))]
    given = dict(zip(names, args, strict=True)) | kwargs
    return {name: given[name] for name in positional if name in given} | given


@cache
def _structure(text: str) -> Any:
    missing = {module for module in _modules(json.loads(text)) if module not in sys.modules}
    if missing:
        raise SurgeryError(
            f"a removed module returned what stands in {', '.join(sorted(missing))}, which is not imported here: "
            "import what defines it before the cuts are replayed"
        )
    return _pytree.treespec_loads(text)


def _modules(value: Any) -> Iterator[str]:
    """Yield the modules that torch imports to read a structure: it would run code that a manifest chose."""
    if isinstance(value, str) and value.startswith(("{", "[")):  # contexts of some kinds are JSON in a string
        with contextlib.suppress(json.JSONDecodeError):
            value = json.loads(value)
    if isinstance(value, dict):
        yield from (str(value[key]).partition(":")[0] for key in ("fqn", "default_factory_module") if key in value)
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _modules(item)


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)

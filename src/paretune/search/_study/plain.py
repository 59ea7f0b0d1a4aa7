"""Spaces as plain values, with the names that a study's file has: written, and read again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paretune.errors import InputError, nearest
from paretune.recipe import numbers
from paretune.search._space.parameters import Categorical, Constant, Float, Int, Ordered, Parameter
from paretune.search._space.predicates import Predicate, when
from paretune.search._space.priors import About, Beta, LogNormal, Normal, Prior, read_prior
from paretune.search._space.space import Space

KINDS = ("float", "int", "categorical", "ordered", "constant")


def space_to_json(space: Space) -> dict[str, Any]:
    """Return {"parameters": {name: {float: [low, high], ...}}, "forbid": [...]}; `space_from_json` reads it.

    >>> from paretune.search import Float, Space
    >>> space_to_json(Space({"lr": Float(1e-5, 1e-1, log=True)}))
    {'parameters': {'lr': {'float': [1e-05, 0.1], 'log': True}}, 'forbid': []}
    """
    return {
        "parameters": {name: _written(parameter) for name, parameter in space.parameters.items()},
        "forbid": [rule.stored for rule in space.rules],
    }


def space_from_json(content: Mapping[str, Any], forbid: Any = ()) -> Space:
    """Return the space of parameters as a file writes them: {lr: {float: [1e-5, 1e-1], log: true}, ...}.

    forbid: rules as texts. What `space_to_json` returns is read, too.
    """
    if isinstance(content, Mapping) and set(content) == {"parameters", "forbid"}:
        content, forbid = content["parameters"], content["forbid"]
    if not isinstance(content, Mapping):
        raise InputError(f"space: it must be a mapping like {{lr: {{float: [1e-5, 1e-1]}}}}, not {content!r}")
    return Space({str(name): _read(str(name), given) for name, given in content.items()}, forbid=forbid)


def parameters_from_json(content: Mapping[str, Any]) -> dict[str, Parameter]:
    """Return the parameters of what `space_to_json` returns, without the rules."""
    return dict(space_from_json(content["parameters"]).parameters)


def _written(parameter: Parameter) -> dict[str, Any]:
    found: dict[str, Any]
    if isinstance(parameter, Float | Int):
        kind = "float" if isinstance(parameter, Float) else "int"
        found = {kind: [parameter.low, parameter.high]}
        if parameter.log:
            found["log"] = True
        if parameter.step not in (None, 1) or (isinstance(parameter, Float) and parameter.step is not None):
            found["step"] = parameter.step
        if parameter.prior is not None:
            found["prior"] = _prior(parameter.prior)
    elif isinstance(parameter, Categorical | Ordered):
        kind = "categorical" if isinstance(parameter, Categorical) else "ordered"
        found = {kind: list(parameter.choices)}
        if parameter.weights is not None:
            found["weights"] = parameter.weights if isinstance(parameter.weights, str) else list(parameter.weights)
    else:
        assert isinstance(parameter, Constant)
        found = {"constant": parameter.value}
    if parameter.when is not None:
        assert isinstance(parameter.when, Predicate)
        found["when"] = parameter.when.stored
    return found


def _prior(prior: Prior | About | str) -> dict[str, Any] | str:
    if isinstance(prior, str):
        return prior
    if isinstance(prior, About):
        return {"about": prior.value} | ({} if prior.within is None else {"within": prior.within})
    if isinstance(prior, Normal):
        return {"normal": [prior.mean, prior.std]}
    if isinstance(prior, LogNormal):
        return {"lognormal": [prior.median, prior.spread]}
    assert isinstance(prior, Beta)
    ends = [] if (prior.low, prior.high) == (0.0, 1.0) else [prior.low, prior.high]
    return {"beta": [prior.a, prior.b, *ends]}


def _read(name: str, given: Any) -> Parameter:
    given = numbers(given)
    if isinstance(given, list | tuple):
        raise InputError(
            f"space: {name}: {given!r} is a list; say of what: {{float: [low, high]}}, {{int: [low, high]}}, "
            "{categorical: [...]}, {ordered: [...]}, or {constant: [...]} for the list itself"
        )
    if not isinstance(given, Mapping):
        return Constant(given)
    kinds = [kind for kind in KINDS if kind in given]
    if len(kinds) != 1:
        written = ", ".join(map(str, given)) or "nothing"
        near = nearest(str(next(iter(given), "")), KINDS)
        raise InputError(
            f"space: {name}: {written} names {len(kinds) or 'no'} kind; give one of {', '.join(KINDS)}.{near}"
        )
    (kind,) = kinds
    rest = {str(key): value for key, value in given.items() if key != kind}
    allowed = {
        "float": ("log", "step", "prior", "when"),
        "int": ("log", "step", "prior", "when"),
        "categorical": ("weights", "when"),
        "ordered": ("weights", "when"),
        "constant": ("when",),
    }[kind]
    for key in rest:
        if key not in allowed:
            raise InputError(f"space: {name}: no key '{key}' with {kind}.{nearest(key, allowed)}")
    if "prior" in rest:
        rest["prior"] = read_prior(rest["prior"], f"space: {name}")
    if isinstance(rest.get("when"), Mapping):
        rest["when"] = _when(name, rest["when"])
    try:
        return _made(kind, given[kind], rest)
    except InputError as error:
        raise InputError(f"space: {name}: {error}") from error


def _made(kind: str, value: Any, rest: dict[str, Any]) -> Parameter:
    if kind in ("float", "int"):
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise InputError(f"{kind}: {value!r} must be [low, high]")
        low, high = value
        return Float(low, high, **rest) if kind == "float" else Int(low, high, **rest)
    if kind == "constant":
        return Constant(value, **rest)
    return Categorical(value, **rest) if kind == "categorical" else Ordered(value, **rest)


def _when(name: str, given: Mapping[str, Any]) -> list[Any]:
    """Return conditions of {opt: sgd, depth: [2, 3]}: all of them must hold."""
    if not given:
        raise InputError(f"space: {name}: when: {{}} names no parameter")
    return [
        when(str(parent), *(value if isinstance(value, list | tuple) else [value]))
        for parent, value in given.items()
    ]

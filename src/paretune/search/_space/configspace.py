"""Spaces in the JSON of ConfigSpace, which SMAC3, DEHB, HpBandSter and many benchmarks write.

Read: uniform, normal and beta numbers, categories with weights, ordinals, constants; conditions EQ, NEQ, IN, LT,
    GT and their AND and OR; forbidden clauses EQUALS, IN, AND and relations. Written: what has a counterpart
    there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paretune.errors import InputError
from paretune.search._space.parameters import Categorical, Constant, Float, Int, Ordered, Parameter
from paretune.search._space.predicates import Predicate, all_of, any_of, compared, predicate, when
from paretune.search._space.priors import Beta, Normal
from paretune.search._space.space import Space

SYMBOLS = {"EQ": "==", "NEQ": "!=", "LT": "<", "GT": ">"}
RELATIONS = {"LESS": "<", "GREATER": ">", "EQUALS": "=="}


def read_configspace(given: str | Path | Mapping[str, Any]) -> Space:
    """Return the space of a ConfigSpace JSON file, or of its content; what cannot be read is an InputError."""
    content = given if isinstance(given, Mapping) else _loaded(Path(given))
    try:
        conditions: dict[str, list[Predicate]] = {}
        ordinals = [each for each in content["hyperparameters"] if each["type"] == "ordinal"]
        orders = {each["name"]: list(each["sequence"]) for each in ordinals}
        for each in content.get("conditions", ()):
            conditions.setdefault(_child(each), []).append(_condition(each, orders))
        found = {
            each["name"]: _parameter(each, conditions.get(each["name"])) for each in content["hyperparameters"]
        }
        return Space(found, forbid=[_forbidden(each) for each in content.get("forbiddens", ())])
    except (KeyError, TypeError) as error:
        raise InputError(f"this is no ConfigSpace JSON ({type(error).__name__}: {error})") from error


def write_configspace(space: Space) -> dict[str, Any]:
    """Return a space as ConfigSpace's JSON; what it has no counterpart of is an InputError that says what."""
    parameters = [_written(name, space[name]) for name in space.parameters]
    conditions: list[dict[str, Any]] = []
    for name, parameter in space.parameters.items():
        if isinstance(parameter.when, Predicate):
            conditions.append(_written_condition(name, parameter.when))
    if space.rules:
        raise InputError(f"forbidden rules as '{space.rules[0].text}' have no counterpart in ConfigSpace's JSON")
    return {"hyperparameters": parameters, "conditions": conditions, "forbiddens": [], "json_format_version": 0.4}


def _loaded(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise InputError(f"no file {path}")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    if not isinstance(content, Mapping) or "hyperparameters" not in content:
        raise InputError(f"{path} is no ConfigSpace JSON: it has no 'hyperparameters'")
    return content


def _parameter(given: Mapping[str, Any], conditions: Sequence[Predicate] | None) -> Parameter:
    kind = given["type"]
    rest: dict[str, Any] = {"when": list(conditions) if conditions else None}
    if kind in ("uniform_float", "normal_float", "beta_float", "uniform_int", "normal_int", "beta_int"):
        shape, _, number = kind.partition("_")
        low, high = given["lower"], given["upper"]
        prior: Any = None
        if shape == "normal":
            prior = Normal(given["mu"], given["sigma"])
        elif shape == "beta":
            prior = Beta(given["alpha"], given["beta"])
        if given.get("q") is not None:
            raise InputError(f"ConfigSpace: '{given['name']}' has q={given['q']}; give it a step in paretune")
        how: dict[str, Any] = {"log": bool(given.get("log", False)), "prior": prior, **rest}
        return Float(float(low), float(high), **how) if number == "float" else Int(int(low), int(high), **how)
    if kind == "categorical":
        weights = given.get("weights", given.get("probabilities"))
        return Categorical(given["choices"], weights=weights, **rest) if len(given["choices"]) > 1 else Constant(
            given["choices"][0], **rest
        )  # fmt: skip
    if kind == "ordinal":
        return Ordered(given["sequence"], **rest)
    if kind in ("constant", "unparametrized"):
        return Constant(given["value"], **rest)
    raise InputError(f"ConfigSpace: '{given['name']}' has the type '{kind}', which is not known here")


def _child(given: Mapping[str, Any]) -> str:
    return str(given["child"] if "child" in given else given["conditions"][0]["child"])


def _condition(given: Mapping[str, Any], orders: Mapping[str, list[Any]]) -> Predicate:
    kind = given["type"]
    if kind in ("AND", "OR"):
        parts = tuple(_condition(each, orders) for each in given["conditions"])
        return all_of(parts) if kind == "AND" else any_of(parts)
    if kind == "IN":
        return when(given["parent"], *given["values"])
    if kind in ("LT", "GT") and given["parent"] in orders:  # by their places
        order, value = orders[given["parent"]], given["value"]
        place = order.index(value) if value in order else -1
        beside = order[:place] if kind == "LT" else order[place + 1 :]
        if place < 0 or not beside:
            raise InputError(f"ConfigSpace: no value of '{given['parent']}' is {kind} {value!r}")
        return when(given["parent"], *beside)
    if kind in SYMBOLS:
        return compared(given["parent"], SYMBOLS[kind], given["value"])
    raise InputError(
        f"ConfigSpace: a condition of '{_child(given)}' has the type '{kind}', which is not known here"
    )


def _forbidden(given: Mapping[str, Any]) -> Predicate:
    kind = given["type"]
    if kind == "AND":
        return all_of(tuple(_forbidden(each) for each in given["clauses"]))
    if kind == "EQUALS":
        return compared(given["name"], "==", given["value"])
    if kind == "IN":
        return when(given["name"], *given["values"])
    if kind == "RELATION" and given["lambda"] in RELATIONS:
        return predicate(f"{given['left']} {RELATIONS[given['lambda']]} {given['right']}")
    raise InputError(f"ConfigSpace: a forbidden clause has the type '{kind}', which is not known here")


def _written(name: str, parameter: Parameter) -> dict[str, Any]:
    found: dict[str, Any]
    if isinstance(parameter, Float | Int):
        if (isinstance(parameter, Float) and parameter.step is not None) or (
            isinstance(parameter, Int) and parameter.step != 1
        ):
            raise InputError(f"'{name}' has a step, which has no counterpart in ConfigSpace's JSON")
        number = "float" if isinstance(parameter, Float) else "int"
        found = {"lower": parameter.low, "upper": parameter.high, "log": parameter.log}
        if not parameter.informed:
            found["type"] = f"uniform_{number}"
        elif isinstance(parameter.prior, Normal):
            found |= {"type": f"normal_{number}", "mu": parameter.prior.mean, "sigma": parameter.prior.std}
        elif isinstance(parameter.prior, Beta):
            found |= {"type": f"beta_{number}", "alpha": parameter.prior.a, "beta": parameter.prior.b}
        else:
            raise InputError(
                f"'{name}' has the prior {parameter.prior}, which has no counterpart in ConfigSpace's JSON"
            )
    elif isinstance(parameter, Categorical):
        weights = list(parameter.weights or ()) if parameter.informed else None
        found = {"type": "categorical", "choices": list(parameter.choices), "weights": weights}
    elif isinstance(parameter, Ordered):
        found = {"type": "ordinal", "sequence": list(parameter.choices)}
    else:
        assert isinstance(parameter, Constant)
        found = {"type": "constant", "value": parameter.value}
    return {"name": name, **found}


def _written_condition(name: str, condition: Predicate) -> dict[str, Any]:
    parents = {parent for parent, _ in condition.equal}
    if len(parents) == 1 and condition.names == parents and condition.text == when(
        next(iter(parents)), *(value for _, value in condition.equal)
    ).text:  # fmt: skip
        (parent,) = parents
        values = [value for _, value in condition.equal]
        return {"child": name, "parent": parent, "type": "IN", "values": values}
    raise InputError(f"'{name}': the condition '{condition.text}' has no counterpart that is written here")

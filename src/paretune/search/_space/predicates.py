"""Predicates over named parameters: when a parameter is active, and which combinations are forbidden.

`batch > 128 and lr < 1e-4` is Python's own syntax, read by its parser and evaluated here, so that a study's file
cannot run code. A comparison with a parameter that is not active is neither true nor false; what stays open in the
end does not hold: a child of an inactive parameter is inactive, and a rule about it forbids nothing.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import keyword
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any, final

from paretune.errors import InputError

_COMPARE: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}
_ARITHMETIC: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}

Values = Mapping[str, Any]
Part = Callable[[Values], Any]
"""Computes a part of a predicate from a configuration; OPEN where it needs a parameter that is not active."""
OPEN = object()


@final
@dataclass(frozen=True)
class Predicate:
    """A statement over parameters that a configuration makes true or not."""

    text: str
    names: frozenset[str]
    """The parameters that it reads."""
    equal: tuple[tuple[str, Any], ...]
    """Parameters that it compares with constants for being equal, or being one of them."""
    _part: Part
    above: frozenset[str] = frozenset()
    """Those that it puts into an order, by < and the like."""
    function: str = ""
    """A hash of what a function does; empty where the text says it all."""

    @property
    def stored(self) -> Any:
        """What a study keeps of it: its text, from which it is read again; a function cannot be."""
        return {"function": self.text, "source": self.function} if self.function else self.text

    def __call__(self, values: Values) -> bool:
        """Tell whether a configuration, its active values, makes it true."""
        try:
            seen = self._part(values)
            return seen is not OPEN and bool(seen)
        except (TypeError, ArithmeticError) as error:
            at = ", ".join(f"{name}={values[name]!r}" for name in sorted(self.names & set(values)))
            raise InputError(f"'{self.text}' cannot be evaluated at {at}: {error}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Predicate) and self.stored == other.stored

    def __hash__(self) -> int:
        return hash(self.text)


def predicate(given: str | Predicate | Callable[..., bool]) -> Predicate:
    """Return a predicate from its text, or from a function whose arguments are named as the parameters are.

    >>> predicate("batch > 128 and lr < 1e-4")({"batch": 256, "lr": 1e-5})
    True
    >>> predicate("batch > 128 and lr < 1e-4")({"lr": 1e-5})
    False
    """
    if isinstance(given, Predicate):
        return given
    if callable(given):
        return _of_function(given)
    if isinstance(given, Mapping) and "function" in given:
        raise InputError(
            f"the space has the rule {given['function']}, a function, which is not stored; give the space again: "
            "resume(..., space=...)"
        )
    if not isinstance(given, str) or not given.strip():
        raise InputError(f"{given!r} must be a text as 'batch > 128 and lr < 1e-4', or a function of parameters")
    quoted: dict[str, str] = {}
    try:
        tree = ast.parse(_unquoted(given.strip(), quoted), mode="eval").body
    except SyntaxError as error:
        raise InputError(
            f"'{given}' cannot be read: {error.msg}. Write it as 'batch > 128 and lr < 1e-4'"
        ) from error
    found = _Read(given, quoted)
    part = found.read(tree)
    if not found.names:
        raise InputError(f"'{given}' names no parameter")
    return Predicate(given.strip(), frozenset(found.names), tuple(found.equal), part, frozenset(found.above))


def when(name: str, *values: Any) -> Predicate:
    """Return the condition that a parameter has one of some values; with the name alone, a text's condition.

    >>> when("optimizer", "sgd").text, when("depth > 2").text
    ("optimizer == 'sgd'", 'depth > 2')
    """
    if not values:
        return predicate(name)
    alone = f"{quote(name)} == {values[0]!r}"
    part: Part = lambda given: given[name] in values if name in given else OPEN  # noqa: E731
    text = alone if len(values) == 1 else f"{quote(name)} in {list(values)!r}"
    return Predicate(text, frozenset({name}), tuple((name, value) for value in values), part)


def compared(name: str, symbol: str, value: Any) -> Predicate:
    """Return the predicate `name symbol value`, for a name that need not be one of Python's.

    symbol: ==, !=, <, <=, > or >=.
    """
    function = _COMPARE[SYMBOLS[symbol]]
    part: Part = lambda given: function(given[name], value) if name in given else OPEN  # noqa: E731
    equal = ((name, value),) if symbol in ("==", "!=") else ()
    above = frozenset() if equal else frozenset({name})
    return Predicate(f"{quote(name)} {symbol} {value!r}", frozenset({name}), equal, part, above)


SYMBOLS: dict[str, type[ast.AST]] = {
    "==": ast.Eq, "!=": ast.NotEq, "<": ast.Lt, "<=": ast.LtE, ">": ast.Gt, ">=": ast.GtE,
}  # fmt: skip


def all_of(predicates: tuple[Predicate, ...]) -> Predicate:
    """Return the predicate that holds where all of some do."""
    return _joined(predicates, "and", all)


def any_of(predicates: tuple[Predicate, ...]) -> Predicate:
    """Return the predicate that holds where one of some does."""
    return _joined(predicates, "or", any)


def _joined(predicates: tuple[Predicate, ...], word: str, join: Callable[[Any], bool]) -> Predicate:
    if len(predicates) == 1:
        return predicates[0]
    return Predicate(
        f" {word} ".join(f"({each.text})" for each in predicates),
        frozenset().union(*(each.names for each in predicates)),
        tuple(pair for each in predicates for pair in each.equal),
        lambda values: join(each(values) for each in predicates),
        frozenset().union(*(each.above for each in predicates)),
        "".join(each.function for each in predicates),
    )


def _of_function(function: Callable[..., bool]) -> Predicate:
    named = getattr(function, "__name__", repr(function))
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    arguments = inspect.signature(function).parameters.values()
    if not arguments or any(argument.kind not in kinds for argument in arguments):
        raise InputError(f"{named} must take parameters by name, as `lambda batch, lr: batch > 128 and lr < 1e-4`")
    names = frozenset(argument.name for argument in arguments)

    def part(values: Values) -> Any:
        return function(**{name: values[name] for name in names}) if names <= set(values) else OPEN

    return Predicate(f"{named}({', '.join(sorted(names))})", names, (), part, function=_source(function))


def _source(function: Callable[..., bool]) -> str:
    """Return a short hash of what a function does: of its code and constants, wherever it stands."""
    code = getattr(function, "__code__", None)
    told = repr(function) if code is None else repr((code.co_code, code.co_names, _constants(code)))
    return hashlib.sha256(told.encode()).hexdigest()[:12]


def _constants(code: CodeType) -> list[Any]:
    return [(each.co_code, _constants(each)) if isinstance(each, CodeType) else each for each in code.co_consts]


def quote(name: str) -> str:
    """Return a parameter's name as a predicate's text has it: in backticks where it is none of Python's.

    >>> quote("lr"), quote("opt.lr"), quote("weight-decay")
    ('lr', 'opt.lr', '`weight-decay`')
    """
    parts = name.split(".")
    return name if all(part.isidentifier() and not keyword.iskeyword(part) for part in parts) else f"`{name}`"


def _unquoted(text: str, quoted: dict[str, str]) -> str:
    """Return a text with names of Python's for those in backticks, which are noted."""

    def name(match: re.Match[str]) -> str:
        return quoted.setdefault(match[1], f"_quoted_{len(quoted)}")

    return re.sub(r"`([^`]+)`", name, text)


class _Read:
    """A text being read: the names in it, and what is done with them."""

    def __init__(self, text: str, quoted: Mapping[str, str]) -> None:
        self.text, self._quoted = text, {alias: name for name, alias in quoted.items()}
        self.names: set[str] = set()
        self.equal: list[tuple[str, Any]] = []
        self.above: set[str] = set()

    def read(self, node: ast.AST) -> Part:
        """Return a tree's part."""
        match node:
            case ast.Constant(value=value):
                return lambda values: value
            case ast.List(elts=elements) | ast.Tuple(elts=elements):
                parts = [self.read(element) for element in elements]
                return lambda values: [part(values) for part in parts]
            case ast.Name() | ast.Attribute():
                name = self._dotted(node)
                self.names.add(name)
                return lambda values: values.get(name, OPEN)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self.read(operand)
                return lambda values: OPEN if (value := inner(values)) is OPEN else -value
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self.read(operand)
                return lambda values: OPEN if (value := inner(values)) is OPEN else not value
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                return _strict(_ARITHMETIC[type(op)], self.read(left), self.read(right))
            case ast.BoolOp(op=op, values=values):
                return _logic([self.read(value) for value in values], isinstance(op, ast.And))
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARE for op in ops):
                sides = [left, *others]
                self._note(sides, ops)
                parts = [self.read(side) for side in sides]
                pairs = [_strict(_COMPARE[type(op)], parts[i], parts[i + 1]) for i, op in enumerate(ops)]
                return _logic(pairs, every=True)
        raise InputError(
            f"'{self.text}': '{ast.unparse(node)}' is not understood; comparisons, and, or, not, in, "
            "+ - * / // % ** and names of parameters are"
        )

    def _dotted(self, node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return self._quoted.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            return f"{self._dotted(node.value)}.{node.attr}"
        raise InputError(f"'{self.text}': '{ast.unparse(node)}' is no name of a parameter")

    def _note(self, sides: list[ast.expr], ops: list[ast.cmpop]) -> None:
        """Note the constants that a name is said to equal, so that a typo among them is found, and what is put
        into an order."""
        for index, op in enumerate(ops):
            name, other = sides[index], sides[index + 1]
            if isinstance(op, ast.Lt | ast.LtE | ast.Gt | ast.GtE):
                self.above |= {self._dotted(s) for s in (name, other) if isinstance(s, ast.Name | ast.Attribute)}
            if not isinstance(name, ast.Name | ast.Attribute):
                continue
            if isinstance(op, ast.Eq | ast.NotEq) and isinstance(other, ast.Constant):
                self.equal.append((self._dotted(name), other.value))
            if isinstance(op, ast.In | ast.NotIn) and isinstance(other, ast.List | ast.Tuple):
                self.equal += [(self._dotted(name), e.value) for e in other.elts if isinstance(e, ast.Constant)]


def _strict(function: Callable[[Any, Any], Any], left: Part, right: Part) -> Part:
    def part(values: Values) -> Any:
        a, b = left(values), right(values)
        return OPEN if a is OPEN or b is OPEN else function(a, b)

    return part


def _logic(parts: list[Part], every: bool) -> Part:
    """Return `and` (every) or `or` of parts, open where those that are open decide."""

    def part(values: Values) -> Any:
        open_ = False
        for each in parts:
            value = each(values)
            if value is OPEN:
                open_ = True
            elif bool(value) != every:
                return not every  # as in Python, what is behind it is not looked at
        return OPEN if open_ else every

    return part

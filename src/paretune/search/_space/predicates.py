"""Predicates over named parameters: when a parameter is active, and which combinations are forbidden.

`batch > 128 and lr < 1e-4` is Python's own syntax, read by its parser and evaluated here, so that a study's file
cannot run code. A comparison with a parameter that is not active is neither true nor false; what stays open in the
end does not hold: a child of an inactive parameter is inactive, and a rule about it forbids nothing.
"""

from __future__ import annotations

import ast
import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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

    def __call__(self, values: Values) -> bool:
        """Tell whether a configuration, its active values, makes it true."""
        try:
            seen = self._part(values)
            return seen is not OPEN and bool(seen)
        except (TypeError, ArithmeticError) as error:
            at = ", ".join(f"{name}={values[name]!r}" for name in sorted(self.names & set(values)))
            raise InputError(f"'{self.text}' cannot be evaluated at {at}: {error}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Predicate) and self.text == other.text

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
    if not isinstance(given, str) or not given.strip():
        raise InputError(f"{given!r} must be a text as 'batch > 128 and lr < 1e-4', or a function of parameters")
    try:
        tree = ast.parse(given.strip(), mode="eval").body
    except SyntaxError as error:
        raise InputError(
            f"'{given}' cannot be read: {error.msg}. Write it as 'batch > 128 and lr < 1e-4'"
        ) from error
    names: set[str] = set()
    equal: list[tuple[str, Any]] = []
    part = _read(tree, given, names, equal)
    if not names:
        raise InputError(f"'{given}' names no parameter")
    return Predicate(given.strip(), frozenset(names), tuple(equal), part)


def when(name: str, *values: Any) -> Predicate:
    """Return the condition that a parameter has one of some values; with the name alone, a text's condition.

    >>> when("optimizer", "sgd").text, when("depth > 2").text
    ("optimizer == 'sgd'", 'depth > 2')
    """
    if not values:
        return predicate(name)
    alone = f"{name} == {values[0]!r}"
    part: Part = lambda given: given[name] in values if name in given else OPEN  # noqa: E731
    text = alone if len(values) == 1 else f"{name} in {list(values)!r}"
    return Predicate(text, frozenset({name}), tuple((name, value) for value in values), part)


def compared(name: str, symbol: str, value: Any) -> Predicate:
    """Return the predicate `name symbol value`, for a name that need not be one of Python's.

    symbol: ==, !=, <, <=, > or >=.
    """
    function = _COMPARE[SYMBOLS[symbol]]
    part: Part = lambda given: function(given[name], value) if name in given else OPEN  # noqa: E731
    equal = ((name, value),) if symbol in ("==", "!=") else ()
    return Predicate(f"{name} {symbol} {value!r}", frozenset({name}), equal, part)


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

    return Predicate(f"{named}({', '.join(sorted(names))})", names, (), part)


def _read(node: ast.AST, text: str, names: set[str], equal: list[tuple[str, Any]]) -> Part:
    """Return a tree's part, and note which names it reads."""

    def read(each: ast.AST) -> Part:
        return _read(each, text, names, equal)

    match node:
        case ast.Constant(value=value):
            return lambda values: value
        case ast.List(elts=elements) | ast.Tuple(elts=elements):
            parts = [read(element) for element in elements]
            return lambda values: [part(values) for part in parts]
        case ast.Name() | ast.Attribute():
            name = _dotted(node, text)
            names.add(name)
            return lambda values: values.get(name, OPEN)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            inner = read(operand)
            return lambda values: OPEN if (value := inner(values)) is OPEN else -value
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            inner = read(operand)
            return lambda values: OPEN if (value := inner(values)) is OPEN else not value
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return _strict(_ARITHMETIC[type(op)], read(left), read(right))
        case ast.BoolOp(op=op, values=values):
            return _logic([read(value) for value in values], isinstance(op, ast.And))
        case ast.Compare(left=left, ops=ops, comparators=comparators) if all(type(op) in _COMPARE for op in ops):
            sides = [left, *comparators]
            _note_equal(sides, ops, text, equal)
            parts = [read(side) for side in sides]
            pairs = [_strict(_COMPARE[type(op)], parts[index], parts[index + 1]) for index, op in enumerate(ops)]
            return _logic(pairs, every=True)
    raise InputError(
        f"'{text}': '{ast.unparse(node)}' is not understood; comparisons, and, or, not, in, + - * / // % ** and "
        "names of parameters are"
    )


def _dotted(node: ast.AST, text: str) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, text)}.{node.attr}"
    raise InputError(f"'{text}': '{ast.unparse(node)}' is no name of a parameter")


def _strict(function: Callable[[Any, Any], Any], left: Part, right: Part) -> Part:
    def part(values: Values) -> Any:
        a, b = left(values), right(values)
        return OPEN if a is OPEN or b is OPEN else function(a, b)

    return part


def _logic(parts: list[Part], every: bool) -> Part:
    """Return `and` (every) or `or` of parts, open where those that are open decide."""

    def part(values: Values) -> Any:
        seen = [each(values) for each in parts]
        decided = [bool(value) for value in seen if value is not OPEN]
        if every and not all(decided):
            return False
        if not every and any(decided):
            return True
        return OPEN if len(decided) < len(seen) else every

    return part


def _note_equal(sides: list[ast.expr], ops: list[ast.cmpop], text: str, equal: list[tuple[str, Any]]) -> None:
    """Note the constants that a name is said to equal, so that a typo among them is found."""
    for index, op in enumerate(ops):
        name, other = sides[index], sides[index + 1]
        if not isinstance(name, ast.Name | ast.Attribute):
            continue
        if isinstance(op, ast.Eq | ast.NotEq) and isinstance(other, ast.Constant):
            equal.append((_dotted(name, text), other.value))
        if isinstance(op, ast.In | ast.NotIn) and isinstance(other, ast.List | ast.Tuple):
            equal += [(_dotted(name, text), e.value) for e in other.elts if isinstance(e, ast.Constant)]

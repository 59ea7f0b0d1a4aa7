"""Predicates: Python's own answer where all is active, and three-valued logic where something is not."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.errors import InputError
from paretune.search import Float, Ordered, Space, when
from paretune.search._space.predicates import all_of, compared, predicate

LEAVES = st.sampled_from(
    ["a > 2", "b <= a", "a + b * 2 == 7", "a in [1, 2]", "b not in (3, 4)", "-a < 0", "1 < a <= b"]
)
TEXTS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} and {pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} or {pair[1]})"),
        inner.map(lambda text: f"(not {text})"),
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(TEXTS, st.integers(0, 5), st.integers(0, 5))
def test_agrees_with_python(text, a, b):
    assert predicate(text)({"a": a, "b": b}) == eval(text, {}, {"a": a, "b": b})


@settings(deadline=None)
@given(TEXTS, st.integers(0, 5), st.integers(0, 5))
def test_what_is_open_does_not_hold_unless_every_value_makes_it_so(text, a, b):
    # with b unknown, a predicate that holds holds for every b
    if predicate(text)({"a": a}):
        assert predicate(text)({"a": a, "b": b})


def test_inactive_by_hand():
    rule = predicate("batch > 128 and lr < 1e-4")
    assert rule({"batch": 256, "lr": 1e-5}) and not rule({"batch": 256}) and not rule({"lr": 1e-5})
    assert predicate("opt == 'sgd' or depth > 2")({"depth": 3})
    assert not predicate("not opt == 'sgd'")({"depth": 3})
    assert predicate("depth == None")({"depth": None}), "None is a value, not an absence"


def test_when():
    assert when("opt", "sgd")({"opt": "sgd"}) and not when("opt", "sgd")({"opt": "adam"})
    assert when("opt", "sgd", "adam")({"opt": "adam"}) and not when("opt", "sgd")({})
    both = all_of((when("opt", "sgd"), when("depth > 2")))
    assert both({"opt": "sgd", "depth": 3}) and not both({"opt": "sgd", "depth": 2})
    assert both.names == {"opt", "depth"}


def test_functions():
    rule = predicate(lambda batch, lr: batch * lr > 1)
    assert rule({"batch": 10, "lr": 0.5, "other": 1}) and not rule({"batch": 10})


def test_dotted_names_are_those_of_recipes():
    assert predicate("prune.channels.macs < 0.5")({"prune.channels.macs": 0.4})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a >", "cannot be read"),
        ("__import__('os').system('true')", "is not understood"),
        ("[x for x in a]", "is not understood"),
        ("a if b else c", "is not understood"),
        ("1 < 2", "names no parameter"),
        ("", "must be a text"),
        (3, "must be a text"),
        (lambda *a: True, "must take parameters by name"),
    ],
)
def test_bad_input(text, said):
    with pytest.raises(InputError, match=said):
        predicate(text)


def test_types_that_do_not_compare_are_told_with_the_values():
    with pytest.raises(InputError, match=r"'a < 3' cannot be evaluated at a='x'"):
        predicate("a < 3")({"a": "x"})


def test_what_is_behind_the_first_that_decides_is_not_looked_at():
    assert not predicate("n > 0 and x / n > 0.4")({"n": 0, "x": 1})
    assert predicate("n == 0 or x / n > 0.4")({"n": 0, "x": 1})
    assert not predicate("a != 'auto' and a > 1")({"a": "auto"})


@pytest.mark.parametrize("name", ["weight-decay", "lambda", "class", "my opt", "classifier:__choice__"])
def test_names_that_are_none_of_pythons_are_written_in_backticks(name):
    for rule in (when(name, "sgd"), when(name, "sgd", 2), compared(name, "!=", 3)):
        again = predicate(rule.text)
        assert again.names == {name} and again.equal == rule.equal
        assert [again({name: value}) for value in ("sgd", 2, 3)] == [
            rule({name: value}) for value in ("sgd", 2, 3)
        ]
    assert predicate(f"`{name}` > 2 and x < 1")({name: 3, "x": 0})


def test_texts_have_no_order():
    """As sizes small < medium; by the alphabet it is the other way round."""
    sizes = {"size": Ordered(["small", "medium", "large"]), "x": Float(0, 1)}
    with pytest.raises(InputError, match=r"size has texts for values.*size in \['small', 'medium'\]"):
        Space(sizes, forbid=["size > 'small'"])
    with pytest.raises(InputError, match=r"x: when .*size has texts"):
        Space({"size": sizes["size"], "x": Float(0, 1, when="'small' < size")})
    assert Space({"size": Ordered([8, 16])}, forbid=["size > 8"]).allowed({"size": 8})


def test_another_function_is_another_rule():
    rules = [predicate(each) for each in (lambda x: x > 0.5, lambda x: x > 0.7, lambda x: x > 0.5)]
    assert rules[0] == rules[2] != rules[1]


@pytest.mark.parametrize("given", [True, 3, {"a": 1}])
def test_a_condition_is_a_text_or_several(given):
    with pytest.raises(InputError, match=r"when=.* must be a condition"):
        Float(0, 1, when=given)

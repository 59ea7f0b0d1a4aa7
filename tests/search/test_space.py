"""Spaces: every value goes to the unit cube and back, conditions and rules hold for every draw."""

from __future__ import annotations

import itertools
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.errors import InputError
from paretune.search import (
    Categorical,
    Constant,
    Float,
    Int,
    Normal,
    Ordered,
    Space,
    minimize,
    replay,
    resume,
    when,
)
from paretune.search._space.space import key


@st.composite
def parameters(draw):
    """Any parameter without a condition."""
    kind = draw(st.sampled_from(["float", "log", "step", "int", "int log", "int step", "cat", "ord"]))
    low = draw(st.floats(-1e6, 1e6, allow_nan=False).map(lambda x: float(f"{x:.6g}")))
    span = draw(st.floats(1e-3, 1e6).map(lambda x: float(f"{x:.6g}")))
    if kind == "float":
        return Float(low, low + span)
    if kind == "log":
        return Float(abs(low) + 1e-6, (abs(low) + 1e-6) * (1 + span), log=True)
    if kind == "step":
        return Float(round(low), round(low) + 0.25 * draw(st.integers(1, 40)), step=0.25)
    if kind == "int":
        return Int(round(low), round(low) + draw(st.integers(1, 10**9)))
    if kind == "int log":
        return Int(draw(st.integers(1, 1000)), 1000 + draw(st.integers(1, 10**6)), log=True)
    if kind == "int step":
        return Int(round(low), round(low) + 3 * draw(st.integers(1, 50)), step=3)
    choices = draw(
        st.lists(st.one_of(st.integers(-5, 5), st.text(max_size=3)), min_size=2, max_size=6, unique_by=repr)
    )
    return (Categorical if kind == "cat" else Ordered)(choices)


@settings(deadline=None, max_examples=300)
@given(parameters(), st.floats(0, 1))
def test_a_value_goes_to_the_unit_interval_and_back(parameter, unit):
    value = parameter.decode(unit)
    assert 0 <= parameter.encode(value) <= 1
    assert parameter.decode(parameter.encode(value)) == value
    assert type(parameter.decode(parameter.encode(value))) is type(value)


@pytest.mark.parametrize("value", [3e-4, 1e-5, 0.1, 0.00123])
def test_what_users_write_comes_back(value):
    parameter = Float(1e-5, 1e-1, log=True)
    assert parameter.decode(parameter.encode(value)) == value


def test_cells_by_hand():
    # three whole numbers share the interval; a value is the middle of its cell
    assert [Int(4, 6).encode(value) for value in (4, 5, 6)] == pytest.approx([1 / 6, 1 / 2, 5 / 6])
    assert [Int(4, 6).decode(unit) for unit in (0.0, 0.34, 0.66, 0.67, 1.0)] == [4, 5, 5, 6, 6]
    # on a logarithmic scale 1 has the cell from 0.5 to 1.5 of [0.5, 2.5]
    assert Int(1, 2, log=True).decode(math.log(3) / math.log(5) - 1e-9) == 1
    assert Int(1, 2, log=True).decode(math.log(3) / math.log(5) + 1e-9) == 2
    assert Float(0, 1, step=0.25).count == 5 and Int(1, 9, step=2).count == 5 and Float(0, 1).count == math.inf


@st.composite
def spaces(draw):
    """A space with nested conditions, given in any order, and a rule."""
    found = {}
    for index in range(draw(st.integers(1, 6))):
        parents = [name for name, each in found.items() if isinstance(each, Int)]
        condition = None
        if parents and draw(st.booleans()):
            chosen = draw(st.lists(st.sampled_from(parents), min_size=1, max_size=2, unique=True))
            condition = [when(f"{name} >= {draw(st.integers(1, 2))}") for name in chosen]
        kind = draw(st.sampled_from([Int, Float]))
        found[f"p{index}"] = kind(0, 3, when=condition)
    rules = [f"{name} > 2" for name in found if draw(st.integers(0, 3)) == 0]
    order = draw(st.permutations(sorted(found)))
    return Space({name: found[name] for name in order}, forbid=rules)


@settings(deadline=None, max_examples=60)
@given(spaces(), st.integers(0, 1000))
def test_draws_hold_conditions_and_rules(space, seed):
    generator = np.random.default_rng(seed)
    texts = [rule.text for rule in space.rules]
    for row, config in itertools.islice(space.draws(lambda n: generator.random((n, len(space)))), 20):
        for name, parameter in space.parameters.items():
            assert (name in config) == (parameter.when is None or parameter.when(config))
            assert f"{name} > 2" not in texts or config.get(name, 0) <= 2
        assert [name for name, unit in zip(space.names, row, strict=True) if not np.isnan(unit)] == list(config)
        assert space.config(space.row(config)) == config
        assert space.allowed(config)


def test_density_of_rows_is_the_product_of_active_ones():
    space = Space(
        {
            "opt": Categorical(["sgd", "adam"], weights=[1, 3]),
            "lr": Float(0, 1, prior=Normal(0.5, 0.1)),
            "momentum": Float(0, 1, prior=Normal(0.5, 0.1), when=when("opt", "sgd")),
        }
    )
    rows = np.stack([space.row({"opt": "sgd", "lr": 0.5, "momentum": 0.5}), space.row({"opt": "adam", "lr": 0.5})])
    peak = 1 / (0.1 * math.sqrt(2 * math.pi))
    assert space.density(rows) == pytest.approx([0.5 * peak**2, 1.5 * peak], rel=1e-4)
    assert np.isnan(rows[1, space.names.index("momentum")])


def test_a_configuration_is_its_active_values():
    assert key({"b": 1, "a": "x"}) == key({"a": "x", "b": 1}) != key({"a": "x", "b": 2})
    space = Space({"lr": Float(0, 1), "seeded": Constant("yes")})
    assert space.config(np.array([0.5, 0.5])) == {"lr": 0.5, "seeded": "yes"}
    assert space.config(space.row({"lr": 0.5})) == {"lr": 0.5, "seeded": "yes"}


def test_true_and_one_are_two_values():
    parameter = Categorical([True, 1, "1", None])
    assert [parameter.decode(parameter.encode(value)) for value in (True, 1, "1", None)] == [True, 1, "1", None]
    assert parameter.encode(True) != parameter.encode(1)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Float(1, 1), "low=1 must be below high=1"),
        (lambda: Float(2, 1), "low=2 must be below high=1"),
        (lambda: Float(0, 1, log=True), "low=0 has no logarithm"),
        (lambda: Float(0, math.inf), "high=inf must be a finite number"),
        (lambda: Float(math.nan, 1), "low=nan must be a finite number"),
        (lambda: Float(0, 1, step=0.3), "does not divide the range from 0 to 1; high=0.9 would fit"),
        (lambda: Int(0, 10, step=3), "high=9 would fit"),
        (lambda: Int(1, 9, step=2, log=True), "do not go together"),
        (lambda: Int(0.5, 2), "low=0.5 must be a whole number"),
        (lambda: Int(0, 2**60), "too many values"),
        (lambda: Categorical(["a"]), "leaves no choice"),
        (lambda: Categorical("abc"), "must be a list"),
        (lambda: Categorical(["a", "b", "a"]), "'a' is there twice"),
        (lambda: Categorical(["a", math.nan]), "nan is no value"),
        (lambda: Categorical(["a", "b"], weights=[1]), "1 weights for 2 values"),
        (lambda: Categorical(["a", "b"], weights=[0, 0]), "not all of them 0"),
        (lambda: Categorical(["a", "b"], weights=[-1, 1]), "numbers of 0 or more"),
        (lambda: Space({}), "needs parameters"),
        (lambda: Space({"lr": 3}), "lr: 3 is no parameter"),
        (
            lambda: Space({"lr": Float(0, 1, when=when("op", 1)), "opt": Int(0, 1)}),
            "'op'. Did you mean 'opt'",
        ),
        (
            lambda: Space({"a": Int(0, 1, when=when("b", 1)), "b": Int(0, 1, when=when("a", 1))}),
            "a needs b needs a",
        ),
        (
            lambda: Space({"o": Categorical(["sgd", "adam"]), "m": Float(0, 1, when=when("o", "sdg"))}),
            "Did you mean 'sgd'",
        ),
        (lambda: Space({"a": Int(0, 3), "m": Float(0, 1, when="a > 5")}), "m: never active: 'a > 5'"),
        (lambda: Space({"lr": Float(0, 1)}, forbid=["lt < 1"]), "forbid: 'lt < 1': there is no parameter 'lt'"),
        (lambda: Space({"lr": Float(0, 1)}, forbid=["lr >= 0"]), "leave not one of 10,000 draws"),
    ],
)
def test_bad_spaces(make, said):
    with pytest.raises(InputError, match=said):
        make()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"lr": 2.0, "opt": "adam"}, r"lr: 2.0 is not in \[0, 1\]"),
        ({"opt": "adam"}, "'lr' has no value"),
        ({"lr": 0.5, "opt": "adm"}, "opt: 'adm' is none of .* Did you mean 'adam'"),
        (
            {"lr": 0.5, "opt": "adam", "momentum": 0.5},
            "'momentum' has a value but is active only where opt == ",
        ),
        (
            {"lr": 0.5, "opt": "adam", "momentun": 0.5},
            "'momentun' is no parameter .* mean 'momentum'",
        ),
        ({"lr": 0.95, "opt": "adam"}, "is forbidden by 'lr > 0.9'"),
    ],
)
def test_bad_configurations(config, said):
    space = Space(
        {
            "momentum": Float(0, 1, when=when("opt", "sgd")),
            "lr": Float(0, 1),
            "opt": Categorical(["sgd", "adam"]),
        },
        forbid=["lr > 0.9"],
    )
    with pytest.raises(InputError, match=said):
        space.row(config)


@pytest.mark.parametrize(
    ("low", "high", "step"),
    [(0, math.pi, math.pi / 8), (0, 2 / 3, 1 / 3), (1 / 3, 1, 1 / 3), (-1 / 7, 1 / 7, 1 / 49), (0, 1, 0.1)],
)
@pytest.mark.parametrize("method", ["random", "grid", "bayes", "optuna.NSGAIISampler"])
def test_steps_whose_ends_have_many_digits(low, high, step, method):
    result = minimize(lambda config: config["x"], {"x": Float(low, high, step=step)}, method, 40)
    assert len(result.trials) == round((high - low) / step) + 1
    assert all(low <= trial.config["x"] <= high for trial in result.trials)


@pytest.mark.parametrize("method", ["random", "bayes", "optuna.TPESampler"])
def test_values_that_are_lists_or_of_numpy(method, tmp_path):
    """They are stored as plain JSON, and come back as the same."""
    space = {
        "betas": Categorical([(0.9, 0.999), (0.8, 0.99), (0.5, 0.9)]), "size": Ordered(np.array([8, 16]).tolist()),
        "n": Categorical([np.int64(1), np.int64(2)]), "kernel": Constant((3, 3)), "x": Float(0, 1),
    }  # fmt: skip
    url = f"sqlite:///{tmp_path}/study.db"
    loss = lambda config: config["x"] + config["betas"][0] + config["n"]  # noqa: E731
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        minimize(loss, space, method, 14, storage=url)
    result = resume(loss, url, 20)
    assert len(result.trials) == 20 and result.config["kernel"] == [3, 3]
    assert {tuple(trial.config["betas"]) for trial in result.trials} <= {(0.9, 0.999), (0.8, 0.99), (0.5, 0.9)}
    assert replay(url).same


def test_what_cannot_be_stored_is_refused_where_it_is_given():
    with pytest.raises(InputError, match="Categorical: <built-in function max> cannot be stored"):
        Categorical([max, min])
    with pytest.raises(InputError, match=r"Constant: .* cannot be stored"):
        Constant(object())
    with pytest.raises(InputError, match="too wide for float64"):
        Float(-1e308, 1e308)
    with pytest.raises(InputError, match="weights=3 must be a list of numbers"):
        Categorical(["a", "b"], weights=3)

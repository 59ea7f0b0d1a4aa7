"""ConfigSpace's JSON: what others write is read, and what is written is read again."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from paretune.errors import InputError
from paretune.search import (
    Beta,
    Categorical,
    Constant,
    Float,
    Int,
    LogNormal,
    Normal,
    Ordered,
    Space,
    read_configspace,
    when,
    write_configspace,
)

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data" / "hpo" / "lcbench" / "config_space.json"

THEIRS = {
    "name": "space",
    "hyperparameters": [
        {"name": "opt", "type": "categorical", "choices": ["sgd", "adam", "rms"], "weights": [0.5, 0.25, 0.25]},
        {"name": "lr", "type": "uniform_float", "lower": 1e-5, "upper": 0.1, "log": True, "default_value": 1e-3},
        {"name": "momentum", "type": "beta_float", "lower": 0, "upper": 1, "alpha": 2, "beta": 5},
        {"name": "layers", "type": "normal_int", "lower": 1, "upper": 9, "mu": 4, "sigma": 2},
        {"name": "size", "type": "ordinal", "sequence": [8, 16, 32]},
        {"name": "kind", "type": "constant", "value": "mlp"},
        {"name": "optimizer:nesterov", "type": "categorical", "choices": [True, False]},
        {"name": "deep", "type": "uniform_int", "lower": 1, "upper": 3},
    ],
    "conditions": [
        {"child": "momentum", "parent": "opt", "type": "EQ", "value": "sgd"},
        {"child": "optimizer:nesterov", "parent": "opt", "type": "IN", "values": ["sgd", "rms"]},
        {"type": "AND", "conditions": [
            {"child": "deep", "parent": "layers", "type": "GT", "value": 3},
            {"child": "deep", "parent": "opt", "type": "NEQ", "value": "rms"},
        ]},
    ],
    "forbiddens": [
        {"type": "AND", "clauses": [
            {"name": "size", "type": "EQUALS", "value": 32},
            {"name": "layers", "type": "IN", "values": [8, 9]},
        ]},
        {"type": "RELATION", "lambda": "LESS", "left": "layers", "right": "deep"},
    ],
}  # fmt: skip


def test_what_others_write_is_read():
    space = read_configspace(THEIRS)
    assert space["lr"] == Float(1e-5, 0.1, log=True) and space["size"] == Ordered([8, 16, 32])
    assert space["layers"] == Int(1, 9, prior=Normal(4, 2)) and space["kind"] == Constant("mlp")
    assert space["momentum"].prior == Beta(2, 5) and space["opt"].weights == (0.5, 0.25, 0.25)
    generator = np.random.default_rng(0)
    draws = space.draws(lambda n: generator.random((n, len(space))))
    for _, config in (next(draws) for _ in range(300)):
        assert ("momentum" in config) == (config["opt"] == "sgd")
        assert ("optimizer:nesterov" in config) == (config["opt"] != "adam")
        assert ("deep" in config) == (config["layers"] > 3 and config["opt"] != "rms")
        assert not (config["size"] == 32 and config["layers"] in (8, 9))


def test_what_is_written_is_read_again():
    space = Space(
        {
            "opt": Categorical(["sgd", "adam"], weights=[1, 3]),
            "lr": Float(1e-5, 0.1, log=True),
            "wd": Float(0, 1, prior=Normal(0.5, 0.1)),
            "momentum": Float(0, 1, prior=Beta(2, 5), when=when("opt", "sgd")),
            "layers": Int(1, 9, when=when("opt", "sgd", "adam")),
            "size": Ordered([8, 16, 32]),
            "kind": Constant("mlp"),
        }
    )
    again = read_configspace(json.loads(json.dumps(write_configspace(space))))
    assert again.parameters == space.parameters and again.names == space.names


@pytest.mark.skipif(not SHARED.exists(), reason="shared data are not there")
def test_a_file_of_a_benchmark(tmp_path):
    space = read_configspace(SHARED)
    assert {"batch_size", "learning_rate", "momentum"} <= set(space.names)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: read_configspace("/nowhere.json"), "no file"),
        (
            lambda: read_configspace({"hyperparameters": [{"name": "x"}]}),
            "is no ConfigSpace JSON .KeyError: 'type'",
        ),
        (lambda: read_configspace({"hyperparameters": [{"name": "x", "type": "odd"}]}), "has the type 'odd'"),
        (lambda: write_configspace(Space({"x": Float(0, 1, step=0.5)})), "'x' has a step"),
        (lambda: write_configspace(Space({"x": Float(0.1, 1, prior=LogNormal(0.5, 1))})), "'x' has the prior"),
        (lambda: write_configspace(Space({"x": Float(0, 1)}, forbid=["x > 0.9"])), "forbidden rules as 'x > 0.9'"),
        (lambda: write_configspace(Space({"x": Int(0, 3), "y": Float(0, 1, when="x > 1")})), "condition 'x > 1'"),
    ],
)
def test_bad_input(make, said):
    with pytest.raises(InputError, match=said):
        make()

"""Which version of an objective a study has seen: another one is told, or refused."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import time

import pytest

from paretune.errors import InputError, RunError
from paretune.search import Float, minimize
from paretune.search._study.entry import _warner
from paretune.search._study.executors import Job
from paretune.search._study.file import Reference
from paretune.search._study.processes import Processes
from paretune.search._study.source import source_hash

SPACE = {"x": Float(0, 1)}
MODULE = "def helper(x):\n    return {factor} * x\n\n\ndef objective(config):\n    return helper(config['x'])\n"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module whose objective calls a function beside it, and return it as it is read then."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    def write(factor):
        (tmp_path / "versioned.py").write_text(MODULE.format(factor=factor))
        later = time.time() + factor  # bytecode is compared by whole seconds
        os.utime(tmp_path / "versioned.py", (later, later))
        sys.modules.pop("versioned", None)
        importlib.invalidate_caches()
        return importlib.import_module("versioned")

    yield write
    sys.modules.pop("versioned", None)


class Callable:
    def __call__(self, config):
        return config["x"]


def test_what_has_a_source(module):
    first = module(1)
    assert source_hash(first.objective) == source_hash(first.helper), "a module's"
    assert source_hash(functools.partial(first.objective)) == source_hash(first.objective)
    assert source_hash(Callable()) == source_hash(test_what_has_a_source)
    assert source_hash(len) is None and source_hash(functools.partial(max, 1)) is None
    before = source_hash(first.objective)
    assert source_hash(module(2).objective) != before, "what it calls is part of it"


def test_a_script_s_objective_is_its_function_alone(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("def objective(config):\n    return config['x']\n\n\nprint('the study')\n")
    before = source_hash(Reference(f"{script}:objective"))
    script.write_text("def objective(config):\n    return config['x'] + 1\n\n\nprint('the study')\n")
    assert before is not None and source_hash(Reference(f"{script}:objective")) is not None


def test_another_version_is_told_and_refused_where_strict(module, tmp_path):
    heard = []
    how = {
        "storage": f"sqlite:///{tmp_path}/study.db",
        "listen": lambda kind, fields: heard.append((kind, fields)),
    }
    minimize(module(1).objective, SPACE, "random", budget=2, **how)
    minimize(module(1).objective, SPACE, "random", budget=3, strict=True, **how)
    assert not [kind for kind, _ in heard if kind == "warning"]
    with pytest.raises(InputError, match=r"strict: the objective's source is not what it was \(hash"):
        minimize(module(2).objective, SPACE, "random", budget=4, strict=True, **how)
    result = minimize(module(2).objective, SPACE, "random", budget=4, **how)
    assert len(result.trials) == 4
    (told,) = [fields["text"] for kind, fields in heard if kind == "warning"]
    assert "earlier runs may not compare" in told
    minimize(module(2).objective, SPACE, "random", budget=5, strict=True, **how)
    minimize(len, SPACE, "random", budget=5, strict=True, **how)  # a builtin tells nothing


def test_a_worker_with_another_version_is_told(module):
    """The file was changed after the driver had read it."""
    told = []
    pool = Processes(module(1).objective, print, 1, timeout=None, memory=None, warn=told.append)
    try:
        pool.start(Job(0, {"x": 0.5}, None, 0, None))
        assert pool.wait()[0][1].loss == 0.5 and told == []
        pool.stop()
        module(2)
        pool.start(Job(1, {"x": 0.5}, None, 0, None))
        assert pool.wait()[0][1].loss == 1.0
    finally:
        pool.stop()
    assert len(told) == 1 and told[0].startswith("a worker has another version of the objective (hash ")


def test_a_warning_ends_a_strict_study():
    heard = []
    _warner(lambda kind, fields: heard.append((kind, fields)), False)("it differs")
    assert heard == [("warning", {"text": "it differs"})]
    with pytest.raises(RunError, match="strict: it differs; what was finished is kept"):
        _warner(lambda kind, fields: None, True)("it differs")

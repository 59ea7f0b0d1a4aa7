"""Load time and memory in a fresh process."""

import subprocess
import sys

import numpy as np
import pytest
from onnx import helper

from paretune.errors import RunError
from paretune.measure import _process, fresh_process
from paretune.target import Target


def test_memory_grows_with_what_the_file_holds(relu, product):
    small, large = fresh_process(relu, Target()), fresh_process(product(2048), Target())  # 16 MB of weights
    assert 0 < small.load_ms < 5000
    assert 12e6 < large.peak_memory_bytes - small.peak_memory_bytes < 120e6
    assert small.peak_memory_bytes < 40e6  # this process, which holds torch, is far larger


def test_a_file_that_fails_there_is_told(relu, write, monkeypatch):
    monkeypatch.setattr(_process, "example_feeds", lambda *_: {"x": np.ones((1, 4), np.float32)})
    with pytest.raises(RunError, match=r"relu.onnx does not load or run in a fresh process: .*INVALID_ARGUMENT"):
        fresh_process(relu, Target())


def test_a_process_that_dies_is_told(relu, monkeypatch):
    monkeypatch.setattr(_process.sys, "executable", "false")
    with pytest.raises(RunError, match=r"fresh process: it ended with code 1"):
        fresh_process(relu, Target())


def test_an_input_may_be_called_anything(write):
    path = write("file.onnx", {"file": ["batch", 2]}, [helper.make_node("Relu", ["file"], ["y"])])
    assert fresh_process(path, Target()).load_ms > 0


def test_importing_measure_imports_no_runtime():
    code = (
        "import sys, paretune.measure, paretune.measure._child; "
        "print([m for m in ('torch', 'onnxruntime', 'onnx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

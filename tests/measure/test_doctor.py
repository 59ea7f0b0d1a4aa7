"""What works here is tried."""

import json

import numpy as np
import pytest

from paretune.measure import _doctor, doctor
from paretune.measure._engine import open_engine
from paretune.measurement import Latency
from paretune.target import Target


@pytest.fixture(scope="module")
def found():
    return doctor(seconds=0.1)


def test_versions_and_engines(found):
    assert found["versions"]["onnxruntime"][0].isdigit()
    assert found["engines"] == {"onnxruntime": {"float": "ok", "int8": "ok"}}
    json.dumps(found, allow_nan=False)


def test_a_file_against_itself_shows_a_difference_or_none(found):
    timing = found["timing"]
    assert len(timing["verdicts"]) == 5 and not {"faster", "slower"} & set(timing["verdicts"])
    smallest = timing["smallest_visible_difference"]
    assert smallest is None or 0 < smallest <= 0.12


def test_the_smallest_difference_is_the_widest_end(monkeypatch):
    ends = iter([(0.99, 1.01), (0.995, 1.03), (0.98, 1.0), (1.0, 1.0), (0.5, 1.9)])

    def seen(*_, **__):
        low, high = next(ends)
        verdict = "too noisy" if high - low > 0.1 else "same"
        return [None, Latency(1, 1, 1, ratio_low=low, ratio_high=high, verdict=verdict)]

    monkeypatch.setattr(_doctor, "latency", seen)
    timing = _doctor._same_against_itself("file", 0.1)
    assert timing["smallest_visible_difference"] == pytest.approx(0.03)


def test_a_noisy_machine_sees_nothing(monkeypatch):
    monkeypatch.setattr(_doctor, "latency", lambda *_, **__: [None, Latency(1, 1, 1, verdict="too noisy")])
    assert _doctor._same_against_itself("file", 0.1)["smallest_visible_difference"] is None


def test_an_engine_that_fails_is_shown_with_its_reason(tmp_path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"broken")
    assert _doctor._try(path, Target()).startswith("InputError: ONNX Runtime")


def test_the_int8_graph_computes_the_float_graph_in_256_steps(tmp_path):
    inputs = np.random.default_rng(0).uniform(-2, 2, (1, _doctor.CHANNELS, 16, 16)).astype(np.float32)
    outputs = []
    for int8 in (False, True):
        _doctor.write_graph(tmp_path / "graph.onnx", int8=int8)
        outputs.append(open_engine(tmp_path / "graph.onnx", Target()).bind({"x": inputs})()[0])
    assert np.allclose(outputs[1] / 0.05, np.round(outputs[1] / 0.05), atol=1e-3)
    assert np.corrcoef(outputs[0].ravel(), outputs[1].ravel())[0, 1] > 0.999

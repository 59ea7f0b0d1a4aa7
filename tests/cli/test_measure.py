"""`paretune measure` and `paretune doctor`, on one small file."""

import json

import pytest

from paretune.cli._measure import _file_text
from paretune.measure._doctor import write_graph


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "conv.onnx"
    write_graph(path, int8=False)
    return path


def test_against_a_baseline(cli, model):
    result = cli("measure", model, "--against", model, "--seconds", 0.1, "--batch", 2, "--json")
    assert result.exit_code == 0, result.output
    seen = json.loads(result.stdout)
    assert seen["file"] == seen["baseline"]["file"] == str(model)
    assert seen["bytes"] == model.stat().st_size
    assert seen["target"]["batch"] == 2
    text = _file_text(seen)
    assert text.count(str(model)) == 2
    assert "; bytes 1.000x" in text and f": {seen['latency']['verdict']}" in text


def test_the_text_of_one_file():
    latency = {"median_ms": 1.25, "p99_ms": 2.5}
    target = {"runtime": "onnxruntime", "threads": 2, "batch": 4, "machine": {"name": "A CPU"}}
    seen = {"file": "a.onnx", "latency": latency, "bytes": 1234, "load_ms": 5.0, "peak_memory_bytes": 2_000_000}
    assert _file_text(seen | {"target": target}).splitlines() == [
        "a.onnx",
        "  latency  median 1.250 ms, p99 2.500 ms",
        "  bytes    1,234",
        "  load     5.0 ms",
        "  memory   2.0 MB at its peak",
        "onnxruntime, 2 thread(s), batch 4, on A CPU",
    ]


def test_as_a_service(cli, model):
    result = cli("measure", model, "--rate", "50/s", "--deadline", "2s", "--seconds", 0.4)
    assert result.exit_code == 0, result.output
    assert "50 requests/s, deadline 2000 ms" in result.stdout
    assert "missed      0 of 20 (0.00%)" in result.stdout


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("none.onnx",), "none.onnx"),
        (("MODEL", "--rate", "50/s"), "belong together"),
        (("MODEL", "--rate", "50/s", "--deadline", "2s", "--against", "MODEL"), "leave out --against"),
        (("MODEL", "--rate", "fast", "--deadline", "2s"), "rate 'fast' is no positive rate"),
        (("MODEL", "--threads", "0"), "threads=0 must be a whole number of at least 1"),
        (("MODEL", "--threads", "two"), "'two' is not a valid integer"),
    ],
)
def test_bad_input(cli, model, args, message):
    result = cli("measure", *(model if arg == "MODEL" else arg for arg in args))
    assert result.exit_code == 2, result.output
    assert message in result.stderr


FOUND = {
    "versions": {"python": "3.11", "paretune": "0.1"},
    "machine": {"name": "A CPU", "architecture": "x86_64", "cores": 2, "flags": ["avx2"], "flags_hash": "abc"},
    "threads": 2,
    "load_average": 0.5,
    "engines": {"onnxruntime": {"float": "ok", "int8": "RuntimeError: no kernel"}},
    "timing": {"verdicts": ["same", "too noisy"], "smallest_visible_difference": 0.024, "noise": 1.0},
}


@pytest.mark.parametrize(
    ("smallest", "line"),
    [(0.024, "differences above 2.4% show here"), (None, "too noisy to see any difference now")],
)
def test_what_the_doctor_found_is_shown(cli, monkeypatch, smallest, line):
    found = FOUND | {"timing": FOUND["timing"] | {"smallest_visible_difference": smallest}}
    monkeypatch.setattr("paretune.measure.doctor", lambda: found)
    text = cli("doctor").stdout
    for part in ("A CPU (x86_64), 2 cores", "avx2 (hash abc)", "int8: RuntimeError: no kernel", line):
        assert part in text
    assert json.loads(cli("doctor", "--json").stdout) == found

"""What `paretune measure` prints of one file, and of two."""

import json

from paretune import measure
from paretune.target import Target

KEYS = {"file", "latency", "bytes", "load_ms", "peak_memory_bytes"}


def test_one_file(relu):
    seen = json.loads(json.dumps(measure.file(relu, target=Target(batch=2), seconds=0.05)))
    assert set(seen) == KEYS | {"target"}
    assert seen["bytes"] == relu.stat().st_size and seen["file"] == str(relu)
    assert seen["latency"]["verdict"] is None and seen["target"]["batch"] == 2


def test_against_a_baseline(product):
    small, large = product(16), product(256)
    seen = measure.file(small, against=large, seconds=0.2)
    assert set(seen) == KEYS | {"target", "baseline"} and set(seen["baseline"]) == KEYS
    assert seen["file"] == str(small) and seen["baseline"]["file"] == str(large)
    assert seen["latency"]["ratio"] < 0.7 and seen["baseline"]["latency"]["ratio"] == 1
    assert seen["bytes"] < seen["baseline"]["bytes"]


def test_size_counts_what_lies_beside(relu):
    alone = measure.size(relu)
    relu.with_name("relu.onnx.data").write_bytes(b"x" * 1000)
    relu.with_name("other.onnx.data").write_bytes(b"x" * 5000)
    assert measure.size(relu) == alone + 1000

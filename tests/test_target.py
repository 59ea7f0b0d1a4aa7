"""A target refuses what cannot run, and knows the machine."""

import json

import pytest

from paretune.errors import InputError
from paretune.target import Target, fingerprint


def test_defaults_are_one_thread_batch_one():
    assert (Target().runtime, Target().threads, Target().batch) == ("onnxruntime", 1, 1)


def test_unknown_runtime_gets_the_nearest_name():
    with pytest.raises(InputError, match=r"no runtime 'onnxruntme'. Did you mean 'onnxruntime'\?"):
        Target(runtime="onnxruntme")


@pytest.mark.parametrize("field", ["threads", "batch"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "2"])
def test_threads_and_batch_are_whole_numbers(field, value):
    with pytest.raises(InputError, match=f"{field}={value!r} must be a whole number of at least 1"):
        Target(**{field: value})


def test_json_holds_the_machine_and_is_plain():
    content = json.loads(json.dumps(Target(threads=2).to_json()))
    assert content["threads"] == 2
    assert content["machine"] == json.loads(json.dumps(fingerprint()))


def test_fingerprint_hashes_flags_and_does_not_change():
    seen = fingerprint()
    assert len(seen["flags_hash"]) == 12 and seen["cores"] >= 1
    fingerprint.cache_clear()
    assert fingerprint() == seen

from __future__ import annotations

import numpy as np
import pytest

from paretune.errors import VerificationError
from paretune.export import _process
from paretune.export._process import check_in_fresh_process


def test_a_worker_that_crashes_is_reported_with_its_last_words(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"rubbish")
    np.savez(tmp_path / "m.npz", spec=np.array('{"batches": [1], "outputs": [], "kind": "float", "tolerance": 1}'))
    with pytest.raises(
        VerificationError, match=r"m\.onnx: the check in a fresh process failed \(1\)[\s\S]*protobuf"
    ):
        check_in_fresh_process(tmp_path / "m.onnx", tmp_path / "m.npz")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "died of signal 11: it said nothing"),
        ("import time; time.sleep(60)", "did not end in 0.5 s"),
        ("print('hello')", "printed no JSON: 'hello"),
    ],
)
def test_a_worker_killed_hanging_or_babbling_is_a_verification_error(tmp_path, monkeypatch, body, message):
    fake = tmp_path / "python"
    fake.write_text(f'#!/bin/sh\nexec {_process.sys.executable} -c "{body}"\n')
    fake.chmod(0o755)
    monkeypatch.setattr(_process.sys, "executable", str(fake))
    timeout = 0.5 if "sleep" in body else 60.0
    with pytest.raises(VerificationError, match=message):
        check_in_fresh_process(tmp_path / "m.onnx", tmp_path / "m.npz", timeout=timeout)


def test_a_file_in_the_users_folder_is_not_imported_in_place_of_a_library(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("raise SystemExit('hijacked')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VerificationError, match="FileNotFoundError"):
        check_in_fresh_process(tmp_path / "m.onnx", tmp_path / "m.npz")

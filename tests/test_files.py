"""Atomic writes: the old file or the new one, never a part."""

import errno
import json
from pathlib import Path

import pytest

from paretune.errors import RunError
from paretune.files import disk_error, sha256, write_atomic, write_json, write_text


def test_a_write_that_fails_leaves_the_old_file_and_no_temporary_one(tmp_path: Path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def fail_half_way(temporary: Path) -> None:
        temporary.write_text("ne")
        raise ValueError("killed")

    with pytest.raises(ValueError, match="killed"):
        write_atomic(path, fail_half_way)
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.txt"]


def test_folders_on_the_way_are_made(tmp_path: Path):
    write_json(tmp_path / "a" / "b.json", {"x": 1})
    assert json.loads((tmp_path / "a" / "b.json").read_text()) == {"x": 1}


def test_nan_is_refused_since_it_is_not_json(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert not (tmp_path / "a.json").exists()


def test_a_folder_that_is_a_file_is_named(tmp_path: Path):
    (tmp_path / "a").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*a/b\.txt: a part of that path is a file"):
        write_text(tmp_path / "a" / "b.txt", "x")


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "permission")]
)
def test_disk_errors_say_what_to_do(number: int, words: str):
    assert words in str(disk_error(Path("x"), OSError(number, "system's words")))


def test_a_full_disk_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.bin"
    write_text(path, "old")

    def full(temporary: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(RunError, match="disk is full"):
        write_atomic(path, full)
    assert path.read_text() == "old"


def test_sha256_is_that_of_the_content(tmp_path: Path):
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a").startswith("ba7816bf8f01cfea414140de5dae2223")

import numpy as np
import pytest

from paretune.errors import DataError
from paretune.zoo import npz


def test_reads_all_arrays_or_those_asked_for(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(3), y=np.eye(2))
    assert sorted(npz(tmp_path / "a.npz")) == ["x", "y"]
    assert npz(tmp_path / "a.npz", ["x"])["x"].tolist() == [0, 1, 2]


def test_a_name_that_is_not_there_names_the_nearest(tmp_path):
    np.savez(tmp_path / "a.npz", labels=np.arange(3))
    with pytest.raises(DataError, match=r"no array 'label'\. Did you mean 'labels'\? It has labels"):
        npz(tmp_path / "a.npz", ["label"])


@pytest.mark.parametrize("keep", [0, 3, 40, -30])
def test_a_truncated_file_is_a_data_error(tmp_path, keep):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, x=np.random.default_rng(0).integers(0, 255, 5000))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"a\.npz is damaged"):
        npz(path)


def test_a_flipped_byte_is_caught_by_the_checksum(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.zeros(5000))
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match="CRC"):
        npz(path)


def test_pickled_objects_are_refused_and_do_not_run(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    array = np.empty(1, dtype=object)
    array[0] = Evil()
    np.savez(tmp_path / "evil.npz", x=array)
    with pytest.raises(DataError, match="allow_pickle"):
        npz(tmp_path / "evil.npz")
    assert not marker.exists()


def test_a_bare_array_and_a_missing_file(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(2))
    with pytest.raises(DataError, match="one bare"):
        npz(tmp_path / "a.npy")
    with pytest.raises(DataError, match=r"Did you mean 'a\.npy'\?"):
        npz(tmp_path / "a.npz")


def test_real_spoken_digits(shared):
    sounds = npz(shared / "data" / "fsdd" / "fsdd.npz", ["offsets", "labels", "test"])
    assert sounds["offsets"][-1] == 10_498_424
    assert np.bincount(sounds["labels"]).tolist() == [300] * 10
    assert int(sounds["test"].sum()) == 300

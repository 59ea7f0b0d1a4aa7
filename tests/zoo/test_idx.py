import gzip
import hashlib
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from paretune.errors import DataError
from paretune.zoo import idx

CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}


def encode(array: np.ndarray) -> bytes:
    header = bytes([0, 0, CODES[array.dtype.name], array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


def test_reads_a_file_written_by_hand(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2, 1]))  # unsigned bytes, 1 axis, 3 values
    assert idx(path).tolist() == [7, 2, 1]


@given(data=st.data(), kind=st.sampled_from(sorted(CODES)), packed=st.booleans())
def test_reads_back_what_was_written(tmp_path_factory, data, kind, packed):
    array = data.draw(arrays(kind, array_shapes(max_dims=4, max_side=4)))
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(encode(array)) if packed else encode(array))
    read = idx(path)
    assert read.dtype == array.dtype
    np.testing.assert_array_equal(read, array)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "begins with nothing"),
        (b"PK\x03\x04" + bytes(20), "begins with 50 4b 03 04"),
        (bytes([0, 0, 8, 3, 0, 0]), "ends inside the header: 6 of 16 bytes"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 2]), r"promises \(3,\), 11 bytes, and it has 10"),
        (bytes([0, 0, 8, 1, 0, 0, 0, 1, 7, 2]), r"promises \(1,\), 9 bytes, and it has 10"),
        (gzip.compress(encode(np.arange(1000, dtype="int32")), mtime=0)[:-9], "does not decompress"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, content, problem):
    path = tmp_path / "train-images"
    path.write_bytes(content)
    with pytest.raises(DataError, match=problem) as caught:
        idx(path)
    assert str(path) in str(caught.value)
    assert "Expected an idx file" in str(caught.value)


def test_a_missing_file_names_the_nearest(tmp_path):
    (tmp_path / "train-labels.gz").write_bytes(b"")
    with pytest.raises(DataError, match=r"no such file\. Did you mean 'train-labels.gz'\?"):
        idx(tmp_path / "train-label.gz")


def test_real_mnist(shared):
    folder = shared / "data" / "mnist"
    images, labels = idx(folder / "t10k-images-idx3-ubyte.gz"), idx(folder / "t10k-labels-idx1-ubyte.gz")
    assert images.shape == (10000, 28, 28)
    assert labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert hashlib.md5(encode(images)).hexdigest() == "2646ac647ad5339dbf082846283269ea"  # the published one
    assert hashlib.md5(encode(labels)).hexdigest() == "27ae3e4e09519cfbb04c329615203637"

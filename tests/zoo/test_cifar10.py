import bz2

import numpy as np
import pytest

from paretune.errors import DataError
from paretune.zoo import cifar10


def write_binary(folder, count=2, seed=0):
    """Write the published binary layout with random content; return what was written, by split."""
    random = np.random.default_rng(seed)
    written = {"train": [], "test": []}
    for name in [f"data_batch_{i}.bin" for i in range(1, 6)] + ["test_batch.bin"]:
        labels = random.integers(0, 10, count).astype(np.uint8)
        images = random.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        records = [
            bytes([label]) + image.transpose(2, 0, 1).tobytes()
            for label, image in zip(labels, images, strict=True)
        ]
        (folder / name).write_bytes(b"".join(records))
        written["test" if name.startswith("test") else "train"].append((images, labels))
    return {k: tuple(np.concatenate(part) for part in zip(*parts, strict=True)) for k, parts in written.items()}


def write_planes(folder, splits):
    """Write the layout of planes: differenced by loops, where the reader uses cumulative sums."""
    for split, (images, _) in splits.items():
        shards = np.array_split(images, 5) if split == "train" else [images]
        for number, shard in enumerate(shards, start=1):
            red, green, blue = (shard[..., i].astype(int) for i in range(3))
            planes = np.stack([green, red - green, blue - green])
            for axis in (3, 2):
                moved = np.zeros_like(planes)
                front, back = [slice(None)] * 4, [slice(None)] * 4
                front[axis], back[axis] = slice(1, None), slice(0, -1)
                moved[tuple(front)] = planes[tuple(back)]
                planes = planes - moved
            name = f"train_{number}.bz2" if split == "train" else "test.bz2"
            (folder / name).write_bytes(bz2.compress((planes % 256).astype(np.uint8).tobytes()))
    np.savez(folder / "labels.npz", **{split: labels for split, (_, labels) in splits.items()})


def test_both_layouts_give_back_what_was_written(tmp_path):
    (tmp_path / "binary").mkdir()
    (tmp_path / "planes").mkdir()
    written = write_binary(tmp_path / "binary")
    write_planes(tmp_path / "planes", written)
    for folder in ("binary", "planes"):
        read = cifar10(tmp_path / folder)
        for split in ("train", "test"):
            np.testing.assert_array_equal(read[split][0], written[split][0])
            np.testing.assert_array_equal(read[split][1], written[split][1])


def test_one_split_needs_only_its_files(tmp_path):
    written = write_binary(tmp_path)
    (tmp_path / "data_batch_3.bin").unlink()
    np.testing.assert_array_equal(cifar10(tmp_path, ["test"])["test"][0], written["test"][0])
    with pytest.raises(DataError, match=r"data_batch_3\.bin: no such file"):
        cifar10(tmp_path, ["train"])


def test_a_truncated_batch_is_named(tmp_path):
    write_binary(tmp_path)
    path = tmp_path / "data_batch_2.bin"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        DataError, match=r"data_batch_2\.bin is damaged.*6,145 bytes is no whole number of 3073-byte"
    ):
        cifar10(tmp_path)


def test_a_label_above_nine_is_refused(tmp_path):
    write_binary(tmp_path)
    (tmp_path / "test_batch.bin").write_bytes(bytes([10]) + bytes(3072))
    with pytest.raises(DataError, match="label 10, the largest is 9"):
        cifar10(tmp_path, ["test"])


def test_a_damaged_shard_and_too_few_labels(tmp_path):
    (tmp_path / "a").mkdir()
    written = write_binary(tmp_path / "a")
    write_planes(tmp_path, {**written, "test": (written["test"][0], written["test"][1][:-1])})
    with pytest.raises(DataError, match="2 test images and 1 labels"):
        cifar10(tmp_path, ["test"])
    (tmp_path / "test.bz2").write_bytes((tmp_path / "test.bz2").read_bytes()[:-20])
    with pytest.raises(DataError, match=r"test\.bz2 is damaged.*does not decompress"):
        cifar10(tmp_path, ["test"])


def test_pickles_are_refused_with_the_reason(tmp_path):
    (tmp_path / "data_batch_1").write_bytes(b"pickle")
    with pytest.raises(DataError, match="opening a pickle runs its code"):
        cifar10(tmp_path)
    with pytest.raises(DataError, match="holds no CIFAR-10"):
        cifar10(tmp_path / "absent")


def test_real_test_images(shared):
    images, labels = cifar10(shared / "data" / "cifar10", ["test"])["test"]
    assert images.shape == (10000, 32, 32, 3)
    assert np.bincount(labels).tolist() == [1000] * 10
    assert labels[:5].tolist() == [3, 8, 8, 0, 6]  # cat, ship, ship, airplane, frog

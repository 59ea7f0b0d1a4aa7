import sys

import numpy as np
import pytest

from paretune.errors import DataError
from paretune.zoo import image_folder


def ppm(path, pixels, comment=b""):
    """Write uint8 (height, width, 3) as binary PPM, or (height, width) as PGM."""
    kind = b"P6" if pixels.ndim == 3 else b"P5"
    path.parent.mkdir(exist_ok=True, parents=True)
    size = b"%d %d" % (pixels.shape[1], pixels.shape[0])
    path.write_bytes(kind + b"\n" + comment + size + b"\n255\n" + pixels.tobytes())


def test_classes_are_the_sorted_folders(tmp_path):
    red, grey = np.zeros((2, 3, 3), np.uint8), np.full((2, 3), 9, np.uint8)
    red[..., 0] = 255
    ppm(tmp_path / "dogs" / "b.pgm", grey)
    ppm(tmp_path / "cats" / "a.ppm", red, comment=b"# made by hand\n")
    (tmp_path / "dogs" / "notes.txt").write_text("no image")
    images, labels, classes = image_folder(tmp_path)
    assert classes == ("cats", "dogs")
    assert labels.tolist() == [0, 1]
    assert images.shape == (2, 2, 3, 3)
    assert images[0, 0, 0].tolist() == [255, 0, 0]
    assert images[1, 1, 2].tolist() == [9, 9, 9]


def test_pixels_that_look_like_white_space_are_pixels(tmp_path):
    ppm(tmp_path / "a" / "1.pgm", np.full((1, 3), 32, np.uint8))  # 32 is a space
    assert image_folder(tmp_path)[0][0, 0, :, 0].tolist() == [32, 32, 32]


def test_pillow_agrees_with_the_own_reader_and_resizes(tmp_path):
    image_module = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 4, 3)).astype(np.uint8)
    ppm(tmp_path / "ppm" / "a" / "1.ppm", pixels)
    (tmp_path / "png" / "a").mkdir(parents=True)
    image_module.fromarray(pixels).save(tmp_path / "png" / "a" / "1.png")
    np.testing.assert_array_equal(image_folder(tmp_path / "ppm")[0], image_folder(tmp_path / "png")[0])
    assert image_folder(tmp_path / "png", size=(8, 6))[0].shape == (1, 8, 6, 3)


@pytest.mark.parametrize("content", [b"", b"P3\n1 1\n255\n0 0 0", b"P6\n2 2\n255\nxxx", b"P6\n1 1\n65535\nxxxxxx"])
def test_a_damaged_image_is_named(tmp_path, content):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.ppm").write_bytes(content)
    with pytest.raises(DataError, match=r"1\.ppm is damaged.*Expected a binary PGM or PPM"):
        image_folder(tmp_path)


def test_a_damaged_png_is_named(tmp_path):
    pytest.importorskip("PIL.Image")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    with pytest.raises(DataError, match=r"1\.png is damaged"):
        image_folder(tmp_path)


def test_unlike_sizes_empty_classes_and_no_classes(tmp_path):
    with pytest.raises(DataError, match="has no sub-folders"):
        image_folder(tmp_path)
    ppm(tmp_path / "a" / "1.pgm", np.zeros((2, 2), np.uint8))
    ppm(tmp_path / "a" / "2.pgm", np.zeros((2, 3), np.uint8))
    with pytest.raises(DataError, match=r"2\.pgm is 2x3, the images before it are 2x2; give size="):
        image_folder(tmp_path)
    (tmp_path / "a" / "2.pgm").unlink()
    (tmp_path / "b").mkdir()
    with pytest.raises(DataError, match="b holds no image"):
        image_folder(tmp_path)


def test_without_pillow_the_error_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"reading \.png files needs Pillow.*pip install pillow"):
        image_folder(tmp_path)

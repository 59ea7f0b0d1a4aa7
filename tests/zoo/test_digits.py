import numpy as np
import pytest

from paretune.zoo import digits


def test_every_image_is_in_one_split_and_classes_are_even():
    splits = digits()
    assert sum(len(labels) for _, labels in splits.values()) == 1797
    for images, labels in splits.values():
        assert images.shape == (len(labels), 8, 8)
        assert images.max() == 16
        assert np.ptp(np.bincount(labels)) <= 3  # the whole set has 174 to 183 a class
    every = np.concatenate([images.reshape(-1, 64) for images, _ in splits.values()])
    assert len(np.unique(every, axis=0)) == 1797  # no image twice, so none in two splits


def test_the_images_are_those_of_scikit_learn():
    bundled = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed").load_digits()
    splits = digits()
    ours = np.concatenate([images.reshape(-1, 64) for images, _ in splits.values()])
    labels = np.concatenate([labels for _, labels in splits.values()])
    order, theirs = np.lexsort(ours.T), bundled.data.astype(np.uint8)
    np.testing.assert_array_equal(ours[order], theirs[np.lexsort(theirs.T)])
    np.testing.assert_array_equal(labels[order], bundled.target[np.lexsort(theirs.T)])

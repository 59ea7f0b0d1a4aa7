import numpy as np

from paretune.zoo import normalise


def test_channels_go_first_and_each_has_its_own_mean():
    images = np.zeros((1, 1, 2, 3), np.uint8)
    images[0, 0, 1] = [255, 51, 0]
    out = normalise(images, mean=[0.5, 0.2, 0.0], std=[0.5, 0.1, 1.0])
    assert out.shape == (1, 3, 1, 2)
    np.testing.assert_allclose(out[0, :, 0, 1], [1.0, 0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(out[0, :, 0, 0], [-1.0, -2.0, 0.0], atol=1e-6)


def test_grey_images_gain_a_channel_of_one():
    assert normalise(np.ones((5, 8, 8), np.uint8), [0.0], [1.0], scale=16.0).shape == (5, 1, 8, 8)

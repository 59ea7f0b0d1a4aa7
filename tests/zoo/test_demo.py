import numpy as np
import torch

from paretune.task import load_task
from paretune.zoo._demo import MEAN, STD, shift


def test_the_task_loads_by_its_name_and_is_whole():
    task = load_task("paretune.zoo:make_demo_task")
    task.check()
    images, labels = task.train
    assert images.shape[1:] == (1, 8, 8)
    assert images.dtype == np.float32
    assert labels.dtype == np.int64
    assert abs(images.mean()) < 0.01  # the training images are what MEAN and STD were taken from
    assert abs(images.std() - 1) < 0.01


def test_two_builds_are_the_same_untrained_network():
    task = load_task("paretune.zoo:make_demo_task")
    first, second = task.build().state_dict(), task.build().state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_shift_moves_a_dot_by_at_most_one_pixel_and_fills_with_background():
    background = -MEAN / STD
    images = torch.full((200, 1, 8, 8), background)
    images[:, 0, 3, 4] = 2.0
    moved = shift(images, torch.Generator().manual_seed(0))
    places = (moved == 2.0).nonzero()
    assert len(places) == 200  # every dot is still there, once
    offsets = {(int(row) - 3, int(column) - 4) for _, _, row, column in places}
    assert offsets == {(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    still = (moved[:, 0, 3, 4] == 2.0).sum()
    assert 200 * (1 / 2 + 1 / 18) - 30 < still < 200 * (1 / 2 + 1 / 18) + 30
    assert torch.allclose(moved[moved != 2.0], torch.tensor(background))


def test_shift_draws_only_from_its_generator():
    images = torch.rand(8, 1, 8, 8)
    before = torch.get_rng_state()
    first, again = (shift(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)

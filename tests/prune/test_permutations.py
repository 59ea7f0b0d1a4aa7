"""Chains of views that only permute one axis are found, with the positions counted by hand; all else is not."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from paretune.prune._capture.capture import capture
from paretune.prune._couplings import permutations as _permutations
from paretune.prune._couplings.permutations import permutation_chains


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return torch.relu(self.function(torch.tanh(x)))


def chains(function, *shape):
    """Return the (axis, positions) of every chain, and the names of the nodes inside of one."""
    found, inside = permutation_chains(capture(Function(function), torch.zeros(shape)).program.graph)
    assert all(source.name == "tanh" for source, _, _ in found.values())
    return [(axis, places.tolist()) for _, axis, places in found.values()], {node.name for node in inside}


def test_the_channel_shuffle_deals_out_two_groups_in_turn():
    def shuffle(x):
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)

    assert chains(shuffle, 2, 6, 3, 3) == ([(1, [0, 3, 1, 4, 2, 5])], {"view", "transpose", "contiguous"})


def test_three_groups_written_with_flatten_and_unflatten():
    found, inside = chains(lambda x: x.unflatten(1, (3, 2)).permute(0, 2, 1, 3).flatten(1, 2), 2, 6, 4)
    assert found == [(1, [0, 2, 4, 1, 3, 5])] and len(inside) == 2


def test_the_last_axis_of_tokens():
    found, _ = chains(lambda x: x.reshape(2, 5, 2, 3).transpose(2, 3).reshape(2, 5, 6), 2, 5, 6)
    assert found == [(2, [0, 3, 1, 4, 2, 5])]  # out[j * 2 + i] is in[i * 3 + j]


def test_two_shuffles_one_after_the_other_are_two_chains():
    def shuffle(x):
        return x.view(2, 2, 3).transpose(1, 2).reshape(2, 6)

    found, _ = permutation_chains(
        capture(Function(lambda x: shuffle(shuffle(x))), torch.zeros(2, 6)).program.graph
    )
    assert [places.tolist() for _, _, places in found.values()] == [[0, 3, 1, 4, 2, 5]] * 2


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.view(2, 2, 3, 4, 4).reshape(2, 6, 4, 4),  # nothing moves
        lambda x: x.view(2, 6, 1, 4, 4).transpose(1, 2).reshape(2, 6, 4, 4),  # an axis of size 1 moves
        lambda x: x.flatten(2).transpose(1, 2).reshape(2, 6, 4, 4),  # channels and pixels change places
        lambda x: x.view(2, 6, 2, 2, 2, 2).permute(0, 1, 2, 4, 3, 5).reshape(2, 6, 4, 4),  # windows: two axes
        lambda x: x.view(2, 2, 3, 4, 4).transpose(3, 4).reshape(2, 6, 4, 4),  # height for width
        lambda x: torch.relu(x.view(2, 2, 3, 4, 4)).transpose(1, 2).reshape(2, 6, 4, 4),  # computed in between
        lambda x: x.view(2, 2, 3, 4, 4).transpose(1, 2).reshape(2, 24, 4),  # another shape comes out
        lambda x: x.transpose(2, 3),
    ],
)
def test_what_is_no_permutation_of_one_axis_is_no_chain(function):
    assert chains(function, 2, 6, 4, 4) == ([], set())


def test_a_tensor_that_somebody_else_reads_ends_a_chain():
    def read_twice(x):
        x = x.view(2, 2, 3)
        return x.transpose(1, 2).reshape(2, 6) + x.sum()

    assert chains(read_twice, 2, 6) == ([], set())


def test_what_is_too_large_to_follow_is_left_alone(monkeypatch):
    def shuffle(x):
        return x.view(2, 2, 3).transpose(1, 2).reshape(2, 6)

    monkeypatch.setattr(_permutations, "_LARGEST", 11)
    assert chains(shuffle, 2, 6) == ([], set())
    monkeypatch.setattr(_permutations, "_LARGEST", 12)
    assert chains(shuffle, 2, 6)[0] == [(1, [0, 3, 1, 4, 2, 5])]


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(2, 3), min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_any_order_of_any_factors_is_what_numpy_makes_of_it(factors, random):
    order = list(range(len(factors)))
    random.shuffle(order)
    size = int(np.prod(factors))

    def reorder(x):
        return x.view(2, *factors).permute(0, *(1 + place for place in order)).reshape(2, size)

    expected = np.arange(size).reshape(factors).transpose(order).ravel().tolist()
    found, _ = chains(reorder, 2, size)
    assert found == ([] if expected == list(range(size)) else [(1, expected)])

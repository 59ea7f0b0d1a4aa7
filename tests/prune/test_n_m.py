import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paretune.errors import InputError
from paretune.prune import n_m


def test_two_of_four_neighbours_stay():
    scores = torch.tensor([[0.1, 3.0, 2.0, 0.5, 4.0, 1.0, 3.0, 2.0]])
    assert n_m(scores, 2, 4).tolist() == [[False, True, True, False, True, False, True, False]]


def test_neighbours_lie_along_the_input_axis_whatever_the_kernel():
    scores = torch.zeros(1, 4, 1, 2)
    scores[0, :, 0, 0], scores[0, :, 0, 1] = torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor([1.0, 2.0, 3.0, 4.0])
    mask = n_m(scores, 1, 2)
    assert mask[0, :, 0, 0].tolist() == [True, False, True, False]
    assert mask[0, :, 0, 1].tolist() == [False, True, False, True]


@given(seed=st.integers(0, 1000), m=st.sampled_from([1, 2, 4]), n=st.integers(1, 4), kernel=st.integers(0, 2))
def test_every_run_keeps_exactly_its_n_best(seed, m, n, kernel):
    n = min(n, m)
    scores = torch.randint(
        0, 5, (3, 8, *[2] * kernel), generator=torch.Generator().manual_seed(seed)
    ).float()  # ties
    mask = n_m(scores, n, m)
    assert mask.shape == scores.shape and mask.dtype == torch.bool
    runs = scores.movedim(1, -1).reshape(-1, m)
    stays = mask.movedim(1, -1).reshape(-1, m)
    assert bool((stays.sum(1) == n).all())
    for row, kept in zip(runs, stays, strict=True):
        assert row[kept].min() >= (row[~kept].max() if n < m else -1)


@pytest.mark.parametrize(
    ("shape", "n", "m", "message"),
    [
        ((2, 6), 2, 4, "m=4 must divide the 6 inputs"),
        ((2, 8), 5, 4, "n=5 must be from 1 to m=4"),
        ((2, 8), 0, 4, "n=0 must be from 1 to m=4"),
        ((8,), 2, 4, r"scores of shape \(8,\)"),
    ],
)
def test_what_has_no_pattern_is_refused(shape, n, m, message):
    with pytest.raises(InputError, match=message):
        n_m(torch.ones(shape), n, m)

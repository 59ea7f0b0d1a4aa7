"""Kernel densities: by hand, against SciPy, and as densities: their mean over the unit cube is one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from paretune.search import Categorical, Float, Int, Space, when
from paretune.search._density import bandwidths, codes, columns, draw, joint, kernel, marginals

MIXED = Space({"x": Float(0, 1), "k": Int(1, 5), "c": Categorical(["a", "b", "c"])})


def grid(n):
    return (np.arange(n) + 0.5) / n


@settings(deadline=None)
@given(st.floats(0, 1), st.floats(0.01, 2))
def test_a_normal_kernel_is_scipys_truncated_one(centre, width):
    points = grid(50)
    expected = stats.truncnorm(-centre / width, (1 - centre) / width, loc=centre, scale=width).pdf(points)
    np.testing.assert_allclose(
        kernel(points, np.array([centre]), width, 0)[:, 0], expected, rtol=1e-8, atol=1e-300
    )


def test_kernels_of_categories_by_hand():
    """Three categories, width 0.3: the same one has 0.7, another 0.15; times three over the unit interval."""
    found = kernel(np.array([1 / 6, 0.5, 5 / 6]), np.array([0.5]), 0.3, 3)[:, 0]
    assert found == pytest.approx([0.45, 2.1, 0.45]) and found.mean() == pytest.approx(1)
    assert codes(np.array([0.0, 0.34, 1.0, np.nan]), 3).tolist() == [0, 1, 2, -1]


def test_bandwidths_by_hand():
    rows = np.array([[0.1, 0.3, 1 / 6], [0.5, 0.3, 0.5], [0.9, 0.3, 5 / 6], [np.nan, 0.3, 0.5]])
    about = columns(MIXED)
    alone, together = (bandwidths(rows, about, together=flag) for flag in (False, True))
    spread = np.std([0.1, 0.5, 0.9])
    assert alone[0] == pytest.approx(1.06 * spread * 3 ** (-1 / 5))
    assert together[0] == pytest.approx(1.06 * spread * 3 ** (-1 / 7)), "what is inactive counts for nothing"
    assert alone[1] == pytest.approx(0.1), "half a cell of five"
    assert alone[2] == pytest.approx(min(1.06 * np.std([0, 1, 2, 1]) * 4 ** (-1 / 5), 2 / 3))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.integers(1, 12), st.booleans())
def test_densities_have_the_mean_one(seed, count, together):
    generator = np.random.default_rng(seed)
    rows = MIXED.rows(generator.random((count, 3)))
    about = columns(MIXED)
    widths = bandwidths(rows, about, together=together)
    axes = np.meshgrid(grid(1500), [0.5], [0.5], indexing="ij")
    points = np.stack([axis.ravel() for axis in axes], axis=1)
    one_by_one = []
    for column, n in ((0, 4000), (1, 4000), (2, 3)):
        points = np.full((n, 3), np.nan)
        points[:, column] = grid(n)
        one_by_one.append(np.exp(marginals(points, rows, widths, about)).mean())
        assert np.exp(joint(points, rows, widths, about)).mean() == pytest.approx(1, abs=1e-2)
    assert one_by_one == pytest.approx([1, 1, 1], abs=1e-2)


def test_a_joint_density_is_the_mean_of_products():
    rows = np.array([[0.2, 0.3, 0.5], [0.8, 0.7, 5 / 6]])
    points, about, widths = np.array([[0.25, 0.3, 0.5]]), columns(MIXED), np.array([0.1, 0.2, 0.3])
    by_hand = 0.0
    for row in rows:
        parts = [(0, 0.1, 0), (1, 0.2, 0), (2, 0.3, 3)]
        by_hand += math.prod(kernel(points[:, c], row[c : c + 1], width, k).item() for c, width, k in parts) / len(
            rows
        )
    assert np.exp(joint(points, rows, widths, about)) == pytest.approx(by_hand)
    weighted = joint(points, rows, widths, about, weights=np.array([1.0, 0.0]))
    assert weighted == pytest.approx(joint(points, rows[:1], widths, about))


def test_a_branch_has_a_density_of_its_own():
    """Adam's runs say nothing of momentum: it comes from sgd's alone, and where it is inactive counts nothing."""
    space = Space(
        {"opt": Categorical(["sgd", "adam"]), "momentum": Float(0, 1, when=when("opt", "sgd")), "lr": Float(0, 1)}
    )
    about = columns(space)
    place = space.names.index("momentum")
    rows = np.stack(
        [space.row({"opt": "adam", "lr": 0.3})] * 5 + [space.row({"opt": "sgd", "momentum": 0.9, "lr": 0.3})]
    )
    widths = bandwidths(rows, about, together=False)
    point = np.full((2, 3), np.nan)
    point[:, place] = (0.9, 0.1)
    alone = np.full((1, 3), np.nan)
    assert marginals(alone, rows, widths, about) == pytest.approx(0)
    near, far = marginals(point, rows, widths, about)
    assert near > 0 > far
    only = kernel(np.array([0.9]), np.array([0.9]), float(widths[place]), 0)[0, 0]
    assert np.exp(near) == pytest.approx(only)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.booleans())
def test_draws_follow_the_density(seed, together):
    generator = np.random.default_rng(seed)
    rows, about = MIXED.rows(generator.random((4, 3))), columns(MIXED)
    widths = np.array([0.1, 0.2, 0.3])
    drawn = draw(rows, widths, about, 20_000, generator, together=together)
    assert drawn.min() >= 0 and drawn.max() <= 1
    cells = np.bincount(np.minimum((drawn[:, 0] * 10).astype(int), 9), minlength=10) / 20_000
    fine = grid(1000)
    density = kernel(fine, rows[:, 0], 0.1, 0).mean(1).reshape(10, 100).mean(1) / 10
    np.testing.assert_allclose(cells, density, atol=0.02)
    kept = np.mean(codes(drawn[:, 2], 3)[:, None] == codes(rows[:, 2], 3)[None, :], axis=0)
    shares = np.array([np.mean(codes(rows[:, 2], 3) == code) for code in codes(rows[:, 2], 3)])
    np.testing.assert_allclose(kept, 0.7 * shares + 0.3 / 3, atol=0.02)

"""Priors, held against SciPy's distributions and against what a density must be."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from paretune.errors import InputError
from paretune.search import Beta, Categorical, Float, Int, LogNormal, Normal, Ordered, about
from paretune.search._space.priors import read_prior

PARAMETERS = {
    "uniform": Float(-2.0, 3.0),
    "log": Float(1e-5, 1e-1, log=True),
    "normal": Float(-2.0, 3.0, prior=Normal(2.5, 0.7)),
    "normal on log": Float(0.01, 3.0, log=True, prior=Normal(0.5, 0.4)),
    "lognormal": Float(1e-5, 1e-1, log=True, prior=LogNormal(1e-3, 1.0)),
    "beta": Float(2.0, 6.0, prior=Beta(2.0, 5.0)),
    "about": Float(1e-5, 1e-1, log=True, prior=about(3e-4, within="10x")),
    "int": Int(1, 20, prior=Normal(5, 2)),
    "int log": Int(8, 256, log=True, prior=about(32)),
    "weights": Categorical(["a", "b", "c"], weights=[1, 0, 3]),
    "ordered": Ordered([1, 2, 4, 8], weights=[1, 2, 3, 4]),
}


@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=PARAMETERS)
def test_density_is_one_and_draws_follow_it(parameter):
    middles = (np.arange(24_000) + 0.5) / 24_000
    density = parameter.density(middles)
    assert density.mean() == pytest.approx(1.0, abs=2e-3)
    drawn = parameter.draw((np.arange(2_000) + 0.5) / 2_000)
    assert drawn.min() >= 0 and drawn.max() <= 1
    for at in (0.1, 0.3, 0.5, 0.8):
        assert np.mean(drawn <= at) == pytest.approx(density[middles <= at].sum() / 24_000, abs=3e-3)


@pytest.mark.parametrize(
    ("prior", "oracle"),
    [
        (Normal(1.0, 2.0), stats.norm(1.0, 2.0)),
        (LogNormal(0.5, 0.8), stats.lognorm(0.8, scale=0.5)),
        (Beta(2.0, 5.0), stats.beta(2.0, 5.0)),
    ],
)
def test_against_scipy(prior, oracle):
    values, shares = np.array([0.05, 0.3, 0.5, 0.9]), np.array([0.01, 0.4, 0.99])
    np.testing.assert_allclose(prior.cdf(values), oracle.cdf(values), rtol=1e-9)
    np.testing.assert_allclose(prior.pdf(values), oracle.pdf(values), rtol=1e-9)
    np.testing.assert_allclose(prior.ppf(shares), oracle.ppf(shares), rtol=1e-9)


def test_about_by_hand():
    # 95 % within a factor of ten of 3e-4: log(10) is 1.96 standard deviations
    prior = about(3e-4, within="10x").resolve(1e-5, 1e-1, log=True)
    assert prior == LogNormal(3e-4, math.log(10) / 1.96)
    # 95 % within 0.1 of 0.5
    assert about(0.5, within=0.1).resolve(0.0, 1.0, log=False) == Normal(0.5, 0.1 / 1.96)
    # a quarter of the range: of [0, 1] that is 0.25, of four decades it is one
    assert about(0.5).resolve(0.0, 1.0, log=False) == Normal(0.5, 0.25 / 1.96)
    log = about(1e-3).resolve(1e-5, 1e-1, log=True)
    assert isinstance(log, LogNormal) and log.spread == pytest.approx(math.log(10) / 1.96)


def test_read_from_a_file():
    assert read_prior({"about": 3e-4, "within": "10x"}, "lr") == about(3e-4, "10x")
    assert read_prior({"normal": [0.5, 0.1]}, "lr") == Normal(0.5, 0.1)
    assert read_prior({"lognormal": [0.5, 0.1]}, "lr") == LogNormal(0.5, 0.1)
    assert read_prior({"beta": [2, 5]}, "lr") == Beta(2, 5)
    assert read_prior(None, "lr") is None


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Float(0, 1, prior=Normal(9, 0.1)), r"leaves 0 of its mass in \[0, 1\]"),
        (lambda: Float(0, 1, prior=LogNormal(1e6, 0.1)), "of its mass"),
        (lambda: Normal(0.5, 0.0), "std=0 must be above 0"),
        (lambda: Normal(math.nan, 1.0), "mean=nan must be a finite number"),
        (lambda: LogNormal(-1.0, 1.0), "median=-1 must be above 0"),
        (lambda: Beta(0, 1), "a=0 must be above 0"),
        (lambda: about(0.5, within="0.5x"), "must be a factor above 1"),
        (lambda: about(0.5, within=-1), "or a distance above 0"),
        (lambda: Float(-1, 1, prior=about(-0.5, within="10x")), "a factor .10x. needs a value above 0"),
        (lambda: read_prior({"norml": [0, 1]}, "lr"), "lr: prior: .* Did you mean 'normal'"),
        (lambda: read_prior({"normal": [0]}, "lr"), "lr: prior: "),
        (lambda: read_prior({"normal": [0, -1]}, "lr"), "lr: prior Normal: std=-1 must be above 0"),
        (lambda: read_prior("auto please", "lr"), "lr: prior: 'auto please' is none"),
    ],
)
def test_bad_input(make, said):
    with pytest.raises(InputError, match=said):
        make()

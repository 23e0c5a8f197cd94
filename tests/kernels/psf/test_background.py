"""Sky level: noise models against scipy, wing of the star, medians."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import gennorm

from lucidcube.kernels.psf.background import background_level, fit_gennorm, median, star_wing
from star_kernels import gaussian, halo_star, normalise


@given(
    arrays(
        st.sampled_from([np.float32, np.float64]),
        st.integers(1, 60),
        elements=st.floats(-1e6, 1e6, width=32) | st.integers(-3, 3).map(float),
    )
)
def test_median_equals_that_of_numpy(values):
    before = values.copy()
    values.flags.writeable = False
    assert median(values) == np.median(values.astype(np.float64))
    np.testing.assert_array_equal(values, before)


@pytest.mark.parametrize("shape_parameter", [0.8, 1.3, 2.0, 4.0])
@pytest.mark.parametrize("size", [1000, 20000])
def test_gennorm_agrees_with_scipy(shape_parameter, size):
    sample = gennorm.rvs(shape_parameter, loc=123.4, scale=17.0, size=size, random_state=5)
    shape, location, scale = gennorm.fit(sample)
    ours = fit_gennorm(sample.astype(np.float32))
    statistical = sample.std() / np.sqrt(size)
    assert ours.location == pytest.approx(location, abs=0.6 * statistical)
    assert ours.location == pytest.approx(123.4, abs=4.0 * statistical)
    assert ours.shape == pytest.approx(shape, rel=0.03)
    assert ours.scale == pytest.approx(scale, rel=0.04)


def test_gennorm_of_samples_without_spread():
    assert fit_gennorm(np.array([3.0], np.float32)) == (2.0, 3.0, 0.0)
    assert fit_gennorm(np.full(50, -2.0, np.float32)) == (2.0, -2.0, 0.0)


def test_sky_level_excludes_the_wing_of_the_star():
    rng = np.random.default_rng(1)
    plane = (halo_star((101, 101), (52.3, 47.1)) + rng.normal(100.0, 20.0, (101, 101))).astype(np.float32)
    star = normalise(plane)
    background = plane[np.isfinite(plane) & (plane < 1e-3 * plane.max() + 100.0)]
    assert np.median(background) > 125.0  # the level if the wing were ignored
    assert star.background == pytest.approx(100.0, abs=8.0)


def test_no_wing_is_found_in_noise():
    rng = np.random.default_rng(2)
    radius = rng.uniform(20, 60, 5000)
    found = [star_wing(rng.normal(50.0, 5.0, 5000), radius).any() for _ in range(40)]
    assert sum(found) <= 2


def test_sky_models():
    rng = np.random.default_rng(3)
    values, radius = rng.normal(50.0, 5.0, 4000), rng.uniform(20, 60, 4000)
    values[:40] = 1e4
    assert background_level(values, radius, "none") == 0.0
    for model in ("gennorm", "norm"):
        assert background_level(values, radius, model) == pytest.approx(50.0, abs=0.5)
    assert background_level(values[:0], radius[:0], "gennorm") == 0.0
    plane = (gaussian((41, 41), (20, 20), 3.0, 1e5) + 30.0).astype(np.float32)
    assert normalise(plane, background_noise_model="none").background == 0.0


@pytest.mark.parametrize("model", ["gennorm", "norm"])
def test_level_is_within_the_range_of_the_pixels(model):
    rng = np.random.default_rng(4)
    radius = rng.uniform(9.0, 12.0, 300)
    for seed in range(30):
        values = np.random.default_rng(seed).normal(-5.0, 5.0, 300)
        values += 3.0 * (radius < 9.6)  # which a wing of any level describes
        lowest = values.min()
        assert lowest - 5.0 < background_level(values, radius, model) < values.max()
        assert background_level(values[radius > 9.6], radius[radius > 9.6], model) > lowest


def test_level_below_all_pixels_is_found_under_a_wing():
    rng = np.random.default_rng(5)
    radius = rng.uniform(20.0, 60.0, 5000)
    values = 100.0 + 4e6 * radius**-3.0 + rng.normal(0.0, 0.5, 5000)
    assert values.min() > 115.0
    assert background_level(values, radius, "gennorm") == pytest.approx(100.0, abs=2.0)

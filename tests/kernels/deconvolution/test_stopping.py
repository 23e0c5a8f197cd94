"""Chi squared of bright pixels: its definition, which pixels count, and missing data."""

import numpy as np
import pytest

from lucidcube.kernels.deconvolution.stopping import FEWEST, NoiseStop


def faint_and_bright(bright=40):
    """Return a plane of 100 pixels of which some are bright, their variance, and a residual."""
    rng = np.random.default_rng(1)
    plane = np.where(np.arange(100) < bright, 50, 1).astype(np.float32).reshape(10, 10)
    variance = rng.uniform(1, 9, plane.shape).astype(np.float32)
    return plane, variance, rng.normal(0, 3, plane.shape).astype(np.float32)


def by_definition(residual, variance, where):
    return np.mean(np.minimum(residual[where].astype(float) ** 2 / variance[where], 25))


def test_is_the_mean_over_bright_pixels():
    plane, variance, residual = faint_and_bright()
    residual[0, 0] = 1e3
    found = NoiseStop(plane, variance, np.ones(plane.shape), None).chi2(residual)
    assert found == pytest.approx(by_definition(residual, variance, plane > 9), rel=1e-6)
    assert found != pytest.approx(by_definition(residual, variance, plane > 0), rel=0.01)


def test_all_pixels_are_used_if_few_are_bright():
    plane, variance, residual = faint_and_bright(FEWEST - 1)
    found = NoiseStop(plane, variance, np.ones(plane.shape), None).chi2(residual)
    assert found == pytest.approx(by_definition(residual, variance, plane > 0), rel=1e-6)


def test_pixels_without_weight_do_not_count():
    plane, variance, residual = faint_and_bright(100)
    valid = np.ones(plane.shape)
    valid[0], plane[1], variance[2], variance[3], variance[4] = 0, np.nan, np.nan, 0, np.inf
    residual[:5] = np.nan
    found = NoiseStop(plane, variance, valid, None).chi2(residual)
    assert found == pytest.approx(by_definition(residual[5:], variance[5:], plane[5:] > 0), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-16, 1.0, 1e10])
def test_the_scale_of_the_data_does_not_matter(scale):
    plane, variance, residual = (array.astype(np.float32) for array in faint_and_bright())
    one = NoiseStop(plane, variance, plane, None).chi2(residual)
    scale = np.float32(scale)
    other = NoiseStop(plane * scale, variance * scale**2, plane, None).chi2(residual * scale)
    assert other == pytest.approx(one, rel=1e-5)


def test_stops_at_the_target():
    plane, _, residual = faint_and_bright()
    chi2 = NoiseStop(plane, 4.0, plane, None).chi2(residual)
    assert NoiseStop(plane, 4.0, plane, chi2 + 1e-6).reached(residual)
    assert not NoiseStop(plane, 4.0, plane, chi2 - 1e-6).reached(residual)
    assert not NoiseStop(plane, 4.0, plane, None).reached(residual)


@pytest.mark.parametrize("variance", [None, np.nan, 0.0])
def test_without_a_variance_nothing_stops(variance):
    plane, _, residual = faint_and_bright()
    test = NoiseStop(plane, variance, plane, 1e9)
    assert np.isnan(test.chi2(residual))
    assert not test.reached(residual)

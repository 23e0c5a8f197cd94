"""The fitted broadening of a PSF, for planes whose true PSF is known."""

import numpy as np
import pytest
from scipy.signal import fftconvolve

from lucidcube.kernels.deconvolution.psf_broadening import (
    PlaneFit,
    broadened,
    core_sigma,
    fit_broadening,
    width_mode,
)
from lucidcube.kernels.psf.analytic import model_psf
from lucidcube.kernels.psf.optical_psf import Optics

SIDE, FWHM = 61, 3.4


def moffat(fwhm):
    return model_psf(np.array([fwhm, 2.5]), 1.0, model="moffat", side=41, optics=Optics(8.0, 0.0, 1.0))


def observed(seed, *, sharp=True):
    """Return a disc with bands, or a smooth Gaussian, blurred by a Moffat, and its variance."""
    y, x = np.indices((5 * SIDE, 5 * SIDE)) / 5 - SIDE / 2
    inside = np.clip(1 - (y**2 + x**2) / 18**2, 0, None)
    scene = 2000 * inside**0.3 * (1 + 0.2 * np.sin(y / 2.5)) if sharp else 2000 * np.exp(-(y**2 + x**2) / 200)
    scene = scene.reshape(SIDE, 5, SIDE, 5).mean(axis=(1, 3))
    blurred = fftconvolve(scene, moffat(FWHM), mode="same")
    variance = np.maximum(blurred, 0) + 100
    noise = np.random.default_rng(seed).normal(size=scene.shape) * np.sqrt(variance)
    return (blurred + noise).astype(np.float32), variance.astype(np.float32)


def share(factor, *, wrong=1.0, artefacts=False, seeds=(0, 1, 2, 3), **scene):
    fits = []
    for seed in seeds:
        plane, variance = observed(seed, **scene)
        if artefacts:
            plane[np.random.default_rng(seed).random(plane.shape) < 0.01] += 1000
        fits.append(PlaneFit(plane, wrong * variance, moffat(factor * FWHM)))
    return fit_broadening(fits)


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.0, 1.1])
def test_a_psf_that_is_right_or_too_broad_is_left(factor):
    assert share(factor) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("factor", "low", "high"), [(0.9, 0.2, 0.5), (0.8, 0.3, 0.8)])
def test_a_psf_that_is_too_narrow_is_broadened(factor, low, high):
    """Squared widths add up: shares of 0.23 and 0.56 would be right for Gaussians."""
    found = share(factor)
    assert low <= found < high, found
    assert share(factor, wrong=1.5) == pytest.approx(found, abs=0.12)
    assert share(factor, artefacts=True) == pytest.approx(found, abs=0.2)


@pytest.mark.slow
def test_a_smooth_object_does_not_tell():
    assert np.isnan(share(1.0, sharp=False, seeds=(0, 1)))


@pytest.mark.slow
def test_planes_without_data_are_left_out():
    plane, variance = observed(0)
    empty = PlaneFit(np.full_like(plane, np.nan), variance, moffat(3.0))
    assert np.isnan(fit_broadening([empty]))
    assert np.isnan(fit_broadening([]))
    full = PlaneFit(plane, None, moffat(0.8 * FWHM))
    assert fit_broadening([full, empty]) == fit_broadening([full])


def test_inputs_are_not_modified():
    plane, variance = (array[15:46, 15:46].copy() for array in observed(0))
    psf = moffat(3.0)
    for array in (plane, variance, psf):
        array.flags.writeable = False
    fit_broadening([PlaneFit(plane, variance, psf)])
    broadened(psf, 1.0)


@pytest.mark.parametrize("sigma", [0.7, 2.0])
def test_variances_add_up(sigma):
    y, x = np.indices((61, 61)) - 30
    psf = np.exp(-0.5 * (y**2 + x**2) / 1.5**2)
    made = broadened(psf / psf.sum(), sigma)
    assert made.dtype == np.float32
    assert made.sum() == pytest.approx(1, abs=1e-6)
    assert (made * y**2).sum() == pytest.approx(1.5**2 + sigma**2, rel=1e-3)
    assert core_sigma(made) == pytest.approx(np.hypot(1.5, sigma), rel=1e-2)


@pytest.mark.parametrize("sides", [(41, 41), (31, 45), (1, 1)])
def test_the_mode_of_the_width(sides):
    """A Gaussian plus the mode is a wider Gaussian."""

    def gaussian(sigma):
        y, x = (np.arange(side) - side // 2 for side in sides)
        image = np.exp(-(y[:, None] ** 2 + x**2) / (2 * sigma**2))
        return image / image.sum()

    psf = gaussian(2.0).astype(np.float32)
    psf.flags.writeable = False
    mode = width_mode(psf, 0.05)
    assert mode.sum() == pytest.approx(0, abs=1e-7)
    np.testing.assert_allclose(psf + mode, gaussian(2.1), atol=2e-4 * psf.max())

"""False companions: a PSF that misses a bump on the first Airy ring (Mugnier, Fusco & Conan 2004, section 6).

The bump of a bright star, or of a small planet, comes out of the deconvolution as a companion. It must not be
significant by the published error, if the bump is within the published uncertainty of the PSF.
"""

from functools import cache

import numpy as np
import pytest
from scipy import ndimage
from scipy.special import j1

from lucidcube.kernels.fourier.convolver import Convolver
from lucidcube.stages.deconvolve import Deconvolve
from resolution_scenes import FINE, gaussian, moffat

SIDE, MIDDLE = 81, 40
WAVELENGTH = 2.2
"""Of the light over the diameter of the telescope, in pixels."""
RING = 1.635 * WAVELENGTH
"""Radius of the first bright ring of the Airy pattern."""
ANGLE = 0.7
STREHL = 0.6
SMOOTHING = 1.0
"""Standard deviation of the Gaussian for which errors are measured."""
SIGNAL_TO_NOISE = 1000


def airy() -> np.ndarray:
    """Return the pattern of a circular mirror, integrated over the pixels, with unit sum."""
    offset = (np.arange(FINE) - (FINE - 1) / 2) / FINE
    axis = (np.arange(SIDE)[:, None] - MIDDLE + offset).ravel()
    phase = np.pi * (np.hypot(axis[:, None], axis) + 1e-9) / WAVELENGTH
    pattern = (2 * j1(phase) / phase) ** 2
    pattern = pattern.reshape(SIDE, FINE, SIDE, FINE).mean(axis=(1, 3))
    return pattern / pattern.sum()


@cache
def known_psf() -> np.ndarray:
    """Return the PSF without the bump: a core with rings, and a halo."""
    halo = moffat((SIDE, SIDE), 14.0, (MIDDLE, MIDDLE), beta=2.2)
    return STREHL * airy() + (1 - STREHL) * halo / halo.sum()


def bump(angle: float) -> np.ndarray:
    """Return a speckle on the ring, as high as the ring, without light in total."""
    centre = MIDDLE + RING * np.sin(angle), MIDDLE + RING * np.cos(angle)
    speckle = gaussian((SIDE, SIDE), 0.42 * WAVELENGTH, centre)
    speckle *= known_psf()[MIDDLE, MIDDLE + round(RING)] / speckle.max()
    return speckle - known_psf() * speckle.sum()


def modes(uncertainty: float) -> np.ndarray:
    """Return the uncertainty of the PSF: eight independent speckles on the ring, none where the bump is."""
    return np.stack([uncertainty * bump(ANGLE + 0.3 + 2 * np.pi * k / 8) for k in range(8)]).astype(
        np.float32
    )


def star() -> np.ndarray:
    object_ = np.zeros((SIDE, SIDE), np.float32)
    object_[MIDDLE, MIDDLE] = 1
    return object_


def planet() -> np.ndarray:
    y, x = np.indices((SIDE, SIDE)) - MIDDLE
    return (np.clip(1 - (y**2 + x**2) / 6**2, 0, 1) ** 0.4).astype(np.float32)


@cache
def significance(
    method: str, shape: str, height: float, uncertainty: float, resolution: float | None
) -> float:
    """Return the largest excess over the truth where the bump is, in units of the published error.

    The bump is `height` times as high as the ring, and the uncertainty is given likewise; without any, the
    error is that of the noise alone.
    """
    object_ = star() if shape == "star" else planet()
    psf = known_psf().astype(np.float32)
    object_ *= SIGNAL_TO_NOISE**2 / Convolver(psf, object_.shape).convolve(object_).max()
    true_psf = (known_psf() + height * bump(ANGLE)).astype(np.float32)
    seen = Convolver(true_psf, object_.shape).convolve(object_)
    variance = np.maximum(seen, 0) + SIGNAL_TO_NOISE**2 / 1e4
    noise = np.random.default_rng(0).normal(size=seen.shape) * np.sqrt(variance)
    plane = (seen + noise).astype(np.float32)
    errors = {"draws": 8} if uncertainty else {"draws": 8, "psf_width": 0}
    stage = Deconvolve(method=method, resolution=resolution, errors=errors)
    sigma = SMOOTHING if resolution is None else resolution / 2.3548
    given = {"variance": variance.astype(np.float32), "filled": None}
    found = stage.deconvolve_plane(plane, psf, **given)
    components = found.components if resolution else ndimage.gaussian_filter(found.components, sigma)
    known = modes(uncertainty) if uncertainty else None
    made = stage.errors_of(found, plane, psf, modes=known, smoothing=sigma, seed=1, **given)
    excess = components - ndimage.gaussian_filter(object_, sigma)
    y, x = np.indices(plane.shape) - MIDDLE
    here = np.hypot(y - RING * np.sin(ANGLE), x - RING * np.cos(ANGLE)) < 2
    return float((excess / np.maximum(made["error"], 1e-30))[here].max())


@pytest.mark.parametrize("resolution", [None, 3.0])
@pytest.mark.parametrize("shape", ["star", "planet"])
@pytest.mark.parametrize("method", ["map", "lucy_richardson"])
class TestCompanion:
    @pytest.mark.parametrize(
        ("height", "uncertainty"),
        [(0.1, 0.05), *(pytest.param(h, h, marks=pytest.mark.slow) for h in (0.05, 0.2, 1.0))],
    )
    def test_within_the_uncertainty_of_the_psf_it_is_not_significant(
        self, method: str, shape: str, resolution: float | None, height: float, uncertainty: float
    ) -> None:
        assert significance(method, shape, height, uncertainty, resolution) < 3

    def test_without_the_uncertainty_of_the_psf(
        self, method: str, shape: str, resolution: float | None
    ) -> None:
        """By the noise alone it would be significant, unless the residual of the planet tells of it."""
        found = significance(method, shape, 0.3, 0, resolution)
        if shape == "planet" and resolution is None:
            assert found < 3
        else:
            assert found > 4


@pytest.mark.parametrize(("method", "least"), [("map", 4), ("lucy_richardson", 3)])
def test_a_bump_far_beyond_the_uncertainty_is_a_companion(method: str, least: float) -> None:
    """Little in a single plane tells it from one; the error does not grow so much that it is hidden."""
    assert significance(method, "star", 1.0, 0.05, None) > least

"""Numbers that tell whether a deconvolution can be trusted, on noise, on known PSFs, and on edges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from config_scenes import moffat
from disc_scene import SIGMA, planet
from lucidcube.kernels.deconvolution.diagnostics import light_at_edge, residual_structure
from lucidcube.kernels.holes import Filled
from lucidcube.stages import Deconvolve


def structure(psf: np.ndarray) -> float:
    """Return the structure of the residual of the planet, deconvolved by a PSF."""
    plane, *_ = planet()
    variance = np.full_like(plane, SIGMA**2)
    found = Deconvolve().deconvolve_plane(plane, psf, variance=variance)
    return residual_structure(plane, found.residual, variance, None)


@pytest.mark.parametrize("kernel", [0.0, 0.7])
def test_noise_has_no_structure_even_if_it_is_correlated(kernel: float) -> None:
    rng = np.random.default_rng(3)
    noise = ndimage.gaussian_filter(rng.normal(size=(150, 150)), kernel)
    noise *= 2 / noise.std()
    y, x = np.indices(noise.shape) - 75
    plane = 500 * (np.hypot(y, x) < 45) + noise
    variance, filled = np.full(plane.shape, 4.0), rng.random(plane.shape) < 0.05
    assert residual_structure(plane, noise, variance, filled) == pytest.approx(1, abs=0.1)  # 0.99, 1.00


def test_filled_pixels_do_not_count() -> None:
    plane, *_ = planet()
    residual, variance = np.ones_like(plane), np.full_like(plane, SIGMA**2)
    expected = residual_structure(plane, residual, variance, None)
    filled = np.zeros(plane.shape, np.uint8)
    filled[20:24, 20:24] = Filled.MODELLED
    residual[20:24, 20:24] = np.nan
    assert residual_structure(plane, residual, variance, filled) == pytest.approx(expected, rel=0.05)


def test_a_plane_without_an_object_has_none() -> None:
    noise = np.random.default_rng(1).normal(size=(50, 50))
    for variance in (np.ones_like(noise), np.full_like(noise, np.nan), None):
        assert np.isnan(residual_structure(noise, noise, variance, None))


def test_a_psf_that_is_too_wide_leaves_structure_and_the_true_one_does_not() -> None:
    _, psf, *_ = planet()
    wide = ndimage.gaussian_filter(psf, 1.5)
    assert structure(psf) < 1.3  # 0.9
    assert structure(wide / wide.sum()) > 2  # 3.6


def test_light_at_the_edge_of_a_frame_and_of_a_field() -> None:
    noise = np.random.default_rng(0).normal(size=(60, 60))
    y, x = np.indices(noise.shape)
    inside = noise + 300 * (np.hypot(y - 30, x - 30) < 12)
    assert light_at_edge(inside) == 0
    cut = noise + 300 * (np.hypot(y - 30, x) < 15)
    assert light_at_edge(cut) == pytest.approx(30 / 236, abs=0.03)  # of the 4 x 59 pixels of the rim
    assert light_at_edge(np.where(x < 30, np.nan, inside)) > 0.1
    hole = inside.copy()
    hole[29, 30] = np.nan
    assert light_at_edge(hole) == 0


def test_noise_alone_is_no_light_at_the_edge() -> None:
    noise = np.random.default_rng(0).normal(size=(60, 60)).astype(np.float32)
    assert light_at_edge(noise) == 0
    assert light_at_edge(np.full((9, 9), np.nan)) == 0
    assert light_at_edge(100 * moffat((41, 41), 3, (20, 20)) + 1e-3 * noise[:41, :41]) == 0

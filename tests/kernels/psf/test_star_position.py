"""Saturated stars are recognised, and others are not taken for saturated."""

import numpy as np

from lucidcube.kernels.psf.star_position import saturated_pixels


def star(fwhm: float) -> np.ndarray:
    y, x = np.indices((61, 61)) - 30.3
    noise = np.random.default_rng(0).normal(0, 1, (61, 61))
    return 1e5 * np.exp(-4 * np.log(2) * (y**2 + x**2) / fwhm**2) + noise


def test_a_plateau_is_saturated():
    plane = star(5)
    clipped = np.minimum(plane, 4e4)
    assert saturated_pixels(clipped) == (plane >= 4e4).sum()
    assert saturated_pixels(clipped.astype(np.int32)) >= (plane >= 4e4).sum()


def test_other_stars_are_not():
    for fwhm in (1, 2, 5, 20):
        assert saturated_pixels(star(fwhm)) == 0
    plane = star(5)
    plane[25:35] = np.nan
    assert saturated_pixels(plane) == 0


def test_planes_without_a_star():
    for plane in (np.zeros((9, 9)), np.full((9, 9), np.nan), np.ones((1, 1))):
        assert saturated_pixels(plane) == 0

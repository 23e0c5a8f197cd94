"""Shapes of stars: profiles with and without wings, discs, and doubles with known ratios."""

from __future__ import annotations

import numpy as np
import pytest

from config_scenes import moffat
from lucidcube.kernels.psf.star_shape import star_shape


def gaussian(sigma: float, y: float = 30, x: float = 30) -> np.ndarray:
    """Return a Gaussian with a peak of 1000 and a little noise."""
    rows, columns = np.indices((61, 61))
    noise = np.random.default_rng(0).normal(size=rows.shape)
    return 1000 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * sigma**2)) + noise


@pytest.mark.parametrize("sigma", [2.0, 4.0])
def test_a_gaussian_has_the_flatness_of_the_formula(sigma: float) -> None:
    found = star_shape(gaussian(sigma, 29.6, 30.3))
    assert found.flatness == pytest.approx(np.log(0.8) / np.log(0.2), abs=0.02)
    assert not found.extended
    assert not found.double


def test_a_star_with_wings_is_a_star() -> None:
    found = star_shape(1e5 * moffat((61, 61), 3.5, (30.2, 29.7)) + gaussian(2) / 1e3)
    assert not found.extended
    assert not found.double


def test_a_disc_is_extended() -> None:
    rows, columns = np.indices((61, 61)) - 30
    disc = 500 * np.clip(1 - np.hypot(rows, columns) ** 2 / 15**2, 0, None) ** 0.3
    found = star_shape(disc + np.random.default_rng(0).normal(size=disc.shape))
    assert found.extended


@pytest.mark.parametrize("ratio", [0.1, 0.5, 1.0])
def test_a_double_star_has_the_ratio_of_its_peaks(ratio: float) -> None:
    found = star_shape(gaussian(2) + ratio * gaussian(2, 24, 38))
    assert found.companion == pytest.approx(ratio, abs=0.05)
    assert found.double == (ratio > 0.2)


def test_a_distant_neighbour_is_no_companion() -> None:
    assert not star_shape(gaussian(1.5) + gaussian(1.5, 5, 57)).double


def test_planes_without_a_star() -> None:
    noise = np.random.default_rng(0).normal(size=(30, 30))
    for plane in (noise, np.zeros((30, 30)), np.full((30, 30), np.nan)):
        assert star_shape(plane) == (0, 0)

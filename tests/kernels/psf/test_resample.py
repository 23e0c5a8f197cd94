"""Resampled PSFs against formulas on the new pixels."""

import numpy as np
import pytest

from lucidcube.kernels.psf.analytic import model_psf
from lucidcube.kernels.psf.optical_psf import Optics
from lucidcube.kernels.psf.resample import resample_psf

OPTICS = Optics(8.0, 0.14, 0.025)


def moffat(fwhm, side):
    return model_psf(np.array([fwhm, 2.5]), 1.0, model="moffat", side=side, optics=OPTICS)


def gaussian(shape, long, short, degrees, oversampling=1):
    """Return an elliptical Gaussian about the centre of the array, with the given sigmas and angle."""
    y, x = np.indices(shape) - (np.array(shape)[:, None, None] - 1) / 2
    angle = np.deg2rad(degrees)
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    image = np.exp(-0.5 * ((along / long) ** 2 + (across / short) ** 2))
    return image / image.sum()


def rotation(degrees, scale=1.0):
    """Return the matrix for (y, x)."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return scale * np.array([[c, s], [-s, c]])


def distance(a, b):
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@pytest.mark.parametrize(
    ("factor", "limit"), [(2.0, 2e-3), (4.0, 1e-3), (3.3, 1e-3), (8.0, 1e-3), (1.3, 5e-3)]
)
def test_larger_pixels_integrate(factor, limit):
    known = moffat(3.0, 31)
    made = resample_psf(moffat(3.0 * factor, int(31 * factor) // 2 * 2 + 31), factor * np.eye(2), 31)
    assert made.dtype == np.float32
    assert made.sum() == pytest.approx(1, abs=1e-6)
    assert distance(made, known) < limit  # point samples of the fine image: 0.03


def test_point_samples_would_be_too_narrow():
    fine = moffat(12.0, 181)
    points = fine[90 - 60 : 90 + 61 : 4, 90 - 60 : 90 + 61 : 4]
    assert distance(points / points.sum(), moffat(3.0, 31)) > 0.02


def test_smaller_pixels_interpolate():
    made = resample_psf(moffat(3.0, 61), 0.8 * np.eye(2), 61)
    assert distance(made, moffat(3.75, 61)) < 0.03  # the larger pixels stay in it
    assert made.min() >= 0


def test_the_same_pixels_are_left():
    psf = moffat(3.0, 31)
    np.testing.assert_allclose(resample_psf(psf, np.eye(2), 31), psf, atol=1e-7)
    cropped = psf[5:-5, 5:-5]
    np.testing.assert_allclose(resample_psf(psf, np.eye(2), 21), cropped / cropped.sum(), atol=1e-7)


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_quarter_turns_are_exact(quarter):
    psf = np.random.default_rng(0).random((21, 21))
    made = resample_psf(psf, rotation(90 * quarter), 21)
    np.testing.assert_allclose(made, np.rot90(psf, -quarter, axes=(1, 0)) / psf.sum(), atol=1e-6)


def test_mirror():
    psf = np.random.default_rng(0).random((21, 21))
    np.testing.assert_allclose(resample_psf(psf, np.diag([-1.0, 1.0]), 21), psf[::-1] / psf.sum(), atol=1e-6)


@pytest.mark.parametrize("shape", [(64, 64), (63, 63), (64, 71)])
@pytest.mark.parametrize("degrees", [0, 30, -77])
def test_ellipses_turn_and_keep_their_centre(shape, degrees):
    """The new x axis is turned, so that the ellipse turns the other way."""
    made = resample_psf(gaussian(shape, 6, 4, 10), rotation(degrees, 2.0), 41)
    assert distance(made, _pixels(gaussian((41 * 9, 41 * 9), 27, 18, 10 - degrees))) < 5e-3
    y, x = np.indices(made.shape) - 20
    assert (made * y).sum() == pytest.approx(0, abs=1e-3)
    assert (made * x).sum() == pytest.approx(0, abs=1e-3)


def _pixels(fine):
    """Integrate over pixels of 9 x 9."""
    n = len(fine) // 9
    image = fine.reshape(n, 9, n, 9).sum(axis=(1, 3))
    return image / image.sum()


def test_missing_pixels_count_as_zero_and_inputs_are_kept():
    psf = moffat(6.0, 61)
    psf[0, :5] = np.nan
    psf.flags.writeable = False
    made = resample_psf(psf, 2 * np.eye(2), 31)
    assert np.isfinite(made).all()

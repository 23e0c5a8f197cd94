"""The clean beam that is fitted to a PSF, and the restored image of both CLEANs."""

import numpy as np
import pytest
from scipy import ndimage

from deconvolvers import by_default
from disc_scene import SIGMA, error, holes, moffat, planet, rim
from lucidcube.kernels.deconvolution.clean_beam import FWHM, fit_beam

METHODS = ("clean_modified", "clean_multiscale")


def gaussian_psf(covariance, size=41):
    y, x = np.indices((size, size)) - size // 2
    inverse = np.linalg.inv(covariance)
    psf = np.exp(-0.5 * (inverse[0, 0] * y**2 + 2 * inverse[0, 1] * x * y + inverse[1, 1] * x**2))
    return (psf / psf.sum()).astype(np.float32)


@pytest.mark.parametrize(
    "covariance",
    [np.eye(2) * 0.4, np.eye(2) * 9, [[6.0, 1.5], [1.5, 3.0]]],
    ids=["narrow", "round", "oblique"],
)
def test_the_beam_of_a_gaussian_is_the_gaussian(covariance):
    np.testing.assert_allclose(fit_beam(gaussian_psf(covariance)), covariance, rtol=1e-3, atol=1e-4)


def test_wings_do_not_widen_the_beam():
    narrow = gaussian_psf(np.eye(2) * 4)
    psf = 0.6 * narrow + 0.4 * gaussian_psf(np.eye(2) * 60)
    assert np.sqrt(fit_beam(psf)[0, 0]) == pytest.approx(2, rel=0.08)
    width = FWHM * np.sqrt(fit_beam(moffat(core=2.0))[0, 0])
    assert width == pytest.approx(2 * 2.0 * np.sqrt(np.sqrt(2) - 1), rel=0.1)


@pytest.mark.parametrize("size", [1, 3, 9])
def test_a_psf_of_one_pixel_has_a_beam_of_about_a_pixel(size):
    psf = np.zeros((size, size), np.float32)
    psf[size // 2, size // 2] = 1
    covariance = fit_beam(psf)
    np.testing.assert_array_equal(covariance, covariance[0, 0] * np.eye(2))
    assert FWHM * np.sqrt(covariance[0, 0]) == pytest.approx(2 / np.sqrt(np.pi))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("beam", [2.5, 0, "fit"])
def test_is_the_smoothed_components_plus_the_residual(method, beam):
    plane, psf, _, _ = planet()
    result = by_default(method, plane, psf, variance=np.full(plane.shape, SIGMA**2), restoring_beam=beam)
    sigma = np.sqrt(fit_beam(psf)[0, 0]) if beam == "fit" else beam / FWHM
    smooth = ndimage.gaussian_filter(result.components.astype(float), sigma, mode="constant")
    expected = smooth + result.residual
    np.testing.assert_allclose(result.extras["restored"], expected, atol=1e-3 * plane.max())


@pytest.mark.parametrize("method", METHODS)
def test_noise_that_no_component_holds_is_kept(method):
    plane, psf, truth, disc = planet()
    result = by_default(method, plane, psf, variance=np.full(plane.shape, SIGMA**2), restoring_beam=1.5)
    restored = result.extras["restored"]
    assert error(restored, truth, disc) < 0.6 * error(plane, truth, disc)
    assert restored.sum() == pytest.approx(plane.sum(), rel=0.03)


@pytest.mark.parametrize("method", METHODS)
def test_is_missing_outside_the_field_only(method):
    plane, psf, truth, _ = planet()
    for observed in (rim(plane), holes(plane)):
        result = by_default(method, observed, psf, variance=np.full(plane.shape, SIGMA**2))
        np.testing.assert_array_equal(np.isnan(result.extras["restored"]), np.isnan(result.components))
    hole = np.isnan(observed)
    assert result.extras["restored"][hole].sum() == pytest.approx(truth[hole].sum(), rel=0.2)

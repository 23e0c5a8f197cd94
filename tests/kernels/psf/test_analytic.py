"""PSFs from formulas against numerical integration in two dimensions."""

import numpy as np
import pytest
from scipy.integrate import dblquad

from lucidcube.kernels.psf.analytic import light_in_pixels, model_psf, radius_of_light
from lucidcube.kernels.psf.optical_psf import Optics

MUSE = Optics(8.0, 0.14, 0.025)
AO = np.array([0.15, 20.0, 0.1, 1.6, 3.0, 5e-3, 2.06])
PARAMETERS = {"gaussian": np.array([3.0]), "moffat": np.array([3.0, 2.5]), "muse_ao": AO}


def integrated(function, x, y):
    return dblquad(function, y - 0.5, y + 0.5, x - 0.5, x + 0.5, epsabs=1e-12)[0]


@pytest.mark.parametrize("fwhm", [0.5, 1.2, 4.0])
@pytest.mark.parametrize("beta", [1.5, 4.0])
def test_moffat_is_integrated_over_pixels(fwhm, beta):
    alpha = fwhm / 2 / np.sqrt(2 ** (1 / beta) - 1)
    peak = (beta - 1) / (np.pi * alpha**2)
    made = light_in_pixels(np.array([fwhm, beta]), 1.0, model="moffat", side=61, optics=MUSE)
    for x, y in ((0, 0), (1, 0), (2, 3), (14, 6), (30, 30)):
        expected = integrated(lambda a, b: peak * (1 + (a * a + b * b) / alpha**2) ** -beta, x, y)
        assert abs(made[30 + y, 30 + x] - expected) < 2e-6
        assert abs(made[30 + y, 30 + x] / expected - 1) < 2e-4


@pytest.mark.parametrize("fwhm", [0.5, 3.0])
def test_gaussian_is_integrated_over_pixels(fwhm):
    sigma = fwhm / np.sqrt(8 * np.log(2))
    made = light_in_pixels(np.array([fwhm]), 1.0, model="gaussian", side=21, optics=MUSE)
    for x, y in ((0, 0), (1, 0), (2, 1)):
        expected = integrated(
            lambda a, b: np.exp(-(a * a + b * b) / (2 * sigma**2)) / (2 * np.pi * sigma**2), x, y
        )
        assert made[10 + y, 10 + x] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("model", PARAMETERS)
@pytest.mark.parametrize("side", [1, 9, 40 + 1])
def test_psf_is_centred_symmetric_and_of_unit_sum(model, side):
    made = model_psf(PARAMETERS[model], 7e-7, model=model, side=side, optics=MUSE)
    assert made.dtype == np.float32
    assert made.shape == (side, side)
    assert made.sum(dtype=float) == pytest.approx(1, abs=1e-6)
    assert (made >= 0).all()
    assert made.argmax() == side * side // 2
    for other in (made[::-1], made[:, ::-1], made.T):
        np.testing.assert_allclose(made, other, rtol=1e-5)


@pytest.mark.parametrize("model", ["gaussian", "moffat"])
def test_radius_holds_the_light(model):
    radius = radius_of_light(PARAMETERS[model], model, 0.02)
    made = light_in_pixels(PARAMETERS[model], 1.0, model=model, side=201, optics=MUSE)
    y, x = np.indices(made.shape) - 100
    assert made[np.hypot(y, x) <= radius + 0.5].sum() >= 0.98
    assert made[np.hypot(y, x) <= radius - 0.5].sum() <= 0.98

"""Star models against closed forms, numerical integration in two dimensions, and the program of their authors."""

import numpy as np
import pytest
from scipy.special import j0, j1

from lucidcube.kernels.psf.models import MODELS, R0_WAVELENGTH
from lucidcube.kernels.psf.optical_psf import (
    ZONE_RADIUS,
    Grid,
    radial_profile,
    star_image,
    telescope_transfer,
)
from lucidcube.kernels.psf.turbulence import in_band_structure, von_karman_coefficient, von_karman_structure
from star_kernels import MUSE, SHAPES, WAVELENGTH, star

KOLMOGOROV = 11.0 / 3.0


def no_phase(separation):
    return np.zeros_like(separation)


def test_airy_pattern():
    profile = radial_profile(no_phase, WAVELENGTH, MUSE._replace(central_obscuration=0.0), 200.0)
    radius = np.linspace(0.0, ZONE_RADIUS, profile.value.shape[1])
    airy = np.ones_like(radius)
    airy[1:] = (2.0 * j1(np.pi * radius[1:]) / (np.pi * radius[1:])) ** 2
    peak = np.pi / 4.0 / profile.resolution**2
    np.testing.assert_allclose(profile.value[0], peak * airy, atol=1e-9 * peak)


@pytest.mark.parametrize("obscuration", [0.0, 0.14, 0.4])
def test_telescope_transfer_is_the_autocorrelation_of_the_pupil(obscuration):
    n, diameter = 1024, 400
    y, x = np.indices((n, n)) - n // 2
    radius = np.hypot(y, x) / diameter
    pupil = ((radius < 0.5) & (radius >= 0.5 * obscuration)).astype(float)
    spectrum = np.abs(np.fft.fft2(pupil)) ** 2
    correlation = np.fft.ifft2(spectrum).real / pupil.sum()
    lag = np.arange(0, diameter + 20)
    expected = telescope_transfer(lag / diameter, obscuration)
    np.testing.assert_allclose(expected, correlation[0, lag], atol=4e-3)
    assert expected[0] == pytest.approx(1.0)
    assert (expected[diameter:] == 0.0).all()


def test_kolmogorov_constants():
    assert von_karman_coefficient(1.0, KOLMOGOROV) == pytest.approx(0.0229, rel=1e-3)
    separation = np.array([0.02, 0.15, 0.6])
    structure = von_karman_structure(separation, 0.15, 1e9, KOLMOGOROV)
    np.testing.assert_allclose(structure, 6.8839 * (separation / 0.15) ** (5.0 / 3.0), rtol=2e-3)
    assert von_karman_structure(np.zeros(1), 0.15, 10.0, KOLMOGOROV)[0] == 0.0


@pytest.mark.parametrize("index", [3.0, KOLMOGOROV, 3.8])
@pytest.mark.parametrize("outer_scale", [5.0, 40.0])
def test_closed_form_of_the_structure_function_is_the_integral_of_the_spectrum(index, outer_scale):
    coefficient = von_karman_coefficient(0.15, index)
    separation = np.array([0.3, 1.0, 4.0, 8.0])

    def power(frequency):
        return coefficient * (frequency**2 + outer_scale**-2) ** (-0.5 * index)

    # Beyond the band the rest is the variance there, as J0 averages to nothing.
    cutoff = 8.0
    rest = 4.0 * np.pi * coefficient * cutoff ** (2.0 - index) / (index - 2.0)
    expected = in_band_structure(separation, power, cutoff) + rest
    closed = von_karman_structure(separation, 0.15, outer_scale, index)
    np.testing.assert_allclose(closed, expected, rtol=0.015)


def test_seeing_law():
    # A telescope much larger than r0 and an infinite outer scale: FWHM = 0.976 lambda / r0.
    optics = MUSE._replace(telescope_diameter=20.0, central_obscuration=0.0, pixel_scale=0.02)
    image = star("turbulence", (161, 161), 80, 80, [500e-9, 0.1, 3.0, 1e6], optics).image[80, 80:]
    half = np.interp(-0.5 * image[0], -image, np.arange(image.size))
    expected = 0.976 * 500e-9 / 0.1 / np.deg2rad(0.02 / 3600.0)
    assert 2.0 * half == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("model", list(SHAPES))
def test_flux_within_the_frame_and_its_limit(model):
    fluxes = [star(model, (n, n), n // 2, n // 2).image.sum() for n in (41, 161, 641)]
    assert fluxes[0] <= fluxes[1] + 1e-12 <= fluxes[2] + 2e-12
    assert fluxes[2] == pytest.approx(1.0, abs=0.003)
    assert fluxes[2] < 1.0 + 1e-9


@pytest.mark.parametrize("model", list(SHAPES))
def test_position_is_free_and_derivatives_are_right(model):
    shape = (25, 31)
    here = star(model, shape, 11.3, 16.4)
    np.testing.assert_allclose(star(model, shape, 12.3, 14.4).image[1:, :-2], here.image[:-1, 2:], atol=1e-12)
    step = 1e-5
    up, down = star(model, shape, 11.3 + step, 16.4), star(model, shape, 11.3 - step, 16.4)
    scale = np.abs(here.by_y).max()
    np.testing.assert_allclose((up.image - down.image) / (2 * step), here.by_y, atol=2e-4 * scale)
    up, down = star(model, shape, 11.3, 16.4 + step), star(model, shape, 11.3, 16.4 - step)
    np.testing.assert_allclose((up.image - down.image) / (2 * step), here.by_x, atol=2e-4 * scale)


@pytest.mark.parametrize("model", ["turbulence", "muse_ao"])
@pytest.mark.parametrize("wavelength", [480e-9, 930e-9])
def test_pixels_are_integrated(model, wavelength):
    values = [wavelength, *SHAPES[model][1:]] if model == "turbulence" else None
    coarse = star(model, (9, 9), 4.2, 3.7, values, wavelength=wavelength).image
    fine = MUSE._replace(pixel_scale=0.025 / 9)
    sampled = star(model, (81, 81), 9 * 4.2 + 4, 9 * 3.7 + 4, values, fine, wavelength).image
    binned = sampled.reshape(9, 9, 9, 9).sum((1, 3))
    np.testing.assert_allclose(coarse, binned, atol=2e-5 * coarse.max())


def brute_force(structure, n, step, optics):
    """The image on a fine grid by a two-dimensional transform of the transfer function, float64."""
    axis = np.fft.fftfreq(n, 1.0 / n)
    separation = np.hypot(axis[:, None], axis) * step
    used = separation < optics.telescope_diameter
    transfer = np.zeros((n, n))
    transfer[used] = np.exp(-0.5 * structure(separation[used]))
    transfer *= telescope_transfer(separation / optics.telescope_diameter, optics.central_obscuration)
    transfer *= np.sinc(axis / n)[:, None] * np.sinc(axis / n)  # square pixels
    return np.fft.fftshift(np.fft.ifft2(transfer).real)


@pytest.mark.slow
def test_muse_ao_against_brute_force_in_two_dimensions():
    r0, outer_scale, alpha, beta, amplitude, background, cutoff = SHAPES["muse_ao"]
    r0 *= (WAVELENGTH / R0_WAVELENGTH) ** 1.2
    # Spectrum on a grid of frequencies, structure function by summation over it (not by quadrature in f).
    edges = np.concatenate([[0.0], np.geomspace(1e-4, 200.0, 6000)])
    frequency, width = 0.5 * (edges[1:] + edges[:-1]), np.diff(edges)
    inside = frequency < cutoff
    moffat = (1.0 + (frequency / alpha) ** 2) ** -beta * inside
    moffat *= amplitude / (2.0 * np.pi * (moffat * frequency * width).sum())
    halo = 0.0229 * r0 ** (-5.0 / 3.0) * (frequency**2 + outer_scale**-2) ** (-KOLMOGOROV / 2.0)
    power = np.where(inside, moffat + background, halo)
    table = np.linspace(0.0, 8.0, 1500)
    kernel = 1.0 - j0(2.0 * np.pi * table[:, None] * frequency)
    values = 4.0 * np.pi * kernel @ (power * frequency * width)
    pixel = 0.025 / 8.0
    n = 1500
    step = WAVELENGTH / np.deg2rad(pixel / 3600.0) / n
    expected = brute_force(lambda s: np.interp(s, table, values), n, step, MUSE)
    cut = slice(n // 2 - 60, n // 2 + 61)
    ours = star("muse_ao", (121, 121), 60, 60, optics=MUSE._replace(pixel_scale=pixel)).image
    np.testing.assert_allclose(ours, expected[cut, cut], atol=5e-4 * expected.max())


def test_muse_ao_against_the_program_of_its_authors():
    psfmodel = pytest.importorskip("maoppy.psfmodel")
    instrument = pytest.importorskip("maoppy.instrument")
    pixel, n = 0.025 / 4.0, 1024
    sampling = MUSE._replace(pixel_scale=pixel).resolution(WAVELENGTH)
    theirs = psfmodel.Psfao((n, n), system=instrument.muse_nfm, samp=sampling, lext=10.0)
    r0 = 0.15 * (WAVELENGTH / R0_WAVELENGTH) ** 1.2
    expected = theirs([r0, 5e-3, 2.0, 1.0, 1.0, 0.0, 1.6])
    cut = slice(n // 2 - 60, n // 2 + 61)
    values = [0.15, 10.0, 1.0, 1.6, 2.0, 5e-3, theirs.cutoffAOfreq]
    ours = star("muse_ao", (121, 121), 60, 60, values, MUSE._replace(pixel_scale=pixel)).image
    np.testing.assert_allclose(ours, expected[cut, cut], atol=1e-3 * expected.max())


def test_muse_ao_without_correction_is_the_turbulence_model():
    # With no band to correct, muse_ao is the turbulence model.
    ours = star("muse_ao", (41, 41), 20, 20, [0.3, 20.0, 0.01, 1.6, 0.0, 0.0, 0.02]).image
    plain = star("turbulence", (41, 41), 20, 20, [WAVELENGTH, 0.3, 3.0, 20.0]).image
    np.testing.assert_allclose(ours, plain, atol=5e-3 * plain.max())


def test_zones_of_the_profile_are_continuous():
    profile = radial_profile(
        lambda s: von_karman_structure(s, 0.2, 20.0, KOLMOGOROV), WAVELENGTH, MUSE, 400.0
    )
    n = profile.value.shape[1] - 1
    for zone in range(profile.value.shape[0] - 1):
        tolerance = 0.01 if zone == 0 else 1e-4  # the rings end with the first zone
        assert profile.value[zone, n] == pytest.approx(profile.value[zone + 1, n // 2], rel=tolerance)
    image = star_image(profile, Grid((3, 400), 1.0, 1.0)).image[1, 1:]
    assert (np.diff(image) < 0.0).all()


def test_halo_falls_with_the_power_law_of_turbulence():
    # A mirror so large that the wing of its own diffraction, which falls as r**-3, is far below.
    optics = MUSE._replace(telescope_diameter=100.0, central_obscuration=0.0)
    image = star("turbulence", (1, 501), 0.0, 0.0, [WAVELENGTH, 0.2, 3.0, 1e6], optics).image[0]
    slope = np.log(image[500] / image[150]) / np.log(150.0 / 500.0)
    assert -slope == pytest.approx(-KOLMOGOROV, abs=0.05)


def test_gaussian_has_unit_flux_and_its_sigma():
    image = star("gaussian", (41, 41), 20, 20, [2.0]).image
    assert image.sum() == pytest.approx(1.0, abs=1e-9)
    assert image[20, 20] / image[20, 22] == pytest.approx(np.exp(0.5))


def test_peak_rises_with_r0_and_wavelength():
    def peak(model, values):
        optics = MUSE._replace(telescope_diameter=30.0)  # so large that diffraction does not matter
        return star(model, (3, 3), 1, 1, values, optics).image[1, 1]

    assert peak("turbulence", [7e-7, 0.2, 3.0, 20.0]) > peak("turbulence", [7e-7, 0.1, 3.0, 20.0])
    assert peak("turbulence", [9e-7, 0.1, 3.0, 20.0]) > peak("turbulence", [5e-7, 0.1, 3.0, 20.0])
    assert peak("muse_ao", SHAPES["muse_ao"]) > peak("muse_ao", [0.09, *SHAPES["muse_ao"][1:]])


def test_declared_parameters_are_consistent():
    for name, model in MODELS.items():
        assert name == model.name
        assert model.names[:2] == ("x", "y")
        assert len(set(model.names)) == len(model.names)
        for parameter in model.parameters:
            assert parameter.lower < parameter.upper
            assert parameter.start is None or parameter.lower <= parameter.start <= parameter.upper
            assert parameter.description
            assert parameter.unit
    assert [m.star is None for m in MODELS.values()] == [True, False, False, False]

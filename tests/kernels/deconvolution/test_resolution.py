"""A stated resolution: the Gaussian, encircled energy and ratios over a fourfold range of PSFs, and support."""

import math

import numpy as np
import pytest
from scipy.signal import fftconvolve

from deconvolvers import by_default
from lucidcube.kernels.deconvolution.common import Deconvolution, StopReason
from lucidcube.kernels.deconvolution.resolution import at_resolution
from lucidcube.kernels.deconvolution.support import brightest_place, finest_supported, supported_fraction
from lucidcube.kernels.holes import Filled
from lucidcube.stages.deconvolve import Deconvolve
from resolution_scenes import (
    FWHM,
    SIDE,
    STARS,
    blurred,
    encircled,
    encircled_errors,
    gaussian,
    moffat,
    patch,
    psf,
    stars,
)

WIDTHS = (2.0, 3.2, 5.0, 8.0)
"""Native widths of the PSF in pixels: a fourfold range."""
TARGET = 6.0
SIGMA = TARGET / FWHM
METHODS = ("map", "lucy_richardson", "clean_modified", "clean_multiscale")
POINT = np.ones((1, 1), np.float32)


def result(components, *, whole=None, residual=None):
    """Return the result of a deconvolution with these components."""
    residual = np.zeros_like(components) if residual is None else residual
    valid = np.isfinite(components)
    return Deconvolution.of(components, components, residual, valid, 1, StopReason.CONVERGED, whole=whole)


def deconvolved(method, plane, fwhm, **options):
    given = {"resolution": TARGET, "variance": np.ones_like(plane), **options}
    return by_default(method, plane, psf(fwhm), **given)


class TestGaussian:
    @pytest.mark.parametrize("fwhm", [2.0, 3.3, 8.0, 60.0])
    def test_of_a_point_is_exact_and_does_not_wrap_round(self, fwhm: float) -> None:
        plane, sigma = np.zeros((40, 31), np.float32), fwhm / FWHM
        plane[1, 29] = 1000
        shown = at_resolution(result(plane), plane, POINT, sigma, add_residual=False)
        expected = 1000 * gaussian(plane.shape, sigma, (1, 29))
        np.testing.assert_allclose(shown.components, expected, rtol=1e-3, atol=2e-6 * expected.max())
        assert shown.flux_out == pytest.approx(expected.sum(), rel=1e-3)

    def test_light_from_beyond_the_frame_reaches_into_it(self) -> None:
        whole = np.zeros((44, 40), np.float32)
        whole[3, 20] = 500  # 7 pixels above the frame
        plane = np.zeros((24, 20), np.float32)
        shown = at_resolution(result(plane, whole=whole), plane, POINT, 4.0, add_residual=False)
        np.testing.assert_allclose(shown.components, 500 * gaussian((24, 20), 4.0, (-7, 10)), atol=1e-4)

    def test_nan_remain_and_take_no_light_from_others(self) -> None:
        plane = np.full((30, 30), 7, np.float32)
        plane[:, :4] = np.nan
        shown = at_resolution(result(plane), plane, POINT, 1.5, add_residual=False)
        np.testing.assert_array_equal(np.isnan(shown.components), np.isnan(plane))
        np.testing.assert_allclose(shown.components[14, 14:16], 7, rtol=1e-5)

    def test_nothing_to_show(self) -> None:
        plane = np.full((9, 9), np.nan, np.float32)
        assert np.isnan(at_resolution(result(plane), plane, POINT, 2.0).components).all()

    def test_the_points_are_shown_likewise(self) -> None:
        plane, _ = stars(3.2, 100)
        shown, sharp = (deconvolved("map", plane, 3.2, resolution=width) for width in (TARGET, None))
        expected = fftconvolve(sharp.extras["points"], gaussian((61, 61), SIGMA, (30, 30)), mode="same")
        atol = 1e-5 * expected.max()
        np.testing.assert_allclose(shown.extras["points"], expected, atol=atol)


class TestResidual:
    def test_what_the_components_lack_comes_back_where_the_data_tell(self) -> None:
        """A method that finds 90 % of the light of a star gives all of it."""
        plane, flux = stars(5.0, 300)
        truth = np.zeros(plane.shape, np.float32)
        for y, x in STARS:
            truth[round(y), round(x)] = 0.9 * flux
        given = {"variance": np.ones_like(plane)}
        lacking = at_resolution(result(truth), plane, psf(5.0), SIGMA, **given, add_residual=False)
        complete = at_resolution(result(truth), plane, psf(5.0), SIGMA, **given)
        assert encircled_errors(lacking.components, flux, SIGMA).mean() < -0.09
        assert np.abs(encircled_errors(complete.components, flux, SIGMA).mean(axis=0)).max() < 0.004

    def test_pixels_without_data_have_none(self) -> None:
        plane, _ = stars(3.2, 100)
        marks = np.zeros(plane.shape, np.uint8)
        wrong = plane.copy()
        wrong[30:33, 60:63], marks[30:33, 60:63] = 1e5, Filled.REPLACED
        components = result(np.maximum(plane, 0))
        one, other = (
            at_resolution(components, data, psf(3.2), SIGMA, variance=np.ones_like(data), filled=marks)
            for data in (plane, wrong)
        )
        np.testing.assert_array_equal(one.components, other.components)

    def test_the_noise_is_that_of_a_smoothed_observation(self) -> None:
        """Where the PSF is narrower than the resolution, its width tells the noise and its correlation."""
        rng = np.random.default_rng(3)
        plane = (200 * patch((SIDE, SIDE), (50, 50), 60) + rng.normal(size=(SIDE, SIDE))).astype(np.float32)
        shown = deconvolved("map", plane, 2.0).components[25:-25, 25:-25] - 200
        white = 1 / (2 * math.sqrt(math.pi) * SIGMA)
        assert np.std(shown) == pytest.approx(white, rel=0.35)
        pairs = {step: np.mean(shown[:, step:] * shown[:, :-step]) / np.var(shown) for step in (1, 3, 9)}
        assert pairs[1] > 0.85
        assert 0.35 < pairs[3] < 0.85
        assert pairs[9] < 0.35


@pytest.mark.parametrize("peak", [50, 100])
@pytest.mark.parametrize("fwhm", WIDTHS)
class TestEncircledEnergy:
    @pytest.mark.parametrize("method", ["map", "lucy_richardson"])
    def test_is_that_of_the_gaussian_at_all_widths(self, method: str, fwhm: float, peak: float) -> None:
        plane, flux = stars(fwhm, peak)
        errors = encircled_errors(deconvolved(method, plane, fwhm).components, flux, SIGMA)
        chance = errors.std(axis=0) / math.sqrt(len(STARS))
        assert np.all(np.abs(errors.mean(axis=0)) < 0.01 + chance)

    def test_is_wrong_without_the_residual(self, fwhm: float, peak: float) -> None:
        plane, flux = stars(fwhm, peak)
        shown = deconvolved("map", plane, fwhm, add_residual=False)
        assert np.abs(encircled_errors(shown.components, flux, SIGMA).mean(axis=0)).max() > 0.01


@pytest.mark.parametrize("method", ["clean_modified", "clean_multiscale"])
@pytest.mark.parametrize("fwhm", WIDTHS[:3])
def test_encircled_energy_of_the_cleans_where_they_need_not_sharpen(method: str, fwhm: float) -> None:
    plane, flux = stars(fwhm, 100)
    errors = encircled_errors(deconvolved(method, plane, fwhm).components, flux, SIGMA)
    assert np.abs(errors.mean(axis=0)).max() < 0.012


BANDS = {2.0: (800, 480, 24000), 3.2: (400, 480, 24000), 5.0: (800, 240, 72000), 8.0: (800, 480, 48000)}
"""Brightness of a large and of a small patch, and flux of two stars, by the width of the PSF.

So much light that noise changes the ratios by much less than 1 %.
"""
LARGE, SMALL, PAIR = (50, 32), (50, 74), ((15.3, 20.4), (85.6, 70.2))


@pytest.mark.parametrize("method", METHODS)
def test_ratios_of_bands(method: str) -> None:
    """The ratio of each band to the first, in patches and stars, is the true one within 1 %."""
    apertures = [(LARGE, 5), (LARGE, 12), (SMALL, 3), (SMALL, 9), *((star, 2 * SIGMA) for star in PAIR)]
    ratios = []
    for number, (fwhm, (large, small, flux)) in enumerate(BANDS.items()):
        if fwhm > TARGET and method != "map":
            continue
        object_ = large * patch((SIDE, SIDE), LARGE, 12) + small * patch((SIDE, SIDE), SMALL, 6)
        seen = blurred(object_, fwhm) + flux * sum(moffat((SIDE, SIDE), fwhm, star) for star in PAIR)
        plane = (seen + np.random.default_rng(number).normal(size=seen.shape)).astype(np.float32)
        found = deconvolved(method, plane, fwhm).components
        true = fftconvolve(object_, gaussian((81, 81), SIGMA, (40, 40)), mode="same")
        true += flux * sum(gaussian(true.shape, SIGMA, star) for star in PAIR)
        ratios.append([encircled(found, *place) / encircled(true, *place) for place in apertures])
    bands = np.array(ratios)
    assert np.abs(bands / bands[0] - 1).max() < 0.01


class TestSupport:
    def test_is_complete_where_data_are_only_smoothed(self) -> None:
        narrow = gaussian((31, 31), 1.5, (15, 15))
        assert supported_fraction(narrow, 1e-3, 1.6) == pytest.approx(1, abs=1e-3)

    @pytest.mark.parametrize("sigma", [7.0, 17.0, 60.0])
    def test_is_complete_at_resolutions_of_many_pixels(self, sigma: float) -> None:
        narrow = gaussian((31, 31), 1.5, (15, 15))
        assert supported_fraction(narrow, 30.0, sigma) == pytest.approx(1, abs=1e-6)

    def test_is_the_peak_of_a_filtered_point_source(self) -> None:
        """With a filter that is all or nothing, it is the share of the Gaussian within a frequency."""
        sigma, wide = 1.5, gaussian((61, 61), 3.0, (30, 30))
        flux = 1e6
        # The signal equals the noise where flux exp(-2 (pi 3 f)^2) is the root of the noise.
        limit = math.sqrt(math.log(flux / math.sqrt(9 * math.pi * sigma**2)) / 2) / (math.pi * 3.0)
        expected = 1 - math.exp(-2 * (math.pi * sigma * limit) ** 2)
        assert supported_fraction(wide, flux, sigma) == pytest.approx(expected, abs=0.02)

    def test_grows_with_width_and_brightness(self) -> None:
        profile = psf(6.0)
        by_width = [supported_fraction(profile, 1000, s) for s in (1, 1.5, 2, 3)]
        by_flux = [supported_fraction(profile, flux, 1.5) for flux in (10, 100, 1000, 1e4)]
        assert by_width == sorted(by_width)
        assert by_flux == sorted(by_flux)
        assert 0 < min(by_width + by_flux) < 0.5
        assert max(by_width + by_flux) <= 1

    def test_the_finest_is_just_supported(self) -> None:
        found = finest_supported(psf(6.0), 1000, 0.9, 0.85)
        assert supported_fraction(psf(6.0), 1000, found) == pytest.approx(0.9, abs=0.005)
        assert finest_supported(psf(2.0), 1e6, 0.9, 0.85) == 0.85

    @pytest.mark.parametrize("peak", [20.0, 200.0])
    def test_the_brightest_star_is_measured(self, peak: float) -> None:
        plane, flux = stars(4.0, peak)
        plane[60, 60] = np.nan
        found = brightest_place(plane, psf(4.0), np.full_like(plane, 1.0))
        assert found.flux == pytest.approx(flux, rel=0.1)
        assert found.signal_to_noise == pytest.approx(flux * math.sqrt(np.sum(psf(4.0) ** 2.0)), rel=0.1)

    def test_of_a_plane_without_data(self) -> None:
        empty = np.full((9, 9), np.nan, np.float32)
        assert brightest_place(empty, psf(4.0), None).signal_to_noise == 0

    @pytest.mark.parametrize(("fwhm", "target", "peak"), [(8, 6, 100), (8, 4, 20), (4, 3, 100), (6, 2.5, 20)])
    def test_tells_the_error_of_the_peak(self, fwhm: float, target: float, peak: float) -> None:
        """About half of what the data do not tell is missing within one sigma."""
        plane, flux = stars(fwhm, peak)
        found = brightest_place(plane, psf(fwhm), np.ones_like(plane))
        missing = 1 - supported_fraction(psf(fwhm), found.flux, target / FWHM)
        shown = deconvolved("map", plane, fwhm, resolution=target).components
        error = -encircled_errors(shown, flux, target / FWHM, (1,)).mean()
        assert 0.2 * missing < error < 0.9 * missing + 0.005


@pytest.mark.parametrize("method", ["map", "lucy_richardson"])
@pytest.mark.parametrize("fwhm", [2.0, 8.0])
def test_the_errors_are_those_at_the_resolution(method: str, fwhm: float) -> None:
    """Deviations from the truth are as large as the errors: within a disc, at its edge, and in the sky."""
    object_ = 100 * patch((SIDE, SIDE), (50, 40), 18)
    true = fftconvolve(object_, gaussian((81, 81), SIGMA, (40, 40)), mode="same")
    seen = blurred(object_, fwhm)
    plane = (seen + np.random.default_rng(2).normal(size=seen.shape)).astype(np.float32)
    given = {"variance": np.ones_like(plane), "filled": None}
    stage = Deconvolve(method=method, resolution=TARGET, errors={"draws": 6})
    found = stage.deconvolve_plane(plane, psf(fwhm), **given)
    made = stage.errors_of(found, plane, psf(fwhm), modes=None, smoothing=SIGMA, seed=1, **given)
    pull = (found.components - true) / made["error"]
    y, x = np.indices(plane.shape)
    radius = np.hypot(y - 50, x - 40)
    for low, high in ((0, 14), (14, 22), (28, 60)):
        assert 0.7 < np.sqrt(np.mean(pull[(radius >= low) & (radius < high)] ** 2)) < 1.35

"""The estimated variance against the variance of simulated noise."""

from typing import NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from disc_scene import ODD_PLANES, rim
from lucidcube.kernels.noise import NoiseModel, correlated_pixels, estimate_variance, fit_noise, noise_width

SUBPIXELS = 5


class Observation(NamedTuple):
    """A disc with a sharp limb and spots, blurred and with noise of known variance."""

    plane: NDArray[np.float32]
    variance: NDArray[np.float64]
    disc: NDArray[np.bool_]
    sky: NDArray[np.bool_]


def observe(
    seed: int = 0,
    *,
    size: int = 101,
    fwhm: float = 2.6,
    electrons: float = 2000,
    read: float = 60,
    sky: float = 0,
    texture: float = 0,
) -> Observation:
    """Return an observation with `electrons` at the centre of the disc, where the flux is 40 000."""
    rng, gain, radius = np.random.default_rng(seed), electrons / 4e4, 0.3 * size
    y, x = (np.indices((size * SUBPIXELS, size * SUBPIXELS)) + 0.5) / SUBPIXELS - 0.5 - (size - 1) / 2 - 0.3
    inside = np.hypot(y, x) < radius
    flux = np.clip(1 - (y**2 + x**2) / radius**2, 0, 1) ** 0.25
    for row, column, height in ((-0.3, 0.2, 0.6), (0.25, -0.35, 0.5), (0.4, 0.35, -0.4)):
        spot = (y - row * radius) ** 2 + (x - column * radius) ** 2
        flux += height * np.exp(-spot / (2 * (0.08 * radius) ** 2)) * inside
    flux = ndimage.gaussian_filter(flux, fwhm / 2.355 * SUBPIXELS)
    flux = 4e4 * flux.reshape(size, SUBPIXELS, size, SUBPIXELS).mean((1, 3)) + sky
    bumps = ndimage.gaussian_filter(rng.normal(0, 4e4 * texture, flux.shape), 0.8)
    truth = np.clip(flux + bumps * inside[::SUBPIXELS, ::SUBPIXELS], 0, None)
    data = rng.poisson(truth * gain) / gain + rng.normal(0, read, truth.shape)
    bright = flux > sky + 0.5 * (flux.max() - sky)
    return Observation(
        data.astype(np.float32), truth / gain + read**2, bright, flux < sky + 0.02 * (flux.max() - sky)
    )


def ratios(made: Observation, estimate: np.ndarray, seeds: int = 1) -> tuple[float, float]:
    """Return the ratio of estimate and truth in the disc and in the sky."""
    ratio = estimate / made.variance
    return float(np.nanmedian(ratio[made.disc])), float(np.nanmedian(ratio[made.sky]))


SCENES = {
    "MUSE": {},
    "undersampled": {"fwhm": 1.4},
    "well sampled": {"fwhm": 4.0},
    "bright": {"electrons": 2e5},
    "faint": {"electrons": 80, "read": 1500},
    "read noise only": {"electrons": 4e9, "read": 400},
    "bright sky": {"sky": 1e4},
    "textured": {"texture": 0.02},
    "large": {"size": 161},
}


@pytest.mark.parametrize("options", SCENES.values(), ids=SCENES.keys())
def test_photon_and_read_noise_are_found(options: dict) -> None:
    found = []
    for seed in range(3):
        made = observe(seed, **options)
        found.append(ratios(made, estimate_variance(made.plane)))
    np.testing.assert_allclose(np.mean(found, axis=0), 1, atol=0.2)


def test_missing_rims_change_little() -> None:
    made = observe(1)
    plane = rim(made.plane)
    estimate = estimate_variance(plane)
    np.testing.assert_array_equal(np.isnan(estimate), np.isnan(plane))
    np.testing.assert_allclose(ratios(made, estimate), 1, atol=0.2)


def test_hot_pixels_have_little_effect() -> None:
    found = []
    for seed in range(3):
        made, rng = observe(seed), np.random.default_rng(seed)
        hot = rng.random(made.plane.shape) < 0.01
        plane = made.plane + hot * rng.uniform(1e4, 1e5, hot.shape).astype(np.float32)
        found.append(ratios(made, estimate_variance(plane)))
    np.testing.assert_allclose(np.mean(found, axis=0), 1, atol=0.2)


def test_excluded_pixels_are_not_used() -> None:
    made = observe(2)
    columns = np.zeros(made.plane.shape, bool)
    columns[:, ::4] = True
    noisy = np.where(columns, made.plane + np.random.default_rng(0).normal(0, 5e3, columns.shape), made.plane)
    noisy = noisy.astype(np.float32)
    assert fit_noise(noisy, columns) == fit_noise(np.where(columns, np.float32(np.nan), made.plane))
    assert fit_noise(noisy) != fit_noise(made.plane)


def test_the_variance_follows_the_units_of_the_data() -> None:
    plane = observe(0).plane
    usual = estimate_variance(plane)
    for exponent in (-50, 20):
        scaled = estimate_variance(np.ldexp(plane, exponent))
        np.testing.assert_allclose(np.ldexp(scaled, -2 * exponent), usual, rtol=1e-5)


def test_fluxes_of_1e_20_have_a_variance_that_float32_can_just_represent() -> None:
    plane = observe(0).plane
    scaled = estimate_variance((plane * 1e-22).astype(np.float32))  # the noise is 6e-21
    np.testing.assert_allclose(scaled.astype(np.float64) * 1e44, estimate_variance(plane), rtol=0.02)


def test_a_rotated_or_mirrored_plane_has_the_same_noise() -> None:
    plane = observe(0).plane
    usual = fit_noise(plane)
    for other in (plane.T, plane[::-1], np.rot90(plane)):
        np.testing.assert_allclose(fit_noise(other), usual, rtol=1e-3)


def test_a_gradient_does_not_count_as_noise() -> None:
    y, x = np.indices((60, 50))
    noise = np.random.default_rng(3).normal(0, 2, y.shape)
    estimate = estimate_variance((1e4 + 30 * y - 20 * x + 0.1 * x * y + noise).astype(np.float32))
    np.testing.assert_allclose(np.median(estimate), 4, rtol=0.15)


def test_a_sharp_peak_has_the_variance_of_its_own_signal() -> None:
    model = fit_noise(observe(0).plane)
    plane = observe(0).plane.copy()
    plane[5, 5] = 1e6
    assert estimate_variance(plane)[5, 5] == pytest.approx(model.variance(np.array(1e6)), rel=0.25)
    assert estimate_variance(plane)[5, 8] == pytest.approx(estimate_variance(plane)[5, 12], rel=0.2)


@pytest.mark.parametrize("plane", ODD_PLANES.values(), ids=ODD_PLANES.keys())
def test_odd_planes_have_a_positive_variance(plane: np.ndarray) -> None:
    estimate = estimate_variance(plane)
    assert estimate.dtype == np.float32
    assert estimate.shape == plane.shape
    assert (estimate[np.isfinite(plane)] > 0).all()
    assert np.isnan(estimate[np.isnan(plane)]).all()


@pytest.mark.parametrize("value", [0, np.nan])
def test_an_empty_plane_is_accepted(value: float) -> None:
    plane = np.full((9, 12), value, np.float32)
    plane.flags.writeable = False
    assert fit_noise(plane) == NoiseModel(1.0, 0.0)
    np.testing.assert_array_equal(estimate_variance(plane), np.where(np.isnan(plane), np.nan, 1))


def test_the_noise_of_whole_numbers_is_not_zero() -> None:
    counts = np.random.default_rng(1).poisson(0.02, (40, 40)).astype(np.float32)
    assert fit_noise(counts).variance(np.array(0.02)) == pytest.approx(0.02, rel=0.5)


@pytest.mark.parametrize("width", [0.0, 0.5, 0.8, 1.2, 2.0])
def test_the_noise_of_a_smoothed_plane_is_that_of_its_pixels(width):
    """White noise that was smoothed is about half as large as it looks between neighbours, or less."""
    seen = observe(size=201)
    noise = np.random.default_rng(5).normal(0, 1, seen.plane.shape)
    noise = ndimage.gaussian_filter(noise, width) if width else noise
    noise *= 60 / noise.std()
    truth = np.where(seen.disc, 5000, 0)
    plane = ndimage.gaussian_filter(truth, 3.0) + noise
    assert fit_noise(plane).constant == pytest.approx(3600, rel=0.25)
    expected = 1.0 if width == 0 else 1 / np.sum(np.square(kernel(width)))
    assert correlated_pixels(plane, np.full(plane.shape, 3600.0)) == pytest.approx(expected, rel=0.2)
    assert noise_width(plane, np.full(plane.shape, 3600.0)) == pytest.approx(width, rel=0.12)


def kernel(width):
    """Return the weights of a Gaussian filter."""
    return ndimage.gaussian_filter(np.pad([[1.0]], 20), width)


def test_structure_of_an_object_is_not_correlated_noise():
    for seed in range(3):
        seen = observe(seed, size=101, texture=0.1)
        assert correlated_pixels(seen.plane, seen.variance) == 1
        assert noise_width(seen.plane, seen.variance) == 0


def test_few_pixels_have_independent_noise():
    for shape in ((1, 1), (3, 3), (8, 8), (30, 1)):
        noise = np.random.default_rng(0).normal(size=shape)
        assert correlated_pixels(noise, np.ones(shape)) == 1
        assert correlated_pixels(np.full(shape, np.nan), np.ones(shape)) == 1

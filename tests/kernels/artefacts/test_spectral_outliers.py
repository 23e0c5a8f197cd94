"""The spectral test against an independent robust fit, known artefacts and invariances."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.artefacts.combined_score import smoothed_significance
from lucidcube.kernels.artefacts.spectral_outliers import spectral_outliers

NOISE = 5.0


class Window(NamedTuple):
    """A window of planes with noise, and the spectra (planes, y, x) without it."""

    data: NDArray[np.float32]
    variance: NDArray[np.float32]
    truth: NDArray[np.float64]


def window(planes: int = 31, side: int = 24, seed: int = 0) -> Window:
    """Return an object with an absorption band, whose colour changes across the field, on a sloping sky."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side)) / side - 0.5
    u = np.linspace(-1, 1, planes)[:, None, None]
    band = 1 - 0.6 * np.exp(-((u - 0.2) ** 2) / 0.08)
    disc = 1000 * np.clip(1.2 - 3 * np.hypot(y, x), 0, 1)
    truth = disc * band * (1 + 0.2 * x * u) + 20 + 10 * u * y
    data = truth + rng.normal(0, NOISE, truth.shape)
    return Window(data.astype(np.float32), np.full(truth.shape, NOISE**2, np.float32), truth)


def fit_pixel(spectrum: np.ndarray, sigma: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Fit a pixel by iteratively reweighted least squares in float64, with the prior as further rows."""
    u = np.linspace(-1, 1, level.size)
    terms = np.stack([level, level * u, np.ones(level.size), u], axis=1)
    known, model = np.isfinite(spectrum), None
    expected = np.hypot(0.5 * sigma[0], 0.003 * np.nanmedian(spectrum))
    prior = terms * [0, 1, 0, 1] / (expected * np.sqrt(level.size))
    for step in range(19):
        scale = max(3.0, 30 * 0.8 ** (step - 1))
        weight = known / sigma
        if model is not None:
            weight = weight / (1 + ((np.where(known, spectrum, 0) - model) / sigma / (2 * scale)) ** 2)
        rows = np.concatenate([terms * weight[:, None], prior])
        right = np.concatenate([np.where(known, spectrum, 0) * weight, np.zeros(level.size)])
        coefficients, *_ = np.linalg.lstsq(rows, right, rcond=None)
        model = terms @ coefficients
        if step == 18:
            break
    return model


def test_the_model_is_that_of_an_independent_fit() -> None:
    made = window()
    data = made.data.copy()
    data[:4, 3, 3] += 300
    data[7, 12, 12] = -2000
    data[20:28, 12, 10] += np.float32(60)
    data[5:9, 10, 11] = np.nan
    fit = spectral_outliers(data, made.variance)
    totals = np.nanmedian(data, axis=0)
    bright = totals > 0.3 * np.percentile(totals, 99)
    level = np.nanmedian(data[:, bright], axis=1)
    for y, x in ((3, 3), (12, 12), (12, 10), (10, 11), (0, 0), (8, 17)):
        expected = fit_pixel(data[:, y, x].astype(float), np.full(31, NOISE), level / level.mean())
        np.testing.assert_allclose(fit.model[:, y, x], expected, atol=0.05 * NOISE)


def test_without_artefacts_the_deviations_are_the_noise() -> None:
    made = window(seed=3)
    fit = spectral_outliers(made.data, made.variance, model_error=0)
    assert np.isfinite(fit.z).all()
    assert fit.z.std() == pytest.approx(0.92, abs=0.05)  # four parameters from 31 planes
    assert np.abs(fit.z).max() < 5
    assert np.abs(fit.model - made.truth).max() < 5 * NOISE


def test_a_moving_ghost_is_found_and_does_not_change_the_model() -> None:
    made = window(side=40)
    y, x = np.indices((40, 40))
    column = 1.5 * np.arange(31)[:, None, None] - 2
    ghost = 200 * np.exp(-((y - 20) ** 2 + (x - column) ** 2) / (2 * 2.0**2))
    clean = spectral_outliers(made.data, made.variance)
    fit = spectral_outliers((made.data + ghost).astype(np.float32), made.variance)
    inside = ghost > 70
    amplitude = smoothed_significance(fit.z) / 3
    assert (amplitude[inside] > 5).mean() > 0.85
    assert (np.abs(amplitude[ghost < 0.1]) > 3).mean() < 0.01
    assert np.abs(fit.model - clean.model)[inside].mean() < 0.25 * ghost[inside].mean()


def test_the_gradients_of_very_bright_objects_are_not_artefacts() -> None:
    """The object has a signal-to-noise ratio of 1000 and a bend that four spectra cannot describe."""
    made = window(side=32)
    u = np.linspace(-1, 1, 31)[:, None, None]
    data = made.truth * (1 + 0.01 * u**2 * np.linspace(-1, 1, 32)) + (made.data - made.truth) / 5
    fit = spectral_outliers(data.astype(np.float32), made.variance / 25)
    assert (np.abs(fit.z) > 5).mean() < 0.001


def test_excluded_pixels_do_not_change_the_fit_but_are_compared_with_it() -> None:
    made = window()
    data, excluded = made.data.copy(), np.zeros(made.data.shape, bool)
    data[4:18, 12, 12] += 400
    excluded[4:18, 12, 12] = True
    missing = np.where(excluded, np.float32(np.nan), data)
    fit, other = spectral_outliers(data, made.variance, excluded), spectral_outliers(missing, made.variance)
    np.testing.assert_array_equal(fit.model, other.model)
    assert (fit.z[4:18, 12, 12] > 20).all()
    np.testing.assert_array_equal(np.isnan(other.z), excluded)


def test_a_plane_that_the_fit_is_extrapolated_to_is_no_outlier() -> None:
    made = window(planes=24)
    excluded = np.zeros(made.data.shape, bool)
    excluded[:6, 3:21, 3:21] = True
    fit = spectral_outliers(made.data, made.variance, excluded)
    assert np.sqrt(np.mean(fit.z[excluded] ** 2)) < 1.3
    error = np.abs(fit.model - made.truth)[0, 3:21, 3:21]
    assert error.mean() > 1.2 * np.abs(fit.model - made.truth)[12, 3:21, 3:21].mean()


def test_the_error_of_the_model_lowers_the_deviations_of_bright_pixels() -> None:
    made = window()
    sharp, soft = (spectral_outliers(made.data, made.variance, model_error=f) for f in (0.0, 0.05))
    np.testing.assert_array_equal(sharp.model, soft.model)
    lowered = np.sqrt(1 + (0.05 * sharp.model / NOISE) ** 2)
    ratio = sharp.z / soft.z
    assert (ratio > 0.8 * lowered).all()
    assert (ratio < 1.001 * lowered).all()


def transposed(made: Window) -> Any:
    fit = spectral_outliers(made.data.transpose(0, 2, 1), made.variance.transpose(0, 2, 1))
    return fit.model.transpose(0, 2, 1), fit.z.transpose(0, 2, 1)


def reversed_in_wavelength(made: Window) -> Any:
    fit = spectral_outliers(made.data[::-1], made.variance[::-1])
    return fit.model[::-1], fit.z[::-1]


def scaled(made: Window) -> Any:
    fit = spectral_outliers(np.ldexp(made.data, -20), np.ldexp(made.variance, -40))
    return np.ldexp(fit.model, 20), fit.z


def part_of_the_plane(made: Window) -> Any:
    pad = ((0, 0), (1, 0), (0, 3))
    fit = spectral_outliers(
        np.pad(made.data, pad, constant_values=np.nan), np.pad(made.variance, pad, constant_values=np.nan)
    )
    return fit.model[:, 1:, :-3], fit.z[:, 1:, :-3]


@pytest.mark.parametrize("change", [transposed, reversed_in_wavelength, scaled, part_of_the_plane])
def test_symmetries(change: Callable[[Window], Any]) -> None:
    made = window()
    usual, (model, z) = spectral_outliers(made.data, made.variance), change(made)
    np.testing.assert_allclose(model, usual.model, atol=2e-3 * NOISE, rtol=1e-5)
    np.testing.assert_allclose(z, usual.z, atol=5e-3)


@pytest.mark.parametrize("planes", [1, 2])
def test_one_or_two_planes_are_not_tested(planes: int) -> None:
    made = window(planes)
    fit = spectral_outliers(made.data, made.variance)
    assert np.isnan(fit.model).all()
    assert np.isnan(fit.z).all()
    assert fit.z.shape == made.data.shape


@pytest.mark.parametrize("planes", [5, 9, 10, 46])
def test_an_outlier_in_a_single_plane_is_found(planes: int) -> None:
    made = window(planes)
    data = made.data.copy()
    data[planes // 4, 4, 5] += 40 * NOISE  # not at the absorption band, where it would look like the object
    z = spectral_outliers(data, made.variance).z
    assert z[planes // 4, 4, 5] > 12
    # With two terms only, the changing colour of the object is an outlier itself.
    if planes >= 10:
        assert np.nanmax(np.abs(np.where(data == made.data, z, 0))) < 5


@pytest.mark.slow
def test_unusual_windows() -> None:
    made = window(12)
    made.data.flags.writeable = made.variance.flags.writeable = False
    empty = np.full_like(made.data, np.nan)
    assert np.isnan(spectral_outliers(empty, made.variance).model).all()
    assert np.isnan(spectral_outliers(made.data, empty).model).all()
    for data in (-made.data, np.zeros_like(made.data), np.full_like(made.data, 7)):
        fit = spectral_outliers(data, made.variance)
        assert np.isfinite(fit.model).all()
        assert np.isfinite(fit.z).all()
    some = np.where(np.arange(12)[:, None, None] % 4 == 0, np.float32(np.nan), made.data)
    fit = spectral_outliers(some, made.variance)
    np.testing.assert_array_equal(np.isnan(fit.z), np.isnan(some))
    assert np.isfinite(fit.model).all()


def test_pixels_that_are_missing_in_half_of_the_planes_have_no_fit() -> None:
    made = window(20)
    data = made.data.copy()
    data[:10, 5, 5] = data[:9, 6, 6] = np.nan
    fit = spectral_outliers(data, made.variance)
    assert np.isnan(fit.model[:, 5, 5]).all()
    assert np.isfinite(fit.model[9:, 6, 6]).all()


def test_smoothed_noise_has_unit_variance() -> None:
    z = np.random.default_rng(0).normal(0, 1, (3, 200, 200)).astype(np.float32)
    for sigma in (0.7, 1.0, 2.0):
        smooth = smoothed_significance(z, sigma)
        assert smooth[:, 20:-20, 20:-20].std() == pytest.approx(1, abs=0.03)
        kernel = ndimage.gaussian_filter(np.pad([[1.0]], 30), sigma, mode="constant")
        expected = ndimage.convolve(z[0].astype(float), kernel, mode="constant") / np.sqrt((kernel**2).sum())
        np.testing.assert_allclose(smooth[0, 20:-20, 20:-20], expected[20:-20, 20:-20], atol=1e-2)


def test_missing_deviations_have_no_weight() -> None:
    z = np.ones((2, 30, 30), np.float32)
    z[0, 10:13, 12] = np.nan
    z[1, :, :20] = np.nan
    z[1, 3, 3] = 1
    smooth = smoothed_significance(z)
    np.testing.assert_array_equal(np.isnan(smooth[0]), np.isnan(z[0]))
    np.testing.assert_allclose(smooth[0][np.isfinite(z[0])], smooth[0, 20, 20], rtol=1e-5)
    assert np.isnan(smooth[1, 3, 3])
    assert np.isfinite(smooth[1, 15, 20:]).all()

"""A given variance against the scatter of simulated data."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage
from test_noise import SCENES, observe

from disc_scene import ODD_PLANES, rim
from lucidcube.kernels.noise import Calibration, calibrate, measure_factor

FACTORS = (0.25, 0.5, 2.0, 4.0)


def found(data: NDArray, variance: NDArray, exclude: NDArray | None = None) -> Calibration:
    """Return the calibration of the planes of a window."""
    marks = [None] * len(data) if exclude is None else exclude
    return calibrate([measure_factor(*p) for p in zip(data, variance, marks, strict=True)])


def planets(planes: int, **options) -> tuple[NDArray, NDArray]:
    """Return the data and the variance (n, y, x) of a disc."""
    made = [observe(seed, **options) for seed in range(planes)]
    return np.stack([m.plane for m in made]), np.stack([m.variance for m in made])


def smoothed(noise: NDArray, width: float) -> NDArray:
    """Return white noise smoothed by a Gaussian, with the variance that it had."""
    weights = ndimage.gaussian_filter(np.pad([[1.0]], 20), width)
    return ndimage.gaussian_filter(noise, (0, width, width)) / np.sqrt(np.sum(weights**2))


@pytest.mark.parametrize("options", SCENES.values(), ids=SCENES.keys())
def test_a_right_variance_is_left_alone(options: dict) -> None:
    data, variance = planets(3, **options)
    made = found(data, variance)
    np.testing.assert_array_equal(made.factor, 1)
    np.testing.assert_array_equal(made.width, 0)


@pytest.mark.parametrize("factor", FACTORS)
def test_a_wrong_variance_is_found(factor: float) -> None:
    data, variance = planets(8)
    made = found(data, variance / factor)
    np.testing.assert_allclose(made.factor, factor, rtol=0.1)  # largest error measured: 5 %
    assert np.mean(made.factor) == pytest.approx(factor, rel=0.04)


@pytest.mark.parametrize("factor", [0.25, 4.0])
def test_one_plane_is_enough_for_a_large_factor(factor: float) -> None:
    for seed in range(3):
        made = observe(seed)
        assert found(made.plane[None], made.variance[None] / factor).factor == pytest.approx(factor, rel=0.15)


def test_a_factor_that_depends_on_the_wavelength_is_found() -> None:
    data, variance = planets(16)
    factor = np.linspace(1.6, 4, 16)
    made = found(data, variance / factor[:, None, None])
    np.testing.assert_allclose(made.factor, factor, rtol=0.15)
    factor = np.where(np.arange(16) == 5, 4.0, 1.0)
    made = found(data, variance / factor[:, None, None])
    np.testing.assert_allclose(made.factor, factor, rtol=0.15)
    np.testing.assert_array_equal(np.delete(made.factor, 5), 1)


@pytest.mark.parametrize("width", [0.5, 0.7, 1.0])
def test_correlated_noise_is_measured_at_a_distance(width: float) -> None:
    scene = planets(10, electrons=4e9, read=400)
    clean = ndimage.gaussian_filter(scene[0].mean(axis=0, dtype=np.float64), 1.0)
    noise = 400 * smoothed(np.random.default_rng(3).normal(size=scene[0].shape), width)
    right = found(clean + noise, scene[1])
    np.testing.assert_array_equal(right.factor, 1)
    np.testing.assert_allclose(right.width, width, rtol=0.06)
    for factor in FACTORS:
        made = found(clean + noise, scene[1] / factor)
        np.testing.assert_allclose(made.factor, factor, rtol=0.15)
        np.testing.assert_array_equal(made.width, right.width)


def test_bilinear_resampling_is_not_a_gaussian_but_the_factor_is_right() -> None:
    rng = np.random.default_rng(6)
    y, x = np.mgrid[:60, :60]
    at = [5 + 0.995 * y + 0.09 * x, 14 + 0.95 * x - 0.1 * y]
    planes = [ndimage.map_coordinates(p, at, order=1) for p in rng.normal(size=(300, 90, 90))]
    variance = np.broadcast_to(np.mean(np.square(planes), axis=0), (12, 60, 60))
    made = found(np.stack(planes[:12]), variance / 3)
    np.testing.assert_allclose(made.factor, 3, rtol=0.15)
    np.testing.assert_allclose(made.width, 0.57, atol=0.05)


@pytest.mark.parametrize(("scale", "size"), [(3.0, 0.5), (5.0, 1.0), (8.0, 2.0)])
def test_faint_structure_of_the_sky_is_not_noise(scale: float, size: float) -> None:
    data, variance = planets(6, electrons=4e9, read=400)
    structure = smoothed(np.random.default_rng(1).normal(size=(1, *data.shape[1:])), scale)
    made = found(data + 400 * size * structure, variance)
    np.testing.assert_array_equal(made.factor, 1)
    np.testing.assert_array_equal(made.width, 0)
    made = found(data + 400 * size * structure, variance / 2)
    np.testing.assert_allclose(made.factor, 2, rtol=0.1)


def crowded(fwhm: float, density: float) -> tuple[NDArray, NDArray]:
    """Return the data and the variance of a field of stars."""
    rng = np.random.default_rng(5)
    stars = (rng.random((121, 121)) < density) * 300 * np.minimum(rng.pareto(1.2, (121, 121)), 1e3)
    light = np.maximum(ndimage.gaussian_filter(stars, fwhm / 2.355)[10:-10, 10:-10], 0)
    light = light * np.linspace(0.8, 1.2, 12)[:, None, None]
    return light + rng.normal(size=light.shape) * np.sqrt(light + 100), light + 100


@pytest.mark.parametrize("density", [0.02, 0.05, 0.2])
@pytest.mark.parametrize("fwhm", [1.5, 1.8, 2.6, 3.5])
def test_a_crowded_field_is_not_noise(fwhm: float, density: float) -> None:
    data, variance = crowded(fwhm, density)
    made = found(data, variance)
    np.testing.assert_array_equal(made.factor[np.isfinite(made.factor)], 1)
    if np.isnan(made.factor).any():
        np.testing.assert_array_equal(made.width, 0)
        assert fwhm < 2
        assert density > 0.02
    alone = found(data[:1], variance[:1]).factor[0]
    assert alone == 1 or np.isnan(alone) or fwhm < 2 or density == 0.2


def test_the_variance_of_a_field_that_is_not_too_crowded_is_corrected() -> None:
    data, variance = crowded(2.6, 0.05)
    np.testing.assert_allclose(found(data, variance / 3).factor, 3, rtol=0.2)


def test_a_disc_that_fills_the_field_is_not_noise() -> None:
    data, variance = (cube[:, 33:68, 33:68] for cube in planets(12))
    np.testing.assert_array_equal(found(data, variance).factor, 1)
    np.testing.assert_allclose(found(data, variance / 4).factor, 4, rtol=0.25)
    assert np.median(found(data, variance / 4).factor) == pytest.approx(4, rel=0.12)


def test_artefacts_have_little_effect() -> None:
    data, variance = planets(6)
    rng = np.random.default_rng(2)
    hot = rng.random(data.shape) < 0.01
    hot[:, 40:42] = True
    data = data + (hot * rng.uniform(1e3, 1e5, hot.shape)).astype(np.float32)
    np.testing.assert_array_equal(found(data, variance).factor, 1)
    np.testing.assert_allclose(found(data, variance / 2).factor, 2, rtol=0.15)
    assert not np.allclose(found(data, variance / 2, hot).factor, found(data, variance / 2).factor, rtol=1e-3)


def test_missing_rims_and_missing_variance_change_little() -> None:
    data, variance = planets(4)
    data = np.stack([rim(plane) for plane in data])
    variance[:, 60:, :20] = np.nan
    variance[:, :5] = 0
    np.testing.assert_array_equal(found(data, variance).factor, 1)
    np.testing.assert_allclose(found(data, variance / 4).factor, 4, rtol=0.12)


def test_small_planes_tell_the_factor_together() -> None:
    noise = np.random.default_rng(8).normal(size=(32, 16, 16))
    variance = np.full(noise.shape, 0.25)
    alone = [found(plane[None], v[None]).factor[0] for plane, v in zip(noise, variance, strict=True)]
    together = found(noise, variance).factor
    np.testing.assert_allclose(together, 4, rtol=0.25)
    assert np.mean(together) == pytest.approx(4, rel=0.1)
    assert np.count_nonzero(np.isclose(alone, 4, rtol=0.25)) < 28


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (9, 9), (2, 200)])
def test_few_pixels_tell_nothing(shape: tuple[int, int]) -> None:
    made = found(np.random.default_rng(0).normal(size=(3, *shape)), np.full((3, *shape), 1e-3))
    assert np.isnan(made.factor).all()
    np.testing.assert_array_equal(made.width, 0)


@pytest.mark.parametrize("plane", ODD_PLANES.values(), ids=ODD_PLANES.keys())
def test_odd_planes_are_accepted(plane: NDArray) -> None:
    plane = plane.copy()
    plane.flags.writeable = False
    for variance in (np.ones_like(plane), np.full_like(plane, np.nan), np.zeros_like(plane)):
        made = found(plane[None], variance[None])
        assert np.isnan(made.factor[0]) or made.factor[0] > 0
        assert made.width[0] >= 0


def test_the_unit_and_the_orientation_do_not_matter() -> None:
    data, variance = planets(2)
    usual = found(data, variance / 3)
    for exponent in (-30, 20):
        scaled = found(np.ldexp(data, exponent), np.ldexp(variance / 3, 2 * exponent))
        np.testing.assert_allclose(scaled.factor, usual.factor, rtol=1e-5)
    for turn in (lambda a: a.transpose(0, 2, 1), lambda a: a[:, ::-1], lambda a: np.rot90(a, axes=(1, 2))):
        np.testing.assert_allclose(found(turn(data), turn(variance / 3)).factor, usual.factor, rtol=2e-2)


def test_a_plane_that_was_not_measured_does_not_disturb_the_others() -> None:
    data, variance = planets(6)
    usual = found(np.delete(data, 2, axis=0), np.delete(variance / 4, 2, axis=0)).factor
    data[2] = np.nan
    made = found(data, variance / 4).factor
    assert np.isnan(made[2])
    np.testing.assert_allclose(np.delete(made, 2), usual, rtol=1e-6)

"""Effective PSF: known stars, invariances, planes without a star, the scenes with known truth."""

import subprocess
import sys

import numpy as np
import pytest
from astropy.io import fits

from locations import SHARED
from lucidcube.kernels.psf.effective import EffectivePSF, effective_psf
from lucidcube.kernels.psf.fit import FitStatus
from lucidcube.kernels.psf.polar_basis import PolarBasis
from lucidcube.kernels.psf.smoothing import local_polynomials, spectral_positions
from lucidcube.kernels.psf.star_position import find_stars, measure_star
from lucidcube.kernels.psf.wing import Rings, fit_wing, ring_medians
from star_kernels import FWHM, gaussian, relative_l2


def moffat(shape, centre, fwhm=3.0, beta=3.0, axis_ratio=1.0):
    """Return an elliptical Moffat star of unit flux, integrated over the pixels, float64."""
    width = fwhm / 2.0 / np.sqrt(2.0 ** (1.0 / beta) - 1.0)
    offsets = (np.arange(5) + 0.5) / 5 - 0.5
    y, x = np.indices(shape)
    image = np.zeros(shape)
    for dy in offsets:
        for dx in offsets:
            squared = (y + dy - centre[0]) ** 2 * axis_ratio + (x + dx - centre[1]) ** 2 / axis_ratio
            image += (beta - 1.0) / np.pi / width**2 * (1.0 + squared / width**2) ** -beta
    return image / 25.0


def observe(image, flux=1e6, sky=100.0, read_noise=5.0, planes=1, seed=0):
    """Return noisy planes of a star of unit flux, and their variance, float32."""
    counts = np.broadcast_to(flux * image + sky, (planes, *image.shape))
    variance = counts + read_noise**2
    noise = np.random.default_rng(seed).normal(size=counts.shape) * np.sqrt(variance)
    return (counts + noise).astype(np.float32), variance.astype(np.float32)


def fit(star, variance=None, wavelength=None, wanted=None, shape=None, smoothing=15) -> EffectivePSF:
    """Fit all planes, by default with the odd shape of the star."""
    n = len(star)
    return effective_psf(
        star,
        variance,
        7e-7 + 1e-9 * np.arange(n) if wavelength is None else wavelength,
        wanted=slice(0, n) if wanted is None else wanted,
        shape=shape or tuple(side - 1 + side % 2 for side in star.shape[1:]),
        smoothing=smoothing,
        modes=0,
    )


def assert_psf(image):
    assert image.dtype == np.float32
    assert np.isfinite(image).all()
    assert (image >= 0.0).all()
    np.testing.assert_allclose(image.sum(axis=(1, 2), dtype=float), 1.0, atol=1e-6)


def truth(shape, **settings):
    image = moffat(shape, (shape[0] // 2, shape[1] // 2), **settings)
    return image / image.sum()


@pytest.mark.parametrize(
    ("shape", "centre", "settings", "limit"),
    [
        ((61, 61), (30.3, 29.6), {}, 0.008),
        ((61, 61), (12.3, 48.6), {}, 0.008),
        ((61, 61), (2.3, 48.6), {}, 0.012),
        ((40, 44), (18.2, 23.4), {}, 0.008),
        ((15, 15), (7.2, 6.8), {}, 0.01),
        ((61, 61), (30.3, 29.6), {"fwhm": 1.5}, 0.03),
        ((61, 61), (30.3, 29.6), {"fwhm": 6.0}, 0.008),
        ((81, 81), (40.3, 39.6), {"fwhm": 12.0}, 0.015),
        ((61, 61), (30.3, 29.6), {"axis_ratio": 0.8}, 0.008),
    ],
)
def test_known_stars_are_recovered(shape, centre, settings, limit):
    star, variance = observe(moffat(shape, centre, **settings))
    for given in (variance, None):
        found = fit(star, given)
        assert_psf(found.image)
        expected = truth(found.image.shape[1:], **settings)
        assert relative_l2(found.image[0], expected) < limit
        x, y, flux, background = found.values[0]
        assert (y + shape[0] // 2, x + shape[1] // 2) == pytest.approx(centre, abs=0.03)
        assert background == pytest.approx(100.0, abs=20.0)
        if min(shape) > 15 * settings.get("fwhm", 3.0) / 3.0 and centre[0] > 10:
            assert flux == pytest.approx(1e6, rel=0.03)
        assert found.status[0] == FitStatus.FINE
        assert np.isnan(found.reduced_chi2[0]) == (given is None)
    assert fit(star, variance).reduced_chi2[0] == pytest.approx(1.0, abs=0.25)


def test_errors_are_the_scatter_of_the_fits():
    image = moffat((41, 41), (20.3, 19.6))
    fits = [fit(*observe(image, flux=1e5, seed=seed)) for seed in range(12)]
    values, errors = (np.array([getattr(f, name)[0] for f in fits]) for name in ("values", "errors"))
    np.testing.assert_allclose(values[:, :2].std(axis=0), errors[:, :2].mean(axis=0), rtol=0.6)
    assert np.abs(values[:, :2].mean(axis=0) - [-0.4, 0.3]).max() < 0.01
    scatter = values[:, 2:].std(axis=0) / errors[:, 2:].mean(axis=0)
    assert (scatter < 2.0).all()
    assert (scatter > 0.3).all()


@pytest.mark.slow
def test_smoothing_reduces_the_noise():
    star, variance = observe(moffat((41, 41), (20.3, 19.6)), flux=2e4, planes=21)
    expected = truth((41, 41))
    alone, smooth = (fit(star, variance, smoothing=s) for s in (0, 15))
    noise = [np.mean([relative_l2(p, expected) for p in f.image]) for f in (alone, smooth)]
    assert noise[1] < 0.6 * noise[0]
    steps = [np.abs(np.diff(f.image, axis=0)).mean() for f in (alone, smooth)]
    assert steps[1] < 0.2 * steps[0]


@pytest.mark.slow
def test_planes_with_one_window_and_with_two_agree():
    widths = np.linspace(3.0, 2.6, 50)
    star = np.stack([moffat((41, 41), (20.3 + 0.005 * i, 19.6), fwhm=w) for i, w in enumerate(widths)])
    data, variance = observe(star, flux=3e5)
    data, variance = data[0], variance[0]
    first = fit(data[:31], variance[:31], wanted=slice(10, 16)).image
    second = fit(data[1:47], variance[1:47], wanted=slice(9, 16)).image
    step = np.abs(np.diff(first, axis=0)).max()
    assert np.abs(second[:6] - first).max() < max(step, 0.004 * first.max())
    assert np.abs(second[6] - first[5]).max() < 3.0 * step


def test_a_star_that_fills_the_frame():
    y, x = np.indices((31, 31)) - 15
    disc = np.where(np.hypot(y, x) < 9, 1.0, 0.01)
    star = np.stack(
        [1000 * disc + 5 * np.random.default_rng(i).standard_normal(disc.shape) for i in range(3)]
    )
    found = fit(star, np.full(star.shape, 25.0)).image
    assert np.isnan(found).all() or np.nansum(found[0]) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("factor", [2.0**-60, 2.0**40])
def test_units_do_not_matter(factor):
    star, variance = (a.astype(np.float64) for a in observe(moffat((31, 31), (15.2, 14.7))))
    one, other = fit(star, variance), fit(factor * star, factor**2 * variance)
    np.testing.assert_allclose(other.image, one.image, atol=1e-6)
    np.testing.assert_allclose(other.values / [1.0, 1.0, factor, factor], one.values, rtol=1e-4, atol=1e-6)


def test_turning_the_star_turns_the_psf():
    star, variance = observe(moffat((41, 41), (20.3, 18.6), axis_ratio=0.8))
    one = fit(star, variance)
    other = fit(np.rot90(star, axes=(1, 2)), np.rot90(variance, axes=(1, 2)))
    np.testing.assert_allclose(other.image, np.rot90(one.image, axes=(1, 2)), atol=1e-4 * one.image.max())


def test_bad_pixels_and_holes_hardly_matter():
    star, variance = observe(moffat((61, 61), (30.3, 29.6)), planes=5)
    star[:, :4] = star[:, :, -3:] = np.nan
    star[:, 33, 40] = star[0, 29:32, 29:31] = star[2] = np.nan
    star[:, 35, 35] += 3e4
    star[3, 10, 10], star[4, 50, 50], star[1, 30, 33] = 1e6, -1e5, -1e4
    variance[1, 20, 20], variance[1, 21, 21] = np.nan, 0.0
    found = fit(star, variance)
    assert found.status.tolist() == [0, 0, 2, 0, 0]
    assert np.isnan(found.image[2]).all()
    assert np.isnan(found.values[2]).all()
    kept = [0, 1, 3, 4]
    assert_psf(found.image[kept])
    assert max(relative_l2(p, truth((61, 61))) for p in found.image[kept]) < 0.03


def test_a_neighbour_is_left_out():
    near = moffat((61, 61), (30.3, 29.6)) + 0.2 * moffat((61, 61), (40.0, 44.0))
    star, variance = observe(near, planes=3)
    found = fit(star, variance)
    assert max(relative_l2(p, truth((61, 61))) for p in found.image) < 0.012


@pytest.mark.slow
def test_wavelengths_that_are_unknown_or_in_steps():
    star, variance = observe(moffat((41, 41), (20.3, 19.6)), planes=6)
    usual = fit(star, variance)
    for unknown in (np.full(6, np.nan), np.arange(6.0)[::-1] - 3.0):
        np.testing.assert_array_equal(fit(star, variance, unknown).image, usual.image)
    bands = fit(star, variance, np.array([0.4, 0.5, 0.6, 0.8, 1.2, 1.6]) * 1e-6)
    alone = [fit(star[i : i + 1], variance[i : i + 1]).image[0] for i in range(6)]
    np.testing.assert_allclose(bands.image, alone, atol=0.005 * usual.image.max())  # far apart: not smoothed


def test_other_shapes_contain_the_same_star():
    star, variance = observe(moffat((41, 41), (20.3, 19.6)))
    one = fit(star, variance).image[0]
    small, large = (fit(star, variance, shape=s).image[0] for s in ((11, 15), (61, 51)))
    np.testing.assert_allclose(small / small.max(), one[15:26, 13:28] / one.max(), atol=1e-4)
    np.testing.assert_allclose(large[10:51, 5:46] / large.max(), one / one.max(), atol=1e-4)
    with pytest.raises(ValueError, match="odd"):
        fit(star, variance, shape=(40, 41))


@pytest.mark.parametrize(
    "planes",
    [
        np.full((2, 21, 21), np.nan),
        np.zeros((2, 21, 21)),
        np.full((2, 21, 21), 3.0),
        np.random.default_rng(1).normal(size=(3, 31, 31)),
        np.pad([[[1.0]]], ((0, 0), (10, 10), (10, 10))),
        np.pad([[[1.0]]], ((0, 0), (10, 10), (10, 10)), constant_values=np.nan),
        np.ones((2, 1, 1)),
        np.ones((2, 1, 9)),
        np.where(np.indices((21, 21)).sum(0) == 20, np.arange(21.0), np.nan)[None],
        -gaussian((31, 31), (15, 15), 4.0, 1e5)[None],
    ],
    ids=["NaN", "zero", "constant", "noise", "hot pixel", "one pixel", "1x1", "row", "diagonal", "negative"],
)
def test_planes_without_a_star_have_no_psf(planes):
    planes = planes.astype(np.float32)
    for variance in (None, np.ones_like(planes), np.full_like(planes, np.nan)):
        found = fit(planes, variance)
        assert (found.status == FitStatus.NO_DATA).all()
        assert np.isnan(found.image).all()
        assert np.isnan(found.values).all()


def test_inputs_are_not_changed_and_results_are_the_same_bits():
    star, variance = observe(moffat((31, 31), (15.2, 14.7)), planes=2)
    star[:, 3, 5] = np.nan
    star.flags.writeable = variance.flags.writeable = False
    one, two = fit(star, variance), fit(np.asfortranarray(star), variance.copy())
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a, b)


# Parts


def test_splines_sum_to_one_and_harmonics_are_smooth():
    basis = PolarBasis(scale=3.0, reach=40.0, angular_reach=30.0)
    radius = np.linspace(0.0, 40.0, 500)
    np.testing.assert_allclose(basis.radial(radius).sum(axis=1), 1.0, atol=1e-12)
    dy, dx = np.random.default_rng(0).uniform(-20, 20, (2, 400))
    design = basis.design(dy, dx)
    matrix = design.evaluate(np.eye(basis.n_columns))
    np.testing.assert_allclose(matrix[:, : basis.n_radial], basis.radial(np.hypot(dy, dx)), atol=1e-12)
    weight, target = np.random.default_rng(1).uniform(0, 1, (2, 400))
    normal, right = design.normal_equations(weight, target)
    np.testing.assert_allclose(normal, (matrix * weight[:, None] ** 2).T @ matrix, atol=1e-12)
    np.testing.assert_allclose(right, matrix.T @ (weight**2 * target), atol=1e-12)
    centre = basis.design(np.zeros(1), np.zeros(1)).evaluate(np.eye(basis.n_columns))
    assert not centre[:, basis.n_radial :].any()


def test_integrals_and_slopes_of_splines():
    basis = PolarBasis(scale=3.0, reach=40.0, angular_reach=30.0)
    edges = np.linspace(0.0, 12.0, 20001)
    middle = 0.5 * (edges[1:] + edges[:-1])
    expected = 2.0 * np.pi * (middle * np.diff(edges)) @ basis.radial(middle)
    np.testing.assert_allclose(basis.integrals(12.0), expected, rtol=1e-3, atol=1e-4)
    coefficients = np.random.default_rng(2).normal(size=basis.n_columns)
    profile = basis.radial(edges) @ coefficients[: basis.n_radial]
    slope = basis.slope(coefficients, edges)
    np.testing.assert_allclose(slope[1:-1], np.gradient(profile, edges)[1:-1], atol=2e-3)


def test_local_polynomials_keep_polynomials_and_reduce_noise():
    position = np.sort(np.random.default_rng(3).uniform(0, 40, 60))
    matrix = local_polynomials(position, np.ones(60), half_width=12.0, degree=2)
    for power in range(3):
        np.testing.assert_allclose(matrix @ position**power, position**power, rtol=1e-8, atol=1e-8)
    assert (np.sqrt((matrix**2).sum(axis=1)) < 0.95).all()
    weight = np.ones(60)
    weight[20:] = 0.0
    assert not local_polynomials(position, weight, half_width=12.0, degree=2)[:, 20:].any()
    np.testing.assert_allclose(
        local_polynomials(np.arange(2.0), np.ones(2), half_width=9.0, degree=2), np.eye(2), atol=1e-9
    )


def test_positions_follow_the_wavelength():
    wavelength = np.array([7.0, 7.1, 7.2, 7.4]) * 1e-7
    position, widest = spectral_positions(wavelength)
    np.testing.assert_allclose(position, [0, 1, 2, 4])
    assert widest == pytest.approx(0.05 * 7.15 / 0.1, rel=1e-6)
    np.testing.assert_array_equal(spectral_positions(wavelength[::-1])[0], [0, 2, 3, 4])
    for unusable in (wavelength * np.nan, -wavelength, wavelength[[0, 2, 1, 3]]):
        assert spectral_positions(unusable)[1] == np.inf
    assert spectral_positions(wavelength[:1])[0].tolist() == [0.0]


@pytest.mark.parametrize("fwhm", [2.0, 3.0, 7.0])
def test_adaptive_moments_of_a_gaussian(fwhm):
    plane = gaussian((41, 41), (20.3, 18.8), fwhm)
    plane[20, 19] = np.nan
    found = measure_star(plane, (22.0, 18.0), 0.0, 1e-5)
    assert (found.y, found.x) == pytest.approx((20.3, 18.8), abs=0.02)
    assert FWHM * found.sigma == pytest.approx(fwhm, rel=0.03)


def test_a_drifting_star_is_found_beside_a_hot_pixel():
    planes = np.stack([gaussian((41, 41), (10 + 2 * i, 20.2), 3.0, 1e4) for i in range(9)])
    planes += np.random.default_rng(5).normal(size=planes.shape)
    planes[:, 35, 3] = 1e5
    planes[4] = np.nan
    found = find_stars(planes.astype(np.float32))
    assert [star.plane for star in found] == [0, 1, 2, 3, 5, 6, 7, 8]
    for star in found:
        assert (star.position.y, star.position.x) == pytest.approx((10 + 2 * star.plane, 20.2), abs=0.1)


def test_background_under_a_wing():
    rng = np.random.default_rng(6)
    radius = np.hypot(*(np.indices((101, 101)) - 50.0)).ravel()
    flux, sky = np.array([1e6, 2e6, 5e5]), np.array([30.0, -10.0, 200.0])
    rows = []
    for f, level in zip(flux, sky, strict=True):
        counts = f * 0.05 * (1.0 + (radius / 8.0) ** 2) ** -1.9 + level + rng.normal(0.0, 4.0, radius.size)
        rows.append(ring_medians(counts, radius, np.arange(30.0, 72.0, 3.0), 1e-6))
    rings = Rings(*(np.array(column) for column in zip(*rows, strict=True)))
    wing, background, error = fit_wing(rings, flux, 15.0)
    np.testing.assert_allclose(background, sky, atol=4.0)
    assert (np.abs(background - sky) < 4.0 * error).all()
    assert (error < 2.0).all()
    assert float(wing(np.array([40.0]))[0]) == pytest.approx(0.05 * (1.0 + 25.0) ** -1.9, rel=0.03)


# Scenes with known truth


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "limit"), [(1.0, 0.0035), (30.0, 0.03)])
def test_score_on_a_scene_made_for_the_prototype(noise, limit, tmp_path):
    if not (SHARED / "reference" / "make_scene.py").is_file():
        pytest.skip("no shared scenes next to the repository")
    options = [
        "--nwave",
        "241",
        "--ny",
        "101",
        "--nx",
        "101",
        "--seed",
        "101",
        "--wave0",
        "7050",
        "--step",
        "1.25",
    ]
    script = SHARED / "reference" / "make_scene.py"
    subprocess.run(
        [sys.executable, str(script), "--out", str(tmp_path), *options], check=True, capture_output=True
    )
    star, variance = (fits.getdata(tmp_path / "star.fits", name)[::8] for name in ("DATA", "STAT"))
    true = fits.getdata(tmp_path / "psf.fits", "DATA")[::8]
    extra = np.random.default_rng(1).normal(size=star.shape) * np.sqrt(
        np.nan_to_num(variance) * (noise**2 - 1.0)
    )
    found = fit(
        (star + extra).astype(np.float32),
        (variance * noise**2).astype(np.float32),
        7.05e-7 + 1e-9 * np.arange(len(star)),
    )
    assert_psf(found.image)
    score = np.mean([relative_l2(p, t) for p, t in zip(found.image, true, strict=True)])
    assert score < limit

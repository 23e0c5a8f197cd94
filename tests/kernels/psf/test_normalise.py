"""Preparation of the star: centring that keeps the width, sky level, outliers, planes without a star."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit
from scipy.stats import gennorm

from locations import ORACLE
from lucidcube.kernels.psf.background import background_level, fit_gennorm, star_wing
from lucidcube.kernels.psf.normalise import normalise_psf, outlier_pixels
from lucidcube.kernels.psf.subpixel_shift import HALF_LENGTH, Shift, shift_taps

RECORDED = ORACLE / "psf_reference.npz"
FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))


def gaussian(shape, centre, fwhm, flux=1.0):
    y, x = np.indices(shape)
    sigma = fwhm / FWHM
    squared = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    return flux / (2.0 * np.pi * sigma**2) * np.exp(-0.5 * squared / sigma**2)


def halo_star(shape, centre, peak=1e5):
    y, x = np.indices(shape)
    squared = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    return peak * (0.8 * (1.0 + squared / 4.0) ** -2.5 + 0.2 * (1.0 + squared / 60.0) ** -1.9)


def measured_fwhm(image):
    y, x = np.indices(image.shape)

    def model(_, flux, cy, cx, sigma):
        return (flux / sigma**2 * np.exp(-0.5 * ((y - cy) ** 2 + (x - cx) ** 2) / sigma**2)).ravel()

    start = (image.max(), image.shape[0] // 2, image.shape[1] // 2, 1.5)
    return FWHM * abs(curve_fit(model, None, image.ravel(), p0=start)[0][3])


def centre_of_mass(image, region):
    weights = np.where(region > 0, image, 0.0).astype(float)
    y, x = np.indices(image.shape)
    total = weights.sum()
    return (weights * y).sum() / total, (weights * x).sum() / total


@pytest.mark.parametrize("fwhm", [2.0, 2.5, 3.0, 4.0, 6.0])
@pytest.mark.parametrize("offset", [(0.5, 0.5), (0.25, -0.37), (-0.48, 0.1), (2.5, -3.2)])
def test_centring_keeps_the_width_of_the_star(fwhm, offset):
    plane = gaussian((41, 41), (20 + offset[0], 20 + offset[1]), fwhm, 1e5).astype(np.float32)
    star = normalise_psf(plane)
    filled = np.nan_to_num(star.image)
    assert measured_fwhm(filled) == pytest.approx(fwhm, rel=0.01)
    assert filled.min() > -2e-3 * filled.max()
    np.testing.assert_allclose((star.offset_y, star.offset_x), np.negative(offset), atol=0.02)


def test_result_is_centred_and_has_unit_sum():
    plane = (halo_star((61, 81), (33.3, 37.8)) + 200.0).astype(np.float32)
    star = normalise_psf(plane)
    assert star.image.dtype == np.float32
    assert star.image.shape == (61, 81)
    assert np.nansum(star.image, dtype=float) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(centre_of_mass(star.image, star.region_mask), (30, 40), atol=0.005)
    # Strips that come in from outside of the frame are missing.
    assert np.isnan(star.image[-4:]).all()
    assert np.isnan(star.image[:, 0:2]).all()
    assert np.isfinite(star.image[:-4, 3:]).all()


@given(st.floats(0.01, 1e6), st.floats(-1e3, 1e3))
def test_scale_and_sky_do_not_matter(scale, sky):
    rng = np.random.default_rng(3)
    plane = halo_star((41, 41), (19.4, 20.2), 1e4) + rng.normal(0, 5, (41, 41))
    reference = normalise_psf(plane.astype(np.float32))
    star = normalise_psf((scale * (plane + sky)).astype(np.float32))
    np.testing.assert_allclose(star.image, reference.image, atol=2e-4 * np.nanmax(reference.image))
    assert star.background == pytest.approx(scale * (reference.background + sky), abs=scale * 0.5)


@pytest.mark.parametrize("offset", [0.0, 1.0, -3.0, 0.5, -0.01, 2.37])
def test_taps_keep_the_flux_and_move_the_centre(offset):
    first, weights = shift_taps(offset)
    position = first + np.arange(weights.size)
    assert weights.sum() == pytest.approx(1.0, abs=1e-12)
    # out[i] takes in[i + position]: a sample at 0 lands at -position.
    assert -(weights * position).sum() == pytest.approx(offset, abs=0.01)


@pytest.mark.parametrize("offset", [(0.3, -0.45), (-0.5, 0.5), (3.0, -2.0), (1.75, 0.0)])
def test_shift_agrees_with_a_star_made_in_the_right_place(offset):
    plane = gaussian((45, 51), (22, 25), 3.0, 1.0).astype(np.float32)
    truth = gaussian((45, 51), (22 + offset[0], 25 + offset[1]), 3.0, 1.0)
    moved = np.nan_to_num(Shift(plane).image(*offset))
    np.testing.assert_allclose(moved, truth, atol=2e-3 * truth.max())
    assert moved.sum() == pytest.approx(plane.sum(), rel=1e-4)


def test_shift_by_whole_pixels_is_a_copy():
    plane = np.random.default_rng(0).normal(size=(9, 12)).astype(np.float32)
    plane[3, 4] = np.nan
    moved = Shift(plane).image(2.0, -3.0)
    np.testing.assert_array_equal(moved[2:, :-3], plane[:-2, 3:])
    assert np.isnan(moved[:2]).all()
    assert np.isnan(moved[:, -3:]).all()
    assert np.isnan(Shift(plane).image(40.0, 0.0)).all()


def test_missing_pixels_stay_missing_and_do_not_ring():
    plane = gaussian((41, 41), (20, 20), 5.0, 1e4).astype(np.float32)
    whole = Shift(plane).image(0.4, 0.3)
    holed = plane.copy()
    holed[20, 26] = np.nan
    moved = Shift(holed).image(0.4, 0.3)
    lost = np.isnan(moved) & np.isfinite(whole)
    assert set(zip(*np.nonzero(lost), strict=True)) == {(20, 26), (20, 27), (21, 26), (21, 27)}
    kept = np.isfinite(moved)
    np.testing.assert_allclose(moved[kept], whole[kept], atol=0.01 * plane.max())


def test_variance_is_propagated_through_every_weight():
    first_y, weights_y = shift_taps(0.3)
    first_x, weights_x = shift_taps(-0.2)
    variance = np.zeros((41, 41), dtype=np.float32)
    variance[20, 20] = 4.0
    spread = Shift(np.zeros((41, 41), np.float32)).variance(variance, 0.3, -0.2)
    y, x = 20 - first_y - np.arange(weights_y.size), 20 - first_x - np.arange(weights_x.size)
    expected = np.zeros((41, 41))
    expected[np.ix_(y, x)] = 4.0 * np.outer(weights_y**2, weights_x**2)
    finite = np.isfinite(spread)
    np.testing.assert_allclose(spread[finite], expected[finite], atol=1e-6)
    assert weights_y.size == 2 * HALF_LENGTH + 1


def test_normalised_variance_tells_the_scatter_of_the_normalised_star():
    rng = np.random.default_rng(7)
    truth = gaussian((31, 31), (15.3, 14.8), 4.0, 1e5) + 100.0
    stars = [normalise_psf((truth + rng.normal(0, 5.0, truth.shape)).astype(np.float32)) for _ in range(60)]
    images = np.array([s.image[2:-2, 2:-2] for s in stars])
    star = normalise_psf(truth.astype(np.float32), variance=np.full((31, 31), 25.0, np.float32))
    declared = star.variance[2:-2, 2:-2]
    wings = np.hypot(*(np.indices(declared.shape) - 13)) > 8  # where the jitter of the centre is no matter
    ratio = images.var(axis=0, ddof=1)[wings].mean() / declared[wings].mean()
    assert ratio == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("shape_parameter", [0.8, 1.3, 2.0, 4.0])
@pytest.mark.parametrize("size", [1000, 20000])
def test_gennorm_agrees_with_scipy(shape_parameter, size):
    sample = gennorm.rvs(shape_parameter, loc=123.4, scale=17.0, size=size, random_state=5)
    shape, location, scale = gennorm.fit(sample)
    ours = fit_gennorm(sample.astype(np.float32))
    statistical = sample.std() / np.sqrt(size)
    assert ours.location == pytest.approx(location, abs=0.6 * statistical)
    assert ours.location == pytest.approx(123.4, abs=4.0 * statistical)
    assert ours.shape == pytest.approx(shape, rel=0.03)
    assert ours.scale == pytest.approx(scale, rel=0.04)


def test_gennorm_of_samples_without_spread():
    assert fit_gennorm(np.array([3.0], np.float32)) == (2.0, 3.0, 0.0)
    assert fit_gennorm(np.full(50, -2.0, np.float32)) == (2.0, -2.0, 0.0)


def test_sky_level_is_free_of_the_wing_of_the_star():
    rng = np.random.default_rng(1)
    plane = (halo_star((101, 101), (52.3, 47.1)) + rng.normal(100.0, 20.0, (101, 101))).astype(np.float32)
    star = normalise_psf(plane)
    background = plane[np.isfinite(plane) & (plane < 1e-3 * plane.max() + 100.0)]
    assert np.median(background) > 125.0  # the wing: what the level would be without regard to it
    assert star.background == pytest.approx(100.0, abs=8.0)


def test_no_wing_is_found_in_noise():
    rng = np.random.default_rng(2)
    radius = rng.uniform(20, 60, 5000)
    found = [star_wing(rng.normal(50.0, 5.0, 5000), radius).any() for _ in range(40)]
    assert sum(found) <= 2


def test_sky_models():
    rng = np.random.default_rng(3)
    values, radius = rng.normal(50.0, 5.0, 4000), rng.uniform(20, 60, 4000)
    values[:40] = 1e4
    assert background_level(values, radius, "none") == 0.0
    for model in ("gennorm", "norm"):
        assert background_level(values, radius, model) == pytest.approx(50.0, abs=0.5)
    assert background_level(values[:0], radius[:0], "gennorm") == 0.0
    plane = (gaussian((41, 41), (20, 20), 3.0, 1e5) + 30.0).astype(np.float32)
    assert normalise_psf(plane, background_noise_model="none").background == 0.0


def test_outliers_are_missing_but_the_star_is_not():
    plane = gaussian((61, 61), (30, 30), 6.0, 1e5).astype(np.float32)
    plane[10, 12] = plane[50, 7] = 5e3
    plane[5, 40] = -5e3
    far = outlier_pixels(plane, 5.0)
    assert set(zip(*np.nonzero(far), strict=True)) == {(10, 12), (50, 7), (5, 40)}
    star = normalise_psf(plane)
    assert star.outlier_mask.sum() == 3
    assert np.isnan(star.image[star.outlier_mask > 0]).all()
    assert np.nansum(star.image, dtype=float) == pytest.approx(1.0, abs=1e-6)
    assert star.total == pytest.approx(1e5, rel=1e-3)


def test_more_regions_move_the_centre_of_mass():
    plane = gaussian((61, 61), (30, 20), 4.0, 2e5) + gaussian((61, 61), (30, 40), 4.0, 1e5)
    one = normalise_psf(plane.astype(np.float32), n_sigma=50.0)  # or else the second star is an outlier
    two = normalise_psf(plane.astype(np.float32), n_sigma=50.0, n_largest_regions=2)
    assert one.offset_x == pytest.approx(10.0, abs=0.05)
    assert two.offset_x == pytest.approx(30.0 - 80.0 / 3.0, abs=0.1)


@pytest.mark.parametrize(
    "plane",
    [
        np.full((31, 31), 7.0),
        np.zeros((31, 31)),
        np.random.default_rng(4).normal(100.0, 5.0, (31, 31)),
        np.where(np.indices((31, 31)).sum(0) == 30, 5.0, np.nan) * 1.0,
        np.pad([[5.0]], 15, constant_values=np.nan),
        np.pad([[1e6]], 15, constant_values=1.0),
        np.full((31, 31), np.nan),
        np.full((1, 1), 3.0),
        -gaussian((31, 31), (15, 15), 4.0, 1e5),
    ],
    ids=["constant", "zero", "noise", "diagonal", "one pixel", "hot pixel", "NaN", "1x1", "negative"],
)
def test_a_plane_without_a_star_is_all_nan(plane):
    star = normalise_psf(plane.astype(np.float32), variance=np.ones(plane.shape, np.float32))
    assert star.image.shape == plane.shape
    assert np.isnan(star.image).all()
    assert np.isnan(star.variance).all()
    assert np.isnan([star.offset_y, star.offset_x, star.total]).all()
    assert np.isfinite(star.background)
    assert not star.region_mask.any()


def test_even_shapes_lose_a_line_and_trimming_is_about_the_star():
    plane = gaussian((40, 44), (18.2, 23.4), 4.0, 1e5).astype(np.float32)
    assert normalise_psf(plane).image.shape == (39, 43)
    star = normalise_psf(plane, trim_to_shape=(21, 101), variance=plane + 1.0)
    assert star.image.shape == star.variance.shape == star.region_mask.shape == (21, 43)
    assert np.unravel_index(np.nanargmax(star.image), star.image.shape) == (10, 21)
    assert np.nansum(star.image, dtype=float) == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(ValueError, match="odd"):
        normalise_psf(plane, trim_to_shape=(20, 21))
    with pytest.raises(ValueError, match="shape"):
        normalise_psf(plane, variance=plane[:-1])


def test_input_survives_and_the_same_input_gives_the_same_bits():
    plane = np.asfortranarray(halo_star((40, 41), (19.0, 21.3)).astype(np.float32))
    plane[3, 5] = np.nan
    plane.flags.writeable = False
    first, second = normalise_psf(plane, variance=plane), normalise_psf(plane.copy(), variance=plane.copy())
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.variance, second.variance)


def test_recorded_stars_end_where_the_reference_puts_them_and_closer_to_the_truth():
    with np.load(RECORDED) as recorded:
        stars, theirs, psf, region = (recorded[k] for k in ("star", "normalised", "psf", "region"))
    for plane, their_image, truth, their_region in zip(stars, theirs, psf, region, strict=True):
        star = normalise_psf(plane)
        overlap = (star.region_mask & their_region).sum() / (star.region_mask | their_region).sum()
        assert overlap > 0.9  # theirs is cut before the sky is off, and is moved by whole pixels
        moved = np.roll(plane, (round(star.offset_y), round(star.offset_x)), axis=(0, 1))
        # The reference moves by the same whole pixels: the pattern of the core is the same.
        core = (slice(45, 56), slice(45, 56))
        assert np.corrcoef(moved[core].ravel(), their_image[core].ravel())[0, 1] > 0.9999
        ours = star.image[core] / truth[core] - 1.0
        reference = their_image[core] / truth[core] - 1.0
        assert np.abs(ours).mean() < 0.25 * np.abs(reference).mean()

"""Preparation of the star: centring that keeps the width, outliers, planes without a star."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import curve_fit

from locations import ORACLE
from lucidcube.kernels.psf.normalise import normalise_psf, outlier_pixels
from lucidcube.stages.normalise_psf import NormalisePSF
from star_kernels import FWHM, gaussian, halo_star, normalise

RECORDED = ORACLE / "psf_reference.npz"


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
    star = normalise(plane)
    filled = np.nan_to_num(star.image)
    assert measured_fwhm(filled) == pytest.approx(fwhm, rel=0.01)
    assert filled.min() > -2e-3 * filled.max()
    np.testing.assert_allclose((star.offset_y, star.offset_x), np.negative(offset), atol=0.02)


def test_result_is_centred_and_has_unit_sum():
    plane = (halo_star((61, 81), (33.3, 37.8)) + 200.0).astype(np.float32)
    star = normalise(plane)
    assert star.image.dtype == np.float32
    assert star.image.shape == (61, 81)
    assert np.nansum(star.image, dtype=float) == pytest.approx(1.0, abs=1e-6)
    np.testing.assert_allclose(centre_of_mass(star.image, star.region_mask), (30, 40), atol=0.005)
    # Strips that come from outside the frame are missing.
    assert np.isnan(star.image[-4:]).all()
    assert np.isnan(star.image[:, 0:2]).all()
    assert np.isfinite(star.image[:-4, 3:]).all()


@given(st.floats(0.01, 1e6), st.floats(-1e3, 1e3))
def test_scale_and_sky_do_not_change_the_result(scale, sky):
    rng = np.random.default_rng(3)
    plane = halo_star((41, 41), (19.4, 20.2), 1e4) + rng.normal(0, 5, (41, 41))
    reference = normalise(plane.astype(np.float32))
    star = normalise((scale * (plane + sky)).astype(np.float32))
    np.testing.assert_allclose(star.image, reference.image, atol=2e-4 * np.nanmax(reference.image))
    assert star.background == pytest.approx(scale * (reference.background + sky), abs=scale * 0.5)


def test_normalised_variance_is_the_scatter_of_normalised_stars():
    rng = np.random.default_rng(7)
    truth = gaussian((31, 31), (15.3, 14.8), 4.0, 1e5) + 100.0
    stars = [normalise((truth + rng.normal(0, 5.0, truth.shape)).astype(np.float32)) for _ in range(60)]
    images = np.array([s.image[2:-2, 2:-2] for s in stars])
    star = normalise(truth.astype(np.float32), variance=np.full((31, 31), 25.0, np.float32))
    declared = star.variance[2:-2, 2:-2]
    wings = np.hypot(*(np.indices(declared.shape) - 13)) > 8  # where the jitter of the centre does not matter
    ratio = images.var(axis=0, ddof=1)[wings].mean() / declared[wings].mean()
    assert ratio == pytest.approx(1.0, abs=0.08)


def test_outliers_become_missing_but_not_the_star():
    plane = gaussian((61, 61), (30, 30), 6.0, 1e5).astype(np.float32)
    plane[10, 12] = plane[50, 7] = 5e3
    plane[5, 40] = -5e3
    far = outlier_pixels(plane, 5.0)
    assert set(zip(*np.nonzero(far), strict=True)) == {(10, 12), (50, 7), (5, 40)}
    star = normalise(plane)
    assert star.outlier_mask.sum() == 3
    assert np.isnan(star.image[star.outlier_mask > 0]).all()
    assert np.nansum(star.image, dtype=float) == pytest.approx(1.0, abs=1e-6)
    assert star.total == pytest.approx(1e5, rel=1e-3)


def test_more_regions_move_the_centre_of_mass():
    plane = gaussian((61, 61), (30, 20), 4.0, 2e5) + gaussian((61, 61), (30, 40), 4.0, 1e5)
    one = normalise(plane.astype(np.float32), n_sigma=50.0)  # otherwise the second star is an outlier
    two = normalise(plane.astype(np.float32), n_sigma=50.0, n_largest_regions=2)
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
    star = normalise(plane.astype(np.float32), variance=np.ones(plane.shape, np.float32))
    assert star.image.shape == plane.shape
    assert np.isnan(star.image).all()
    assert np.isnan(star.variance).all()
    assert np.isnan([star.offset_y, star.offset_x, star.total]).all()
    assert np.isfinite(star.background)
    assert not star.region_mask.any()


def test_even_sides_are_reduced_and_trimming_is_centred_on_the_star():
    plane = gaussian((40, 44), (18.2, 23.4), 4.0, 1e5).astype(np.float32)
    assert normalise(plane).image.shape == (39, 43)
    star = normalise(plane, trim_to_shape=(21, 101), variance=plane + 1.0)
    assert star.image.shape == star.variance.shape == star.region_mask.shape == (21, 43)
    assert np.unravel_index(np.nanargmax(star.image), star.image.shape) == (10, 21)
    assert np.nansum(star.image, dtype=float) == pytest.approx(1.0, abs=1e-6)
    with pytest.raises(ValueError, match="odd"):
        normalise_psf(plane, None, **NormalisePSF().model_dump() | {"trim_to_shape": (20, 21)})
    with pytest.raises(ValueError, match="shape"):
        normalise(plane, variance=plane[:-1])


def test_same_input_gives_same_bits_and_is_not_changed():
    plane = np.asfortranarray(halo_star((40, 41), (19.0, 21.3)).astype(np.float32))
    plane[3, 5] = np.nan
    plane.flags.writeable = False
    first, second = normalise(plane, variance=plane), normalise(plane.copy(), variance=plane.copy())
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.variance, second.variance)


def test_recorded_stars_are_centred_like_the_reference_and_closer_to_the_truth():
    with np.load(RECORDED) as recorded:
        stars, theirs, psf, region = (recorded[k] for k in ("star", "normalised", "psf", "region"))
    for plane, their_image, truth, their_region in zip(stars, theirs, psf, region, strict=True):
        star = normalise(plane)
        overlap = (star.region_mask & their_region).sum() / (star.region_mask | their_region).sum()
        assert overlap > 0.9  # theirs is found before the sky is subtracted, and is moved by whole pixels
        moved = np.roll(plane, (round(star.offset_y), round(star.offset_x)), axis=(0, 1))
        # The reference moves by the same whole pixels, so the core has the same pattern.
        core = (slice(45, 56), slice(45, 56))
        assert np.corrcoef(moved[core].ravel(), their_image[core].ravel())[0, 1] > 0.9999
        ours = star.image[core] / truth[core] - 1.0
        reference = their_image[core] / truth[core] - 1.0
        assert np.abs(ours).mean() < 0.25 * np.abs(reference).mean()

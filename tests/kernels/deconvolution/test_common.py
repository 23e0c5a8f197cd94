"""The check of the PSF, the field with its margin, and the result with its identity and statistics."""

import numpy as np
import pytest

from disc_scene import moffat, planet
from lucidcube.kernels.deconvolution.common import (
    StopReason,
    check_psf,
    edge_margin,
)
from lucidcube.kernels.deconvolution.continuation import Continuation
from lucidcube.kernels.deconvolution.field import prepare_field
from lucidcube.kernels.fourier.convolver import Convolver


def shifted(psf, shift_y, shift_x):
    return np.roll(psf, (shift_y, shift_x), axis=(0, 1))


def test_a_valid_psf_is_accepted():
    check_psf(moffat())
    check_psf(moffat().astype(np.float64)[:, 2:-2] / moffat()[:, 2:-2].sum())
    check_psf(np.ones((1, 1), np.float32))
    check_psf((0.6 * moffat() + 0.4 * shifted(moffat(), 0, 1)).astype(np.float32))


@pytest.mark.parametrize(
    ("psf", "message"),
    [
        (moffat()[:-1], "odd"),
        (np.where(moffat() < 1e-4, np.nan, moffat()), "finite"),
        (1.02 * moffat(), "unit sum.*1.02"),
        (np.zeros((5, 5)), "unit sum.*is 0"),
        (shifted(moffat(), 1, 0), r"centred.*\+1.00 pixels off along y and \+0.00 along x"),
        (shifted(moffat(), 0, -3), r"-3.00 along x"),
    ],
)
def test_an_invalid_psf_is_rejected_with_the_reason(psf, message):
    with pytest.raises(ValueError, match=message):
        check_psf(psf)


def test_an_asymmetric_star_is_accepted_centred_on_its_core_or_its_mass():
    y, x = np.mgrid[-20:21, -20:21]
    star = np.exp(-((y**2 + x**2) / 4.0)) + 0.15 * np.exp(-((y**2 + (x - 5) ** 2) / 18.0))
    star /= star.sum()
    mass = round(float((star * x).sum()))
    assert mass >= 1
    check_psf(star)
    check_psf(np.roll(star, -mass, axis=1))
    with pytest.raises(ValueError, match="centred"):
        check_psf(np.roll(star, -mass - 2, axis=1))


def test_a_far_companion_does_not_move_the_centre():
    psf = moffat()
    psf[20, 36] = 0.9 * psf.max()
    check_psf(psf / psf.sum())


def test_every_stop_reason_is_explained():
    texts = [reason.text for reason in StopReason]
    assert len(set(texts)) == len(StopReason) == 11
    assert [int(reason) for reason in StopReason] == list(range(11))


@pytest.mark.parametrize("half", [0, 2, 5])
def test_the_margin_holds_four_fifths_of_the_light(half):
    box = np.zeros((3, 31), np.float32)
    box[1, 15 - half : 16 + half] = 1 / (2 * half + 1)
    margin_y, margin_x = edge_margin(box, (100, 100))
    assert margin_y == 0
    assert (2 * margin_x + 1) >= 0.8 * (2 * half + 1) > 2 * margin_x - 1
    assert edge_margin(box, (100, 3)) == (0, min(margin_x, 1))


def test_a_complete_plane_is_not_changed():
    plane, psf, _, _ = planet()
    field = prepare_field(plane, psf, None, (0, 0))
    np.testing.assert_array_equal(field.data[field.frame], plane)
    assert field.valid_pixels == plane.size
    assert not field.pixels.outside.any()
    assert field.continuation is None
    assert not field.data[:, 64:].any()
    assert not field.weight[:, 64:].any()


def test_missing_pixels_and_the_margin_are_estimated():
    plane, psf, _, _ = planet()
    holed = plane.copy()
    holed[30:33, 30:33] = np.nan
    holed[:8] = np.nan
    field = prepare_field(holed, psf, None, (3, 5))
    assert field.data.shape[0] == 70
    assert np.isfinite(field.data).all()
    inside = field.data[field.frame]
    np.testing.assert_array_equal(inside[np.isfinite(holed)], holed[np.isfinite(holed)])
    np.testing.assert_allclose(inside[30:33, 30:33], plane[30:33, 30:33], rtol=0.1)
    np.testing.assert_array_equal(field.valid[field.frame] > 0, np.isfinite(holed))
    outside = np.zeros(plane.shape, bool)
    outside[:8] = True
    np.testing.assert_array_equal(field.pixels.outside, outside)
    trust = field.weight[:, :74][field.valid[:, :74] == 0]
    assert 0.05 <= trust.min() < trust.max() <= 1


def test_filled_values_are_used_only_among_valid_ones():
    plane, psf, _, _ = planet()
    filled = np.zeros(plane.shape, np.uint8)
    filled[32, 32] = filled[:, :20] = 1
    marked = plane.copy()
    marked[32, 32] = marked[:, :20] = 777
    field = prepare_field(marked, psf, filled, (0, 0))
    inside = field.data[field.frame]
    assert inside[32, 32] == 777
    assert abs(inside[32, 5]) < 100
    assert field.valid_pixels == plane.size - filled.sum()
    assert not field.pixels.outside.any()


@pytest.mark.parametrize("known", [(3, 4), (0, 0)])
def test_a_single_valid_pixel_is_sufficient(known):
    plane = np.full((9, 11), np.nan, np.float32)
    plane[known] = 5
    field = prepare_field(plane, moffat(), None, (2, 2))
    assert np.isfinite(field.data).all()
    assert field.data.max() == 5


def test_components_and_residual_reproduce_the_input():
    plane, psf, truth, _ = planet()
    plane = plane.copy()
    plane[20:24, 20:24] = np.nan
    plane[:20] = np.nan
    field = prepare_field(plane, psf, None, (4, 4))
    variance = np.full(plane.shape, 4.0, np.float32)
    variance[40, :] = np.nan
    variance[41, :] = 0
    result = field.result(field.convolver.pad(np.pad(truth, 4)), 7, StopReason.N_ITER, variance)
    there = np.isfinite(plane)
    unknown = np.isnan(result.components)
    assert 0 < unknown.sum() < (~there).sum()
    assert not (unknown & there).any()
    np.testing.assert_array_equal(np.isnan(result.residual), ~there)
    model = Convolver(psf, plane.shape).convolve(np.nan_to_num(result.components))
    np.testing.assert_allclose((model + result.residual)[there], plane[there], atol=1e-3)
    left = result.residual[there]
    assert result.fabs == pytest.approx(np.abs(left).max())
    assert result.rms == pytest.approx(np.sqrt(np.mean(left**2)), rel=1e-5)
    assert result.flux_in == pytest.approx(np.nansum(plane), rel=1e-5)
    assert result.flux_out == pytest.approx(np.nansum(result.components), rel=1e-5)
    weighed = there & (variance > 0)
    assert result.chi2 == pytest.approx(np.mean(result.residual[weighed] ** 2 / 4), rel=1e-5)
    assert (result.iterations, result.stop_reason) == (7, StopReason.N_ITER)


def test_chi2_needs_a_variance():
    plane, psf, truth, _ = planet()
    field = prepare_field(plane, psf, None, (0, 0))
    assert np.isnan(field.result(field.convolver.pad(truth), 0, StopReason.N_ITER, None).chi2)
    nowhere = np.full(plane.shape, np.nan)
    assert np.isnan(field.result(field.convolver.pad(truth), 0, StopReason.N_ITER, nowhere).chi2)
    right = field.result(field.convolver.pad(truth), 0, StopReason.N_ITER, 25.0)
    assert right.chi2 == pytest.approx(1, abs=0.1)


class TestContinuation:
    def test_keeps_what_is_valid_and_a_constant_everywhere(self):
        rng = np.random.default_rng(0)
        valid = rng.random((37, 50)) < 0.3
        plane = np.where(valid, np.float32(3), np.float32(np.nan))
        Continuation(valid, 1.0).fill(plane)
        np.testing.assert_allclose(plane, 3, rtol=1e-6)
        values = rng.normal(size=valid.shape).astype(np.float32)
        filled = values.copy()
        Continuation(valid, 1.0).fill(filled)
        np.testing.assert_array_equal(filled[valid], values[valid])
        assert values[valid].min() <= filled.min() <= filled.max() <= values[valid].max()

    def test_longer_rows_are_left_alone_beyond_the_plane(self):
        rng = np.random.default_rng(0)
        valid = rng.random((20, 23)) < 0.5
        plane = rng.normal(size=valid.shape).astype(np.float32)
        longer = np.pad(plane, ((0, 0), (0, 9)), constant_values=7)
        Continuation(valid, 1.0).fill(longer)
        Continuation(valid, 1.0).fill(plane)
        np.testing.assert_array_equal(longer[:, :23], plane)
        assert (longer[:, 23:] == 7).all()

    def test_bridges_a_hole_in_a_slope(self):
        slope = np.tile(np.arange(64, dtype=np.float32), (64, 1))
        valid = np.ones(slope.shape, bool)
        valid[30:35, 30:35] = False
        plane = np.where(valid, slope, np.float32(0))
        Continuation(valid, 1.0).fill(plane)
        np.testing.assert_allclose(plane, slope, atol=1.5)

    def test_damps_only_what_it_fills(self):
        valid = np.zeros((8, 8))
        valid[:4] = 1
        plane = np.full((8, 8), 2, np.float32)
        Continuation(valid, np.full((8, 8), 0.5)).fill(plane)
        np.testing.assert_allclose(plane, np.where(valid > 0, 2, 1))

    @pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 3)])
    def test_gives_zero_where_nothing_is_valid(self, shape):
        plane = np.full(shape, 9, np.float32)
        Continuation(np.zeros(shape, bool), 1.0).fill(plane)
        np.testing.assert_array_equal(plane, 0)

    def test_leaves_a_complete_plane_alone(self):
        plane = np.full((3, 3), 9, np.float32)
        Continuation(np.ones((3, 3), bool), 1.0).fill(plane)
        np.testing.assert_array_equal(plane, 9)

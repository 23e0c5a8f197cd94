"""Convolution against direct summation, for every relation of plane and PSF size."""

import numpy as np
import pytest
from scipy.signal import convolve2d, correlate2d

from lucidcube.kernels.fourier.convolver import Convolver, Support, trim_psf

SHAPES = [
    ((20, 31), (5, 7)),
    ((20, 31), (19, 31)),
    ((9, 12), (41, 35)),
    ((1, 1), (3, 3)),
    ((1, 17), (5, 1)),
    ((16, 16), (1, 1)),
]


def scene(shape, psf_shape, seed=0):
    """Return a plane and an asymmetric PSF that fills its stamp up to the corners."""
    rng = np.random.default_rng(seed)
    psf = rng.gamma(1.0, 1.0, psf_shape).astype(np.float32)
    return rng.normal(0, 1, shape).astype(np.float32), psf / psf.sum()


def direct(function, plane, psf):
    """Return the 'same' part of scipy's direct sum, also for a PSF larger than the plane."""
    full = function(plane.astype(np.float64), psf.astype(np.float64), mode="full")
    top, left = psf.shape[0] // 2, psf.shape[1] // 2
    return full[top : top + plane.shape[0], left : left + plane.shape[1]]


def blurred(convolver, plane, support):
    """Convolve a plane that is zero outside a part."""
    nothing = np.zeros(convolver.shape)
    residual = convolver.pad(nothing)
    convolver.subtract_part(convolver.pad(plane), support, residual, convolver.pad(nothing + 1))
    return -residual[:, : convolver.shape[1]]


@pytest.mark.parametrize(("shape", "psf_shape"), SHAPES)
def test_equals_direct_summation(shape, psf_shape):
    plane, psf = scene(shape, psf_shape)
    convolver = Convolver(psf, shape)
    convolved, correlated = convolver.convolve(plane), convolver.correlate(plane)
    assert convolved.shape == correlated.shape == shape
    assert convolved.dtype == correlated.dtype == np.float32
    np.testing.assert_allclose(convolved, direct(convolve2d, plane, psf), atol=2e-6)
    np.testing.assert_allclose(correlated, direct(correlate2d, plane, psf), atol=2e-6)


@pytest.mark.parametrize(("shape", "psf_shape"), SHAPES)
def test_correlate_is_the_transpose_of_convolve(shape, psf_shape):
    plane, psf = scene(shape, psf_shape)
    other, _ = scene(shape, psf_shape, seed=1)
    convolver = Convolver(psf, shape)
    left = np.vdot(other.astype(float), convolver.convolve(plane))
    assert left == pytest.approx(np.vdot(convolver.correlate(other).astype(float), plane), abs=1e-4)


def test_a_point_source_gives_the_psf_at_its_position():
    _, psf = scene((1, 1), (5, 7))
    plane = np.zeros((30, 40), np.float32)
    plane[10, 20] = 3
    result = Convolver(psf, plane.shape).convolve(plane)
    np.testing.assert_allclose(result[8:13, 17:24], 3 * psf, atol=1e-6)
    assert result.sum() == pytest.approx(3, rel=1e-6)


def test_no_wrap_around():
    plane = np.zeros((24, 24), np.float32)
    plane[:, -1] = 1
    psf = np.full((1, 25), 1 / 25, np.float32)
    result = Convolver(psf, plane.shape).convolve(plane)
    np.testing.assert_allclose(result[:, :11], 0, atol=1e-7)
    np.testing.assert_allclose(result[:, 11:], 1 / 25, atol=1e-7)


def test_trimming_keeps_the_centre_and_the_light():
    psf = np.zeros((41, 61))
    psf[18:23, 25:33] = 1.0
    trimmed = trim_psf(psf, (100, 100))
    assert trimmed.shape == (5, 11)
    assert trimmed.dtype == np.float32
    np.testing.assert_array_equal(trimmed, psf[18:23, 25:36])
    assert trim_psf(np.ones((41, 61)), (4, 50)).shape == (7, 61)
    assert trim_psf(np.zeros((5, 5)), (4, 4)).shape == (1, 1)


def test_padded_rows_are_the_same_convolution():
    plane, psf = scene((20, 31), (9, 9))
    convolver = Convolver(psf, plane.shape)
    padded = convolver.pad(plane)
    assert padded.shape == (20, convolver.padded_width)
    np.testing.assert_array_equal(convolver.convolve_padded(padded)[:, :31], convolver.convolve(plane))
    np.testing.assert_array_equal(convolver.correlate_padded(padded)[:, :31], convolver.correlate(plane))


def test_inputs_are_read_only_and_may_be_views():
    plane, psf = scene((20, 30), (5, 5))
    expected = Convolver(psf, (10, 15)).convolve(plane[::2, ::2].copy())
    plane.flags.writeable = psf.flags.writeable = False
    np.testing.assert_array_equal(Convolver(psf, (10, 15)).convolve(plane[::2, ::2]), expected)


def test_planes_of_another_shape_are_errors():
    """Compiled code would access memory outside the arrays."""
    convolver = Convolver(np.ones((3, 3)), (20, 30))
    right = convolver.pad(np.zeros((20, 30)))
    wrong = right[:, 1:].copy()
    for shape in ((20, 31), (19, 30), (40, 60)):
        with pytest.raises(ValueError, match="made for planes of"):
            convolver.convolve(np.zeros(shape))
    for call in (convolver.convolve_padded, convolver.correlate_padded):
        with pytest.raises(ValueError, match="not a padded plane"):
            call(wrong)
    for planes in ((wrong, right, right), (right, wrong, right), (right, right, wrong)):
        with pytest.raises(ValueError, match="not a padded plane"):
            convolver.subtract_part(planes[0], Support(0, 20, 0, 30, 600), *planes[1:])


@pytest.mark.parametrize("shape", [(4, 5), (5, 4), (5,), (3, 5, 5)])
def test_a_psf_with_an_even_side_is_an_error(shape):
    with pytest.raises(ValueError, match="odd"):
        Convolver(np.ones(shape), (20, 20))


def test_a_psf_with_missing_pixels_is_an_error():
    psf = np.ones((3, 3))
    psf[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        Convolver(psf, (20, 20))


@pytest.mark.parametrize(("shape", "psf_shape"), [*SHAPES, ((40, 50), (31, 45)), ((64, 48), (9, 9))])
@pytest.mark.parametrize("few", [True, False], ids=["few pixels", "many pixels"])
def test_a_part_of_the_plane_gives_the_same_as_the_whole(shape, psf_shape, few):
    """Shorter transforms and direct sums cause no wrap-around for any position of the part."""
    plane, psf = scene(shape, psf_shape)
    convolver, rng = Convolver(psf, shape), np.random.default_rng(2)
    for _ in range(12):
        top, left = (int(rng.integers(0, n)) for n in shape)
        bottom, right = int(rng.integers(top, shape[0])) + 1, int(rng.integers(left, shape[1])) + 1
        part = np.zeros(shape, np.float32)
        part[top:bottom, left:right] = plane[top:bottom, left:right]
        support = Support(top, bottom, left, right, 1 if few else 10**9)
        np.testing.assert_allclose(blurred(convolver, part, support), convolver.convolve(part), atol=2e-6)


@pytest.mark.parametrize("few", [True, False], ids=["few pixels", "many pixels"])
@pytest.mark.parametrize("shape", [(40, 50), (70, 33), (9, 12)])
def test_subtraction_returns_statistics_of_what_remains(shape, few):
    plane, psf = scene(shape, (9, 7))
    rng = np.random.default_rng(3)
    before, valid = rng.normal(3, 2, shape).astype(np.float32), rng.random(shape) < 0.7
    convolver = Convolver(psf, shape)
    residual = convolver.pad(before)
    support = Support(0, shape[0], 0, shape[1], 1 if few else 10**9)
    statistics = convolver.subtract_part(convolver.pad(plane), support, residual, convolver.pad(valid))
    left = residual[:, : shape[1]]
    np.testing.assert_allclose(left, before - convolver.convolve(plane), atol=2e-6)
    counted = left[valid].astype(float)
    assert statistics == pytest.approx((counted.max(), min(counted.min(), 0), np.sum(counted**2)), rel=1e-6)


def test_extremes_reach_zero():
    """A residual of one sign has zero as its other extreme."""
    convolver = Convolver(np.ones((1, 1)), (5, 6))
    nothing, valid = convolver.pad(np.zeros((5, 6))), convolver.pad(np.ones((5, 6)))
    for value, expected in ((2.0, (2.0, 0.0, 120.0)), (-2.0, (0.0, -2.0, 120.0))):
        residual = convolver.pad(np.full((5, 6), value))
        assert convolver.subtract_part(nothing, Support(0, 0, 0, 0, 0), residual, valid) == expected


def test_empty_support_gives_zero():
    _, psf = scene((1, 1), (5, 7))
    convolver = Convolver(psf, (20, 30))
    assert not blurred(convolver, np.zeros((20, 30)), Support(0, 0, 0, 0, 0)).any()


def test_cached_transforms_do_not_change_the_result():
    plane, psf = scene((60, 60), (51, 51))
    parts = [Support(0, k, 0, k, 10**9) for k in range(10, 61, 5)]
    convolver = Convolver(psf, plane.shape)

    def blur(part):
        inside = np.where(np.arange(60) < part.right, plane, 0) * (np.arange(60) < part.bottom)[:, None]
        return blurred(convolver, inside, part)

    first = [blur(part) for part in parts]
    for part, expected in reversed(list(zip(parts, first, strict=True))):
        np.testing.assert_array_equal(blur(part), expected)

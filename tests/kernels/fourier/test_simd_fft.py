"""Transforms of many columns at once against numpy's, in double precision."""

import numpy as np
import pytest
import scipy.fft
from numba import njit

from lucidcube.kernels.fourier.simd.fft import (
    GROUP,
    LEAST_LENGTH,
    blocks_of,
    good_length,
    inverse_columns,
    inverse_row,
    padded,
    padded_length,
    plan,
    spectrum,
    workspace,
)
from lucidcube.kernels.fourier.simd.lanes import RADICES
from lucidcube.kernels.fourier.simd.panels import copy_rows
from lucidcube.kernels.fourier.simd.vectors import LANES, ROW

LENGTHS = [n for n in range(LEAST_LENGTH, 1100) if scipy.fft.next_fast_len(n, real=True) == n]


def ordered(blocks, height):
    """Return a spectrum in the order of numpy: (half of the frequencies along y, all along x), complex."""
    numbers = blocks[:, :, 0] + 1j * blocks[:, :, 1]
    return numbers.transpose(0, 2, 1).reshape(-1, blocks.shape[1])[: height // 2 + 1]


@njit
def back(given, plan_y, plan_x, space, out):
    width = plan_x.length
    for block in range(given.shape[0]):
        copy_rows(given, space.one, width, block * width * ROW, 0)
        inverse_row(plan_x, block, out.shape[1], space)
    inverse_columns(plan_y, space, out)


def test_good_lengths_have_few_passes():
    smooth = sorted({2**a * 3**b * 5**c for a in range(11) for b in range(7) for c in range(5)})
    work = {n: n * len(plan(n).radices) for n in smooth if 32 <= n < 1500}
    for least in range(1, 800):
        length = good_length(least)
        assert length >= least
        assert work[length] == min(spent for n, spent in work.items() if n >= least)
    assert good_length(370) == 384  # not 375 = 3 * 5 * 5 * 5


@pytest.mark.parametrize("length", LENGTHS)
def test_every_length_along_both_axes(length):
    rng = np.random.default_rng(length)
    for shape in ((length, 36), (40, length)):
        plane = rng.normal(size=(shape[0] - 1, shape[1] - 3)).astype(np.float32)
        expected = np.fft.fft(np.fft.rfft(plane.astype(float), shape[0], axis=0), shape[1], axis=1)
        got = ordered(spectrum(plane, shape), shape[0]) / 2
        np.testing.assert_allclose(got, expected, atol=4e-7 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(40, 36), (96, 540), (541, 33), (33, 64), (100, 97)])
def test_forward_and_inverse_transforms_cancel(shape):
    plane = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    size = good_length(shape[0]), good_length(shape[1])
    given = spectrum(plane, size) / np.float32(2 * size[0] * size[1])
    out = padded(np.full(shape, np.nan))
    back(given, plan(size[0]), plan(size[1]), workspace(*size, shape[1]), out)
    np.testing.assert_allclose(out[:, : shape[1]], plane, atol=2e-6)


def test_columns_are_independent():
    """Two real columns share a complex one: a bright one must not leak into a dark one."""
    plane = np.zeros((64, GROUP), np.float32)
    plane[:, 0] = np.random.default_rng(0).normal(size=64)
    got = ordered(spectrum(plane, (64, GROUP)), 64)
    alone = np.fft.rfft(plane[:, 0].astype(float))
    np.testing.assert_allclose(got, 2 * np.repeat(alone[:, None], got.shape[1], axis=1), atol=3e-5)


def test_plans_use_the_radices_that_exist():
    for length in LENGTHS:
        made = plan(length)
        assert np.prod(made.radices) == length
        assert set(made.radices) <= set(RADICES)
    assert plan(540) is plan(540)


@pytest.mark.parametrize("length", [0, 1, 31, 34, 49, 539])
def test_unsupported_lengths_are_errors(length):
    with pytest.raises(ValueError, match="next good length"):
        plan(length)


def test_a_plane_larger_than_its_transform_is_an_error():
    for shape in ((41, 36), (40, 37)):
        with pytest.raises(ValueError, match="larger than its transform"):
            spectrum(np.zeros(shape), (40, 36))


def test_shapes():
    assert LANES in (4, 8, 16)
    for height in LENGTHS:
        assert blocks_of(height) * LANES > height // 2
        assert (blocks_of(height) - 1) * LANES <= height // 2
    assert padded_length(1) == GROUP == padded_length(GROUP)
    plane = padded(np.ones((3, GROUP + 1)))
    assert plane.shape == (3, 2 * GROUP)
    assert plane.ctypes.data % 64 == 0
    assert not plane[:, GROUP + 1 :].any()

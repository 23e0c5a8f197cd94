"""Pixels sharper than the PSF: artefacts are found, real points are not, and unusual planes are accepted."""

import numpy as np
import pytest

from disc_scene import ODD_PLANES, SIGMA, moffat, planet, rim
from lucidcube.kernels.artefacts.psf_consistency import _largest, psf_consistency, robust_estimate
from lucidcube.kernels.fourier.convolver import Convolver

VARIANCE = np.full((64, 64), SIGMA**2, np.float32)


def scene():
    """Return a plane with real points and artefacts, its PSF, and where the artefacts and points are."""
    plane, psf, _, _ = planet()
    points = np.zeros_like(plane)
    points[[10, 32, 40], [50, 26, 33]] = 4000, 6000, 8000
    plane = plane + Convolver(psf, plane.shape).convolve(points)
    marks = np.zeros(plane.shape, bool)
    marks[[5, 30, 31, 33, 45], [8, 40, 20, 33, 30]] = True
    marks[28, 20:31] = True
    sign = np.where(np.indices(plane.shape).sum(axis=0) % 2, 1, -1)
    sign[28] = 1
    return plane + (marks * sign * 15 * SIGMA).astype(np.float32), psf, marks, points > 0


@pytest.mark.parametrize("variance", [VARIANCE, None])
def test_artefacts_are_found_and_points_are_not(variance):
    plane, psf, marks, points = scene()
    z = psf_consistency(plane, variance, psf)
    assert (np.abs(z)[marks] > 5).all()
    assert (np.abs(z)[points] < 3).all()
    assert (np.abs(z)[~marks] > 5).sum() <= 1


def test_excluded_pixels_have_no_weight_but_are_compared():
    plane, psf, _, _ = planet()
    y, x = np.indices(plane.shape)
    ghost = 300 * np.exp(-((y - 12) ** 2 + (x - 40) ** 2) / (2 * 2.5**2))
    marks = ghost > SIGMA
    z = psf_consistency((plane + ghost).astype(np.float32), VARIANCE, psf, exclude=marks)
    assert (np.abs(z)[ghost > 100] > 10).all()
    assert (np.abs(z)[~marks] > 5).sum() == 0
    other = psf_consistency((plane + 2 * ghost * marks).astype(np.float32), VARIANCE, psf, exclude=marks)
    alone = psf_consistency((plane + ghost * marks).astype(np.float32), VARIANCE, psf, exclude=marks)
    np.testing.assert_allclose(other[~marks], alone[~marks], atol=0.05)


def with_points(flux):
    """Return a planet with six points and a hot pixel."""
    plane, psf, _, _ = planet()
    points = np.zeros_like(plane)
    points[[10, 32, 40, 5, 55, 20], [50, 26, 33, 8, 40, 45]] = flux
    plane = (plane + Convolver(psf, plane.shape).convolve(points)).astype(np.float32)
    plane[20, 20] += 30 * SIGMA
    return plane, psf


@pytest.mark.parametrize("flux", [6e4, 6e5])
def test_bright_points_are_no_artefacts(flux):
    plane, psf = with_points(flux)
    marked = np.abs(psf_consistency(plane, VARIANCE, psf)) > 5
    assert marked[20, 20]
    assert marked.sum() <= 4


def test_plausible_pixels_are_judged_by_an_estimate_with_them():
    """The robust estimates take the brightest points for artefacts.

    A hot pixel does not become a point: that would fit it, depending on rounding, and spoil its neighbours.
    """
    plane, psf = with_points(2e6)
    strict = psf_consistency(plane, VARIANCE, psf)
    lenient = psf_consistency(plane, VARIANCE, psf, plausible=np.ones(plane.shape, bool))
    assert (np.abs(lenient) <= np.abs(strict)).all()
    assert (np.abs(strict) > 5).sum() > 2 * (np.abs(lenient) > 5).sum()
    assert np.abs(lenient[20, 20]) > 10
    none = psf_consistency(plane, VARIANCE, psf, plausible=np.zeros(plane.shape, bool))
    np.testing.assert_array_equal(none, strict)


def test_without_artefacts_the_result_is_noise():
    plane, psf, _, _ = planet()
    z = psf_consistency(plane, VARIANCE, psf)
    assert z.dtype == np.float32
    assert np.abs(z).max() < 5
    assert 0.8 < z.std() < 1.05


def test_missing_data_stay_missing():
    plane, psf, marks, _ = scene()
    variance = VARIANCE.copy()
    variance[50, 50], variance[51, 51] = np.nan, 0
    plane = rim(plane)
    z = psf_consistency(plane, variance, psf)
    missing = np.isnan(plane)
    missing[[50, 51], [50, 51]] = True
    np.testing.assert_array_equal(np.isnan(z), missing)
    assert (np.abs(z)[marks & ~missing] > 5).all()


def test_no_data():
    plane = np.full((20, 30), np.nan, np.float32)
    for variance in (None, np.ones_like(plane)):
        z = psf_consistency(plane, variance, moffat(5))
        assert z.shape == plane.shape
        assert np.isnan(z).all()


@pytest.mark.parametrize("name", ODD_PLANES)
@pytest.mark.parametrize("estimate", [True, False])
def test_unusual_planes_are_accepted(name, estimate):
    plane = ODD_PLANES[name].copy()
    plane.flags.writeable = False
    given = np.full(plane.shape, 1e-2 * np.nanmean(np.square(plane, dtype=float)))
    z = psf_consistency(plane, None if estimate else given, moffat(5))
    np.testing.assert_array_equal(np.isnan(z), np.isnan(plane))


def test_a_psf_that_is_too_wide_marks_neither_the_limb_nor_points():
    """The PSF of another night is no reason to distrust the object; hot pixels are still found."""
    _, psf, truth, _ = planet()
    noise = np.random.default_rng(1).normal(0, SIGMA, truth.shape)
    marks = np.zeros(truth.shape, bool)
    marks[[5, 30, 31, 33, 45], [8, 40, 20, 33, 30]] = True
    wide = moffat(core=2.4)
    assert np.abs(wide - psf).sum() > 0.1
    plane = 20 * Convolver(psf, truth.shape).convolve(truth) + noise + 4000 * marks
    z = np.abs(psf_consistency(plane.astype(np.float32), VARIANCE, wide))
    assert (z[~marks] > 5).mean() < 0.02
    assert (z[marks] > 5).all()


@pytest.mark.parametrize("lacking", [False, True], ids=["similar", "without its moons"])
def test_a_start_from_a_brighter_plane_gives_the_same_with_less_work(monkeypatch, lacking):
    """Points that the start lacks, because a ghost hides them in its plane, are no artefacts either."""
    plane, psf, marks, points = scene()
    sign = np.where(np.indices(plane.shape).sum(axis=0) % 2, 1, -1)
    sign[28] = 1
    good = planet()[0] if lacking else plane - marks * sign * 15 * SIGMA
    noise = np.random.default_rng(1).normal(0, 3 * SIGMA, plane.shape)
    start = robust_estimate((3 * good + noise).astype(np.float32), 18 * VARIANCE, psf)
    counted = []
    convolve = Convolver.convolve_padded
    monkeypatch.setattr(Convolver, "convolve_padded", lambda *given: counted.append(1) or convolve(*given))
    cold = psf_consistency(plane, VARIANCE, psf, plausible=~marks)
    without, counted[:] = len(counted), []
    warm = psf_consistency(plane, VARIANCE, psf, plausible=~marks, start=start)
    assert len(counted) < (0.5 if lacking else 0.4) * without
    assert (np.abs(warm)[points] < 3).all()
    assert (np.abs(warm)[~marks] > 5).sum() <= 1
    assert (np.abs(warm)[marks] > 4).all()
    if not lacking:
        difference = np.sqrt(np.mean((warm - cold)[~marks] ** 2))
        assert difference < 0.25, difference


@pytest.mark.parametrize("change", [0, -1, np.nan], ids=["dark", "negative", "nothing"])
def test_a_start_that_says_nothing_about_a_plane_is_not_used(change):
    plane, psf, _, _ = scene()
    start = robust_estimate(plane * np.float32(change), VARIANCE, psf)
    expected = psf_consistency(plane, VARIANCE, psf)
    if np.isnan(change):
        np.testing.assert_array_equal(psf_consistency(plane, VARIANCE, psf, start=start), expected)
    empty = start._replace(model=np.zeros_like(start.model))
    np.testing.assert_array_equal(psf_consistency(plane, VARIANCE, psf, start=empty), expected)


@pytest.mark.parametrize("number", [1, 5, 40, 1000])
def test_the_largest_values_are_those_of_a_whole_sort(number):
    values = np.random.default_rng(0).integers(0, 30, 200).astype(float)
    expected = np.argsort(-values, kind="stable")[:number]
    np.testing.assert_array_equal(_largest(values, number), expected)
    assert _largest(values[:0], number).size == 0

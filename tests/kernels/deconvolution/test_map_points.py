"""Isolated points in the MAP estimate: which pixels they are, their flux, and smooth light beside them."""

import numpy as np
import pytest
from scipy import ndimage

from lucidcube.kernels.deconvolution.map_points import GROWTH, SIDE, isolated_sources, structure_points
from lucidcube.kernels.deconvolution.map_solver import MapSolver
from lucidcube.kernels.fourier.convolver import Convolver
from lucidcube.stages.deconvolve import Deconvolve
from resolution_scenes import moffat

NOISE = np.ones((61, 61), np.float32)
Y, X = np.indices(NOISE.shape) - 30


def clouds(slope: float = 3.2) -> np.ndarray:
    """Return smooth light (y, x) of random clouds, of the mean 1000."""
    rate = np.hypot(np.fft.fftfreq(61)[:, None], np.fft.fftfreq(61))
    rate[0, 0] = 1
    field = np.fft.ifft2(np.fft.fft2(np.random.default_rng(1).normal(size=rate.shape)) * rate ** (-slope / 2))
    light = np.exp(0.35 * field.real / field.real.std())
    return np.asarray(1000 * light / light.mean())


def star(flux: float = 100.0, at: tuple[int, int] = (30, 30)) -> np.ndarray:
    """Return a point of light (y, x) on dark sky."""
    image = np.zeros(NOISE.shape, np.float32)
    image[at] = flux
    return image


def small_galaxy(flux: float = 100.0, width: float = 1.2) -> np.ndarray:
    """Return a Gaussian (y, x) on dark sky that is hardly wider than a point."""
    light = np.exp(-(X**2 + Y**2) / (2 * width**2))
    return np.asarray(flux * light / light.sum(), np.float32)


class TestIsolatedSources:
    def test_are_the_squares_around_them(self):
        found = isolated_sources(star() + star(50, (10, 45)) + np.float32(1), NOISE)[0]
        rows, columns = np.nonzero(found)
        assert found.sum() == 2 * SIDE**2
        assert {(9, 44), (11, 46), (29, 29), (31, 31)} <= set(zip(rows, columns, strict=True))

    def test_between_pixels(self):
        image = star(100) + star(80, (30, 31)) + star(90, (31, 30)) + star(70, (31, 31))
        assert isolated_sources(image, NOISE)[0][29:32, 29:32].all()

    def test_before_the_iteration_has_converged(self):
        around = ndimage.binary_dilation(star() > 0) * np.float32(30)
        assert isolated_sources(star(80) + around, NOISE)[0][29:32, 29:32].all()

    def test_at_the_corner_of_the_plane(self):
        assert isolated_sources(star(at=(0, 60)), NOISE)[0][:2, 59:].all()

    @pytest.mark.parametrize(
        "image",
        [
            star(4),
            star(100) + np.float32(5),
            star(100) + star(60, (30, 33)),
            np.where(np.hypot(Y, X) < 20, 1000, 0),
            np.where(abs(np.hypot(Y, X) - 20) < 1, 1000, 0),
            300 * np.exp(-np.hypot(Y, X) / 4),
            small_galaxy(),
            clouds(),
            np.zeros(NOISE.shape),
        ],
        ids=["noise", "bright-sky", "pair", "disc", "ring", "galaxy", "small-galaxy", "clouds", "nothing"],
    )
    def test_are_not(self, image):
        assert not isolated_sources(np.asarray(image, np.float32), NOISE)[0].any()

    @pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 3), (8, 5)])
    def test_planes_of_any_size_are_accepted(self, shape):
        image = np.zeros(shape, np.float32)
        image[0, 0] = 1
        image.flags.writeable = False
        assert isolated_sources(image, np.ones(shape, np.float32))[0].shape == shape


DARK, NONE = np.zeros_like(NOISE), np.zeros(NOISE.shape, bool)


class TestStructurePoints:
    def test_are_points_on_brighter_light(self):
        found = structure_points(star(), DARK + np.float32(20), NOISE, NONE, NONE)
        assert 0 < found.sum() <= (GROWTH + SIDE - 1) ** 2
        assert found[30, 30]

    def test_are_the_light_of_a_source_wider_than_a_point(self):
        found = structure_points(
            small_galaxy(), DARK, NOISE, NONE, isolated_sources(small_galaxy(), NOISE)[1]
        )
        assert found.sum() == GROWTH**2
        assert found[28, 32]

    @pytest.mark.parametrize(
        ("points", "smooth"),
        [(star(), 0), (star(), 5), (star() + star(60, (30, 33)), 0), (star() / 60, 50)],
        ids=["star", "star-on-faint-light", "pair", "noise"],
    )
    def test_are_not(self, points, smooth):
        assert not structure_points(points, DARK + np.float32(smooth), NOISE, NONE, NONE).any()

    def test_isolated_points_are_left_out(self):
        isolated = ndimage.binary_dilation(star() > 0, np.ones((SIDE, SIDE)))
        found = structure_points(star() + star(at=(30, 34)), DARK + np.float32(20), NOISE, isolated, NONE)
        assert found[30, 34]
        assert not (found & isolated).any()

    @pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 3), (8, 5)])
    def test_planes_of_any_size_are_accepted(self, shape):
        points = np.full(shape, 100, np.float32)
        points.flags.writeable = False
        nothing = np.zeros(shape, bool)
        assert structure_points(points, points, np.ones(shape, np.float32), nothing, nothing).shape == shape


def observed(object_, psf, sigma, seed=2):
    """Return a noisy plane, and its variance."""
    noise = np.random.default_rng(seed).normal(size=object_.shape) * sigma
    plane = Convolver(psf, object_.shape).convolve(object_.astype(np.float32)) + noise
    return plane.astype(np.float32), np.full(object_.shape, sigma**2, np.float32)


def sharp_psf(fwhm):
    psf = moffat((41, 41), fwhm, (20, 20))
    return (psf / psf.sum()).astype(np.float32)


def by_default(plane, psf, variance, **options):
    return Deconvolve(method="map", **options).deconvolve_plane(plane, psf, variance=variance)


@pytest.mark.parametrize("fwhm", [2.5, 5.0])
def test_a_faint_moon_keeps_its_flux(fwhm):
    """The data have no noise, but their variance says that the signal-to-noise ratio is 20."""
    psf = sharp_psf(fwhm)
    norm = float(np.sqrt(np.square(psf).sum()))
    object_ = star(20 / norm)
    plane, _ = observed(object_, psf, 0.0)
    given = {"mu": 0.07, "point_penalty": 0.55 * norm, "robust": 3.0, "n_iter": 300}
    solver = MapSolver(psf, plane.shape)
    free, penalised = (
        solver.solve(plane, np.ones(plane.shape), free_points=k, **given).image[29:32, 29:32].sum()
        for k in (True, False)
    )
    assert free == pytest.approx(object_.sum(), rel=0.02)
    assert penalised < free - 0.01 * object_.sum()


@pytest.mark.parametrize("fwhm", [2.0, 3.0, 5.0])
def test_bright_smooth_light_is_not_broken_into_points(fwhm):
    object_, psf = clouds(), sharp_psf(fwhm)
    plane, variance = observed(object_, psf, 50.0)
    found = by_default(plane, psf, variance)
    inside = (slice(6, -6),) * 2
    near = [ndimage.gaussian_filter(a, 0.5)[inside] for a in (found.components, object_)]
    assert np.sqrt(np.mean((near[0] / near[1] - 1) ** 2)) < 0.08
    assert found.extras["points"][inside].sum() < 0.01 * object_[inside].sum()


@pytest.mark.parametrize(("background", "limit"), [(0, 0.23), (300, 0.07)], ids=["dark-sky", "disc"])
def test_a_narrow_ring_is_not_broken_into_points(background, limit):
    """The ring is one pixel wide, a third of the PSF; in separate points the error is 1.5 times as large."""
    distance = np.hypot(Y, X)
    object_ = 600 * np.clip(1 - abs(distance - 15), 0, None) + np.where(distance < 22, background, 0)
    psf = sharp_psf(3.0)
    plane, variance = observed(object_, psf, 4.0)
    found = by_default(plane, psf, variance).components
    here, there = (ndimage.gaussian_filter(a, 0.5) for a in (found, object_))
    assert np.sqrt(np.square(here - there).sum() / np.square(there).sum()) < limit


@pytest.mark.parametrize(("fwhm", "width"), [(3.0, 1.2), (3.0, 1.8), (5.0, 1.8)])
def test_a_small_galaxy_is_not_broken_into_points(fwhm, width):
    """In separate points, on a ring, the error is 0.4 to 0.9."""
    object_, psf = small_galaxy(2e5, width), sharp_psf(fwhm)
    plane, variance = observed(object_, psf, 15.0)
    found = by_default(plane, psf, variance).components
    here, there = (ndimage.gaussian_filter(a, 0.5) for a in (found, object_))
    assert np.sqrt(np.square(here - there).sum() / np.square(there).sum()) < 0.15
    assert found[20:41, 20:41].sum() == pytest.approx(object_.sum(), rel=0.01)


def test_a_warm_start_frees_the_same_points():
    psf = sharp_psf(3.0)
    plane, variance = observed(star(200.0), psf, 1.0)
    found = by_default(plane, psf, variance)
    repeated = Deconvolve(method="map").repeat(found, psf, plane, variance=variance)
    assert repeated[28:33, 28:33].sum() == pytest.approx(found.components[28:33, 28:33].sum(), rel=0.01)

"""Isolated points in the MAP estimate: which pixels they are, their flux, and smooth light beside them."""

import numpy as np
import pytest
from scipy import ndimage

from lucidcube.kernels.deconvolution.map_points import SIDE, isolated_points
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


class TestIsolatedPoints:
    def test_are_the_squares_around_them(self):
        found = isolated_points(star() + star(50, (10, 45)) + np.float32(1), NOISE)
        rows, columns = np.nonzero(found)
        assert found.sum() == 2 * SIDE**2
        assert {(9, 44), (11, 46), (29, 29), (31, 31)} <= set(zip(rows, columns, strict=True))

    def test_at_the_corner_of_the_plane(self):
        assert isolated_points(star(at=(0, 60)), NOISE)[:2, 59:].all()

    @pytest.mark.parametrize(
        "image",
        [
            star(4),
            star(100) + np.float32(5),
            star(100) + star(60, (30, 33)),
            np.where(np.hypot(Y, X) < 20, 1000, 0),
            np.where(abs(np.hypot(Y, X) - 20) < 1, 1000, 0),
            300 * np.exp(-np.hypot(Y, X) / 4),
            clouds(),
            np.zeros(NOISE.shape),
        ],
        ids=["noise", "bright-sky", "pair", "disc", "ring", "galaxy", "clouds", "nothing"],
    )
    def test_are_not(self, image):
        assert not isolated_points(np.asarray(image, np.float32), NOISE).any()

    @pytest.mark.parametrize("shape", [(1, 1), (1, 9), (2, 3), (8, 5)])
    def test_planes_of_any_size_are_accepted(self, shape):
        image = np.zeros(shape, np.float32)
        image[0, 0] = 1
        image.flags.writeable = False
        assert isolated_points(image, np.ones(shape, np.float32)).shape == shape


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
    """The mean over ten planes is within 2 %; the penalty alone would take several times as much."""
    psf, sigma = sharp_psf(fwhm), 1.0
    flux = 20 * sigma / np.sqrt(np.square(psf).sum())
    object_ = star(flux) + star(flux, (14, 40))
    square = ndimage.maximum_filter(object_ > 0, 9)
    kept, penalised = [], []
    for seed in range(10):
        plane, variance = observed(object_, psf, sigma, seed)
        kept.append(by_default(plane, psf, variance).components[square].sum() / object_.sum())
        solver = MapSolver(psf, plane.shape)
        given = {"mu": 0.07, "point_penalty": 0.55 * np.sqrt(np.square(psf).sum())}
        alone = solver.solve(plane, np.sqrt(variance), robust=3.0, n_iter=200, **given)
        penalised.append(alone.image[square].sum() / object_.sum())
    assert np.mean(kept) == pytest.approx(1, abs=0.02)
    assert np.mean(penalised) < np.mean(kept) - 0.01


@pytest.mark.parametrize("fwhm", [2.0, 3.0, 5.0])
def test_bright_smooth_light_is_not_broken_into_points(fwhm):
    object_, psf = clouds(), sharp_psf(fwhm)
    plane, variance = observed(object_, psf, 50.0)
    found = by_default(plane, psf, variance)
    inside = (slice(6, -6),) * 2
    near = [ndimage.gaussian_filter(a, 0.5)[inside] for a in (found.components, object_)]
    assert np.sqrt(np.mean((near[0] / near[1] - 1) ** 2)) < 0.08
    assert found.extras["points"][inside].sum() < 0.01 * object_[inside].sum()


def test_the_penalty_is_in_units_of_the_norm_of_the_psf():
    """The residual of smooth light is explained by points from the same significance on, for any PSF."""
    for fwhm in (2.0, 4.0, 8.0):
        psf = sharp_psf(fwhm)
        plane, variance = observed(np.zeros(NOISE.shape), psf, 1.0)
        strongest = Convolver(psf, plane.shape).correlate(plane).max() / np.sqrt(np.square(psf).sum())
        above, below = (
            by_default(plane, psf, variance, mu=1e3, point_penalty=factor * strongest, robust=None)
            for factor in (1.1, 0.7)
        )
        assert above.extras["points"].max() < 0.01
        assert below.extras["points"].max() > 0.1


def test_a_warm_start_frees_the_same_points():
    psf = sharp_psf(3.0)
    plane, variance = observed(star(200.0), psf, 1.0)
    found = by_default(plane, psf, variance)
    again = by_default(plane, psf, variance, n_iter=60).components
    stage = Deconvolve(method="map")
    repeated = stage.repeat(found, psf, plane, variance=variance)
    assert repeated[29:32, 29:32].sum() == pytest.approx(found.components[29:32, 29:32].sum(), rel=2e-3)
    assert again[29:32, 29:32].sum() < repeated[29:32, 29:32].sum()

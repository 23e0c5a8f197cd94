"""Multiscale CLEAN: its definition, truth, faint structure, missing data, stops and the prototype."""

import sys

import numpy as np
import pytest
from scipy import ndimage, signal

from deconvolvers import by_default
from disc_scene import ODD_PLANES, SIGMA, border, error, holes, moffat, planet, rim
from locations import SHARED
from lucidcube.kernels.deconvolution.common import StopReason
from lucidcube.kernels.fourier.convolver import Convolver

SCALES = (0.0, 1.5, 3.0, 6.0)


def clean_multiscale(plane, psf, **given):
    return by_default("clean_multiscale", plane, psf, **given)


def noisy(plane, **given):
    return {"variance": np.full(plane.shape, SIGMA**2, np.float32), **given}


def by_definition(plane, psf, n_iter, scales, gain, threshold):
    """Run the loop of the definition in float64 on a plane that is dark at its edge, without weights."""
    residual, components = plane.astype(float), np.zeros(plane.shape)
    kernels = []
    for width in scales:
        point = np.zeros((61, 61))
        point[30, 30] = 1
        kernels.append(ndimage.gaussian_filter(point, width, mode="constant") if width else point)
    for _ in range(n_iter):
        strongest = 0.0
        for kernel in kernels:
            blur = signal.fftconvolve(kernel, psf)
            response = signal.fftconvolve(residual, blur[::-1, ::-1], mode="same")
            peak = np.abs(response).max() / np.sqrt((blur**2).sum())
            if peak > strongest:
                strongest, best = peak, (kernel, blur, response)
        kernel, blur, response = best
        step = np.where(np.abs(response) >= threshold * np.abs(response).max(), response, 0)
        blurred = signal.fftconvolve(step, blur, mode="same")
        factor = gain * (residual * blurred).sum() / (blurred**2).sum()
        components += factor * signal.fftconvolve(step, kernel, mode="same")
        residual -= factor * blurred
    return components


@pytest.mark.parametrize(
    "options",
    [
        {"scales": SCALES, "gain": 0.6, "threshold": 0.5},
        {"scales": (0.0,), "gain": 1.0, "threshold": 0.9},
        {"scales": (2.0, 0.0), "gain": 0.3, "threshold": 0.0},
    ],
)
def test_follows_its_definition(options):
    plane = np.zeros((80, 84), np.float32)
    plane[36:42, 38:46] = np.random.default_rng(0).uniform(5, 10, (6, 8))
    plane[33, 40] = -8
    found = clean_multiscale(plane, moffat(13), n_iter=6, chi2_target=None, **options)
    assert found.iterations == 6
    np.testing.assert_allclose(found.components, by_definition(plane, moffat(13), 6, **options), atol=5e-3)


def test_restores_the_truth():
    plane, psf, truth, disc = planet()
    result = clean_multiscale(plane, psf, **noisy(plane))
    assert result.stop_reason is StopReason.CHI2_REACHED
    assert error(result.components, truth, disc) < 0.012 < 0.06 < error(plane, truth, disc)
    assert result.flux_out == pytest.approx(truth.sum(), rel=0.02)
    assert result.chi2_bright < 1
    assert result.chi2 < 1.2


def test_a_faint_ring_is_kept():
    """A ring of a pixel, of the noise per pixel once blurred, around a planet, as around Uranus."""
    plane, psf, truth, _ = planet()
    y, x = np.indices(plane.shape) - 31.5
    ring = np.where(np.abs(np.hypot(y, x) - 26) < 0.7, np.float32(30), np.float32(0))
    plane = plane + Convolver(psf, plane.shape).convolve(ring)
    where = np.abs(np.hypot(y, x) - 26) < 2.5
    variance = np.full(plane.shape, SIGMA**2)
    for method, name in (("clean_multiscale", "components"), ("clean_modified", "restored")):
        result = by_default(method, plane, psf, variance=variance)
        image = result.components if name == "components" else result.extras[name]
        found = (image - truth)[where].sum()
        assert found == pytest.approx(ring.sum(), rel=0.25), method


def test_holes_do_not_affect_the_result():
    plane, psf, truth, disc = planet()
    holed = holes(plane)
    hole = np.isnan(holed)
    for observed, given in (
        (holed, {}),
        (np.where(hole, np.float32(3000), plane), {"filled": hole.astype(np.uint8)}),
    ):
        result = clean_multiscale(observed, psf, **noisy(plane, **given))
        assert error(result.components, truth, disc & ~hole) < 0.015
        assert error(result.components, truth, hole) < 0.15
        np.testing.assert_array_equal(np.isnan(result.residual), np.isnan(observed))


def test_a_missing_rim_and_the_edge_of_the_frame_cause_no_ringing():
    plane, psf, truth, disc = planet()
    cut = rim(plane)
    result = clean_multiscale(cut, psf, **noisy(plane))
    np.testing.assert_array_equal(np.isnan(result.components), np.isnan(cut))
    assert error(result.components, np.where(np.isnan(cut), 0, truth), disc & border(cut)) < 0.05
    plane, truth, disc = (array[:, 26:] for array in (plane, truth, disc))
    result = clean_multiscale(plane, psf, **noisy(plane))
    near = disc & border(plane)
    assert error(result.components, truth, near) < 0.05 < error(plane, truth, near)
    assert error(result.components, truth, disc) < 0.5 * error(plane, truth, disc)


def test_pixels_of_large_variance_count_less():
    plane, psf, truth, disc = planet()
    noise = np.full(plane.shape, SIGMA)
    noise[:, 32:] = 20 * SIGMA
    plane = plane + np.random.default_rng(3).normal(0, noise - SIGMA).astype(np.float32)
    aware = clean_multiscale(plane, psf, variance=noise**2)
    equal = {"variance": np.full(plane.shape, np.mean(noise**2)), "chi2_target": None}
    unaware = clean_multiscale(plane, psf, n_iter=aware.iterations, **equal)
    quiet = disc & (noise == SIGMA)
    assert error(aware.components, truth, quiet) < 0.015 < 0.6 * error(unaware.components, truth, quiet)


class TestStops:
    @pytest.mark.parametrize("n_iter", [0, 5])
    def test_all_iterations(self, n_iter):
        plane, psf, _, _ = planet()
        result = clean_multiscale(plane, psf, n_iter=n_iter, **noisy(plane))
        assert (result.stop_reason, result.iterations) == (StopReason.N_ITER, n_iter)
        assert result.components.any() == (n_iter > 0)

    def test_nothing_to_do(self):
        result = clean_multiscale(np.zeros((9, 9), np.float32), moffat(5), chi2_target=None)
        assert (result.stop_reason, result.iterations) == (StopReason.NOTHING_TO_DO, 0)

    @pytest.mark.parametrize("value", [np.nan, 4.0])
    def test_no_data(self, value):
        plane = np.full((9, 9), value, np.float32)
        result = clean_multiscale(plane, moffat(5), filled=np.ones(plane.shape, np.uint8), chi2_target=None)
        assert (result.stop_reason, result.iterations) == (StopReason.ALL_NAN, 0)

    def test_the_noise_is_estimated_without_a_variance(self):
        plane, psf, truth, disc = planet()
        result = clean_multiscale(plane, psf)
        assert result.stop_reason is StopReason.CHI2_REACHED
        assert error(result.components, truth, disc) < 0.02


def test_components_and_residual_reproduce_the_input():
    plane, psf, _, _ = planet()
    for observed in (plane, holes(plane), rim(plane), plane[:, 30:]):
        result = clean_multiscale(observed, psf, **noisy(observed))
        model = Convolver(psf, observed.shape).convolve(np.nan_to_num(result.components))
        there = np.isfinite(observed)
        np.testing.assert_allclose((model + result.residual)[there], observed[there], atol=1e-6 * plane.max())


def test_the_scale_of_the_data_does_not_matter():
    plane, psf, _, _ = planet()
    scale = np.float32(1e-16)
    one = clean_multiscale(plane, psf, n_iter=30, **noisy(plane))
    other = clean_multiscale(
        plane * scale, psf, n_iter=30, variance=np.full(plane.shape, (SIGMA * scale) ** 2)
    )
    assert error(other.components / scale, one.components, np.ones(plane.shape, bool)) < 1e-3
    assert other.chi2_bright == pytest.approx(one.chi2_bright, rel=1e-2)


def test_the_observer_sees_each_iteration():
    plane, psf, _, _ = planet()
    states = []
    watched = clean_multiscale(plane, psf, n_iter=6, observer=states.append, **noisy(plane))
    alone = clean_multiscale(plane, psf, n_iter=6, **noisy(plane))
    np.testing.assert_array_equal(watched.components, alone.components)
    assert [state.iteration for state in states] == list(range(1, 7))
    np.testing.assert_allclose(states[-1].components, alone.components, atol=1e-3)
    assert states[-1].rms == tuple(sorted(states[-1].rms, reverse=True))
    assert 0 < states[0].selected.mean() < 1


@pytest.mark.parametrize("name", ODD_PLANES)
@pytest.mark.parametrize("options", [{}, {"chi2_target": None}])
def test_unusual_planes_are_accepted(name, options):
    plane = ODD_PLANES[name].copy()
    plane.flags.writeable = False
    result = clean_multiscale(plane, moffat(5), n_iter=20, **options)
    assert result.components.shape == result.residual.shape == result.extras["restored"].shape == plane.shape
    assert result.components.dtype == result.extras["restored"].dtype == np.float32
    assert np.isfinite(result.components[np.isfinite(plane)]).all()


@pytest.mark.skipif(not (SHARED / "prototypes").is_dir(), reason="no shared data next to the repository")
def test_is_as_good_as_the_prototype(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(SHARED / "prototypes")])
    import mapdeconv
    import others

    plane, psf, truth, disc = planet()
    holed = holes(plane)
    theirs, _ = others.msclean(holed, None, mapdeconv.Blur(psf, plane.shape), n=40)
    ours = clean_multiscale(holed, psf, n_iter=40, chi2_target=None, **noisy(plane))
    known = disc & np.isfinite(holed)
    assert error(ours.components, truth, known) < 1.1 * error(theirs, truth, known)
    assert error(ours.components, theirs, known) < 0.01

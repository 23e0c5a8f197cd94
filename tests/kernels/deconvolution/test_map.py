"""MAP deconvolution: scipy's minimum, truth, points, missing data, robustness, stops and unusual planes."""

import importlib
import sys

import numpy as np
import pytest
from scipy.optimize import Bounds, approx_fprime, minimize
from scipy.signal import fftconvolve

from disc_scene import ODD_PLANES, SIGMA, border, error, holes, moffat, planet, rim
from lucidcube.kernels.deconvolution import map as map_module
from lucidcube.kernels.deconvolution.common import StopReason
from lucidcube.kernels.deconvolution.edge_preserving import Objective
from lucidcube.kernels.deconvolution.map_solver import MapSolver
from lucidcube.kernels.deconvolution.map_start import point_units
from lucidcube.kernels.fourier.convolver import Convolver, use_engine
from lucidcube.kernels.holes import Filled

PRIORS = {"mu": 0.1, "point_penalty": 0.05, "delta": 1.0, "robust": 3.0}
OPTIONS = {
    **PRIORS,
    "mu": 0.07,
    "point_penalty": 0.55,
    "n_iter": 150,
    "tolerance": 1e-7,
    "chi2_target": None,
}


def map_deconvolution(plane, psf, **options):
    return map_module.map_deconvolution(plane, psf, **{**OPTIONS, **options})


def objective(parts, data, sigma, psf, margin, mu, point_penalty, delta, robust):
    """Return J, by its definition in float64, and its gradient for scipy."""
    grid = data.shape[0] + 2 * margin, data.shape[1] + 2 * margin
    b, p = parts.reshape(2, *grid)
    weighted = np.isfinite(data) & np.isfinite(sigma)
    unit = np.median(sigma[weighted])
    weight = np.where(weighted, unit / np.where(weighted, sigma, 1), 0)
    blurred = fftconvolve(b + p, psf, mode="same")
    inside = (slice(margin, margin + data.shape[0]), slice(margin, margin + data.shape[1]))
    r = weight * (blurred[inside] - np.where(weighted, data, 0) / unit)
    root = 1.0 if robust is None else np.sqrt(1 + (r / robust) ** 2)
    cost = (r**2 / (1 + root)).sum()
    back = np.zeros(grid)
    back[inside] = weight * r / root
    back = fftconvolve(back, psf[::-1, ::-1], mode="same")
    slopes = np.diff(b, axis=0, append=b[-1:]), np.diff(b, axis=1, append=b[:, -1:])
    size = np.sqrt(slopes[0] ** 2 + slopes[1] ** 2 + delta**2)
    cost += mu * (size - delta).sum() + point_penalty * p.sum()
    smooth = np.zeros(grid)
    for axis, slope in enumerate(slopes):
        smooth -= np.diff(slope / size, axis=axis, prepend=0)
    return cost, np.stack([back + mu * smooth, back + point_penalty]).reshape(-1)


def test_the_penalty_of_groups_is_its_definition_with_its_gradient():
    generator = np.random.default_rng(5)
    convolver = Convolver(np.full((3, 3), 1 / 9), (12, 17))
    planes = [convolver.pad(generator.uniform(low, 2, (12, 17)).astype(np.float32)) for low in (0, 0, 1)]
    relief = np.stack(
        [np.ones_like(planes[0]), convolver.pad(generator.uniform(0.2, 1, (12, 17)).astype(np.float32))]
    )
    parts = np.stack([convolver.pad(generator.uniform(0, 9, (12, 17)).astype(np.float32)) for _ in range(2)])
    chosen = generator.uniform(size=(12, 17)) < 0.6
    made = {}
    for name in ("sum", "groups"):
        objective = Objective(convolver, *planes[:2], 0.1, 0.7, 1.0, None, planes[2], relief.copy())
        if name == "groups":
            objective.group(chosen)
        gradient = np.zeros_like(parts)
        made[name] = objective.evaluate(parts, gradient), gradient[1, :, :17]

    factor, unit = relief[1, :, :17], planes[2][:, :17]

    def difference(p):
        """Return the penalty of groups minus the sum that it replaces."""
        wide = np.pad(np.where(chosen, factor * unit * p, 0), 1)
        squares = sum(np.square(wide[y : y + 13, x : x + 18]) for y in (0, 1) for x in (0, 1))
        return 0.7 * ((np.sqrt(squares + 1) - 1).sum() / 4 - (factor * unit * p)[chosen].sum())

    p = parts[1, :, :17].astype(float)
    assert made["groups"][0] - made["sum"][0] == pytest.approx(difference(p), rel=1e-5)
    numeric = approx_fprime(p.ravel(), lambda v: difference(v.reshape(p.shape)), 1e-6).reshape(p.shape)
    np.testing.assert_allclose(made["groups"][1] - made["sum"][1], numeric, atol=2e-5)


def small_problem():
    """Return a plane with missing pixels and an outlier, its noise and a lopsided PSF."""
    plane, psf, _, _ = planet(size=18, radius=6.0)
    sigma = np.full(plane.shape, SIGMA)
    sigma[:, 9:] *= 1.5
    plane = plane.copy()
    plane[5:7, 9] = np.nan
    sigma[15, 3] = np.inf
    plane[9, 9] += 400
    psf = psf[14:-14, 14:-14] * np.linspace(0.5, 1.5, 13)
    return plane, sigma, psf / psf.sum()


@pytest.mark.parametrize("robust", [3.0, None])
def test_the_minimum_is_that_of_scipy(robust):
    plane, sigma, psf = small_problem()
    priors = {**PRIORS, "robust": robust}
    solver = MapSolver(psf, plane.shape, margin=5)
    ours = solver.solve(plane, sigma, n_iter=2000, tolerance=1e-9, **priors)
    given = plane.astype(float), sigma, psf.astype(float), 5, *priors.values()
    unit = np.median(sigma[np.isfinite(plane) & np.isfinite(sigma)])
    assert objective(ours.parts / unit, *given)[0] == pytest.approx(ours.cost, rel=1e-5)
    theirs = minimize(
        objective,
        np.zeros(ours.parts.size),
        given,
        jac=True,
        method="L-BFGS-B",
        bounds=Bounds(0, np.inf),
        options={"maxiter": 3000, "maxfun": 5000, "maxcor": 8, "ftol": 1e-12, "gtol": 1e-6},
    )
    assert ours.cost == pytest.approx(theirs.fun, rel=1e-4)
    assert ours.reason is StopReason.CONVERGED
    assert 0 < ours.points.sum() < ours.image.sum()


def test_a_warm_start_goes_on_from_the_solution():
    plane, sigma, psf = small_problem()
    solver = MapSolver(psf, plane.shape)
    whole = solver.solve(plane, sigma, n_iter=2000, tolerance=1e-8, **PRIORS)
    again = solver.solve(plane, sigma, n_iter=50, tolerance=1e-7, start=whole, **PRIORS)
    assert again.reason is StopReason.CONVERGED
    assert again.n_iter < 10
    np.testing.assert_allclose(again.image, whole.image, atol=0.2 * SIGMA)
    none = solver.solve(plane, sigma, n_iter=0, tolerance=1e-7, start=whole, **PRIORS)
    np.testing.assert_allclose(none.parts, whole.parts, rtol=1e-6)


VARIANCE = np.full((64, 64), SIGMA**2, np.float32)


def test_restores_the_truth():
    plane, psf, truth, disc = planet()
    result = map_deconvolution(plane, psf, variance=VARIANCE, n_iter=400)
    assert error(result.components, truth, disc) < 0.009
    assert result.flux_out == pytest.approx(truth.sum(), rel=0.005)
    assert result.components.min() == 0
    assert (result.iterations < 300, result.stop_reason) == (True, StopReason.CONVERGED)
    assert 0.8 < result.chi2 < 1.2
    np.testing.assert_allclose(result.residual + result.extras["model"], plane, atol=1e-6 * plane.max())
    left = result.residual.astype(float)
    assert result.rms == pytest.approx(np.sqrt(np.mean(left**2)), rel=1e-5)
    assert result.fabs == pytest.approx(np.abs(left).max())
    assert result.chi2 == pytest.approx(np.mean(left**2) / SIGMA**2, rel=1e-5)


def test_the_noise_is_estimated_where_no_variance_is_given():
    plane, psf, truth, disc = planet()
    result = map_deconvolution(plane, psf)
    assert error(result.components, truth, disc) < 0.01
    assert np.isnan(result.chi2)
    assert 0.5 < result.chi2_bright < 2


def test_points_are_separated_from_smooth_structure():
    plane, psf, truth, _ = planet()
    point = np.zeros_like(plane)
    point[32, 34] = 8000
    blurred = plane + Convolver(psf, plane.shape).convolve(point)
    result = map_deconvolution(blurred, psf, variance=VARIANCE)
    near = (slice(30, 35), slice(32, 37))
    assert result.extras["points"][near].sum() == pytest.approx(8000, rel=0.1)
    assert result.components[near].sum() == pytest.approx((truth + point)[near].sum(), rel=0.02)


def test_robust_data_ignore_missed_artefacts():
    plane, psf, truth, disc = planet()
    bad = plane.copy()
    bad[::9, ::7] += 300
    errors = [
        error(map_deconvolution(bad, psf, variance=VARIANCE, robust=k).components, truth, disc)
        for k in (3.0, None)
    ]
    assert errors[0] < 0.02 < 0.04 < errors[1]


class TestMissingData:
    def test_holes_do_not_affect_the_result(self):
        plane, psf, truth, disc = planet()
        holed = holes(plane)
        hole = np.isnan(holed)
        result = map_deconvolution(holed, psf, variance=VARIANCE)
        assert error(result.components, truth, disc & ~hole) < 0.009
        assert error(result.components, truth, hole) < 0.06
        np.testing.assert_array_equal(np.isnan(result.residual), hole)

    def test_a_missing_rim_causes_no_ringing(self):
        plane, psf, truth, disc = planet()
        cut = rim(plane)
        result = map_deconvolution(cut, psf, variance=VARIANCE)
        for made in (result.components, result.extras["points"], result.extras["model"]):
            np.testing.assert_array_equal(np.isnan(made), np.isnan(cut))
        known = np.where(np.isnan(cut), 0, truth)
        assert error(result.components, known, disc & border(cut, 3)) < 0.06

    def test_light_from_beyond_the_frame_belongs_to_the_model(self):
        plane, psf, truth, disc = (array[:, 26:] if array.shape[1] == 64 else array for array in planet())
        variance = VARIANCE[:, 26:]
        result = map_deconvolution(plane, psf, variance=variance, n_iter=400)
        assert error(result.components, truth, disc & border(plane)) < 0.06
        alone = Convolver(psf, plane.shape).convolve(result.components)
        edge = (slice(24, 40), slice(0, 2))
        assert (plane - alone)[edge].mean() > 20 * SIGMA > 20 * abs(result.residual[edge].mean())

    def test_the_meaning_of_filled(self):
        plane, psf, truth, disc = planet()
        behind = disc & (np.indices(plane.shape)[0] > 36)
        zero = np.where(behind, np.float32(0), plane)
        errors = {}
        for value in Filled:
            filled = np.where(behind, np.uint8(value), np.uint8(Filled.NO))
            variance = np.where(behind & (value != Filled.NO), np.float32(np.nan), VARIANCE)
            result = map_deconvolution(zero, psf, filled=filled, variance=variance)
            errors[value] = error(result.components, 0 * truth + 1000, behind) * 1000
            np.testing.assert_array_equal(
                np.isnan(result.residual), behind if value is Filled.HOLE else np.zeros_like(behind)
            )
            valid = filled == Filled.NO
            assert result.rms == pytest.approx(np.sqrt(np.mean(result.residual[valid] ** 2.0)), rel=1e-5)
        # Zeros that count as data hold the object down, and those without weight do not.
        assert errors[Filled.NO] > errors[Filled.MODELLED] > 1.1 * errors[Filled.REPLACED]
        assert errors[Filled.REPLACED] == errors[Filled.HOLE]

    def test_modelled_pixels_have_five_times_the_noise(self):
        plane, psf, _, disc = planet()
        filled = np.where(disc, np.uint8(Filled.MODELLED), np.uint8(Filled.NO))
        unknown = np.where(disc, np.float32(np.nan), VARIANCE)
        one = map_deconvolution(plane, psf, filled=filled, variance=unknown)
        other = map_deconvolution(plane, psf, variance=np.where(disc, 25 * VARIANCE, VARIANCE))
        np.testing.assert_array_equal(one.components, other.components)

    @pytest.mark.parametrize("variance", [VARIANCE, None])
    def test_no_data(self, variance):
        plane = np.full((64, 64), np.nan, np.float32)
        result = map_deconvolution(plane, moffat(5), variance=variance)
        assert (result.stop_reason, result.iterations) == (StopReason.ALL_NAN, 0)
        for made in (result.components, result.residual, *result.extras.values()):
            assert np.isnan(made).all()
        assert np.isnan(result.rms)


def test_stops_where_the_residual_is_noise():
    plane, psf, _, _ = planet()
    result = map_deconvolution(plane, psf, variance=VARIANCE, chi2_target=1.2)
    assert result.stop_reason is StopReason.CHI2_REACHED
    assert 5 < result.iterations < 100
    assert 0.9 < result.chi2_bright <= 1.2
    fewer = {"n_iter": result.iterations - 1, "chi2_target": 0.01}
    before = map_deconvolution(plane, psf, variance=VARIANCE, **fewer)
    assert before.chi2_bright > 1.2


def test_the_observer_sees_each_iteration():
    plane, psf, _, _ = planet()
    states = []
    watched = map_deconvolution(rim(plane), psf, variance=VARIANCE, n_iter=6, observer=states.append)
    alone = map_deconvolution(rim(plane), psf, variance=VARIANCE, n_iter=6)
    np.testing.assert_array_equal(watched.components, alone.components)
    assert [state.iteration for state in states] == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose(states[-1].components, alone.components, rtol=1e-5)
    np.testing.assert_allclose(states[-1].residual, alone.residual, atol=0.01)
    assert len(states[-1].fabs) == len(states[-1].rms) == 7
    assert states[-1].rms[-1] == pytest.approx(alone.rms, rel=1e-4)


def test_the_scale_of_the_data_does_not_matter():
    plane, psf, _, _ = planet()
    scale = np.float32(2.0**-40)
    one = map_deconvolution(plane, psf, variance=VARIANCE)
    other = map_deconvolution(plane * scale, psf, variance=VARIANCE * scale**2)
    np.testing.assert_array_equal(other.components / scale, one.components)
    assert other.chi2 == pytest.approx(one.chi2)


def test_both_engines_give_the_same_result():
    plane, psf, _, disc = planet()
    results = []
    for engine in ("scipy", "auto"):
        with use_engine(engine):
            results.append(map_deconvolution(plane, psf, variance=VARIANCE).components)
    assert error(*results, disc) < 1e-3


@pytest.mark.parametrize("name", ODD_PLANES)
@pytest.mark.parametrize("robust", [3.0, None])
@pytest.mark.parametrize("with_variance", [True, False])
def test_unusual_planes_are_accepted(name, robust, with_variance):
    plane = ODD_PLANES[name].copy()
    plane.flags.writeable = False
    variance = np.full(plane.shape, 0.01 * np.nanmean(np.square(plane, dtype=float)))
    given = variance if with_variance else None
    result = map_deconvolution(plane, moffat(5), variance=given, robust=robust, n_iter=20)
    for made in (result.components, result.residual, *result.extras.values()):
        assert made.shape == plane.shape
        assert made.dtype == np.float32
    assert np.isfinite(result.residual[np.isfinite(plane)]).all()


def test_views_and_read_only_inputs_give_the_same_bits():
    plane, psf, _, _ = planet()
    wide = np.zeros((128, 128), np.float32)
    wide[::2, ::2] = plane
    wide.flags.writeable = psf.flags.writeable = False
    one = map_deconvolution(wide[::2, ::2], psf, variance=VARIANCE, n_iter=10)
    other = map_deconvolution(plane, psf, variance=VARIANCE, n_iter=10)
    np.testing.assert_array_equal(one.components, other.components)
    np.testing.assert_array_equal(one.residual, other.residual)


def test_a_psf_larger_than_the_plane():
    plane, psf, truth, disc = (array[12:-13, 14:-15] if array.shape[0] == 64 else array for array in planet())
    wide = np.pad(psf, 40)
    one = map_deconvolution(plane, wide, variance=np.full(plane.shape, SIGMA**2))
    assert plane.shape == (39, 35)
    assert error(one.components, truth, disc) < 0.01


@pytest.fixture
def prototype(shared, monkeypatch):
    """Return the module of the prototype, which is next to the repository."""
    monkeypatch.syspath_prepend(shared / "prototypes")
    yield importlib.import_module("mapdeconv")
    sys.modules.pop("mapdeconv")


@pytest.mark.parametrize("robust", [3.0, None])
def test_the_prototype_is_no_closer_to_the_truth(prototype, robust):
    plane, psf, truth, disc = planet()
    sigma = np.sqrt(VARIANCE)
    theirs = prototype.solve(plane, sigma, prototype.Blur(psf, plane.shape), lam=0.05, k=robust)
    ours = MapSolver(psf, plane.shape).solve(
        plane, sigma, n_iter=150, tolerance=1e-7, **{**PRIORS, "robust": robust}
    )
    assert ours.cost < 1.002 * theirs["fun"]
    assert error(ours.image, truth, disc) < 1.05 * error(theirs["x"], truth, disc)
    assert error(ours.image, theirs["x"], disc) < 0.003


def photons(object_, psf, sky):
    """Return a plane with the noise of its own light and of the sky, and the variance."""
    seen = Convolver(psf, object_.shape).convolve(object_)
    variance = np.maximum(seen, 0) + sky
    noise = np.random.default_rng(4).normal(size=seen.shape) * np.sqrt(variance)
    return (seen + noise).astype(np.float32), variance.astype(np.float32)


class TestNoiseOfTheObject:
    """Objects whose noise is many times that of the sky around them."""

    @pytest.mark.parametrize("flux", [1e5, 1e6])
    def test_a_bright_star(self, flux):
        object_, psf = np.zeros((61, 61), np.float32), moffat(41)
        object_[30, 31] = flux
        plane, variance = photons(object_, psf, 4.0)
        result = map_deconvolution(plane, psf, variance=variance)
        assert result.chi2_bright < 1.3
        assert result.components[29:32, 30:33].sum() == pytest.approx(flux, rel=0.015)

    def test_a_small_bright_planet(self):
        y, x = np.indices((71, 71)) - 35
        object_ = (1e5 * np.clip(1 - np.hypot(y, x + 2) ** 2 / 90, 0, 1) ** 0.3).astype(np.float32)
        plane, variance = photons(object_, moffat(41), 4.0)
        result = map_deconvolution(plane, moffat(41), variance=variance)
        assert result.chi2_bright < 1.2
        assert error(result.components, object_, np.ones(object_.shape, bool)) < 0.02

    def test_the_penalties_are_the_same_where_the_noise_varies_less(self):
        plane, psf, _, _ = planet()
        sigma = np.full(plane.shape, SIGMA)
        sigma[:, 30:] *= 4.5
        sigma[20:40, 20:40] = np.nan
        unit, relief = scales(psf, sigma)
        assert np.all(relief == 1)
        assert unit[10, 45] == pytest.approx(4.5 * unit[10, 15], rel=0.05)

    def test_they_fall_with_the_noise_where_it_varies_more(self):
        plane, psf, _, _ = planet()
        sigma = np.full(plane.shape, SIGMA)
        sigma[20:50, 20:50] *= 50
        _, relief = scales(psf, sigma)
        assert relief[35, 35] == pytest.approx(0.1, rel=0.1)
        assert relief[5, 5] == 1


def scales(psf, sigma):
    """Return the units of the points and the factors of the penalties, without the margin."""
    solver = MapSolver(psf, sigma.shape)
    weight = solver._on_grid(np.nan_to_num(np.nanmedian(sigma) / sigma))
    planes = point_units(solver.convolver, psf, weight, PRIORS["point_penalty"])
    return [plane[solver.frame] for plane in planes]

"""Lucy-Richardson: scikit-image's, each option, truth, holes and edges, and the reference program's result."""

import sys

import numpy as np
import pytest
from skimage.restoration import richardson_lucy

from deconvolvers import LUCY, by_default, lucy_richardson
from disc_scene import ODD_PLANES, SIGMA, border, error, holes, moffat, planet, rim
from locations import ORACLE, SHARED
from lucidcube.kernels.deconvolution import lucy_richardson as richardson
from lucidcube.kernels.deconvolution.common import StopReason, edge_margin
from lucidcube.kernels.deconvolution.field import prepare_field
from lucidcube.kernels.deconvolution.lucy_richardson_start import _normalisation
from lucidcube.kernels.fill_linear import fill_linear
from lucidcube.kernels.fourier.convolver import Convolver
from lucidcube.kernels.holes import Filled

RECORDED = ORACLE / "deconv_reference.npz"
PLAIN = {"strength": 1.0, "nudge_factor": 0.0, "weighted": True, "accelerate": True}
TEXTBOOK = {"strength": 1.0, "nudge_factor": 0.0, "pad_observation": False}


@pytest.mark.parametrize("n_iter", [1, 5, 40])
def test_is_the_textbook_algorithm(n_iter):
    plane, psf, _, _ = planet()
    plane = plane + np.float32(100)
    ours = lucy_richardson(plane, psf, n_iter=n_iter, **TEXTBOOK)
    theirs = richardson_lucy(plane.astype(float), psf.astype(float), num_iter=n_iter, clip=False)
    np.testing.assert_allclose(ours.components, theirs, rtol=1e-4, atol=1e-4 * theirs.max())


def test_textbook_conserves_flux():
    plane, psf, _, _ = planet()
    result = lucy_richardson(np.maximum(plane, 0), psf, n_iter=20, **TEXTBOOK)
    assert result.flux_out == pytest.approx(result.flux_in, rel=0.01)


def by_definition(plane, psf, n_iter, change=lambda c, residual: c, nudge_factor=1e-2, strength=0.1):
    """Run the loop of the definition without padding, in float64 except for the convolutions; `change` modifies c."""
    convolver = Convolver(psf, plane.shape)
    nudge, estimate = nudge_factor * plane.max(), np.full(plane.shape, plane.mean(dtype=float))
    for _ in range(n_iter):
        blurred = convolver.convolve(estimate).astype(float)
        raw = convolver.correlate((plane + nudge) / (blurred + nudge)).astype(float)
        correction = change(1 + strength * (raw - 1), plane - blurred)
        estimate = estimate * correction
    return estimate


def held(level):
    return lambda c, residual: np.where(np.abs(residual) < level(np.abs(residual)), 1, c)


VARIANTS = {
    "default": ({}, lambda c, residual: c),
    "clipped": ({"cf_lclip": 0.97, "cf_uclip": 1.05}, lambda c, residual: np.clip(c, 0.97, 1.05)),
    "absolute threshold": ({"threshold": 30.0}, held(lambda size: 30)),
    "fractional threshold": ({"threshold": -0.25}, held(lambda size: 0.25 * size.max())),
    "statistical threshold": ({"threshold": 0.0}, held(lambda size: size.mean() + size.std())),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_follows_its_definition(name):
    plane, psf, _, _ = planet()
    options, change = VARIANTS[name]
    ours = lucy_richardson(plane, psf, n_iter=15, pad_observation=False, **options)
    expected = by_definition(plane, psf, 15, change)
    np.testing.assert_allclose(ours.components, expected, rtol=1e-3, atol=1e-4 * expected.max())
    if options:
        plain = lucy_richardson(plane, psf, n_iter=15, pad_observation=False)
        assert np.abs(ours.components - plain.components).max() > 0.01 * plain.components.max()


def test_nudge_and_strength():
    plane, psf, _, _ = planet()
    ours = lucy_richardson(plane, psf, n_iter=10, nudge_factor=0.2, strength=0.6, pad_observation=False)
    expected = by_definition(plane, psf, 10, nudge_factor=0.2, strength=0.6)
    np.testing.assert_allclose(ours.components, expected, rtol=1e-3, atol=1e-4 * expected.max())


def test_agrees_with_the_reference_program():
    oracle = np.load(RECORDED)
    ours = lucy_richardson(oracle["plane"], oracle["psf"])
    # The edge is handled differently (estimates of little weight, not the plane's own convolution).
    assert error(ours.components, oracle["lucy_richardson"], oracle["disc"]) < 0.003
    assert error(ours.components, oracle["lucy_richardson"], np.ones_like(oracle["disc"])) < 0.008
    unpadded = lucy_richardson(oracle["plane"], oracle["psf"], pad_observation=False)
    assert error(unpadded.components, oracle["lucy_richardson"], oracle["disc"]) > 0.01


def test_restores_the_truth():
    plane, psf, truth, disc = planet()
    gentle = lucy_richardson(plane, psf)
    assert error(gentle.components, truth, disc) < 0.03 < 0.06 < error(plane, truth, disc)
    full = lucy_richardson(plane, psf, strength=1.0, variance=np.full(plane.shape, SIGMA**2))
    assert error(full.components, truth, disc) < 0.01
    assert full.chi2 < 3
    assert full.flux_out == pytest.approx(truth.sum(), rel=0.02)
    assert np.isnan(gentle.chi2)


@pytest.mark.parametrize("strength", [0.1, 1.0])
class TestMissingData:
    def test_holes_do_not_affect_the_result(self, strength):
        plane, psf, truth, disc = planet()
        holed = holes(plane)
        hole = np.isnan(holed)
        result = lucy_richardson(holed, psf, strength=strength)
        whole = lucy_richardson(plane, psf, strength=strength)
        assert error(result.components, truth, disc & ~hole) < 1.2 * error(whole.components, truth, disc)
        assert error(result.components, truth, disc & border(holed)) < 0.02
        assert error(result.components, truth, hole) < 0.12
        assert result.components[hole].sum() == pytest.approx(truth[hole].sum(), rel=0.05)

    def test_a_missing_rim_causes_no_ringing(self, strength):
        plane, psf, truth, disc = planet()
        cut = rim(plane)
        result = lucy_richardson(cut, psf, strength=strength)
        np.testing.assert_array_equal(np.isnan(result.components), np.isnan(cut))
        known = np.where(np.isnan(cut), 0, truth)
        assert error(result.components, known, disc & border(cut)) < 0.04
        assert error(np.nan_to_num(cut), truth, disc & border(cut)) > 0.1

    def test_the_edge_of_the_frame_causes_no_ringing(self, strength):
        plane, psf, truth, disc = (array[:, 26:] if array.shape[1] == 64 else array for array in planet())
        near = disc & border(plane)
        padded = lucy_richardson(plane, psf, strength=strength)
        unpadded = lucy_richardson(plane, psf, strength=strength, pad_observation=False)
        assert error(padded.components, truth, near) < 0.05
        assert error(unpadded.components, truth, near) > 3 * error(padded.components, truth, near)

    def test_filled_pixels_have_no_weight(self, strength):
        plane, psf, truth, disc = planet()
        behind = np.isnan(rim(plane))
        wrong = np.where(behind, np.float32(0), plane)
        variance = np.full(plane.shape, SIGMA**2)
        result = lucy_richardson(wrong, psf, filled=behind, strength=strength, variance=variance)
        trusting = lucy_richardson(wrong, psf, strength=strength)
        near = disc & border(rim(plane))
        assert error(result.components, truth, near) < 0.05 < error(trusting.components, truth, near)
        left = result.residual[~behind].astype(float)
        assert result.fabs == pytest.approx(np.abs(left).max())
        assert result.rms == pytest.approx(np.sqrt(np.mean(left**2)), rel=1e-5)
        assert result.chi2 == pytest.approx(np.mean(left**2) / SIGMA**2, rel=1e-5)


@pytest.mark.parametrize("n_iter", [1, 3, 10])
@pytest.mark.parametrize("known", ["nan", "marked"])
@pytest.mark.parametrize(
    ("y", "x", "radius", "tolerance"),
    [(32, 32, 3, 0.02), (30, 36, 3, 0.02), (8, 9, 3, 0.02), (9, 10, 6, 0.05)],
)
def test_few_iterations_leave_no_pattern_of_the_mask(n_iter, known, y, x, radius, tolerance):
    """The disc, and the faint sky next to it, where the flat start is much too bright."""
    plane, psf, _, _ = planet()
    plane = plane + np.float32(20)
    hole, around = (np.hypot(*(np.indices(plane.shape) - [[[y]], [[x]]])) <= r for r in (radius, radius + 4))
    ring = around & ~hole
    whole = lucy_richardson(plane, psf, n_iter=n_iter).components
    if known == "nan":
        result = lucy_richardson(np.where(hole, np.float32(np.nan), plane), psf, n_iter=n_iter)
        hole &= np.isfinite(result.components)
        assert hole.any() == (radius < 5), (
            "the PSF reaches across the narrow hole and not across the wide one"
        )
    else:
        result = lucy_richardson(fill_linear(plane, hole), psf, filled=hole, n_iter=n_iter)
        assert np.isfinite(result.components).all()
    contrast = [image[hole].mean() / image[ring].mean() for image in (result.components, whole) if hole.any()]
    np.testing.assert_allclose(contrast[:1], contrast[1:], rtol=tolerance)


class TestStops:
    @pytest.mark.parametrize("n_iter", [0, 7])
    def test_all_iterations(self, n_iter):
        plane, psf, _, _ = planet()
        result = lucy_richardson(plane, psf, n_iter=n_iter)
        assert (result.stop_reason, result.iterations) == (StopReason.N_ITER, n_iter)

    def test_correction_limit(self):
        plane, psf, _, _ = planet()
        result = lucy_richardson(plane, psf, cf_limit=1.5, cf_uclip=1.1, strength=1.0)
        assert result.stop_reason is StopReason.CORRECTION_LIMIT
        assert result.iterations == 1

    @pytest.mark.parametrize("value", [0.0, -2.0])
    def test_data_without_positive_values_stop_at_once(self, value):
        plane = np.full((9, 9), value, np.float32)
        result = lucy_richardson(plane, moffat(5))
        assert (result.stop_reason, result.iterations) == (StopReason.NOTHING_TO_DO, 0)
        np.testing.assert_array_equal(result.residual, plane)

    def test_no_data(self):
        plane = np.full((9, 9), np.nan, np.float32)
        result = lucy_richardson(plane, moffat(5))
        assert (result.stop_reason, result.iterations) == (StopReason.ALL_NAN, 0)
        assert np.isnan(result.components).all()
        assert np.isnan(result.residual).all()


def test_negative_corrections():
    plane, psf, _, _ = planet()
    plane = plane.copy()
    plane[10:20, 10:20] = -3000
    options = {"n_iter": 3, "strength": 1.0, "nudge_factor": 1e-3}
    fixed = lucy_richardson(plane, psf, **options)
    assert 0 < fixed.components.min() < 1e-3
    assert lucy_richardson(plane, psf, cf_negative_fix=False, **options).components.min() < -1


def test_the_offset_is_added_and_subtracted():
    plane, psf, truth, disc = planet()
    low = plane - np.float32(400)
    lifted = lucy_richardson(low, psf, offset_obs=True, strength=1.0)
    assert error(lifted.components + 400, truth, disc) < 0.03
    positive = plane + np.float32(100)
    one = lucy_richardson(positive, psf, offset_obs=True)
    np.testing.assert_array_equal(one.components, lucy_richardson(positive, psf).components)


def test_components_and_residual_reproduce_the_input():
    plane, psf, _, _ = planet()
    for observed in (plane, holes(plane), rim(plane), plane[:, 30:]):
        for options in ({}, {"offset_obs": True}, {"pad_observation": False}):
            result = lucy_richardson(observed, psf, n_iter=20, **options)
            model = Convolver(psf, observed.shape).convolve(np.nan_to_num(result.components))
            there = np.isfinite(observed)
            np.testing.assert_allclose(
                (model + result.residual)[there], observed[there], atol=1e-6 * plane.max()
            )
            np.testing.assert_array_equal(np.isnan(result.residual), ~there)


def test_the_scale_of_the_data_does_not_matter():
    plane, psf, _, _ = planet()
    scale = np.float32(1e-16)
    variance = np.full(plane.shape, SIGMA**2, np.float32)
    one = lucy_richardson(plane, psf, variance=variance)
    other = lucy_richardson(plane * scale, psf, variance=variance * scale**2)
    np.testing.assert_allclose(other.components / scale, one.components, rtol=1e-3)
    assert other.chi2 == pytest.approx(one.chi2, rel=1e-3)


def test_the_observer_sees_each_iteration():
    plane, psf, _, _ = planet()
    states = []

    def keep(state):
        states.append(state._replace(components=state.components.copy(), residual=state.residual.copy()))

    watched = lucy_richardson(plane, psf, n_iter=5, threshold=-0.5, pad_observation=False, observer=keep)
    alone = lucy_richardson(plane, psf, n_iter=5, threshold=-0.5, pad_observation=False)
    np.testing.assert_array_equal(watched.components, alone.components)
    assert [state.iteration for state in states] == [1, 2, 3, 4, 5]
    np.testing.assert_array_equal(states[-1].components, alone.components)
    np.testing.assert_allclose(states[-1].residual, alone.residual, atol=1e-3)
    assert len(states[-1].fabs) == len(states[-1].rms) == 6
    assert states[-1].fabs[-1] == pytest.approx(alone.fabs, rel=1e-5)
    assert states[1].threshold == pytest.approx(0.5 * states[1].fabs[1], rel=1e-5)
    assert 0 < states[0].selected.mean() < 1


@pytest.mark.parametrize("name", ODD_PLANES)
@pytest.mark.parametrize(
    "options",
    [{}, TEXTBOOK, {"cf_negative_fix": False, "strength": 1.0}, {"offset_obs": True}, {"threshold": 0.0}],
)
def test_unusual_planes_are_accepted(name, options):
    plane = ODD_PLANES[name].copy()
    plane.flags.writeable = False
    result = lucy_richardson(plane, moffat(5), n_iter=20, **options)
    assert result.components.shape == result.residual.shape == plane.shape
    assert result.components.dtype == result.residual.dtype == np.float32
    assert np.isfinite(result.components[np.isfinite(plane)]).all()
    assert np.isfinite(result.rms)


def test_views_and_read_only_inputs_give_the_same_bits():
    plane, psf, _, _ = planet()
    wide = np.zeros((128, 128), np.float32)
    wide[::2, ::2] = plane
    wide.flags.writeable = psf.flags.writeable = False
    one = lucy_richardson(wide[::2, ::2], psf, n_iter=10)
    other = lucy_richardson(plane, psf, n_iter=10)
    np.testing.assert_array_equal(one.components, other.components)
    np.testing.assert_array_equal(one.residual, other.residual)


def known(plane):
    return {"variance": np.full(plane.shape, SIGMA**2, np.float32)}


def newest(plane, psf, **given):
    return by_default("lucy_richardson", plane, psf, **given)


class TestAcceleration:
    def test_reaches_the_fit_of_many_more_plain_steps(self):
        plane, psf, _, _ = planet()
        plane = np.maximum(plane, 0) + np.float32(5)
        options = {**TEXTBOOK, **known(plane)}
        plain, many = (lucy_richardson(plane, psf, n_iter=n, **options) for n in (20, 60))
        fast = lucy_richardson(plane, psf, n_iter=20, accelerate=True, **options)
        assert fast.chi2 < many.chi2 < 0.8 * plain.chi2
        assert fast.iterations == 20

    def test_the_likelihood_never_falls(self):
        plane, psf, _, _ = planet()
        plane = np.maximum(plane, 0)
        likelihoods = []

        def measure(state):
            blurred = np.maximum(Convolver(psf, plane.shape).convolve(state.components).astype(float), 1e-9)
            likelihoods.append((plane * np.log(blurred) - blurred).sum())

        lucy_richardson(plane, psf, n_iter=60, accelerate=True, observer=measure, **TEXTBOOK)
        change = np.diff(likelihoods)
        assert change.min() > -1e-6 * abs(likelihoods[-1])
        assert len(likelihoods) == 60

    def test_a_step_that_lowers_the_likelihood_is_rejected(self, monkeypatch):
        plane, psf, _, _ = planet()
        monkeypatch.setattr(richardson, "_momentum", lambda before, last: 500.0)
        reckless = lucy_richardson(plane, psf, n_iter=20, accelerate=True, **known(plane), **TEXTBOOK)
        plain = lucy_richardson(plane, psf, n_iter=20, **known(plane), **TEXTBOOK)
        assert reckless.chi2 < 1.5 * plain.chi2

    def test_the_first_two_steps_are_plain(self):
        plane, psf, _, _ = planet()
        for n_iter in (1, 2):
            one, other = (
                lucy_richardson(plane, psf, n_iter=n_iter, accelerate=accelerate) for accelerate in (0, 1)
            )
            np.testing.assert_array_equal(one.components, other.components)

    def test_components_that_were_positive_stay_positive(self):
        plane, psf, _, _ = planet()
        assert newest(plane, psf, **known(plane)).components.min() >= 0


class TestStopByTheNoise:
    def test_the_truth(self):
        plane, psf, truth, disc = planet()
        result = newest(plane, psf, **known(plane))
        assert result.stop_reason is StopReason.CHI2_REACHED
        assert result.iterations < 30
        assert 0.9 < result.chi2_bright <= 1.001
        assert error(result.components, truth, disc) < 0.01
        further = newest(plane, psf, chi2_target=None, n_iter=300, **known(plane))
        assert further.stop_reason is StopReason.N_ITER
        assert error(further.components, truth, disc) > 1.15 * error(result.components, truth, disc)

    def test_it_is_the_iterate_at_which_chi2_falls_to_the_target(self):
        plane, psf, _, _ = planet()
        for target in (2.0, 5.0):
            result = lucy_richardson(plane, psf, strength=1.0, chi2_target=target, **known(plane))
            at, before = (
                lucy_richardson(plane, psf, strength=1.0, n_iter=result.iterations - k, **known(plane))
                for k in (0, 1)
            )
            assert at.chi2_bright <= target < before.chi2_bright
            np.testing.assert_array_equal(result.components, at.components)

    def test_the_noise_is_estimated_without_a_variance(self):
        plane, psf, truth, disc = planet()
        result = newest(plane, psf)
        assert result.stop_reason is StopReason.CHI2_REACHED
        assert error(result.components, truth, disc) < 0.02


class TestWeights:
    def test_filled_pixels_have_none(self):
        plane, psf, truth, disc = planet()
        hole = np.isnan(holes(plane))
        results = [
            newest(np.where(hole, np.float32(value), plane), psf, filled=hole, **known(plane))
            for value in (0, 3000)
        ]
        np.testing.assert_allclose(results[0].components, results[1].components, rtol=0.05, atol=1)
        assert error(results[0].components, truth, disc & ~hole) < 0.012

    def test_pixels_that_the_data_hardly_see_are_divided_by_a_thousandth_at_least(self):
        plane = np.full((21, 61), np.nan, np.float32)
        plane[:, :3] = 100.0
        psf, variance = moffat(33), np.ones(plane.shape)
        field = prepare_field(plane, psf, None, edge_margin(psf, plane.shape))
        weight = field.weights_by_variance(variance, poisson=True)
        reach = field.convolver.correlate_padded(weight)
        norm, hardly = _normalisation(field, weight, padded=True), reach < 1e-3
        assert hardly.any()
        assert (norm[hardly] == np.float32(1e-3)).all()
        np.testing.assert_array_equal(norm[~hardly], reach[~hardly])

    def test_modelled_pixels_have_little(self):
        plane, psf, _, _ = planet()
        hole = np.isnan(holes(plane))
        modelled = np.where(hole, Filled.MODELLED, Filled.NO).astype(np.uint8)
        variance = np.where(hole, np.nan, SIGMA**2)
        raised = np.where(hole, 1.3 * plane, plane).astype(np.float32)
        options = {"chi2_target": None, "n_iter": 20, "variance": variance}
        nothing, little = (newest(raised, psf, filled=marks, **options) for marks in (hole, modelled))
        everything = newest(raised, psf, **options | known(plane))
        light = [result.components[hole].sum() for result in (nothing, little, everything)]
        assert 1.005 * light[0] < light[1] < 0.97 * light[2]

    def test_pixels_of_large_variance_count_less(self):
        plane, psf, truth, disc = planet()
        noise = np.full(plane.shape, SIGMA)
        noise[:, 32:] = 20 * SIGMA
        plane = plane + np.random.default_rng(3).normal(0, noise - SIGMA).astype(np.float32)
        options = {"chi2_target": None, "n_iter": 30, "variance": noise**2}
        weighted, equal = (newest(plane, psf, weighted=weighted, **options) for weighted in (True, False))
        quiet = disc & (noise == SIGMA)
        assert error(weighted.components, truth, quiet) < 0.6 * error(equal.components, truth, quiet)

    @pytest.mark.parametrize("variance", [np.nan, 0.0, -1.0])
    def test_an_unknown_variance_makes_all_equal(self, variance):
        plane, psf, _, _ = planet()
        unknown = newest(plane, psf, n_iter=5, variance=np.full(plane.shape, variance))
        none = richardson.lucy_richardson(plane, psf, **{**LUCY, **PLAIN, "n_iter": 5})
        np.testing.assert_array_equal(unknown.components, none.components)


@pytest.mark.parametrize("name", ODD_PLANES)
@pytest.mark.parametrize("accelerate", [False, True])
def test_unusual_planes_are_accepted_with_the_defaults(name, accelerate):
    plane = ODD_PLANES[name].copy()
    plane.flags.writeable = False
    for variance in (None, np.ones(plane.shape)):
        result = newest(plane, moffat(5), n_iter=20, accelerate=accelerate, variance=variance)
        assert np.isfinite(result.components[np.isfinite(plane)]).all()


@pytest.mark.skipif(not (SHARED / "prototypes").is_dir(), reason="no shared data next to the repository")
def test_is_as_good_as_the_prototype(monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path, str(SHARED / "prototypes")])
    import mapdeconv
    import others

    plane, psf, truth, disc = planet()
    holed = holes(plane)
    there = disc & np.isfinite(holed)
    theirs, _ = others.lr(holed, None, mapdeconv.Blur(psf, plane.shape), 22, accel=True)
    ours = newest(holed, psf, n_iter=22, chi2_target=None, **known(plane))
    assert error(ours.components, truth, there) < 1.1 * error(theirs, truth, there)

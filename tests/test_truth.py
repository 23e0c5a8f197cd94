"""Results of the preset `reference` for a simulated scene compared with its truth.

Every threshold leaves a margin to what was measured when it was written, which stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from lucidcube.config.load import from_plain
from lucidcube.runner.pipeline import run
from lucidcube.simulate import Scene, write_scene
from truth_scores import (
    Truth,
    area_under_curve,
    average_precision,
    error_where,
    rebinned_truth,
    root_mean_square,
)

pytestmark = pytest.mark.slow

SCENE = Scene(shape=(32, 61, 61), seed=11)
TARGET = ("rebin", "artefacts", "mask", "interpolate")
STAR = ("rebin", "normalise_psf", "fit_psf")
METHODS = {"clean": "clean_modified", "richardson": "lucy_richardson", "map": "map"}

Array = NDArray[Any]
Product = dict[str, Array]


def truth() -> Truth:
    return rebinned_truth(SCENE)


Job = Callable[..., Product]


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """Runs the example through some stages; every stage that was done once is reused."""
    folder = tmp_path_factory.mktemp("truth")
    files = write_scene(SCENE, folder)

    @cache
    def done(target: tuple[str, ...] = TARGET, star: tuple[str, ...] = STAR, method: str = "") -> Product:
        values = {
            "preset": "reference",
            "target": {"input": str(files.target), "stages": list(target)},
            "star": {"input": str(files.star), "stages": list(star)},
            "output": {
                "path": f"{folder}/{'-'.join((*target, *star, method))}.fits",
                "products": ["deconvolved", "residual", "psf", "filled", "mask", "badness", "log"],
            },
            "checkpoints": {"dir": f"{folder}/work"},
        }
        deconvolve = {"method": METHODS[method]} if method else None
        path = run(from_plain(values | {"deconvolve": deconvolve})).path
        with fits.open(path) as hdus:
            return {h.name: np.array(h.data) for h in hdus}

    return done


def error_in_disc(image: Array) -> float:
    """Return the relative L2 distance to the truth in the disc, both smoothed by a Gaussian of one pixel."""
    known = truth().truth
    disc = (known > 0.3 * np.median(known[known > 0])) & np.isfinite(example_input())
    return error_where(image, known, disc)


@cache
def example_input() -> Array:
    """Return one channel of the example; all channels with data have the same rim and holes of NaN."""
    return SCENE.plane(0).observed


def spoilt() -> Array:
    """Return the pixels where artefacts added more than three times the noise of a rebinned channel."""
    return np.abs(truth().artefact_flux) > truth().noise


def test_rebinning_lowers_the_noise(job: Job) -> None:
    """For a triangle over sixteen channels the sum of squared weights is 0.084, so the noise is 0.29 of it."""
    rebinned = job(("rebin",))["DATA"]
    clean = np.isfinite(rebinned) & (truth().artefact_flux == 0)
    clean[[0, -1]] = False  # half a triangle
    left = root_mean_square(((rebinned - truth().blurred) / truth().noise)[clean])
    assert 0.27 < left < 0.33, f"noise {left:.3f} of that of a channel"


def test_artefacts_are_found(job: Job) -> None:
    badness = job()["BADNESS"]
    known = np.isfinite(badness) & np.isfinite(example_input())
    bad = spoilt() & known
    figures = (
        area_under_curve(badness[known], bad[known]),
        average_precision(badness[known], bad[known]) / bad[known].mean(),
    )
    text = f"all: AUC {figures[0]:.3f} (0.62), AP {figures[1]:.2f} times chance (4.9)"
    by_kind = {}
    for name, share in truth().kinds.items():
        of_kind = bad & (share > 0.25)
        if name != "NONE" and of_kind.any():
            others = known & ((truth().artefact_flux == 0) | of_kind)
            by_kind[name] = area_under_curve(badness[others], of_kind[others])
    text += f"; AUC by kind {by_kind} (hot 0.92, cold 0.96, stripe 0.64, ghost 0.49)"
    assert figures[0] > 0.58, text
    assert figures[1] > 3, text
    assert by_kind["HOT"] > 0.88, text
    assert by_kind["COLD"] > 0.9, text
    assert by_kind["STRIPE"] > 0.57, text


def test_masked_pixels_deviate_more_than_others(job: Job) -> None:
    mask = job()["MASK"].astype(bool)
    known = np.isfinite(example_input()) & np.isfinite(job()["BADNESS"])
    wrong = spoilt() & known
    precision, chance = wrong[mask & known].mean(), wrong[known].mean()
    flux = np.abs(truth().artefact_flux)
    caught = flux[mask & known].sum() / flux[known].sum()
    text = f"precision {precision:.3f}, chance {chance:.3f}; {caught:.2f} of the artefacts' flux is masked"
    assert precision > 1.8 * chance, text
    assert caught > 0.15, text


def test_interpolation_is_better_than_keeping_artefacts(job: Job) -> None:
    product, rebinned, blurred = job(), job(("rebin",))["DATA"], truth().blurred
    mask = product["MASK"].astype(bool) & np.isfinite(rebinned)
    for name, where, factor in (
        ("masked artefacts", mask & spoilt(), 0.15),  # measured: 499 of 6507
        ("all that is masked", mask, 0.2),  # 184 of 1937
        ("all artefacts", np.isfinite(rebinned) & spoilt(), 0.8),  # 1154 of 2130
    ):
        left, filled = (root_mean_square((a - blurred)[where]) for a in (rebinned, product["DATA"]))
        assert filled < factor * left, f"{name} ({where.sum()}): {filled:.0f} filled, {left:.0f} left alone"
    good = (product["FILLED"] == 0) & np.isfinite(rebinned)
    np.testing.assert_array_equal(product["DATA"][good], rebinned[good])


def test_the_fitted_psf_is_better_than_the_star(job: Job) -> None:
    known = truth().psf

    def errors(psf: Array) -> Array:
        difference = np.square(np.nan_to_num(psf) - known).sum(axis=(1, 2))
        return np.asarray(np.sqrt(difference / np.square(known).sum(axis=(1, 2))))

    star = job(("rebin",), ("rebin",))["PSF"]
    raw = errors(star / np.nansum(star, axis=(1, 2), keepdims=True))
    normalised = errors(job(("rebin",), STAR[:2])["PSF"])
    fitted = errors(job()["PSF"])
    text = f"fitted {fitted} (0.019), normalised {normalised} (0.030), raw {raw} (1.04)"
    assert (fitted < 0.85 * normalised).all(), text
    assert (fitted < 0.03).all(), text
    assert (normalised < 0.1 * raw).all(), text


def test_the_psf_is_centred_and_of_unit_sum(job: Job) -> None:
    psf = job()["PSF"].astype(np.float64)
    y, x = np.indices(psf.shape[1:]) - psf.shape[1] // 2
    np.testing.assert_allclose(psf.sum(axis=(1, 2)), 1, atol=1e-5)
    core = np.hypot(y, x) < 5
    for axis in (y, x):
        assert np.abs((psf * core * axis).sum(axis=(1, 2)) / (psf * core).sum(axis=(1, 2))).max() < 0.02


# Measured: not deconvolved 0.293; see below for the rest.
@pytest.mark.parametrize(("method", "factor"), [("clean", 0.9), ("richardson", 0.85)])
def test_deconvolution_comes_closer_to_the_truth(job: Job, method: str, factor: float) -> None:
    before, after = error_in_disc(job()["DATA"]), error_in_disc(job(method=method)["DECONVOLVED"])
    assert after < factor * before, f"{method}: {after:.3f} (0.243, 0.232), not deconvolved {before:.3f}"


@pytest.mark.parametrize(("method", "factor"), [("clean", 0.5), ("richardson", 0.98)])
def test_masking_artefacts_helps_deconvolution(job: Job, method: str, factor: float) -> None:
    with_mask = error_in_disc(job(method=method)["DECONVOLVED"])
    without = error_in_disc(job(("rebin", "interpolate"), method=method)["DECONVOLVED"])
    text = f"{method}: {with_mask:.3f} with a mask, {without:.3f} without (0.243 of 0.836; 0.232 of 0.244)"
    assert with_mask < factor * without, text


# Measured: in the six planes that methane darkens least 0.62 to 0.97 and 0.69 to 0.93 of the error; in the
# two darkest, where artefacts that no mask caught outshine the disc, up to 1.32 and 1.04.
@pytest.mark.parametrize(("method", "worst"), [("clean", 1.45), ("richardson", 1.1)])
def test_deconvolution_plane_by_plane(job: Job, method: str, worst: float) -> None:
    disc = truth().truth > 0.3 * np.median(truth().truth[truth().truth > 0])
    disc &= np.isfinite(example_input())

    def error(image: Array, i: int) -> float:
        a, b = (gaussian_filter(np.nan_to_num(p).astype(np.float64), 1) for p in (image[i], truth().truth[i]))
        return float(np.linalg.norm((a - b)[disc[i]]) / np.linalg.norm(b[disc[i]]))

    before, after = job()["DATA"], job(method=method)["DECONVOLVED"]
    ratio = np.array([error(after, i) / error(before, i) for i in range(8)])
    assert (ratio < 1).sum() >= 6, ratio.round(2)
    assert ratio.max() < worst, ratio.round(2)


@pytest.mark.parametrize("method", METHODS)
def test_the_flux_is_kept(job: Job, method: str) -> None:
    log = job(method=method)["DECONVOLUTION LOG"]
    ratio = log["flux_out"] / log["flux_in"]
    assert (np.abs(ratio - 1) < 0.12).all(), ratio

"""The artefact score against a brute-force implementation, the reference program's maps and simulated truth."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray
from scipy.stats import spearmanr

from locations import ORACLE
from lucidcube.kernels.otsu import multi_otsu
from lucidcube.kernels.ssa.artefact_score import Region, component_range, object_fraction
from lucidcube.kernels.ssa.artefact_score import badness as kernel
from lucidcube.kernels.ssa.decomposition import components, decompose, fill_smooth

RECORDED = ORACLE / "artefacts_box.npz"


def badness(
    plane: NDArray[np.float32],
    window: int = 10,
    start: float = -0.25,
    stop: float = -0.75,
    region: Region = "class",
) -> NDArray[np.float32]:
    """Call the kernel with the defaults of its stage."""
    return kernel(plane, window=window, start=start, stop=stop, region=region)


def disc(shape: tuple[int, int] = (80, 90), seed: int = 3) -> NDArray[np.float32]:
    """Return a bright disc with a soft limb and noise 1 on a sky with noise 0.1."""
    y, x = np.indices(shape)
    radius = np.hypot(y - shape[0] / 2, x - shape[1] / 2)
    brightness = 1 / (1 + np.exp((radius - 0.3 * min(shape)) / 2))
    noise = np.random.default_rng(seed).normal(size=shape)
    return (100 * brightness + noise * (0.1 + 0.9 * brightness)).astype(np.float32)


def brute_force(plane: NDArray[np.float32], window: int, used: range, region: str) -> NDArray[np.float64]:
    """Compute the score by its definition, pixel by pixel."""
    missing = np.isnan(plane)
    filled = fill_smooth(plane, missing)
    thresholds = multi_otsu(filled[~missing], 3) if region == "class" else []
    labels = np.where(missing, -1, np.digitize(filled, thresholds))
    half = max(plane.shape) // 8
    boxes = np.pad(labels, half, mode="symmetric")
    total = np.zeros(plane.shape)
    for component in components(filled, decompose(filled, window), used):
        padded = np.pad(component.astype(np.float64), half, mode="symmetric")
        mean, std = np.zeros(plane.shape), np.zeros(plane.shape)
        for y, x in np.argwhere(~missing):
            here = slice(y, y + 2 * half + 1), slice(x, x + 2 * half + 1)
            valid, own = boxes[here] >= 0, boxes[here] == labels[y, x]
            values = padded[here][own if own.sum() >= 0.1 * valid.sum() else valid]
            mean[y, x], std[y, x] = values.mean(), values.std()
        total += (component - mean) / (std + 0.01 * std[~missing].mean())
    total[missing] = np.nan
    return np.abs(total / len(used))


@pytest.mark.parametrize("region", ["class", "box"])
@pytest.mark.parametrize("shape", [(33, 41), (48, 12)])
def test_equals_brute_force(region: str, shape: tuple[int, int]) -> None:
    plane = disc(shape)
    plane[4, 5] = 60
    plane[:, 0] = np.nan
    plane[20:23, 7] = np.nan
    expected = brute_force(plane, 4, range(4, 12), region)
    np.testing.assert_allclose(badness(plane, window=4, region=region), expected, rtol=1e-3, atol=1e-4)


def test_box_reproduces_the_reference() -> None:
    """
    The maps of the reference program differ between runs, because it samples pixels randomly.

    The differences are at most some tenths of a per cent of the score of a pixel. The quantities compared
    here do not depend on them: order, correlation, and the median ratio to a part in a thousand. The planes
    are its input with NaN filled in the same way (zero, then Gaussian smoothing).
    """
    with np.load(RECORDED) as recorded:
        for plane, expected in zip(recorded["plane"], recorded["badness"], strict=True):
            ours = badness(plane, region="box")
            assert np.corrcoef(ours.ravel(), expected.ravel())[0, 1] > 0.99999
            assert spearmanr(ours.ravel(), expected.ravel()).statistic > 0.9999
            assert np.median(ours / expected) == pytest.approx(1, abs=1e-3)
            np.testing.assert_allclose(ours, expected, rtol=5e-3, atol=1e-2)


def test_sky_pixels_are_compared_with_the_sky() -> None:
    """A faint hot pixel next to the disc is significant only in comparison with its own class."""
    plane = disc()
    plane[40, 74] += 1
    rank = {}
    for region in ("class", "box"):
        found = badness(plane, region=region)
        rank[region] = np.count_nonzero(found > found[40, 74])
    assert rank["class"] < 5
    assert rank["box"] > 50


def test_hot_pixels_have_the_highest_score() -> None:
    plane = disc()
    hot = np.zeros(plane.shape, bool)
    hot[[12, 33, 40, 47, 70], [15, 40, 52, 39, 80]] = True
    plane[hot] += 20
    found = badness(plane)
    assert found[hot].min() > 1.5 * np.quantile(found[~hot], 0.999)


@pytest.mark.parametrize("factor", [2.0**-70, 2.0**60, -4.0])
def test_scaling_by_a_power_of_two_does_not_change_the_score(factor: float) -> None:
    plane = disc((40, 44))
    if factor > 0:
        np.testing.assert_array_equal(badness(plane * np.float32(factor)), badness(plane))
    else:
        scaled = badness(plane * np.float32(factor), region="box")
        np.testing.assert_array_equal(scaled, badness(plane, region="box"))


def test_faint_units_give_the_same_map() -> None:
    plane = disc((40, 44))
    faint = (plane.astype(np.float64) * 1e-30).astype(np.float32)
    np.testing.assert_allclose(badness(faint), badness(plane), rtol=1e-2, atol=1e-3)


def test_missing_pixels_stay_missing_and_input_is_not_modified() -> None:
    plane = disc()
    plane[:7] = np.nan
    plane[40, 50:53] = np.nan
    before = plane.copy()
    plane.setflags(write=False)
    found = badness(plane)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(before))
    np.testing.assert_array_equal(plane, before)
    assert found.dtype == np.float32
    assert np.nanmin(found) >= 0


@pytest.mark.parametrize("region", ["class", "box"])
@pytest.mark.parametrize("value", [0.0, 3.7, -1e-20])
def test_constant_plane_has_a_score_of_zero(region: str, value: float) -> None:
    plane = np.full((30, 25), value, np.float32)
    plane[2, 3] = np.nan
    found = badness(plane, region=region)
    assert np.isnan(found[2, 3])
    assert not np.nan_to_num(found).any()


def test_single_finite_pixel() -> None:
    plane = np.full((30, 25), np.nan, np.float32)
    plane[11, 4] = 5
    found = badness(plane)
    assert found[11, 4] == 0
    assert np.count_nonzero(np.isnan(found)) == plane.size - 1


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(8, 6), (12, 1), (1, 1), (15, 40)])
@pytest.mark.parametrize("region", ["class", "box"])
def test_planes_smaller_than_the_window(shape: tuple[int, int], region: str) -> None:
    plane = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    found = badness(plane, region=region)
    assert found.shape == shape
    assert np.isfinite(found).all()


def test_same_bits_for_any_layout() -> None:
    plane = disc((40, 44))
    spread = np.zeros((40, 88), np.float32)
    spread[:, ::2] = plane
    np.testing.assert_array_equal(badness(spread[:, ::2]), badness(plane))
    np.testing.assert_array_equal(badness(plane), badness(plane))


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (-0.25, -0.75, (25, 75)),
        (3, 50, (3, 50)),
        (0, -1.0, (0, 100)),
        (-0.1, 100, (10, 100)),
        (5.0, 6, (5, 6)),
    ],
)
def test_component_range(start: float, stop: float, expected: tuple[int, int]) -> None:
    assert component_range(start, stop, 10) == expected


@pytest.mark.parametrize(
    ("start", "stop"),
    [(-0.75, -0.25), (5, 5), (0, 101), (-0.5, -1.5), (0.25, 50), (0, 2.5), (-0.25, 10), (0, np.inf)],
)
def test_invalid_component_ranges_are_errors(start: float, stop: float) -> None:
    with pytest.raises(ValueError, match=f"start={start} and stop={stop}"):
        badness(disc((20, 20)), start=start, stop=stop)


def test_chosen_components_are_used() -> None:
    plane = disc((40, 44))
    assert not np.allclose(badness(plane, start=3, stop=50), badness(plane))
    np.testing.assert_array_equal(badness(plane, start=25, stop=75), badness(plane))


def test_object_fraction() -> None:
    y, x = np.indices((101, 101))
    radius = np.hypot(y - 50, x - 50)
    noise = 0.01 * np.random.default_rng(1).normal(size=radius.shape)
    planet = ((radius < 30) + noise).astype(np.float32)
    star = (1000 * (1 + (radius / 2) ** 2) ** -2.5 + noise).astype(np.float32)
    assert object_fraction(planet) == pytest.approx(np.mean(radius < 30), rel=0.05)
    assert object_fraction(star) < 0.03
    planet[40, 3], planet[90, 8] = 1000, np.nan
    assert object_fraction(planet) > 0.2
    assert object_fraction(np.full((9, 9), 2, np.float32)) == 1


def test_real_fields(shared: Path) -> None:
    neptune = fits.getdata(shared / "data" / "keck_nirc2_neptune_Kp_20211008_IF.fits")
    stars = fits.getdata(shared / "data" / "spitzer_irac_ch2_field.fits")
    assert object_fraction(neptune.astype(np.float32)) > 0.1
    assert object_fraction(stars.astype(np.float32)) < 0.05
    assert np.isfinite(badness(np.load(shared / "data" / "mars_webcam.npy").astype(np.float32))).all()


def test_simulated_truth(shared: Path) -> None:
    """The average precision in the disc is higher than that of the map of the reference program."""
    where = shared / "reference"
    planes = fits.getdata(where / "outputs" / "obs_rebin.fits.gz").astype(np.float32)
    reference = fits.getdata(where / "outputs" / "obs_rebin_artefactmap.fits.gz")
    kind = fits.getdata(where / "scene" / "artefacts.fits.gz", 0)
    chosen = [5, 12, 19, 26]
    # Rebinned channel j is centred on channel 8 j; pixels that are bad in part of the bin are left out.
    truth = np.array([kind[8 * j - 15 : 8 * j + 16].mean(axis=0) for j in chosen])
    valid = np.isfinite(planes[chosen]) & ((truth == 0) | (truth == 1))
    ours = np.array([badness(planes[j]) for j in chosen])
    assert average_precision(ours[valid], truth[valid]) > average_precision(
        reference[chosen][valid], truth[valid]
    )


def average_precision(score: NDArray[np.floating], truth: NDArray[np.floating]) -> float:
    hit = truth[np.argsort(-score, kind="stable")]
    return float(np.sum(hit * np.cumsum(hit) / np.arange(1, hit.size + 1)) / hit.sum())

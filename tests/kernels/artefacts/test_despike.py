"""Spikes in spectra against running medians of scipy, known cosmic rays and independence of the chunks."""

import dask.array as da
import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray
from scipy import ndimage

from locations import SHARED
from lucidcube.cube import DATA, VARIANCE, from_arrays
from lucidcube.kernels.artefacts.despike import REACH, Despiked, spikes
from lucidcube.runner.one_stage import run_stage
from lucidcube.stages import Rebin

CHANNELS, SIDE = 120, 14
STEP = 0.125e-9


def spectra(seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return an object with a deep absorption band, and the variance of its noise."""
    rng = np.random.default_rng(seed)
    channel = np.arange(CHANNELS)[:, None, None]
    band = 1 - 0.7 * np.exp(-((channel - 60) ** 2) / (2 * 3.0**2))
    y, x = np.indices((SIDE, SIDE)) - (SIDE - 1) / 2
    truth = (1000 * np.exp(-(y**2 + x**2) / 40) + 20) * band
    variance = truth + 25
    return rng.normal(truth, np.sqrt(variance)).astype(np.float32), variance.astype(np.float32)


def cosmic_rays(seed: int = 1, count: int = 25) -> NDArray[np.float32]:
    """Return light that is added to one to five channels of some pixels."""
    rng, light = np.random.default_rng(seed), np.zeros((CHANNELS, SIDE, SIDE), np.float32)
    for _ in range(count):
        y, x, first, length = *rng.integers(0, SIDE, 2), rng.integers(CHANNELS - 5), rng.integers(1, 6)
        light[first : first + length, y, x] += rng.uniform(500, 5000)
    return light


def everywhere(data: np.ndarray, variance: np.ndarray | None) -> np.ndarray:
    return spikes(data, variance, cut=7.0, wanted=slice(0, len(data)))


def test_cosmic_rays_are_found_and_nothing_else() -> None:
    data, variance = spectra()
    rays = cosmic_rays()
    assert not everywhere(data, variance).any()
    np.testing.assert_array_equal(everywhere(data + rays, variance), rays > 0)
    found = everywhere(data + rays, None)
    assert found[rays > 0].mean() > 0.9
    assert found[rays == 0].mean() < 2e-3


@pytest.mark.parametrize("with_variance", [True, False])
def test_the_same_as_running_medians_of_scipy(with_variance: bool) -> None:
    data, variance = spectra(2)
    data += cosmic_rays(3)
    light = np.where(data > 0, data, 0).astype(float).sum((1, 2))[:, None, None]
    deviation = data / light - ndimage.median_filter(data / light, (17, 1, 1))
    unit = 1.4826 * ndimage.median_filter(np.abs(deviation), (33, 1, 1))
    if with_variance:
        unit = np.maximum(unit, np.sqrt(variance) / light)
    expected = (deviation > 7 * unit)[REACH:-REACH]
    found = spikes(data, variance if with_variance else None, cut=7.0, wanted=slice(REACH, CHANNELS - REACH))
    assert expected.sum() > 10
    np.testing.assert_array_equal(found, expected)


def test_missing_values_are_no_part_of_the_medians() -> None:
    data, variance = spectra()
    data += cosmic_rays()
    holed = data.copy()
    holed[30:50:2] = np.nan
    holed[:, 3, 3] = np.nan
    holed[80, 4, :] = np.inf
    found = everywhere(holed, variance)
    assert not found[~np.isfinite(holed)].any()
    rays = (cosmic_rays() > 0) & np.isfinite(holed)
    assert found[rays].mean() > 0.95
    assert not found[~rays].any()


def test_planes_do_not_depend_on_how_they_are_read() -> None:
    data, variance = spectra()
    data += cosmic_rays()
    data.flags.writeable = False
    clean = Despiked(data, variance, 7.0)
    whole = clean[:]
    np.testing.assert_array_equal(np.isnan(whole), cosmic_rays() > 0)
    for first, last in ((0, 1), (0, 30), (17, 60), (119, 120)):
        np.testing.assert_array_equal(clean[first:last], whole[first:last])


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_short_spectra_and_empty_planes(channels: int) -> None:
    for value in (0, -3, np.nan):
        data = np.full((channels, 3, 4), value, np.float32)
        assert not everywhere(data, None).any()
        assert not everywhere(data, np.ones_like(data)).any()


# The stage


def axis(kind: str) -> np.ndarray:
    """Return wavelengths or frequencies of the channels."""
    wavelength = 7e-7 + STEP * np.arange(CHANNELS)
    if kind == "frequency":
        return 299792458 / wavelength
    return wavelength if kind == "wavelength" else wavelength * (1 + 1e-2 * np.arange(CHANNELS) / CHANNELS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wavelength", "frequency", "not uniform"])
def test_rebinning_leaves_the_spikes_out_for_any_chunks(kind: str) -> None:
    data, variance = spectra()
    rays, step = cosmic_rays(), 1e-9 if kind != "frequency" else 6e11
    units = "m" if kind != "frequency" else "Hz"
    missing = np.where(rays > 0, np.float32(np.nan), data)
    kinds = {"wavelength_units": units, "variance": variance}
    stage = Rebin(bin_step=step, despike=7.0)
    expected = Rebin(bin_step=step)(from_arrays(missing, axis(kind), **kinds))
    made = stage(from_arrays(data + rays, axis(kind), **kinds))
    for name in (DATA, VARIANCE):
        np.testing.assert_array_equal(made[name].values, expected[name].values)
    for chunks in (CHANNELS, 7, 1):
        lazy = da.from_array(data + rays, chunks=(chunks, SIDE, SIDE))
        kinds["variance"] = da.from_array(variance, chunks=(chunks, SIDE, SIDE))
        again = stage(from_arrays(lazy, axis(kind), **kinds)).compute()
        np.testing.assert_array_equal(again[DATA].values, made[DATA].values)


def test_from_file_to_file(tmp_path) -> None:
    data, variance = spectra()
    rays = cosmic_rays()
    header = fits.Header({"CTYPE3": "WAVE", "CUNIT3": "m", "CRPIX3": 1.0, "CRVAL3": 7e-7, "CDELT3": STEP})
    hdus = [fits.PrimaryHDU(data + rays, header), fits.ImageHDU(variance, header, name="STAT")]
    fits.HDUList(hdus).writeto(tmp_path / "target.fits")
    path = run_stage("rebin", [str(tmp_path / "target.fits")], {"despike": "7", "bin_step": "1 nm"})
    missing = np.where(rays > 0, np.float32(np.nan), data)
    expected = Rebin(bin_step=1e-9)(from_arrays(missing, axis("wavelength"), variance=variance))
    with fits.open(path) as made:
        np.testing.assert_array_equal(made[0].data, expected[DATA].values)
        np.testing.assert_array_equal(made["STAT"].data, expected[VARIANCE].values)


@pytest.mark.skipif(not (SHARED / "prototypes" / "artefacts.py").exists(), reason="needs the prototypes")
def test_all_spikes_of_the_prototype_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SHARED / "prototypes")
    from artefacts import despike

    data, variance = spectra(4)
    data += cosmic_rays(5)
    inner = slice(REACH, CHANNELS - REACH)
    expected = despike(data.astype(float), variance.astype(float))[inner]
    assert expected.sum() > 10
    np.testing.assert_array_equal(everywhere(data, variance)[inner], expected)

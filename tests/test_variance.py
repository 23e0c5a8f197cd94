"""Monte Carlo: the variance that a stage returns is that of its values over many realisations of the noise.

The pixels of a cube are the realisations: they have the same expected spectrum, or one that is known.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from config_scenes import moffat
from lucidcube.config.load import from_plain
from lucidcube.cube import DATA, FILLED, MASK, PSF, PSF_PLANE, VARIANCE, WAVELENGTH, from_arrays
from lucidcube.runner.pipeline import run
from lucidcube.stages import Interpolate, Noise, Rebin

Array = NDArray[Any]
CHANNELS, SIDE = 48, 44
STEP = 0.25e-9


def cube_of(data: Array, variance: Array, step: float = STEP) -> xr.Dataset:
    """Return a cube in memory."""
    axis = 7e-7 + step * np.arange(len(data))
    return from_arrays(data.astype(np.float32), axis, variance=variance.astype(np.float32))


def spectra(level: float = 400.0, slope: float = 1.0) -> tuple[Array, Array]:
    """Return the expected values (channel, y, x), and a variance that depends on channel and pixel."""
    channel, y, x = np.mgrid[:CHANNELS, :SIDE, :SIDE]
    values = level * (1 + slope * (0.3 * np.sin(channel / 7) + 0.2 * y / SIDE))
    return values, 4 * (1 + 0.8 * np.cos(channel / 3)) * (1 + x / SIDE)


def with_noise(values: Array, variance: Array, seed: int) -> Array:
    """Return values with normal noise."""
    return values + np.random.default_rng(seed).normal(size=values.shape) * np.sqrt(variance)


def assert_unit_pulls(values: Array, expected: Array, variance: Array) -> None:
    """Check that deviations have the stated variance: in all, and in each plane, within four standard errors."""
    pulls = (values.astype(np.float64) - expected) / np.sqrt(variance)
    for plane in (pulls, *pulls):
        known = plane[np.isfinite(plane)]
        assert known.size > 500
        error = 1 / np.sqrt(2 * known.size)
        # The planes of a rebinned cube share channels, so there are fewer independent pulls than numbers.
        assert np.std(known) == pytest.approx(1, abs=4 * error * (2 if plane is pulls else 1))
        assert np.mean(known) == pytest.approx(0, abs=6 / np.sqrt(known.size) + 0.02)


@pytest.mark.parametrize("missing", [0.0, 0.15])
@pytest.mark.parametrize("operation", ["mean", "sum", "mean_err"])
@pytest.mark.parametrize("response", ["triangle", "rectangle"])
def test_rebin(response: str, operation: str, missing: float) -> None:
    values, variance = spectra()
    absent = np.random.default_rng(1).random(values.shape) < missing
    values[absent] = np.nan
    stage = Rebin(bin_step=4 * STEP, response=response, operation=operation)
    expected = stage(cube_of(values, variance))
    made = stage(cube_of(with_noise(values, variance, 2), variance))
    assert_unit_pulls(made[DATA].values, expected[DATA].values, made[VARIANCE].values)


def test_rebin_without_cosmic_rays() -> None:
    values, variance = spectra(slope=0.0)
    rng = np.random.default_rng(3)
    data = with_noise(values, variance, 4) + 3e3 * (rng.random(values.shape) < 0.01)
    stage = Rebin(bin_step=4 * STEP, despike=7.0)
    made = stage(cube_of(data, variance))
    assert_unit_pulls(made[DATA].values, np.full(made[DATA].shape, 400.0), made[VARIANCE].values)
    usual = stage(cube_of(values, variance))[VARIANCE].values
    assert (made[VARIANCE].values > 1.01 * usual).mean() > 0.02  # fewer channels, larger errors


def test_rebin_to_uneven_bins_of_an_uneven_axis() -> None:
    values, variance = spectra()
    axis = 7e-7 + STEP * np.arange(CHANNELS) * (1 + 0.01 * np.arange(CHANNELS))
    cubes = [
        from_arrays(c.astype(np.float32), axis, variance=variance.astype(np.float32))
        for c in (values, with_noise(values, variance, 5))
    ]
    expected, made = map(Rebin(bin_step=4 * STEP), cubes)
    assert_unit_pulls(made[DATA].values, expected[DATA].values, made[VARIANCE].values)


@pytest.mark.parametrize("factor", [0.25, 1.0, 3.0])
def test_noise_calibrated(factor: float) -> None:
    values, variance = spectra(slope=0.2)
    made = Noise()(cube_of(with_noise(values, variance, 6), factor * variance))
    pulls = (made[DATA].values - values) / np.sqrt(made[VARIANCE].values)
    np.testing.assert_allclose(np.std(pulls, axis=(1, 2)), 1, atol=0.12)
    assert np.std(pulls) == pytest.approx(1, abs=0.03)


def test_noise_estimated() -> None:
    values, _ = spectra(slope=0.0)
    variance = np.full(values.shape, 9.0)
    made = Noise()(cube_of(with_noise(values, variance, 7), variance).drop_vars(VARIANCE))
    pulls = (made[DATA].values - values) / np.sqrt(made[VARIANCE].values)
    assert np.std(pulls) == pytest.approx(1, abs=0.04)


def blurred(planes: int) -> tuple[Array, Array]:
    """Return an object seen through a PSF (n, y, x), and the PSF."""
    y, x = np.mgrid[:SIDE, :SIDE]
    disc = 300.0 * (np.hypot(y - 21, x - 22) < 12) * np.linspace(1, 1.4, planes)[:, None, None]
    psf = np.broadcast_to(moffat((15, 15), 3.0, (7, 7)), (planes, 15, 15))
    return np.stack([fftconvolve(p, q, mode="same") for p, q in zip(disc, psf, strict=True)]), psf


@pytest.mark.parametrize("method", ["linear", "ssa", "ssa_deviation", "model"])
def test_interpolate_keeps_the_variance_of_good_pixels_only(method: str) -> None:
    truth, psf = blurred(9)
    variance = 4 + np.maximum(truth, 0) / 10
    data = with_noise(truth, variance, 8)
    rng = np.random.default_rng(9)
    mask, hole = rng.random(data.shape) < 0.03, rng.random(data.shape) < 0.01
    cube = cube_of(np.where(hole, np.nan, data + 500 * mask), variance)
    cube[MASK] = (cube[DATA].dims, mask.astype(np.uint8))
    cube[PSF] = ((WAVELENGTH, *PSF_PLANE), psf.astype(np.float32))
    made = Interpolate(method=method)(cube)
    bad = mask | hole
    np.testing.assert_array_equal(made[FILLED].values > 0, bad)
    np.testing.assert_array_equal(np.isnan(made[VARIANCE].values), bad)
    assert np.isfinite(made[DATA].values).all()
    np.testing.assert_array_equal(made[VARIANCE].values[~bad], cube[VARIANCE].values[~bad])
    assert_unit_pulls(made[DATA].values, truth, made[VARIANCE].values)


def test_from_fits_to_fits(tmp_path: Path) -> None:
    """The variance of the file is four times too small; three stages return that of the values."""
    truth, _ = blurred(CHANNELS)
    variance = 4 + np.maximum(truth, 0) / 10
    data = with_noise(truth, variance, 10)
    data[np.random.default_rng(11).random(data.shape) < 0.02] = np.nan
    axis = fits.Header({"CTYPE3": "WAVE", "CUNIT3": "m", "CRPIX3": 1.0, "CRVAL3": 7e-7, "CDELT3": STEP})
    names = (("DATA", data), ("STAT", variance / 4))
    hdus = [fits.ImageHDU(a.astype(np.float32), axis, name=name) for name, a in names]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "in.fits")
    path = run(
        from_plain(
            {
                "target": {
                    "input": str(tmp_path / "in.fits"),
                    "stages": [
                        {"rebin": {"bin_step": "1 nm"}},
                        "noise",
                        {"interpolate": {"method": "linear"}},
                    ],
                },
                "output": {
                    "path": str(tmp_path / "out.fits"),
                    "products": ["deconvolved", "variance", "filled"],
                },
                "profile": "synchronous",
            }
        )
    ).path
    expected = Rebin(bin_step=1e-9)(cube_of(np.where(np.isnan(data), np.nan, truth), variance))[DATA].values
    with fits.open(path) as made:
        values, spread, filled = (made[name].data for name in (0, "STAT", "FILLED"))
    np.testing.assert_array_equal(np.isnan(spread), filled > 0)
    pulls = (values - expected) / np.sqrt(spread)
    assert np.nanstd(pulls) == pytest.approx(1, abs=0.05)

"""Cubes with very large or very small numbers, from FITS to FITS, without silent losses."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.typing import NDArray

from lucidcube.cli.app import main
from lucidcube.io.plane_reader import Encoding, to_float32
from lucidcube.io.reader import open_cube

LIMITS = {
    "within_float32": (1.0, 0.0),
    "faint": (1e-20, 1e-3),
    "faint_with_bright_star": (1e-20, 1e6),
    "bright": (1e18, 10.0),
}
"""Noise, and the brightest pixel in units of the noise."""


def gaussian(side: int, sigma: float) -> NDArray[np.float64]:
    y, x = np.indices((side, side)) - side // 2
    return np.exp(-(x**2 + y**2) / (2 * sigma**2))


def write(path: Path, data: NDArray[np.generic], **variance: NDArray[np.generic]) -> Path:
    cards = {"CTYPE1": "LINEAR", "CTYPE2": "LINEAR"}
    hdus = [fits.PrimaryHDU(data, fits.Header(cards))]
    hdus += [fits.ImageHDU(values, name=name) for name, values in variance.items()]
    fits.HDUList(hdus).writeto(path)
    return path


def through_a_stage(path: Path) -> fits.HDUList:
    """Return the product of `interpolate` with an empty mask, which changes no pixel."""
    mask = path.with_name("mask.fits")
    shape = fits.getdata(path).shape
    fits.PrimaryHDU(np.zeros(shape, np.uint8), fits.getheader(path)).writeto(mask, output_verify="silentfix")
    product = str(path.with_name("product.fits"))
    main(["interpolate", str(path), str(mask), "--method", "linear", "--output", product])
    return fits.open(product)


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_a_planet_with_faint_wings_keeps_its_flux(tmp_path: Path, kind: str) -> None:
    planet = 1e4 * gaussian(301, 6.0)
    path = write(tmp_path / "planet.fits", planet.astype(kind), STAT=np.full(planet.shape, 4.0, kind))
    with through_a_stage(path) as product:
        np.testing.assert_allclose(product["DATA"].data, planet, rtol=1e-6, atol=1e-37)
        np.testing.assert_array_equal(product["STAT"].data, 4.0)


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_a_faint_gaussian_psf_has_unit_sum(tmp_path: Path, kind: str) -> None:
    psf = gaussian(41, 2.0) / gaussian(41, 2.0).sum()
    planet = 1e4 * gaussian(65, 6.0)
    psf_file = write(tmp_path / "psf.fits", psf.astype(kind))
    data_file = write(tmp_path / "planet.fits", planet.astype(kind))
    product = tmp_path / "product.fits"
    main(["deconvolve", str(data_file), str(psf_file), "--method", "lucy_richardson", "--n-iter", "3",
          "--output", str(product)])  # fmt: skip
    with fits.open(product) as file:
        np.testing.assert_allclose(file["PSF"].data[0], psf, rtol=1e-6, atol=1e-37)
        assert np.isfinite(file["DECONVOLVED"].data).all()
        assert np.unravel_index(file["DECONVOLVED"].data.argmax(), (65, 65)) == (32, 32)


@pytest.mark.parametrize("kind", ["f4", "f8"])
@pytest.mark.parametrize("limits", LIMITS)
def test_data_and_variance_survive(tmp_path: Path, kind: str, limits: str) -> None:
    noise, star = LIMITS[limits]
    data = noise * np.random.default_rng(1).normal(size=(40, 50))
    data[20, 25] = noise * star
    # float32 itself cannot hold the variance of 1e-20 fluxes; such files give standard deviations.
    errors = (
        {"ERR": np.full(data.shape, noise, kind)} if kind == "f4" else {"STAT": np.full(data.shape, noise**2)}
    )
    path = write(tmp_path / "cube.fits", data.astype(kind), **errors)
    with through_a_stage(path) as product:
        np.testing.assert_allclose(product["DATA"].data, data.astype(kind), rtol=1e-6)
        np.testing.assert_allclose(product["STAT"].data, noise**2, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-22, 1.0, 1e33])
def test_scaled_integers_survive(tmp_path: Path, scale: float) -> None:
    stored = np.random.default_rng(2).integers(-30_000, 30_000, (40, 50)).astype(np.int16)
    path = write(tmp_path / "cube.fits", stored)
    with fits.open(path, mode="update", do_not_scale_image_data=True) as file:
        file[0].header["BSCALE"] = scale
    with through_a_stage(path) as product:
        np.testing.assert_allclose(product[0].data, stored * scale, rtol=1e-6)


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_ordinary_files_are_not_scaled(tmp_path: Path, kind: str) -> None:
    data = np.random.default_rng(3).normal(50, 5, (40, 50)).astype(kind)
    data[:10] = -3.4028227e38  # fill values of planetary archives
    cube = open_cube(str(write(tmp_path / "cube.fits", data, STAT=data**0)))
    assert cube.attrs["scale_exponent"] == 0
    np.testing.assert_array_equal(cube["data"].values[0], data.astype(np.float32))


def test_fill_values_do_not_affect_the_scale(tmp_path: Path) -> None:
    data = 1e-20 * np.random.default_rng(4).normal(size=(40, 50))
    data[:10] = -1e38
    cube = open_cube(str(write(tmp_path / "cube.fits", data)))
    values = cube["data"].values[0]
    np.testing.assert_allclose(
        np.ldexp(values[10:].astype(float), -cube.attrs["scale_exponent"]), data[10:], rtol=1e-6
    )


def test_a_compact_star_in_a_large_empty_field_sets_the_scale(tmp_path: Path) -> None:
    field = np.full((600, 700), 1e-60)
    field[300:305, 350:355] = 1e3
    cube = open_cube(str(write(tmp_path / "cube.fits", field)))
    assert cube.attrs["scale_exponent"] == 0
    np.testing.assert_array_equal(cube["data"].values[0], field.astype(np.float32))


def test_values_that_float32_cannot_hold_are_reported_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = np.arange(1.0, 10.0).reshape(3, 3)
    variance = np.full((3, 3), 2.0)
    data[0, 0], variance[1, 1], variance[2, 2] = 1e300, 1e-200, 1e90
    cube = open_cube(str(write(tmp_path / "cube.fits", data, STAT=variance)))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            values, spread = cube["data"].values[0], cube["variance"].values[0]
    assert np.isnan(values[0, 0])
    assert np.isnan(spread[2, 2])
    assert spread[1, 1] == 0
    messages = [record.getMessage().removeprefix(f"{tmp_path}/cube.fits: ") for record in caplog.records]
    assert messages == [
        "the data hold numbers too large for float32; they are read as NaN",
        "the variance holds numbers too large for float32; they are read as NaN",
        "the variance holds numbers too small for float32; they are read as 0",
    ]


def test_no_warning_without_losses(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        to_float32(np.array([np.inf, np.nan, 0.0, 1.0]), Encoding(">f8"), "variance")
        to_float32(np.array([np.inf, 0.0, -1.0, 4.0]), Encoding(">f8"), "weight")
        to_float32(np.array([np.inf, 1e-300, 1.0]), Encoding(">f8"), "data")
    assert not caplog.records

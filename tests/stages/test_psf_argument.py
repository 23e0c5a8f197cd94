"""A PSF as the second argument of stages, compared with runs on the same files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

import lucidcube as lc
from lucidcube.cube import PSF, PSF_MODES
from lucidcube.errors import CubeError, UserError
from lucidcube.simulate import write_scene
from scenes import scene, star_cube, target_cube

SCALE = 0.05
SIDE = 31
QUICK = {"method": "lucy_richardson", "n_iter": 3, "chi2_target": None}


def cards(scale: float, east: int = -1) -> fits.Header:
    return fits.Header({
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 30.0, "CRVAL2": -20.0, "CRPIX1": 9.0, "CRPIX2": 9.0,
        "CD1_1": east * scale / 3600, "CD2_2": scale / 3600, "CD1_2": 0.0, "CD2_1": 0.0,
        "CTYPE3": "AWAV", "CUNIT3": "nm", "CRVAL3": 500.0, "CRPIX3": 1.0, "CD3_3": 100.0,
    })  # fmt: skip


def gaussian(sigma: float, side: int) -> np.ndarray:
    y, x = np.indices((side, side)) - side // 2
    image = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    return (image / image.sum()).astype(np.float32)


@pytest.fixture
def target(tmp_path: Path) -> Path:
    data = np.random.default_rng(0).normal(10, 1, (3, SIDE, SIDE)).astype(np.float32)
    data[:, 12:18, 14:20] += 200
    fits.PrimaryHDU(data, cards(SCALE)).writeto(tmp_path / "target.fits")
    return tmp_path / "target.fits"


@pytest.mark.parametrize("scale", [SCALE, SCALE / 2])
def test_a_psf_from_a_file_is_that_of_a_run(target: Path, tmp_path: Path, scale: float) -> None:
    psf = tmp_path / "psf.fits"
    fits.PrimaryHDU(np.stack([gaussian(3.0, 41)] * 3), cards(scale)).writeto(psf)
    product = lc.run(
        {
            "target": {"input": target, "stages": []},
            "star": {"input": psf, "stages": []},
            "deconvolve": lc.Deconvolve(**QUICK),
            "output": {"path": tmp_path / "out.fits"},
        }
    ).path
    made = lc.Deconvolve(**QUICK)(lc.open_cube(target), lc.open_cube(psf))
    with fits.open(product) as hdus:
        np.testing.assert_array_equal(made["psf"].values, hdus["PSF"].data)
        np.testing.assert_array_equal(made["data"].values, hdus["DECONVOLVED"].data)
    assert made["psf"].shape[1] < 41 or scale == SCALE


def test_nothing_is_computed(nothing_computes: None) -> None:
    cubes = target_cube(), star_cube()
    target, star = (c.chunk({"wavelength": 4}).assign_coords(channel=c["channel"]) for c in cubes)
    psf = lc.FitPSF(model="radial")(lc.NormalisePSF()(star))
    marked = lc.Mask()(lc.Artefacts()(target, psf))
    assert lc.Deconvolve()(lc.Interpolate()(marked))["data"].chunks
    assert lc.Deconvolve()(target, lc.moffat_psf(target, fwhm=3))["data"].chunks
    assert lc.sharpen(target, star)["data"].chunks


def test_the_psf_of_the_cube_is_replaced_with_its_modes() -> None:
    target, star = target_cube(), star_cube()
    first = lc.BroadenPSF()(target, lc.FitPSF(model="effective", modes=2)(star))
    assert PSF_MODES in first
    second = lc.BroadenPSF()(first, lc.gaussian_psf(target, fwhm=2.5))
    assert PSF_MODES not in second
    assert second[PSF].shape != first[PSF].shape
    third = lc.BroadenPSF()(target, second)
    np.testing.assert_array_equal(third[PSF], second[PSF])


@pytest.mark.slow
def test_sharpen_replaces_the_psf_of_the_cube() -> None:
    target, star = target_cube(), star_cube()
    before = lc.BroadenPSF()(target, lc.FitPSF(model="effective", modes=2)(star))
    psf = lc.gaussian_psf(target, fwhm=2.5)
    made = lc.sharpen(before, psf=psf)
    np.testing.assert_array_equal(made[PSF], lc.sharpen(target, psf=psf)[PSF])
    assert PSF_MODES not in made
    assert made[PSF].shape != before[PSF].shape
    made = lc.sharpen(target.assign({PSF: made[PSF]}), star)
    np.testing.assert_array_equal(made[PSF], lc.sharpen(target, star)[PSF])


def test_an_image_serves_all_planes() -> None:
    target = target_cube()
    psf = lc.from_arrays(gaussian(1.5, 15), [np.nan])
    made = lc.Deconvolve(**QUICK)(target, psf)
    np.testing.assert_array_equal(made[PSF][3], psf["data"][0])


@pytest.mark.parametrize(
    ("psf", "message"),
    [
        (None, "deconvolve needs the variable 'psf' .*: give a PSF as the second argument, such as lucidcube.moffat_psf"),
        (gaussian(2, 9), "the PSF is ndarray and no cube: .* lucidcube.from_arrays"),
        (lc.from_arrays(3 * gaussian(2, 9), [np.nan]), "deconvolve, plane 0 .*the PSF.*sum"),
        (lc.from_arrays(np.roll(gaussian(2, 9), 3, 0), [np.nan]), "deconvolve, plane 0 .*cent"),
        (xr.Dataset(), "the PSF needs the variable 'data'"),
    ],
)  # fmt: skip
def test_an_unusable_psf_is_one_clear_error(psf: xr.Dataset | None, message: str) -> None:
    with pytest.raises(CubeError, match=message) as caught:
        lc.Deconvolve()(target_cube(), psf)
    assert len(caught.value.problems) == 1


def test_wavelengths_that_do_not_cover_the_target_are_refused() -> None:
    with pytest.raises(CubeError, match="do not cover them"):
        lc.Deconvolve()(target_cube(), lc.moffat_psf(target_cube().isel(wavelength=slice(0, 5)), fwhm=3))


def test_a_formula_made_for_other_pixels_is_resampled(target: Path, tmp_path: Path) -> None:
    """Half as large pixels need half as many of them for the same angle."""
    fine = tmp_path / "fine.fits"
    fits.PrimaryHDU(np.ones((3, 2 * SIDE, 2 * SIDE), np.float32), cards(SCALE / 2)).writeto(fine)
    cube = lc.open_cube(target)
    there = lc.gaussian_psf(lc.open_cube(fine), fwhm="0.2arcsec")
    made = lc.Deconvolve(**QUICK)(cube, there)[PSF].values
    direct = lc.Deconvolve(**QUICK)(cube, lc.gaussian_psf(cube, fwhm="0.2arcsec"))[PSF].values
    cut = (made.shape[1] - direct.shape[1]) // 2
    made = made[:, cut : made.shape[1] - cut, cut : made.shape[2] - cut] if cut > 0 else made
    direct = direct[:, -cut : direct.shape[1] + cut, -cut : direct.shape[2] + cut] if cut < 0 else direct
    assert np.abs(made - direct).max() < 0.02 * direct.max()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fwhm": "0.1arcsec"}, "model_psf: .*give pixel_scale, or lengths in pixels"),
        ({"fwhm": -1}, "model_psf.fwhm: -1 is neither a positive"),
        ({"fwhm": 3, "beta": 0.5}, "model_psf.beta: 0.5 is not from"),
    ],
)
def test_wrong_parameters_of_a_formula(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        lc.moffat_psf(target_cube(), **arguments)


def test_sharpen_needs_one_star_or_psf() -> None:
    cube = target_cube()
    for arguments in ({}, {"star": cube, "psf": cube}):
        with pytest.raises(CubeError, match="sharpen needs a star or a PSF"):
            lc.sharpen(cube, **arguments)
    with pytest.raises(UserError, match="sharpen: deconvolve.method: must be one of"):
        lc.sharpen(cube, star_cube(), method="mapp")


@pytest.mark.slow
def test_sharpen_gives_the_numbers_of_a_run(tmp_path: Path) -> None:
    files = write_scene(scene(), tmp_path)
    product = lc.run(
        {"target": files.target, "star": files.star, "output": {"path": tmp_path / "out.fits"}}
    ).path
    made = lc.sharpen(lc.open_cube(files.target), lc.open_cube(files.star))
    written = made.lucid.to_fits(tmp_path / "sharp.fits")
    with fits.open(product) as a, fits.open(written) as b:
        np.testing.assert_array_equal(a["DECONVOLVED"].data, b["DECONVOLVED"].data)
        np.testing.assert_array_equal(a["DECONVOLUTION LOG"].data, b["DECONVOLUTION LOG"].data)
    psf = lc.FitPSF()(lc.Noise()(lc.Rebin(preset="auto")(lc.open_cube(files.star))))
    again = lc.sharpen(lc.open_cube(files.target), psf=psf)
    np.testing.assert_array_equal(again["data"].values, fits.getdata(written))

"""PSFs from formulas in cubes and in runs, from FITS to FITS."""

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from config_scenes import moffat
from lucidcube.config.load import from_plain
from lucidcube.cube import HEADER, PSF, from_arrays
from lucidcube.errors import ConfigError, CubeError
from lucidcube.kernels.psf.models import muse_ao_star
from lucidcube.kernels.psf.optical_psf import Grid, Optics
from lucidcube.runner.pipeline import run
from lucidcube.stages import ModelPSF

SKY = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 30.0,
    "CRVAL2": -20.0,
    "CRPIX1": 20.0,
    "CRPIX2": 20.0,
    "CD1_1": -0.025 / 3600,
    "CD1_2": 0.0,
    "CD2_1": 0.0,
    "CD2_2": 0.025 / 3600,
}
WAVE = {"CTYPE3": "AWAV", "CUNIT3": "nm", "CRVAL3": 500.0, "CRPIX3": 1.0, "CD3_3": 100.0}
METRES = np.arange(5e-7, 9.1e-7, 1e-7)
AO = {"r0": 0.2, "amplitude": 2.0}


def cube(cards: dict[str, Any] | None = None, side: int = 41) -> xr.Dataset:
    header = fits.Header(
        {"NAXIS": 3, "NAXIS1": side, "NAXIS2": side, "NAXIS3": 5} | (SKY if cards is None else cards)
    )
    attrs = {HEADER: header.tostring(sep="\n", endcard=False, padding=False)}
    data = da.zeros((5, side, side), chunks=(2, side, side), dtype=np.float32)
    return from_arrays(data, METRES, attrs=attrs)


def fwhm_of(psf: np.ndarray) -> float:
    """Return the width along a row through the centre."""
    row = psf[len(psf) // 2, len(psf) // 2 :]
    return float(2 * np.interp(-row[0] / 2, -row, np.arange(row.size)))


def test_widths_are_interpolated_in_wavelength_and_constant_beyond() -> None:
    given = {"600nm": "0.2arcsec", "800nm": "100mas"}
    psf = ModelPSF(fwhm=given, beta=3)(cube())[PSF]
    assert isinstance(psf.data, da.Array)
    expected = [8, 8, 6, 4, 4]
    assert [fwhm_of(p) for p in psf.values] == pytest.approx(
        expected, rel=0.04
    )  # a pixel adds 1/12 to sigma^2
    pairs = ModelPSF(fwhm=[[8e-7, 4], ["600 nm", 8.0]], beta=[[5e-7, 3], [9e-7, 3]])
    np.testing.assert_allclose(pairs(cube())[PSF].values, psf.values, rtol=1e-5)


def test_frequencies_are_wavelengths() -> None:
    frequency = from_arrays(np.zeros((2, 31, 31), np.float32), [4e14, 6e14], wavelength_units="Hz")
    made = ModelPSF(fwhm={"499.654097nm": 3, "400THz": 5})(frequency)[PSF].values
    assert [fwhm_of(p) for p in made] == pytest.approx([5.14, 3.22], abs=0.01)


@pytest.mark.parametrize(("fwhm", "side"), [(1.0, 19), (2.0, 37), (8.0, 101), (0.6, 13)])
def test_the_image_holds_the_light_and_is_not_larger_than_the_field(fwhm: float, side: int) -> None:
    assert ModelPSF(fwhm=fwhm)(cube(side=102))[PSF].shape == (5, side, side)


def test_light_outside_of_the_field_is_a_warning() -> None:
    assert not [*ModelPSF(fwhm=3).warnings(cube())]
    (text,) = ModelPSF(fwhm=12, beta=1.5).warnings(cube())
    assert "of the light of the PSF lies further away" in text


def test_muse_ao_is_that_of_the_kernel_on_the_pixels_of_the_header() -> None:
    made = ModelPSF(model="muse_ao", **AO, background={"500nm": 0.01, "900nm": 0.0})(cube())[PSF].values
    values = np.array([0.2, 10.0, 0.1, 1.6, 2.0, 0.005, 2.06])
    image = muse_ao_star(values, 7e-7, Optics(8.0, 0.14, 0.025), Grid((41, 41), 20.0, 20.0)).image
    np.testing.assert_allclose(made[2], image / image.sum(), rtol=1e-5)


@pytest.mark.parametrize(
    ("parameters", "cards", "message"),
    [
        ({"fwhm": "0.01arcsec"}, SKY, "fwhm is 0.4 pixels; widths from 0.5 pixels to that of the field, 41"),
        ({"fwhm": {"500nm": 3, "900nm": 60}}, SKY, "fwhm is 60 pixels"),
        ({"fwhm": "0.1arcsec"}, {}, "no sky coordinates: give pixel_scale, or lengths in pixels"),
        ({"fwhm": "0.1arcsec"}, SKY | {"CD2_2": 0.05 / 3600}, "not square"),
        ({}, SKY, "needs fwhm"),
        ({"model": "muse_ao"}, SKY, "needs r0 and amplitude"),
        ({"model": "muse_ao", **AO}, {}, "no sky coordinates: give pixel_scale, or choose another model"),
        ({"model": "muse_ao", **AO, "r0": 0.01}, SKY, "the seeing is"),
    ],
)
def test_what_makes_no_sense_is_an_error(parameters: Any, cards: Any, message: str) -> None:
    with pytest.raises(CubeError, match=message):
        ModelPSF(**parameters)(cube(cards))


def test_the_pixel_scale_can_be_given() -> None:
    made, known = (ModelPSF(fwhm="0.1arcsec", pixel_scale=p)(cube(c)) for p, c in ((0.025, {}), (None, SKY)))
    np.testing.assert_array_equal(made[PSF].values, known[PSF].values)


def test_an_image_has_no_wavelength() -> None:
    image = from_arrays(np.zeros((1, 31, 31), np.float32), [np.nan])
    assert ModelPSF(fwhm=3)(image)[PSF].shape == (1, 31, 31)
    with pytest.raises(CubeError, match="fwhm is given at several wavelengths"):
        ModelPSF(fwhm={"500nm": 3})(image)
    with pytest.raises(CubeError, match="needs the wavelength"):
        ModelPSF(model="muse_ao", **AO, pixel_scale=0.025)(image)


# From FITS to FITS


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disc and a point, blurred by a Moffat of 3.5 pixels, in two extensions."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("target") / "target.fits"
    y, x = np.indices((41, 41)) - 20
    scene = np.clip(9 - np.hypot(y, x), 0, 1) * 100
    scene[5, 30] += 2000
    psf = moffat((41, 41), 3.5, (20, 20))
    blurred = np.fft.irfft2(np.fft.rfft2(scene) * np.fft.rfft2(np.fft.ifftshift(psf)), (41, 41))
    data = blurred + rng.normal(0, 1, (5, 41, 41))
    hdus = [fits.ImageHDU(a.astype(np.float32), fits.Header(SKY | WAVE)) for a in (data, np.ones_like(data))]
    hdus[0].name, hdus[1].name = "DATA", "STAT"
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def product(file: Path, folder: Path, psf: dict[str, Any], **more: Any) -> dict[str, Any]:
    values = {
        "target": {"input": str(file), "stages": ["noise"]},
        "star": {"psf": psf},
        "deconvolve": {"method": "map", "n_iter": 20},
        "output": {"path": f"{folder}/out.fits"},
        "checkpoints": {"dir": f"{folder}/work"},
        "profile": "synchronous",
    }
    with fits.open(run(from_plain(values | more)).path) as hdus:
        return {h.name: np.array(h.data) for h in hdus} | {"header": hdus[0].header}


BY_WAVELENGTH = {"500nm": "0.1arcsec", "900nm": "0.05arcsec"}


@pytest.mark.parametrize(
    "psf",
    [
        {"model": "moffat", "fwhm": 3.5},
        {"model": "moffat", "fwhm": BY_WAVELENGTH, "beta": {"500nm": 2.5, "900nm": 4}},
        {"model": "gaussian", "fwhm": "0.08arcsec"},
        {"model": "gaussian", "fwhm": [["500nm", "0.1arcsec"], ["900nm", 2]]},
        {"model": "muse_ao", **AO},
        {"model": "muse_ao", "r0": {"500nm": 0.15, "900nm": 0.2}, "amplitude": {"500nm": 4, "900nm": 1.2}},
    ],
    ids=lambda psf: "-".join(["model" if isinstance(v, str) else type(v).__name__ for v in psf.values()]),
)
def test_from_fits_to_fits(target: Path, tmp_path: Path, psf: dict[str, Any]) -> None:
    made = product(target, tmp_path, psf)
    np.testing.assert_array_equal(made["PSF"], ModelPSF(**psf)(cube())[PSF].values)
    assert np.isfinite(made["DECONVOLVED"]).all()
    assert made["header"]["LUCIDCUBE TARGET STAGES"] == "noise model_psf deconvolve"
    table = {row[0].strip(): row[1] for row in made["PROVENANCE"].tolist()}
    assert psf["model"] in " ".join(map(str, table.values()))


def test_the_right_formula_sharpens(target: Path, tmp_path: Path) -> None:
    made = product(target, tmp_path, {"fwhm": 3.5, "beta": 2.5}, deconvolve={"method": "map"})
    assert (np.abs(made["DECONVOLUTION LOG"]["chi2"] - 1) < 0.2).all()
    y, x = np.indices((41, 41))
    point = made["DECONVOLVED"][:, np.hypot(y - 5, x - 30) < 2.5].sum(axis=1)
    assert point == pytest.approx(2000, rel=0.03)  # 0.01


@pytest.mark.slow
def test_the_recommended_chain(target: Path, tmp_path: Path) -> None:
    more = {"target": {"input": str(target)}, "deconvolve": {"n_iter": 5}}
    made = product(target, tmp_path, {"fwhm": "0.0875arcsec"}, **more)
    stages = "rebin noise model_psf broaden_psf artefacts mask interpolate deconvolve"
    assert made["header"]["LUCIDCUBE TARGET STAGES"] == stages
    assert {"DECONVOLVED", "PSF", "FILLED", "DECONVOLUTION LOG"} <= {*made}


@pytest.mark.slow
def test_a_second_run_uses_the_psf_of_the_checkpoint(target: Path, tmp_path: Path) -> None:
    values = {"fwhm": 3.5}
    product(target, tmp_path, values)
    names = {path.name.rpartition("-")[0] for path in (tmp_path / "work").glob("target-*")}
    assert names == {"target-model_psf", "target-deconvolve"}
    before = {*(tmp_path / "work").iterdir()}
    product(target, tmp_path, values, deconvolve={"method": "lucy_richardson", "n_iter": 2})
    assert len({*(tmp_path / "work").iterdir()} - before) == 1


def test_mistakes_are_found_before_the_run(target: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="target: model_psf: fwhm is 0.4 pixels"):
        product(target, tmp_path, {"fwhm": "10mas"})
    assert not (tmp_path / "work").exists()

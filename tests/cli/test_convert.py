"""The command convert: FITS to zarr and back, and pictures to FITS."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from commands import call
from lucidcube.cube import DIMS, require
from lucidcube.io.reader import open_cube
from lucidcube.simulate import Scene, write_scene

AXIS = {"CTYPE3": "AWAV", "CUNIT3": "nm", "CRVAL3": 500.0, "CDELT3": 5.0, "CRPIX3": 1.0}
STRUCTURAL = re.compile(
    "SIMPLE|XTENSION|BITPIX|NAXIS.*|EXTEND|[PG]COUNT|BSCALE|BZERO|CHECKSUM|DATASUM|EXTNAME"
)
"""Cards whose comments are those of the program that wrote the file, and checksums."""


def cards(header: fits.Header) -> list[str]:
    return [str(card) for card in header.cards if not STRUCTURAL.fullmatch(card.keyword)]


def assert_same_hdus(one: Path, other: Path, names: list[str | int]) -> None:
    with fits.open(one) as before, fits.open(other, checksum=True) as after:
        for name in names:
            assert cards(before[name].header) == cards(after[name].header)
            if before[name].data is not None:
                np.testing.assert_array_equal(before[name].data, after[name].data)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_fits_to_zarr_and_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scene(Scene(shape=(7, 21, 25), seed=3, wavelength_step=0.5e-9), folder)
    assert call(capsys, "convert", "target.fits", "a/target.zarr") == (0, "a/target.zarr\n", "")
    cube, expected = xr.open_zarr("a/target.zarr", consolidated=False), open_cube("target.fits")
    require(cube, ["data", "variance", "wavelength", "channel"], "test")
    assert cube.data.chunks is not None
    assert cube.data.encoding["chunks"] == tuple(c[0] for c in expected.data.chunks)
    for name in ("data", "variance", "wavelength", "channel"):
        np.testing.assert_array_equal(cube[name], expected[name])
        assert (
            cube[name].attrs["units"] == expected[name].attrs.get("units", "") if name != "channel" else True
        )
    assert call(capsys, "convert", "a/target.zarr", "back.fits")[:2] == (0, "back.fits\n")
    assert_same_hdus(folder / "target.fits", folder / "back.fits", [0, "DATA", "STAT"])
    assert [p.name for p in folder.rglob("*part*")] == []


@pytest.mark.parametrize("bitpix", [-64, -32])
def test_faint_fluxes_keep_their_values(
    folder: Path, capsys: pytest.CaptureFixture[str], bitpix: int
) -> None:
    data = np.random.default_rng(2).normal(5e-20, 1e-20, (3, 6, 7)).astype("f4" if bitpix == -32 else "f8")
    variance = np.full(data.shape, 1e-40, "f8")
    hdus = [fits.PrimaryHDU(data, fits.Header(AXIS)), fits.ImageHDU(variance, name="STAT")]
    fits.HDUList(hdus).writeto("faint.fits")
    code, _, err = call(capsys, "convert", "faint.fits", "faint.zarr")
    assert code == 0
    assert ("64-bit" in err) == (bitpix == -64)
    cube = xr.open_zarr("faint.zarr", consolidated=False)
    assert cube.data.dtype == data.dtype
    np.testing.assert_allclose(cube.data, data, rtol=1e-7)
    np.testing.assert_allclose(cube.variance, variance, rtol=1e-6)
    assert call(capsys, "convert", "faint.zarr", "back.fits")[0] == 0
    with fits.open("back.fits") as back:
        assert back[0].header["BITPIX"] == bitpix
        np.testing.assert_allclose(back[0].data, data, rtol=1e-7)
        np.testing.assert_allclose(back["STAT"].data, variance, rtol=1e-6)


def test_errors_are_variances_in_the_store(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = np.ones((3, 6, 7), np.float32)
    errors = fits.ImageHDU(data * 0.5, fits.Header({"HDUCLAS3": "RMSE", "BUNIT": "Jy"}), name="ERR")
    first = fits.ImageHDU(data, fits.Header({**AXIS, "BUNIT": "Jy"}), name="SCI")
    fits.HDUList([fits.PrimaryHDU(), first, errors]).writeto("sci.fits")
    assert call(capsys, "convert", "sci.fits", "sci.zarr")[0] == 0
    assert call(capsys, "convert", "sci.zarr", "back.fits")[0] == 0
    with fits.open("back.fits") as hdus:
        assert [hdu.name for hdu in hdus] == ["PRIMARY", "SCI", "STAT"]
        assert "HDUCLAS3" not in hdus["STAT"].header
        assert hdus["STAT"].header["BUNIT"] == "(Jy)**2"
        np.testing.assert_array_equal(hdus["STAT"].data, 0.25)


def test_a_product_keeps_its_images(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shape, values = (3, 6, 7), np.random.default_rng(0).random((3, 6, 7)).astype(np.float32)
    hdus: list[Any] = [fits.PrimaryHDU(values, fits.Header({**AXIS, "EXTNAME": "DECONVOLVED"}))]
    hdus += [
        fits.ImageHDU(values * n, fits.Header(AXIS), name=name)
        for n, name in enumerate(["RESIDUAL", "STAT"], 2)
    ]
    hdus.append(fits.ImageHDU(values[:, :5, :5], fits.Header(AXIS), name="PSF"))
    hdus.append(fits.ImageHDU((values > 0.5).astype(np.uint8), fits.Header(AXIS), name="MASK"))
    hdus.append(fits.ImageHDU(values[0], name="OTHER"))
    fits.HDUList(hdus).writeto("product.fits")
    code, _, err = call(capsys, "convert", "product.fits", "product.zarr")
    assert code == 0
    assert "no place for them: OTHER" in err
    cube = xr.open_zarr("product.zarr", consolidated=False)
    assert {*cube.data_vars} == {"data", "residual", "variance", "psf", "mask"}
    assert cube.psf.dims == ("wavelength", "psf_y", "psf_x")
    assert cube.mask.dtype == np.uint8
    assert cube.residual.dims == DIMS
    assert cube.residual.shape == shape
    assert call(capsys, "convert", "product.zarr", "back.fits")[0] == 0
    assert_same_hdus(folder / "product.fits", folder / "back.fits", ["RESIDUAL", "STAT", "PSF", "MASK"])


def test_a_part_that_was_cut_out_with_xarray(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = np.arange(210, dtype=np.float32).reshape(5, 6, 7)
    fits.writeto("obs.fits", data, fits.Header(AXIS))
    assert call(capsys, "convert", "obs.fits", "obs.zarr")[0] == 0
    cube = xr.open_zarr("obs.zarr", consolidated=False).load()
    cube.isel(wavelength=slice(2, 4)).drop_encoding().to_zarr("few.zarr", consolidated=False)
    assert call(capsys, "convert", "few.zarr", "few.fits")[0] == 0
    few = open_cube("few.fits")
    np.testing.assert_array_equal(few.data, data[2:4])
    np.testing.assert_allclose(few.wavelength, [510e-9, 515e-9])
    cube.isel(x=slice(2, 4)).drop_encoding().to_zarr("narrow.zarr", consolidated=False)
    code, _, err = call(capsys, "convert", "narrow.zarr", "narrow.fits")
    assert code == 2
    assert "describes 5 x 6 x 7" in err


def test_a_store_that_others_made(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wavelength = ("wavelength", [5e-7, 6e-7, 8e-7], {"units": "m"})
    values = np.random.default_rng(0).random((3, 4, 5))
    xr.Dataset({"data": (DIMS, values)}, {"wavelength": wavelength}).to_zarr("own.zarr", consolidated=False)
    assert call(capsys, "convert", "own.zarr", "own.fits")[0] == 0
    cube = open_cube("own.fits")
    np.testing.assert_allclose(cube.data, values, rtol=1e-6)
    np.testing.assert_allclose(cube.wavelength, [5e-7, 6e-7, 8e-7])


def test_real_cubes(folder: Path, shared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, hdus in (
        ("muse_udf_subcube.fits", ["PRIMARY", "DATA", "STAT"]),
        ("hdr_manga_logcube.fits", ["PRIMARY", "FLUX"]),
        ("stokes4d_example_cube.fits", [0]),
    ):
        assert call(capsys, "convert", shared / "data" / name, "real.zarr", "--overwrite")[0] == 0
        assert call(capsys, "convert", "real.zarr", "real.fits", "--overwrite")[0] == 0
        assert_same_hdus(shared / "data" / name, folder / "real.fits", hdus)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["png8", "png16", "tiff", "pages"])
def test_pictures_become_planes(folder: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    image = pytest.importorskip("PIL.Image")
    top = 255 if kind == "png8" else 60_000
    frames = (
        np.random.default_rng(1).integers(0, top, (11, 5, 6)).astype(np.uint8 if top == 255 else np.uint16)
    )
    pictures = [image.fromarray(frame) for frame in frames]
    if kind == "pages":
        pictures[0].save("frames.tiff", save_all=True, append_images=pictures[1:])
        source = ["frames.tiff"]
    else:
        Path("frames").mkdir()
        for n, picture in enumerate(pictures):
            picture.save(f"frames/f{n}.{'tif' if kind == 'tiff' else 'png'}")
        source = ["frames"]
    waves = ["--wave-start", 700, "--wave-step", 2.5, "--wave-unit", "nm"]
    assert call(capsys, "convert", *source, "cube.fits", *waves)[:2] == (0, "cube.fits\n")
    data, header = fits.getdata("cube.fits", header=True)
    np.testing.assert_array_equal(data, frames[:, ::-1])
    assert header["BITPIX"] == (8 if kind == "png8" else 32)
    np.testing.assert_allclose(open_cube("cube.fits").wavelength, (700 + 2.5 * np.arange(11)) * 1e-9)


def test_mistakes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    fits.writeto("obs.fits", np.ones((2, 4, 5), np.float32), fits.Header(AXIS))
    image.fromarray(np.zeros((4, 5, 3), np.uint8)).save("colour.png")
    image.fromarray(np.zeros((4, 5), np.uint8)).save("grey.png")
    image.fromarray(np.zeros((4, 6), np.uint8)).save("wide.png")
    Path("text.png").write_text("no picture")
    Path("mine.zarr").mkdir()
    Path("mine.zarr/notes.txt").write_text("mine")
    Path("empty").mkdir()
    for arguments, expected in (
        (["obs.fits"], "give an input and an output"),
        (["obs.fits", "new.fits"], "ends in .zarr"),
        (["obs.fits", "mine.zarr", "--overwrite"], "exists already"),
        (["nowhere.fits", "new.zarr"], "no file nowhere.fits"),
        (["colour.png", "new.fits"], "not a grey picture"),
        (["grey.png", "wide.png", "new.fits"], "different sizes"),
        (["text.png", "new.fits"], "not a picture"),
        (["none.png", "new.fits"], "no file none.png"),
        (["grey.png", "obs.fits"], "obs.fits exists"),
        (["grey.png", "new.png"], "ends in .fits"),
        (["grey.png", "new.fits", "--wave-start", "3"], "together"),
        (["empty", "new.fits"], "holds no pictures"),
        (["mine.zarr", "new.fits"], "holds no pictures"),
    ):
        code, _, err = call(capsys, "convert", *arguments)
        assert (code, err.count("\n")) == (2, 1), (arguments, err)
        assert expected in err
        assert not Path("new.fits").exists()
        assert not Path("new.zarr").exists()
    assert Path("mine.zarr/notes.txt").read_text() == "mine"
    assert call(capsys, "convert", "obs.fits", "new.zarr")[0] == 0
    code, _, err = call(capsys, "convert", "obs.fits", "new.zarr")
    assert (code, "--overwrite" in err) == (2, True)
    assert call(capsys, "convert", "obs.fits", "new.zarr", "--overwrite")[0] == 0
    assert not [p for p in folder.rglob("*") if p.name.endswith(".part")]

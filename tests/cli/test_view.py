"""The command view: which planes and HDUs are drawn, their numbers, and the file that is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from commands import call
from lucidcube.io.specifier import parse_specifier
from lucidcube.plotting.panels import columns_of, rows_of

PIL = pytest.importorskip("PIL.Image")
AXIS = {"CTYPE3": "WAVE", "CUNIT3": "nm", "CRVAL3": 500.0, "CDELT3": 5.0, "CRPIX3": 1.0}
SKY = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": -20.0, "CRPIX1": 4.0, "CRPIX2": 3.0,
    "CDELT1": -0.2 / 3600, "CDELT2": 0.2 / 3600,
}  # fmt: skip
RANDOM = np.random.default_rng(5)
SHAPE = (5, 20, 24)
ARRAYS = {
    "DECONVOLVED": RANDOM.normal(3e-20, 1e-20, SHAPE),
    "RESIDUAL": RANDOM.normal(0, 2e-20, SHAPE),
    "ERROR": np.full(SHAPE, 3e-20),
    "PSF": RANDOM.random((5, 9, 9)) / 81,
    "MASK": (RANDOM.random(SHAPE) > 0.7).astype(np.uint8),
    "STAT": np.full(SHAPE, 4e-40),
}


@pytest.fixture
def product(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a file with the HDUs of a product, whose fluxes are too small for squares in float32."""
    hdus: list[Any] = []
    for name, array in ARRAYS.items():
        header = fits.Header({**AXIS, **(SKY if name != "PSF" else {})})
        values = array if array.dtype == np.uint8 else array.astype(np.float64)
        hdus.append((fits.ImageHDU if hdus else fits.PrimaryHDU)(values, header))
        hdus[-1].header["EXTNAME"] = name
    fits.HDUList(hdus).writeto(tmp_path / "out.fits")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "out.fits"


def size(path: Path) -> tuple[int, int]:
    with PIL.open(path) as picture:
        return picture.size


def test_the_numbers_that_are_drawn(product: Path) -> None:
    columns, matrix = columns_of(parse_specifier(str(product)), [], print)
    assert [c.name for c in columns] == ["DECONVOLVED", "RESIDUAL", "ERROR", "PSF", "MASK"]
    assert matrix is not None
    np.testing.assert_allclose(np.hypot(*matrix), 0.2)
    white, plane = rows_of(columns[0].cube, True, [], ["516 nm"])
    assert (white.title, plane.title) == ("white light: mean of 5 planes", "plane 3 at 0.515 µm")
    found = {c.name: [c.panel(row, matrix).values for row in (white, plane)] for c in columns}
    expected = {
        "DECONVOLVED": (ARRAYS["DECONVOLVED"].mean(0), ARRAYS["DECONVOLVED"][3]),
        "RESIDUAL": (ARRAYS["RESIDUAL"].sum(0) / 2e-20 / np.sqrt(5), ARRAYS["RESIDUAL"][3] / 2e-20),
        "ERROR": (np.full(SHAPE[1:], 3e-20 / np.sqrt(5)), ARRAYS["ERROR"][3]),
        "PSF": (ARRAYS["PSF"].mean(0), ARRAYS["PSF"][3]),
        "MASK": (ARRAYS["MASK"].mean(0), ARRAYS["MASK"][3]),
    }
    for name, both in expected.items():
        for got, wanted in zip(found[name], both, strict=True):
            if name == "ERROR" and got is found[name][1]:
                got = np.sqrt(got**2)
            np.testing.assert_allclose(got, wanted, rtol=2e-5, err_msg=name)


@pytest.mark.slow
def test_a_picture_is_written_and_replaced(product: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "view", product) == (0, f"{product.with_suffix('.png')}\n", "")
    first = size(product.with_suffix(".png"))
    code, out, _ = call(capsys, "view", product, "--channel", "0,4", "--hdu", "RESIDUAL", "-o", "sub/one.png")
    assert (code, out) == (0, "sub/one.png\n")
    second = size(Path("sub/one.png"))
    assert first[0] > 2 * second[0]
    assert first[1] == second[1]
    few = ("--hdu", "RESIDUAL")
    assert call(capsys, "view", product, *few)[0] == 0  # a picture of its own is replaced
    Path("mine.png").write_bytes(b"my own picture")
    code, _, err = call(capsys, "view", product, *few, "-o", "mine.png")
    assert code == 2
    assert "was not made by lucidcube" in err
    assert Path("mine.png").read_bytes() == b"my own picture"
    assert call(capsys, "view", product, *few, "-o", "mine.png", "--overwrite")[0] == 0
    assert not list(Path.cwd().rglob("*.part"))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--channel", "9"], "no channel 9; the file has 0 to 4"),
        (["--channel", "one"], "whole number"),
        (["--wave", "2um"], "outside the cube's range"),
        (["--hdu", "NOTHING"], "no extension NOTHING"),
        (["-o", "out.fits"], "one of the inputs"),
        (["--channel", ",".join("01234" * 3)], "too many"),
    ],
)
def test_mistakes(
    product: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    code, _, err = call(capsys, "view", product, *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert expected in err


def test_pictures_are_opened_only_on_a_display(
    product: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    code, out, err = call(capsys, "view", product, "--hdu", "MASK", "--open")
    assert (code, out) == (2, f"{product.with_suffix('.png')}\n")
    assert "there is no display" in err
    seen: list[list[str]] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("shutil.which", lambda program: program)
    monkeypatch.setattr("subprocess.Popen", lambda command, **options: seen.append(command))
    assert call(capsys, "view", product, "--hdu", "MASK", "--open")[0] == 0
    assert seen == [["xdg-open", str(product.with_suffix(".png"))]]


def test_an_image_without_sky_coordinates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = np.arange(30.0).reshape(5, 6)
    image[0] = np.nan
    fits.writeto(tmp_path / "image.fits", image)
    assert call(capsys, "view", tmp_path / "image.fits", "--scale", "linear")[0] == 0
    columns, matrix = columns_of(parse_specifier(str(tmp_path / "image.fits")), [], print)
    assert matrix is None
    (row,) = rows_of(columns[0].cube, False, [], [])
    np.testing.assert_array_equal(columns[0].panel(row, None).values, image)


def test_an_empty_cube_is_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fits.writeto(tmp_path / "empty.fits", np.full((3, 4, 4), np.nan), fits.Header(AXIS))
    assert call(capsys, "view", tmp_path / "empty.fits")[0] == 0

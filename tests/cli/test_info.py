"""The command info, and errors of all kinds that become variances."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from commands import call

AXIS = {"CTYPE3": "AWAV", "CUNIT3": "nm", "CRVAL3": 500.0, "CDELT3": 5.0, "CRPIX3": 1.0}
SKY = {
    "CTYPE1": "RA---TAN",
    "CTYPE2": "DEC--TAN",
    "CRVAL1": 10.0,
    "CRVAL2": -20.0,
    "CRPIX1": 4.0,
    "CRPIX2": 3.0,
}


def written(path: Path, errors: np.ndarray | None = None, name: str = "", cards: dict[str, Any] | None = None, **more: Any) -> Path:  # fmt: skip
    data = np.random.default_rng(1).normal(3, 1, (4, 6, 7)).astype(np.float32)
    header = fits.Header({**AXIS, "BUNIT": "Jy", **more})
    hdus: list[Any] = [fits.PrimaryHDU(), fits.ImageHDU(data, header, name="DATA")]
    if errors is not None:
        hdus.append(fits.ImageHDU(errors, fits.Header(cards or {}), name=name))
    fits.HDUList(hdus).writeto(path)
    return path


SIGMA = np.linspace(0.5, 2, 168, dtype=np.float32).reshape(4, 6, 7)


@pytest.mark.parametrize(
    ("name", "cards", "power", "kind"),
    [
        ("STAT", {}, 2, "variances"),
        ("ERR", {}, 1, "standard deviations"),
        ("NOISE", {}, 1, "standard deviations"),
        ("IVAR", {}, -2, "inverse variances"),
        ("ERR", {"HDUCLAS3": "MSE"}, 2, "variances"),
        ("UNCERT", {"UTYPE": "StdDevUncertainty"}, 1, "standard deviations"),
        ("UNCERT", {"UTYPE": "InverseVariance"}, -2, "inverse variances"),
    ],
)
def test_errors_of_all_kinds_become_variances(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    cards: dict[str, str],
    power: int,
    kind: str,
) -> None:
    """The command rebin passes broad channels on, so that its product holds the variance as it was read."""
    path = written(tmp_path / "obs.fits", SIGMA**power, name, cards)
    found = json.loads(call(capsys, "info", path, "--json")[1])
    assert found["array"]["variance"]["kind"] == kind
    assert [hdu["role"] for hdu in found["hdus"]] == ["", "data", "variance"]
    code, out, err = call(capsys, "rebin", path, "--preset", "auto", "-o", tmp_path / "out.fits")
    assert code == 0
    np.testing.assert_allclose(fits.getdata(out.strip(), "STAT"), SIGMA**2, rtol=1e-5)
    assert (kind in err) == (power != 2)
    if power != 2:
        assert err.count(f"{{{name}}} holds {kind}") == 1


def test_errors_of_an_array_among_several_have_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = np.ones((4, 6, 7), np.float32)
    names = ["IFU.1.DATA", "IFU.2.NOISE", "IFU.1.NOISE"]
    images = [fits.ImageHDU(data * n, fits.Header(AXIS), name=name) for n, name in enumerate(names, 1)]
    fits.HDUList([fits.PrimaryHDU(), *images]).writeto(tmp_path / "kmos.fits")
    found = json.loads(call(capsys, "info", tmp_path / "kmos.fits", "--json")[1])
    assert found["array"]["variance"]["hdu"] == "IFU.1.NOISE"


def test_text_says_what_is_read_and_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turned = {"CD1_1": -0.2 / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.2 / 3600, "CD3_3": 5.0}
    path = written(tmp_path / "obs.fits", SIGMA, "STAT", **SKY, **turned)
    with fits.open(path, "append") as hdus:
        hdus.append(fits.ImageHDU(np.zeros((4, 6, 7), np.uint8), name="DQ"))
        hdus.append(fits.ImageHDU(np.zeros((6, 7), np.float32), name="STAT2"))
    code, out, err = call(capsys, "info", path)
    assert (code, err) == (0, "")
    for part in (
        "4 x 6 x 7",
        "read as data: the first HDU called SCI, DATA or FLUX",
        "read as variance: its name is STAT",
        "flags of pixels are not used",
        "name it: {STAT2}",
        "500 to 515 nm, step 5; wavelength in air (AWAV)",
        "0.2 arcsec; north is up, east is counterclockwise",
        "0.0% NaN (in planes 0, 2, 3 only)",
    ):
        assert part in out, part


@pytest.mark.parametrize("angle", [0.0, 30.0, -120.0])
@pytest.mark.parametrize("mirrored", [False, True])
def test_orientation_agrees_with_astropy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], angle: float, mirrored: bool
) -> None:
    from astropy.wcs import WCS

    turn, scale = np.radians(angle), 0.3 / 3600
    matrix = scale * np.array([[-np.cos(turn), -np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    if mirrored:
        matrix[:, 0] *= -1
    cards = {f"CD{i + 1}_{j + 1}": matrix[i, j] for i in (0, 1) for j in (0, 1)}
    path = written(tmp_path / "obs.fits", **SKY, **cards, CD3_3=5.0)
    sky = json.loads(call(capsys, "info", path, "--json")[1])["array"]["sky"]
    wcs = WCS(fits.getheader(path, "DATA")).celestial
    x0, y0 = wcs.wcs_world2pix([[10.0, -20.0]], 0)[0]
    north = wcs.wcs_world2pix([[10.0, -20.0 + scale]], 0)[0] - (x0, y0)
    east = wcs.wcs_world2pix([[10.0 + scale, -20.0]], 0)[0] - (x0, y0)
    assert sky["north_degrees"] == pytest.approx(np.degrees(np.arctan2(-north[0], north[1])), abs=0.01)
    assert sky["east_is_left_of_north"] == (north[0] * east[1] - north[1] * east[0] > 0)
    assert sky["pixel_y_arcsec"] == pytest.approx(0.3)


def test_an_image_is_called_an_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fits.writeto(tmp_path / "image.fits", np.full((5, 6), np.nan, np.float32))
    code, out, _ = call(capsys, "info", tmp_path / "image.fits")
    assert code == 0
    assert "image       5 x 6 (y x)" in out
    assert "all NaN in plane 0" in out
    assert json.loads(call(capsys, "info", tmp_path / "image.fits", "--json")[1])["array"]["kind"] == "image"


def test_a_file_without_a_readable_array_is_listed_all_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("FLUX", "D", array=np.ones(3))], name="SPECTRUM")
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(tmp_path / "table.fits")
    code, out, err = call(capsys, "info", tmp_path / "table.fits")
    assert code == 2
    assert "3 rows, 1 columns" in out
    assert err.startswith("lucidcube: ")
    assert err.count("\n") == 1


def test_control_characters_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "obs.fits")
    content = path.read_bytes().replace(b"'Jy      '", b"'J\x1b[31my '")
    path.write_bytes(content)
    code, out, err = call(capsys, "info", path)
    assert "\x1b" not in out + err
    assert code == 0
    code, _, err = call(capsys, "info", tmp_path / "no\x1b[2Jfile.fits")
    assert code == 2
    assert "\x1b" not in err
    assert r"\x1b[2J" in err


def test_a_folder_is_not_a_fits_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "info", tmp_path)
    assert (code, err.count("\n")) == (2, 1)
    assert "is a folder and no FITS file; see lucidcube convert" in err


def test_a_variance_is_preferred_to_standard_deviations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path / "product.fits", SIGMA, "ERROR")
    with fits.open(path, "append") as hdus:
        hdus.append(fits.ImageHDU(SIGMA, name="STAT"))
    assert json.loads(call(capsys, "info", path, "--json")[1])["array"]["variance"]["hdu"] == "STAT"

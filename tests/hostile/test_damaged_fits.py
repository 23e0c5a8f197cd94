"""Damaged FITS files: one line and exit code 2, or a right result; never a traceback, a hang or other pixels."""

from __future__ import annotations

import io
import random
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from commands import call
from lucidcube.errors import CubeError
from lucidcube.io.hdus import list_hdus
from lucidcube.io.limits import most_cards

SHAPE = (3, 40, 41)
"""Several FITS blocks, so that a change of BITPIX or NAXIS changes their number."""


@pytest.fixture(scope="module")
def sound() -> bytes:
    """Return a file with data and variance."""
    header = fits.Header(
        {
            "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg", "CRPIX1": 1.0, "CRPIX2": 1.0,
            "CRVAL1": 10.0, "CRVAL2": 3.0, "CD1_1": -1e-5, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 1e-5,
            "CTYPE3": "AWAV", "CUNIT3": "Angstrom", "CRVAL3": 5000.0, "CRPIX3": 1.0, "CD3_3": 1.25,
            "BUNIT": "adu", "BSCALE": 1.0, "BZERO": 0.0,
        }
    )  # fmt: skip
    data = np.random.default_rng(0).normal(5, 1, SHAPE).astype(np.float32)
    content = io.BytesIO()
    hdus = [
        fits.PrimaryHDU(),
        fits.ImageHDU(data, header, "DATA"),
        fits.ImageHDU(np.ones_like(data), header, "STAT"),
    ]
    fits.HDUList(hdus).writeto(content)
    return content.getvalue()


def damaged(content: bytes, keyword: str, value: str, hdu: int = 1) -> bytes:
    """Return the file with another value of a card, or with this card in place of BUNIT."""
    start = (
        content.index(b"XTENSION") if hdu == 1 else content.index(b"XTENSION", content.index(b"STAT") - 2880)
    )
    end = content.index(b"END" + b" " * 77, start)
    place = content.find(f"{keyword:<8}=".encode(), start, end)
    place = content.index(b"BUNIT   =", start) if place < 0 else place
    return content[:place] + f"{keyword:<8}= {value:>20}".ljust(80).encode() + content[place + 80 :]


def both_commands(capsys: pytest.CaptureFixture[str], path: Path) -> list[tuple[int, str]]:
    """Return exit code and messages of `info` and of a stage."""
    made = path.with_name("made.fits")
    rebin = ["rebin", path, "--bin-step", "2.5 Angstrom", "-o", made, "--overwrite"]
    return [(code, err) for code, _, err in (call(capsys, "info", path), call(capsys, *rebin))]


STRUCTURE = [
    (keyword, value)
    for keyword in ("NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "BITPIX", "PCOUNT", "GCOUNT")
    for value in ("-1", "2", "16", "999", "2000000000", "99999999999999999999", "1.5", "'x'", "T")
]


@pytest.mark.parametrize("hdu", [1, 2])
@pytest.mark.parametrize(
    ("keyword", "value"),
    [*STRUCTURE, ("XTENSION", "'IMAGX   '"), ("XTENSION", "'TABLE   '"), ("XTENSION", "5")],
)
def test_a_damaged_structure_is_refused(
    sound: bytes, tmp_path: Path, keyword: str, value: str, hdu: int
) -> None:
    path = tmp_path / "cube.fits"
    path.write_bytes(damaged(sound, keyword, value, hdu))
    with pytest.raises(CubeError) as caught:
        list_hdus(path, "cube.fits")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("keyword", "value"),
    [("NAXIS", "2000000000"), ("PCOUNT", "1"), ("BITPIX", "8"), ("CD3_3", "0.0"), ("CD3_3", ""), ("CD3_3", "NaN"),
     ("CRVAL3", "1E400"), ("CUNIT3", "'furlong '"), ("CTYPE3", "'WAVE-TAB'"), ("NAXIS1", "2"), ("XTENSION", "'TABLE   '")],
)  # fmt: skip
def test_the_commands_refuse_it_in_one_line(
    sound: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str], keyword: str, value: str
) -> None:
    path = tmp_path / "cube.fits"
    path.write_bytes(damaged(sound, keyword, value))
    _, (code, err) = both_commands(capsys, path)
    assert code == 2
    assert err.splitlines()[-1].startswith("lucidcube: ")
    assert not path.with_name("made.fits").exists()


@pytest.mark.parametrize("scale", ["1E300", "-1E308", "1E-320"])
def test_a_scale_beyond_any_number(
    sound: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str], scale: str
) -> None:
    """What is too large is missing, which is no reason for warnings of NumPy."""
    path = tmp_path / "cube.fits"
    path.write_bytes(damaged(sound, "BSCALE", scale))
    for code, err in both_commands(capsys, path):
        assert code == 0
        assert "Warning" not in err
    assert call(capsys, "view", path, "--white")[0] == 0


def test_a_header_without_end(sound: bytes, tmp_path: Path) -> None:
    end = sound.index(b"END" + b" " * 77, 2880)
    path = tmp_path / "cube.fits"
    path.write_bytes(sound[:end] + b"COMMENT".ljust(80) * (most_cards()) + sound[end:])
    with pytest.raises(CubeError, match="no end, or more than 14400 cards"):
        list_hdus(path, "cube.fits")


@pytest.mark.parametrize("padding", [b"\0" * 2880, b" " * 100, b"\0" * 28800])
def test_zeros_and_spaces_at_the_end_are_allowed(sound: bytes, tmp_path: Path, padding: bytes) -> None:
    path = tmp_path / "cube.fits"
    path.write_bytes(sound + padding)
    assert len(list_hdus(path, "cube.fits")) == 3


def test_other_bytes_at_the_end_are_refused(sound: bytes, tmp_path: Path) -> None:
    path = tmp_path / "cube.fits"
    path.write_bytes(sound + b"\0" * 2880 + b"more")
    with pytest.raises(CubeError, match="extension 2 should end at byte"):
        list_hdus(path, "cube.fits")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_in_a_header(
    sound: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    """Ten files each: whatever is changed, the commands end with a result or with a line."""
    rng, path = random.Random(seed), tmp_path / "cube.fits"
    for _ in range(10):
        content = bytearray(sound)
        for _ in range(rng.choice([1, 1, 2, 5])):
            printable = rng.randrange(2)
            content[rng.randrange(2880, 3 * 2880)] = (
                rng.randrange(32, 127) if printable else rng.randrange(256)
            )
        path.write_bytes(bytes(content))
        for code, err in both_commands(capsys, path):
            assert code in (0, 2), err
            assert code == 0 or err.splitlines()[-1].startswith("lucidcube: ")

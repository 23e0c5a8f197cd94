"""Files that are no files, that expand, or that claim to be large: refused in one line, without waiting or memory."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from commands import call
from lucidcube.errors import ConfigError, CubeError
from lucidcube.io.limits import MOST_CARDS, MOST_DECOMPRESSED, most_cards, most_decompressed
from lucidcube.io.reader import file_identity, open_cube
from lucidcube.io.stated_sums import DATASUM
from lucidcube.io.structure import LARGEST_REST
from lucidcube.io.tiles import check_tiles

MEBIBYTE = 1 << 20


def cube(shape: tuple[int, ...] = (4, 20, 24), *, checksum: bool = False) -> bytes:
    """Return a file with an image of random numbers."""
    stream, data = io.BytesIO(), np.random.default_rng(0).normal(5, 1, shape).astype(np.float32)
    header = fits.Header(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CTYPE3": "WAVE", "CUNIT3": "nm", "CDELT3": 1.0}
    )
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(data, header, "DATA")]).writeto(stream, checksum=checksum)
    return stream.getvalue()


def one_line(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command that must end with exit code 2, and return the line that says why."""
    code, _, err = call(capsys, *arguments)
    assert code == 2, err
    lines = [line for line in err.splitlines() if line.startswith("lucidcube: ")]
    assert len(lines) == 1
    assert len(err.splitlines()) <= 2  # with the one about the decompression
    return lines[0]


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device"])
def test_only_regular_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    path = Path("/dev/zero") if kind == "device" else tmp_path / "x.fits"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))
    commands = [("info", path), ("view", path), ("report", path), ("compare", path, path), ("config", "from", path),
                ("rebin", path, "--bin-step", "1nm"), ("convert", path, tmp_path / "o.zarr"), ("run", path),
                ("config", "new", "no-star", path)]  # fmt: skip
    for command in commands:
        assert kind in one_line(capsys, *command), command
    good = tmp_path / "good.fits"
    good.write_bytes(cube())
    config = tmp_path / "run.yaml"
    config.write_text(
        f"target: {{input: {good}, stages: [noise, artefacts, mask: {{const_regions: [{path}]}}]}}\n"
        f"output: {{path: {tmp_path}/o.fits}}\n"
    )
    assert kind in one_line(capsys, "run", config)
    with pytest.raises(CubeError, match=kind):
        file_identity(path)


@pytest.mark.parametrize(
    "compress",
    [gzip.compress, *(pytest.param(c, marks=pytest.mark.slow) for c in (bz2.compress, lzma.compress))],
)
def test_bombs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], compress: Callable[[bytes], bytes]
) -> None:  # fmt: skip
    path, scratch = tmp_path / "bomb.fits.gz", tmp_path / "scratch"
    path.write_bytes(compress(bytes(64 * MEBIBYTE)))
    assert "does not begin with SIMPLE" in one_line(capsys, "info", path)
    monkeypatch.setenv(MOST_DECOMPRESSED, "8MB")
    path.write_bytes(compress(cube() + bytes(64 * MEBIBYTE)))
    with pytest.raises(CubeError, match=f"more than 7.63 MiB after decompression; {MOST_DECOMPRESSED}"):
        open_cube(str(path), scratch=scratch)
    assert [*scratch.iterdir()] == []
    path.write_bytes(compress(cube()))
    assert open_cube(str(path), scratch=scratch)["data"].shape == (4, 20, 24)


def test_limits_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (most_cards(), most_decompressed(10), most_decompressed(1 << 30)) == (14_400, 1 << 30, 50 << 30)
    monkeypatch.setenv(MOST_CARDS, "20000")
    monkeypatch.setenv(MOST_DECOMPRESSED, "2 GB")
    assert (most_cards(), most_decompressed(1 << 40)) == (20_000, 2_000_000_000)
    for wrong in ("0", "-5", "many", "inf"):
        monkeypatch.setenv(MOST_CARDS, wrong)
        with pytest.raises(ConfigError, match="is not a positive number"):
            most_cards()


@pytest.mark.slow
def test_more_cards_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = cube()
    end = content.index(b"END" + b" " * 77, 2880)
    many = [f"KEY{n:<5}= {n:20}".ljust(80).encode() for n in range(15_000)]
    cards = b"".join(many[: 36 * 400])
    path = tmp_path / "cube.fits"
    path.write_bytes(content[:end] + cards + content[end:])
    with pytest.raises(CubeError, match=MOST_CARDS):
        open_cube(str(path))
    monkeypatch.setenv(MOST_CARDS, "20000")
    assert open_cube(str(path))["data"].shape == (4, 20, 24)


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_sparse_files_of_terabytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cube.fits"
    content = cube()
    path.write_bytes(content)
    os.truncate(path, 4 << 40)
    assert "should end at byte" in one_line(capsys, "info", path)
    os.truncate(path, len(content) + LARGEST_REST)
    assert call(capsys, "info", path)[0] == 0
    # One whose header accounts for all of it has planes that no memory holds; a part of them is looked at.
    header = content[: content.index(b"END" + b" " * 77, 2880)]
    for keyword, value in {"NAXIS1": 1_000_000, "NAXIS2": 1_000_000, "NAXIS3": 1}.items():
        place = header.index(keyword.encode())
        header = header[:place] + f"{keyword:<8}= {value:20}".ljust(80).encode() + header[place + 80 :]
    path.write_bytes((header + b"END").ljust(2880 * 2))
    os.truncate(path, 2880 * 2 + -(-4 * 10**12 // 2880) * 2880)
    code, _, err = call(capsys, "info", path)
    assert code == 0, err


def compressed(method: str, *, dtype: str = "i2") -> bytes:
    """Return a file with a tile-compressed cube."""
    stream, data = io.BytesIO(), np.random.default_rng(0).integers(0, 100, (3, 16, 20)).astype(dtype)
    header = fits.Header(
        {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CTYPE3": "WAVE", "CUNIT3": "nm", "CDELT3": 1.0}
    )
    hdu = fits.CompImageHDU(data, header, "DATA", compression_type=method)
    fits.HDUList([fits.PrimaryHDU(), hdu]).writeto(stream)
    return stream.getvalue()


def with_card(content: bytes, keyword: str, value: object) -> bytes:
    place = content.index(f"{keyword:<8}=".encode())
    return content[:place] + f"{keyword:<8}= {value:>20}".ljust(80).encode() + content[place + 80 :]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("method", ["RICE_1", "GZIP_1", "GZIP_2", "HCOMPRESS_1", "PLIO_1"])
@pytest.mark.parametrize(
    ("keyword", "value"),
    [("ZNAXIS3", 1_000_000), ("ZNAXIS1", 2_000_000_000), ("ZNAXIS3", 2), ("ZNAXIS2", 0), ("ZNAXIS1", -20),
     ("ZTILE1", 1), ("ZTILE2", 0), ("ZTILE3", -1), ("ZBITPIX", 64), ("ZBITPIX", 7), ("ZNAXIS", 999), ("THEAP", 10**9)],
)  # fmt: skip
def test_false_cards_of_tiles(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, keyword: str, value: int
) -> None:
    content = compressed(method)
    if keyword == "THEAP":
        content = content.replace(b"PCOUNT  =", f"THEAP   = {value:20}".ljust(80).encode() + b"PCOUNT  =", 1)
        end = content.index(b"END" + b" " * 77, 2880) + 80
        assert content[end : end + 80] == b" " * 80
        content = content[:end] + content[end + 80 :]
    else:
        content = with_card(content, keyword, value)
    path = tmp_path / "cube.fits"
    path.write_bytes(content)
    code, _, err = call(capsys, "info", path)
    assert (
        code == 2 or (keyword, method) in {("ZBITPIX", "PLIO_1"), ("ZBITPIX", "HCOMPRESS_1")} or value == 64
    ), err
    assert len(err.splitlines()) <= 2


@pytest.mark.parametrize("method", ["RICE_1", "GZIP_2", "HCOMPRESS_1"])
@pytest.mark.parametrize("words", [(2_000_000_000, 0), (10, 2_000_000_000), (-1, 0), (10, -1)])
def test_false_places_of_tiles(tmp_path: Path, method: str, words: tuple[int, int]) -> None:
    path = tmp_path / "cube.fits"
    content = bytearray(compressed(method))
    data = content.index(b"END" + b" " * 77, 2880) // 2880 * 2880 + 2880
    content[data : data + 8] = np.array(words, ">i4").tobytes()
    path.write_bytes(content)
    with pytest.raises(CubeError, match="is not within the file"):
        check_tiles(path, 1, "cube.fits")


def test_a_bomb_in_a_tile(tmp_path: Path) -> None:
    path = tmp_path / "cube.fits"
    bomb, tiles = gzip.compress(bytes(64 * MEBIBYTE)), 2
    table = fits.BinTableHDU.from_columns(
        [
            fits.Column(
                "COMPRESSED_DATA", "1PB()", array=np.array([np.frombuffer(bomb, np.uint8)] * tiles, object)
            )
        ]
    )
    cards = {
        "ZIMAGE": True,
        "ZCMPTYPE": "GZIP_1",
        "ZBITPIX": 16,
        "ZNAXIS": 2,
        "ZNAXIS1": 10,
        "ZNAXIS2": tiles,
    }
    table.header.update(cards)
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
    with pytest.raises(CubeError, match="a tile has more than its 10 pixels"):
        check_tiles(path, 1, "cube.fits")


def test_sums_of_hcompress_tiles(tmp_path: Path) -> None:
    path = tmp_path / "cube.fits"
    content = bytearray(compressed("HCOMPRESS_1"))
    place = content.index(b"\xdd\x99")
    content[place + 2 : place + 6] = (1 << 24).to_bytes(4, "big")
    path.write_bytes(content)
    with pytest.raises(CubeError, match="a tile holds 16777216 x"):
        check_tiles(path, 1, "cube.fits")


@pytest.mark.parametrize("method", [None, "RICE_1"])
def test_a_flipped_bit_in_the_data_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], method: str | None
) -> None:
    path, stream = tmp_path / "cube.fits", io.BytesIO()
    with fits.open(io.BytesIO(compressed(method) if method else cube((9, 400, 400)))) as hdus:
        hdus.writeto(stream, checksum=True)
    content = bytearray(stream.getvalue())
    path.write_bytes(content)
    identity = file_identity(path)
    content[content.index(b"END" + b" " * 77, 2880) // 2880 * 2880 + 2880 + 21] ^= 1
    path.write_bytes(content)
    with pytest.raises(CubeError, match="extension 1 do not have the sum in their card DATASUM"):
        file_identity(path)
    run = ("rebin", path, "--bin-step", "2nm", "-o", tmp_path / "o.fits")
    if method is None:
        assert "DATASUM" in one_line(capsys, *run)
    monkeypatch.setenv(DATASUM, "ignore")
    assert file_identity(path).sha256 != identity.sha256
    monkeypatch.setenv(DATASUM, "perhaps")
    with pytest.raises(ConfigError, match="must be verify or ignore"):
        file_identity(path)


def test_a_changed_header_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cube.fits"
    path.write_bytes(with_card(cube(checksum=True), "CDELT3", "2.0"))
    file_identity(path)
    assert "the header of extension 1 was changed after its CHECKSUM was written" in caplog.text
    caplog.clear()
    path.write_bytes(cube(checksum=True))
    file_identity(path)
    assert caplog.text == ""

"""Zarr stores of others: they run no code, and are refused in one line without waiting."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from commands import call
from lucidcube.io.zarr_store import ARRAY

PICKLE = {"id": "pickle", "protocol": 4}
TEXT = {"id": "vlen-utf8"}


class Marks:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def array(folder: Path, values: np.ndarray, dims: list[str], content: bytes = b"", **document: Any) -> None:
    """Write an array of zarr format 2 with one chunk."""
    folder.mkdir(parents=True)
    shape = values.shape
    given = {"zarr_format": 2, "shape": shape, "chunks": shape, "dtype": values.dtype.str, "order": "C"}
    empty = {"compressor": None, "filters": None, "fill_value": None}
    (folder / ARRAY).write_text(json.dumps(given | empty | document))
    (folder / ".zattrs").write_text(json.dumps({"_ARRAY_DIMENSIONS": dims}))
    (folder / ".".join("0" * len(shape))).write_bytes(content or values.tobytes())


def store(folder: Path, content: bytes = b"", **document: Any) -> Path:
    """Write a cube; the document and the content are those of its wavelengths."""
    made = folder / "cube.zarr"
    array(made / "data", np.zeros((2, 4, 5), np.float32), ["wavelength", "y", "x"])
    array(made / "wavelength", np.array([5e-7, 6e-7]), ["wavelength"], content, **document)
    (made / ".zgroup").write_text('{"zarr_format": 2}')
    (made / ".zattrs").write_text("{}")
    return made


def refused(capsys: pytest.CaptureFixture[str], path: Path) -> str:
    code, _, err = call(capsys, "convert", path, path.with_name("made.fits"))
    assert code == 2
    assert len(err.splitlines()) == 1
    assert not path.with_name("made.fits").exists()
    return err


def test_a_plain_store_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "convert", store(tmp_path), tmp_path / "made.fits")[0] == 0


@pytest.mark.parametrize(
    "document",
    [
        {"filters": [PICKLE], "dtype": "|O"},
        {"filters": [TEXT, PICKLE], "dtype": "|O"},
        {"filters": [TEXT], "compressor": PICKLE, "dtype": "|O"},
        {"compressor": PICKLE},
    ],
)
def test_nothing_is_unpickled(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    document: dict[str, Any],
) -> None:
    """Also not by versions of numcodecs that would do it."""
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True, raising=False)
    mark = tmp_path / "executed"
    content = pickle.dumps([Marks(mark), 1, "|O", (2,)])
    assert "the codec 'pickle' is not read" in refused(capsys, store(tmp_path, content, **document))
    assert not mark.exists()


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["pipe", "link", "folder of another"])
def test_only_regular_files(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    made = store(tmp_path)
    chunk = made / "data" / "0.0.0"
    if kind == "folder of another":
        (made / "data").rename(tmp_path / "elsewhere")
        (made / "data").symlink_to(tmp_path / "elsewhere")
    else:
        chunk.unlink()
        os.mkfifo(chunk) if kind == "pipe" else chunk.symlink_to("/dev/zero")
    assert "is neither a regular file nor a folder" in refused(capsys, made)


def test_a_store_of_zarr_format_3(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = tmp_path / "cube.zarr"
    dims = ("wavelength", "y", "x")
    cube = xr.Dataset({"data": (dims, np.ones((2, 4, 5), np.float32))}, {"wavelength": [5e-7, 6e-7]})
    cube.to_zarr(made, zarr_format=3, consolidated=False)
    assert call(capsys, "convert", made, tmp_path / "first.fits")[0] == 0
    chunk = made / "data" / "c" / "0" / "0" / "0"
    content = chunk.read_bytes()
    chunk.write_bytes(content[: len(content) // 2])
    assert "cannot be read as a zarr store" in refused(capsys, made)
    chunk.unlink()
    os.mkfifo(chunk)
    assert "is neither a regular file nor a folder" in refused(capsys, made)


@pytest.mark.parametrize(
    "text", ["", "[]", "{", "null", '{"compressor": 5}', '{"filters": [{}]}', '{"filters": 3}']
)
def test_documents_that_describe_no_array(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    made = store(tmp_path)
    (made / "wavelength" / ARRAY).write_text(text)
    assert "does not describe an array" in refused(capsys, made)


@pytest.mark.parametrize("codec", ["zstd", "blosc", "zlib", "lz4"])
@pytest.mark.parametrize("name", ["data", "wavelength"])
def test_chunks_that_cannot_be_decompressed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], codec: str, name: str
) -> None:
    made = store(tmp_path)
    path = made / name / ARRAY
    path.write_text(json.dumps(json.loads(path.read_text()) | {"compressor": {"id": codec}}))
    assert "cannot be read as a zarr store" in refused(capsys, made)

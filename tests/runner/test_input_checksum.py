"""Identity of the inputs, from which fingerprints start."""

import json
import os
from pathlib import Path

import pytest

from lucidcube.config.track import Track
from lucidcube.runner import input_checksum as module
from lucidcube.runner.input_checksum import CACHE, input_identity


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.fits"
    path.write_bytes(b"one")
    return path


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    read: list[Path] = []
    real = module.file_identity
    monkeypatch.setattr(module, "file_identity", lambda path: (read.append(path), real(path))[1])
    return read


def test_identity_depends_on_content_part_and_reading(file: Path, tmp_path: Path) -> None:
    first = input_identity(Track(input=str(file)))
    assert first["size"] == 3
    assert first["sha256"].startswith("7692c3ad3540bb80")
    assert input_identity(Track(input=f"{file}[2:]")) != first
    assert input_identity(Track(input=str(file), wave_start=1.0)) != first
    (tmp_path / "sub").mkdir()
    copy = tmp_path / "sub" / "a.fits"
    copy.write_bytes(b"one")
    assert input_identity(Track(input=str(copy))) == first
    copy.write_bytes(b"two")
    assert input_identity(Track(input=str(copy))) != first


def test_a_file_is_read_once(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = counted(monkeypatch)
    first = input_identity(Track(input=str(file)), tmp_path)
    assert input_identity(Track(input=str(file)), tmp_path) == first
    assert len(read) == 1


def test_a_changed_file_is_read_again(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = input_identity(Track(input=str(file)), tmp_path)
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    assert input_identity(Track(input=str(file)), tmp_path)["sha256"] != first["sha256"]


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"x": 1}'])
def test_a_damaged_cache_is_ignored(file: Path, tmp_path: Path, content: str) -> None:
    expected = input_identity(Track(input=str(file)))
    (tmp_path / CACHE).write_text(content)
    assert input_identity(Track(input=str(file)), tmp_path) == expected
    assert str(file) in json.loads((tmp_path / CACHE).read_text())

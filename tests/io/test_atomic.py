"""Files that get their names only when they are complete."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lucidcube.io import atomic
from lucidcube.io.atomic import atomic_file, part_path, write_atomically


@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("content", ["é\n", b"\x00\xff", memoryview(b"view")])
def test_content_is_written_without_temporary_files(
    tmp_path: Path, content: str | bytes, durable: bool
) -> None:
    path = tmp_path / "record.json"
    path.write_text("an older, longer content")
    write_atomically(path, content, durable=durable)
    assert path.read_bytes() == (content.encode() if isinstance(content, str) else bytes(content))
    assert os.listdir(tmp_path) == ["record.json"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_error_keeps_the_old_file_and_no_temporary_file(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    path.write_text("old")

    def fails(*arguments: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr(os, call, fails)
    with pytest.raises(OSError, match="full"):
        write_atomically(path, "new", durable=True)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["record.json"]


def test_an_interrupted_block_leaves_no_file(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_file(tmp_path / "cube.fits") as file:
            file.write(b"half of it")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert os.listdir(tmp_path) == []


def test_the_file_appears_when_it_is_complete(tmp_path: Path) -> None:
    with atomic_file(tmp_path / "cube.fits") as file:
        file.write(b"half of it")
        file.flush()
        assert not (tmp_path / "cube.fits").exists()
    assert (tmp_path / "cube.fits").read_bytes() == b"half of it"


def test_symbolic_links_are_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = tmp_path / "precious"
    precious.write_text("precious")
    trap = tmp_path / ".record.json.part"
    trap.symlink_to(precious)
    monkeypatch.setattr("lucidcube.io.atomic.part_path", lambda path: trap)
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "record.json", "new")
    link = tmp_path / "link.json"
    link.symlink_to(precious)
    monkeypatch.undo()
    write_atomically(link, "new")
    assert precious.read_text() == "precious"
    assert not link.is_symlink()


def test_files_have_default_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    write_atomically(tmp_path / "atomic", "x")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_long_names_fit(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250)
    assert len(part_path(path).name) < 255
    write_atomically(path, "x")
    assert path.read_text() == "x"


@pytest.mark.parametrize("durable", [True, False])
def test_the_name_of_a_durable_file_is_flushed_after_it_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    flushed: list[bool] = []
    monkeypatch.setattr(atomic, "sync_folder", lambda path: flushed.append(Path(path).exists()))
    write_atomically(tmp_path / "file", "text", durable=durable)
    assert flushed == [True] * durable

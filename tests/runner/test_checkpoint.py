"""Checkpoints: valid, missing and damaged blocks, and the dependence of keys."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import hypothesis
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import strategies as st

import lucidcube.stages  # noqa: F401  registers the stages
from lucidcube.cube import DATA, DIMS, MASK, WAVELENGTH, from_arrays
from lucidcube.errors import UserError
from lucidcube.lift.blocks import over_blocks
from lucidcube.lift.lazy_arrays import source_of
from lucidcube.runner import checkpoint
from lucidcube.runner.checkpoint import CHECKSUMS, COMPLETE, STORE, Checkpoint, fingerprint
from lucidcube.runner.segments import _unchanged
from lucidcube.stages.base import REGISTRY

PLANES, BLOCK = 7, 2
BLOCKS = 4
NAMES = (DATA, "mask", "cut")


def cube() -> xr.Dataset:
    """Return seven planes in blocks of two, the last of one; the third block is all NaN."""
    rng = np.random.default_rng(3)
    data = rng.normal(size=(PLANES, 5, 6)).astype(np.float32)
    data[4:6] = np.nan
    made = from_arrays(
        da.from_array(data, chunks=(BLOCK, 5, 6)), 1e-6 + 1e-9 * np.arange(PLANES), units="adu"
    )
    mask = (rng.random(data.shape) < 0.5).astype(np.uint8)
    mask[4:6] = 0
    return made.assign(
        mask=(DIMS, da.from_array(mask, chunks=(BLOCK, 5, 6))),
        cut=(WAVELENGTH, np.arange(PLANES, dtype=np.float64), {"units": "sigma"}),
    )


@pytest.fixture
def written(tmp_path: Path) -> Checkpoint:
    """Return a checkpoint with all its blocks."""
    made = Checkpoint.prepare(tmp_path / "target-test-0", cube(), NAMES, {"why": "test"})
    compute(made.write(cube(), NAMES))
    return made


def compute(work: da.Array) -> Any:
    return dask.compute(work, scheduler="synchronous")[0]


def chunk(made: Checkpoint, name: str, number: int) -> Path:
    return made.path / STORE / name / ".".join(["c", str(number), *(["0", "0"] if name != "cut" else [])])


def record(made: Checkpoint, number: int) -> Path:
    return made.path / CHECKSUMS / f"{number:06d}"


def same(made: Checkpoint) -> None:
    opened = made.open().compute(scheduler="synchronous")
    for name in NAMES:
        np.testing.assert_array_equal(opened[name].values, cube()[name].values)
        assert opened[name].dtype == cube()[name].dtype


def test_all_blocks_are_missing_before_and_none_after_writing(tmp_path: Path) -> None:
    made = Checkpoint.prepare(tmp_path / "c", cube(), NAMES, {})
    assert made.blocks == 4
    assert made.missing() == [0, 1, 2, 3]
    work = made.write(cube(), NAMES)
    assert work.shape == (BLOCKS,)
    assert compute(work.blocks[1]).tolist() == [2 * 30 * 5 + 2 * 8]
    assert made.missing() == [0, 2, 3]
    compute(work)
    assert made.missing() == []
    same(made)


def test_stores_can_be_read_by_xarray(written: Checkpoint) -> None:
    opened = xr.open_zarr(written.path / STORE, consolidated=False)
    assert opened[DATA].dims == DIMS
    assert opened[DATA].attrs["units"] == "adu"
    assert opened["cut"].attrs["units"] == "sigma"
    assert opened[DATA].chunks[0] == (2, 2, 2, 1)
    np.testing.assert_array_equal(opened[WAVELENGTH], cube()[WAVELENGTH])


def test_a_block_of_nan_is_written_and_recorded(written: Checkpoint) -> None:
    assert chunk(written, DATA, 2).exists()
    assert chunk(written, "mask", 2).exists()
    assert 2 not in written.missing()


def test_a_block_is_recorded_after_its_chunks(written: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """A record is trusted without verification where a run continues."""
    chunks, there = [chunk(written, name, 1) for name in NAMES], []
    for path in (*chunks, record(written, 1)):
        path.unlink()
    write = checkpoint.write_atomically

    def recording(path: Path, content: bytes) -> None:
        there.append([chunk.exists() for chunk in chunks])
        write(path, content)

    monkeypatch.setattr(checkpoint, "write_atomically", recording)
    compute(written.write(cube(), NAMES).blocks[1])
    assert there == [[True] * len(NAMES)]


def test_chunks_and_records_are_replaced_and_not_changed(written: Checkpoint, tmp_path: Path) -> None:
    """A reader at the same time, and a run after one that was killed, never see half a file."""
    paths = [record(written, 1), *(chunk(written, name, 1) for name in NAMES)]
    links = [tmp_path / str(number) for number in range(len(paths))]
    for path, link in zip(paths, links, strict=True):
        os.link(path, link)
    before = [link.read_bytes() for link in links]
    compute(written.write(cube().map(lambda v: (v + 1).astype(v.dtype)), NAMES).blocks[1])
    assert [link.read_bytes() for link in links] == before
    assert all(path.read_bytes() != content for path, content in zip(paths, before, strict=True))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(content)


def swap_halves(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[len(content) // 2 :] + content[: len(content) // 2])


HARM: dict[str, Callable[[Path], object]] = {
    "truncated": truncate,
    "longer": lambda p: p.write_bytes(p.read_bytes() + b"\0"),
    "flipped": flip,
    "swapped": swap_halves,
    "empty": lambda p: p.write_bytes(b""),
    "missing": lambda p: p.unlink(),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("harm", HARM.values(), ids=HARM.keys())
def test_a_damaged_chunk_is_missing(written: Checkpoint, harm: Callable[[Path], object], name: str) -> None:
    harm(chunk(written, name, 1))
    assert written.missing() == [1]
    compute(written.write(cube(), NAMES).blocks[1])
    assert written.missing() == []
    same(written)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"3",
        b"null",
        b'{"block": 1, "data": 3}',
        b'{"block": 1, "data": [1, 2]}',
        b"{}",
    ],
    ids=repr,
)
def test_a_damaged_record_is_not_a_record(written: Checkpoint, content: bytes | None) -> None:
    if content is None:
        record(written, 1).unlink()
    else:
        record(written, 1).write_bytes(content)
    assert written.missing() == [1]


def test_a_record_without_all_variables_is_not_valid(written: Checkpoint) -> None:
    sums = json.loads(record(written, 1).read_text())
    assert {*sums} == {"block", *NAMES}
    sums.pop("mask")
    record(written, 1).write_text(json.dumps(sums))
    assert written.missing() == [1]


def test_the_record_of_another_block_is_not_valid(written: Checkpoint) -> None:
    record(written, 1).write_bytes(record(written, 0).read_bytes())
    assert written.missing() == [1]


def test_unknown_files_are_ignored(written: Checkpoint) -> None:
    (written.path / CHECKSUMS / ".000001.99").write_bytes(b"{")
    (written.path / CHECKSUMS / "000099").write_bytes(b"{}")
    (written.path / CHECKSUMS / "notes.txt").write_text("mine")
    chunk(written, DATA, 1).with_name(".0.abcdef").write_bytes(b"half")
    assert written.missing() == []
    same(written)


def test_an_incomplete_folder_is_created_again(written: Checkpoint) -> None:
    (written.path / COMPLETE).unlink()
    again = Checkpoint.prepare(written.path, cube(), NAMES, {"why": "test"})
    assert again.missing() == [0, 1, 2, 3]
    assert json.loads((written.path / COMPLETE).read_text())["ingredients"] == {"why": "test"}


def test_checkpoint_json_is_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lucidcube.runner.checkpoint.create_store", fail)
    with pytest.raises(KeyboardInterrupt):
        Checkpoint.prepare(tmp_path / "c", cube(), NAMES, {})
    assert not (tmp_path / "c" / COMPLETE).exists()


def test_a_complete_store_is_not_changed(written: Checkpoint) -> None:
    before = {p: p.stat().st_mtime_ns for p in written.path.rglob("*")}
    again = Checkpoint.prepare(written.path, cube(), NAMES, {"why": "test"})
    assert again.missing() == []
    assert {p: p.stat().st_mtime_ns for p in written.path.rglob("*")} == before


def test_a_store_with_other_variables_is_not_reused(written: Checkpoint) -> None:
    more = (*NAMES, "badness")
    wider = cube().assign(badness=cube()[DATA] * 2)
    again = Checkpoint.prepare(written.path, wider, more, {"why": "test"})
    compute(again.write(wider, more))
    assert again.missing() == []
    assert "badness" in again.open()


@pytest.mark.parametrize("name", ["zarr.json", f"{DATA}/zarr.json", "cut/zarr.json", f"{WAVELENGTH}/c.0"])
def test_a_missing_document_is_written_again(written: Checkpoint, name: str) -> None:
    before = (written.path / STORE / name).read_bytes()
    (written.path / STORE / name).unlink()
    again = Checkpoint.prepare(written.path, cube(), NAMES, {"why": "test"})
    assert (written.path / STORE / name).read_bytes() == before
    assert again.missing() == []
    same(again)


@pytest.mark.parametrize("name", [STORE, CHECKSUMS, f"{STORE}/{DATA}"])
def test_a_missing_folder_is_created_again(written: Checkpoint, name: str) -> None:
    shutil.rmtree(written.path / name)
    again = Checkpoint.prepare(written.path, cube(), NAMES, {"why": "test"})
    assert again.missing() == [0, 1, 2, 3]
    compute(again.write(cube(), NAMES))
    same(again)


def test_a_cube_is_divided_into_the_blocks_of_the_store(written: Checkpoint) -> None:
    other = cube().chunk({WAVELENGTH: 3})
    for number in range(BLOCKS):
        record(written, number).unlink()
    compute(written.write(other, NAMES))
    assert written.missing() == []
    same(written)


@pytest.mark.parametrize("codec", ["none", "lz4", "zstd"])
def test_codecs(tmp_path: Path, codec: str) -> None:
    made = Checkpoint.prepare(tmp_path / "c", cube(), NAMES, {}, codec)
    compute(made.write(cube(), NAMES))
    assert made.missing() == []
    same(made)
    # A store keeps its codec; the blocks of another codec would be the same arrays.
    flip(chunk(made, DATA, 0))
    assert made.missing() == [0]
    again = Checkpoint.prepare(tmp_path / "c", cube(), NAMES, {}, "none")
    compute(again.write(cube(), NAMES).blocks[0])
    assert again.missing() == []
    same(again)
    xr.testing.assert_equal(xr.open_zarr(made.path / STORE, consolidated=False)[DATA].compute(), cube()[DATA])


def test_attributes_and_coordinates_that_differ_are_written_again(written: Checkpoint) -> None:
    group = zarr.open_group(written.path / STORE, mode="r+")
    group.attrs["header"] = "of another cube"
    group[DATA].attrs["units"] = "Jy"
    group[WAVELENGTH][2] = 5.0
    again = Checkpoint.prepare(written.path, cube(), NAMES, {"why": "test"})
    assert again.missing() == []
    opened = again.open()
    assert opened.attrs == cube().attrs
    assert opened[DATA].attrs == {"units": "adu"}
    np.testing.assert_array_equal(opened[WAVELENGTH], cube()[WAVELENGTH])


@pytest.mark.parametrize(
    "key", [slice(0, 2), slice(2, 3), slice(3, 4), slice(1, 5), slice(6, 7), slice(0, 7)]
)
def test_any_run_of_planes_can_be_read(written: Checkpoint, key: slice) -> None:
    source = source_of(written.open()[DATA].variable)
    for _ in range(2):
        np.testing.assert_array_equal(source[key], cube()[DATA].values[key])
    again = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(again[key, 1:3], cube()[DATA].values[key, 1:3])


def test_a_chunk_is_read_once_for_all_its_planes(
    written: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = source_of(written.open()[DATA].variable)
    source[2:3]
    assert len(source._last[1]) == BLOCK
    chunk(written, DATA, 1).unlink()
    np.testing.assert_array_equal(source[3:4], cube()[DATA].values[3:4])


def test_a_store_of_another_type_is_not_reused(written: Checkpoint) -> None:
    """The bytes of the chunks, and so their checksums, would be the same."""
    other = cube().assign({DATA: cube()[DATA].astype("int32")})
    again = Checkpoint.prepare(written.path, other, NAMES, {"why": "test"})
    assert again.missing() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["truncated", "of another version"])
def test_a_store_with_other_documents_is_an_error_until_it_is_prepared(
    written: Checkpoint, kind: str
) -> None:
    path = written.path / STORE / DATA / "zarr.json"
    path.write_bytes(path.read_bytes()[:-9] if kind == "truncated" else path.read_bytes() + b" ")
    assert not written.is_complete()
    with pytest.raises(UserError, match="run the config again"):
        written.open()
    assert Checkpoint.prepare(written.path, cube(), NAMES, {"why": "test"}).missing() == []
    assert written.is_complete()


def test_wrong_coordinates_are_an_error_until_they_are_written_again(written: Checkpoint) -> None:
    """Blocks can be verified without them, but a cube is not opened with them."""
    path = written.path / STORE / WAVELENGTH / "c.0"
    path.write_bytes(path.read_bytes()[::-1])
    assert written.missing() == []
    assert not written.is_complete()
    with pytest.raises(UserError, match="c.0 was changed; run the config again"):
        written.open()
    Checkpoint.prepare(written.path, cube(), NAMES, {})
    same(written)


@pytest.mark.parametrize("name", ["zarr.json", f"{DATA}/zarr.json"])
def test_blocks_of_a_store_with_wrong_documents_are_not_verified(written: Checkpoint, name: str) -> None:
    path = written.path / STORE / name
    path.write_text(path.read_text().replace("adu", "Jy") + "\n")
    with pytest.raises(UserError, match="zarr.json was changed"):
        written.missing()


@pytest.mark.parametrize(
    ("number", "expected"), [(errno.ENOSPC, UserError), (errno.EDQUOT, UserError), (errno.EIO, OSError)]
)
def test_a_disk_that_is_full_is_no_reason_to_try_again(
    written: Checkpoint, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception]
) -> None:
    """Other errors may be those of one block, which is computed once more."""

    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(checkpoint, "write_atomically", fails)
    with pytest.raises(expected, match=os.strerror(number)) as raised:
        compute(written.write(cube(), NAMES).blocks[1])
    assert ("finished blocks are kept" in str(raised.value)) is (expected is UserError)


def test_a_new_store_in_the_same_place_has_other_graph_names(written: Checkpoint) -> None:
    before = written.open()[DATA].data.name
    assert written.open()[DATA].data.name == before
    shutil.rmtree(written.path)
    again = Checkpoint.prepare(written.path, cube(), NAMES, {"why": "test"})
    compute(again.write(cube(), NAMES))
    assert again.open()[DATA].data.name != before


def test_planes_that_are_not_a_block_are_an_error(written: Checkpoint) -> None:
    for sizes in ((1, 2, 2, 2), (3, 3, 1)):
        work = over_blocks(cube().chunk({WAVELENGTH: sizes}), _writer(written), NAMES, "int64")
        with pytest.raises(ValueError, match="not a block"):
            compute(work)


def _writer(written: Checkpoint) -> Any:
    return checkpoint._Write(str(written.path), written._arrays(written._verified(coordinates=False)), BLOCK)


def test_a_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"set checkpoints\.dir"):
        Checkpoint.prepare(tmp_path / "file" / "c", cube(), NAMES, {})


def test_nbytes_counts_the_folder(written: Checkpoint) -> None:
    assert written.nbytes() > PLANES * 30 * 5


# Keys


@pytest.mark.slow
def test_a_key_is_the_same_in_every_process() -> None:
    ingredients = [stage().fingerprint() for stage in REGISTRY.values()]
    code = (
        "import lucidcube.stages\n"
        "from lucidcube.runner.checkpoint import fingerprint\n"
        "from lucidcube.stages.base import REGISTRY\n"
        "print(fingerprint([s().fingerprint() for s in REGISTRY.values()], {'b': 1, 'a': {'z', }}))"
    )
    # The hash seed of this process is random.
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == fingerprint(ingredients, {"a": {"z"}, "b": 1})


def variations() -> list[Any]:
    """Return each parameter of each stage with another value than its default."""
    found = []
    for name, cls in REGISTRY.items():
        usual = cls().flat()
        for key, value in usual.items():
            for other in candidates(value):
                try:
                    changed = cls.parse({key: other})
                except ValueError:
                    continue
                if changed.flat().get(key) != value:
                    found.append(pytest.param(cls(), changed, id=f"{name}.{key}"))
                    break
    return found


def candidates(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, (int, float)):
        return [value * 2 + 1, value / 2 + 1, value - 0.1, 0.5 * value, 0.01]
    words = ["rectangle", "sum", "box", "norm", "lucy_richardson", "gaussian", "minimize", "ssa"]
    return [*words, [[0, 9.0]], [7, 7], 3, 3e-9, {"start": 0.25}]


@pytest.mark.parametrize(("usual", "changed"), variations())
def test_every_parameter_changes_the_key(usual: Any, changed: Any) -> None:
    assert fingerprint(usual.fingerprint()) != fingerprint(changed.fingerprint())


def test_variations_cover_every_stage() -> None:
    stages = {p.id.split(".")[0] for p in variations()}
    assert stages >= {"rebin", "artefacts", "mask", "normalise_psf", "fit_psf", "deconvolve"}
    assert len(variations()) > 25


def test_the_version_of_a_stage_changes_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = REGISTRY["mask"]()
    before = fingerprint(stage.fingerprint())
    monkeypatch.setattr(REGISTRY["mask"], "version", 99)
    assert fingerprint(stage.fingerprint()) != before


def test_previous_stages_change_the_key() -> None:
    stage = REGISTRY["mask"]().fingerprint()
    assert fingerprint("a", stage) != fingerprint("b", stage)
    assert fingerprint(fingerprint("a"), stage) == fingerprint(fingerprint("a"), stage)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=6,
)


@hypothesis.given(a=PLAIN, b=PLAIN)
def test_equal_ingredients_give_equal_keys(a: Any, b: Any) -> None:
    equal = json.dumps(a, sort_keys=True) == json.dumps(b, sort_keys=True)
    assert (fingerprint(a) == fingerprint(b)) == equal
    assert len(fingerprint(a)) == 16


# Variables that a segment does not change


def test_unchanged_variables_are_recognised() -> None:
    before = cube()
    after = before.assign({DATA: before[DATA] + 1, "new": before[DATA]})
    assert {*_unchanged(before, after)} == {"mask", "cut"}
    assert {*_unchanged(before, before.copy())} == {DATA, MASK, "cut"}
    renamed = before.assign({"mask": before["mask"].astype("uint8") * 1})
    assert "mask" not in {*_unchanged(before, renamed)}

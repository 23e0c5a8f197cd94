"""Stores of plain files: zarr reads and would write the same."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

from lucidcube.cube import CHANNEL, DATA, DIMS, WAVELENGTH, block_sizes, from_arrays
from lucidcube.run import store
from lucidcube.stages.rebin import Rebin

PLANES, BLOCK = 7, 3
VARIABLES = (DATA, "mask", "cut", "fit_value")


@pytest.fixture
def cube() -> xr.Dataset:
    """Seven planes in blocks of three."""
    rng = np.random.default_rng(5)
    data = rng.normal(size=(PLANES, 4, 6)).astype(np.float32)
    made = from_arrays(
        da.from_array(data, chunks=(BLOCK, 4, 6)), 1e-6 + 1e-9 * np.arange(PLANES), units="adu"
    )
    return made.assign_attrs(header="SIMPLE", history=[{"stage": "rebin", "step": None}]).assign(
        mask=(DIMS, da.from_array((data > 0).astype(np.uint8), chunks=(BLOCK, 4, 6))),
        cut=(WAVELENGTH, rng.normal(size=PLANES), {"units": "sigma"}),
        fit_value=((WAVELENGTH, "parameter"), rng.normal(size=(PLANES, 2)), {"names": ["a", "b"]}),
    )


@pytest.fixture
def folder(tmp_path: Path, cube: xr.Dataset) -> Path:
    """A store whose chunks zarr wrote."""
    path = tmp_path / "cube.zarr"
    store.create(path, cube, VARIABLES, BLOCK)
    group = zarr.open_group(path, mode="r+", use_consolidated=False)
    for name in VARIABLES:
        group[name][:] = cube[name].values
    return path


def test_documents_are_those_of_zarr(tmp_path: Path, cube: xr.Dataset, folder: Path) -> None:
    other = tmp_path / "other.zarr"
    group = zarr.create_group(other, zarr_format=3, attributes=dict(cube.attrs))
    for name in (*store.COORDINATES, *VARIABLES):
        variable = cube[name].variable
        planes = PLANES if name in store.COORDINATES else BLOCK
        array = group.create_array(
            name=name,
            shape=variable.shape,
            chunks=(planes, *variable.shape[1:]),
            dtype=variable.dtype,
            compressors=None,
            fill_value=np.nan if variable.dtype.kind == "f" else 0,
            attributes=variable.attrs,
            dimension_names=[str(d) for d in variable.dims],
            chunk_key_encoding={"name": "default", "separator": "."},
        )
        if name in store.COORDINATES:
            array[:] = variable.values
    ours, theirs = (
        {p.relative_to(f): p for f in (at,) for p in f.rglob("zarr.json")} for at in (folder, other)
    )
    assert ours.keys() == theirs.keys()
    for name, path in ours.items():
        assert json.loads(path.read_text()) == json.loads(theirs[name].read_text())
    for name in store.COORDINATES:
        assert (folder / name / "c.0").read_bytes() == (other / name / "c.0").read_bytes()


def test_what_is_read_is_what_xarray_reads(cube: xr.Dataset, folder: Path) -> None:
    opened = store.open_store(folder)
    theirs = xr.open_zarr(folder, consolidated=False, mask_and_scale=False).set_coords(CHANNEL)
    xr.testing.assert_identical(opened.compute(), theirs.compute())
    assert block_sizes(opened) == (3, 3, 1)
    assert opened["cut"].chunks is None
    assert opened[DATA].dtype == np.float32


@pytest.mark.parametrize(
    "kept", [slice(None), slice(2, 4), slice(3, 6), slice(6, 7), slice(5, 5), slice(0, 7, 2)]
)
def test_slices(cube: xr.Dataset, folder: Path, kept: slice) -> None:
    stored = pickle.loads(pickle.dumps(store.read(folder)[DATA]))  # noqa: S301
    np.testing.assert_array_equal(stored[kept], cube[DATA].values[kept])
    np.testing.assert_array_equal(stored[kept, 1:3, ::2], cube[DATA].values[kept, 1:3, ::2])


def test_another_store_in_the_same_place_has_other_names(cube: xr.Dataset, folder: Path) -> None:
    first, again = (store.open_store(folder)[DATA].data.name for _ in range(2))
    assert first == again
    document = folder / DATA / "zarr.json"
    document.write_text(document.read_text() + " ")
    assert store.open_store(folder)[DATA].data.name != first


def test_a_chunk_that_ends_too_early(folder: Path) -> None:
    chunk = folder / DATA / store.chunk(1, 3)
    chunk.write_bytes(chunk.read_bytes()[:-1])
    with pytest.raises(OSError, match="too early"):
        store.open_store(folder)[DATA].load()


def test_a_store_without_its_document_is_none(folder: Path) -> None:
    (folder / "zarr.json").unlink()
    with pytest.raises(FileNotFoundError):
        store.read(folder)


def test_a_store_with_other_names_of_chunks_is_refused(folder: Path) -> None:
    document = folder / "cut" / "zarr.json"
    document.write_text(document.read_text().replace('"separator": "."', '"separator": "/"'))
    with pytest.raises(ValueError, match="not a store of ours"):
        store.read(folder)


def test_a_plane_is_read_without_the_rest_of_its_chunk(cube: xr.Dataset, folder: Path) -> None:
    chunk = folder / DATA / store.chunk(1, 3)
    chunk.write_bytes(chunk.read_bytes()[: 2 * 4 * 6 * 4])
    np.testing.assert_array_equal(store.read(folder)[DATA][4:5], cube[DATA].values[4:5])


def test_what_is_stored_can_be_rebinned(cube: xr.Dataset, folder: Path) -> None:
    """Straight from the chunks, which rebinning reads itself."""
    rebin = Rebin(bin_step=2e-9, bin_width=4e-9)
    xr.testing.assert_equal(rebin(store.open_store(folder)).compute(), rebin(cube).compute())

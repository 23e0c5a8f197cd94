"""The graph of a segment: what a block needs of it, and what is sent to workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest

from lucidcube.cube import DATA, MODE, PSF, PSF_MODES, PSF_PLANE, WAVELENGTH, from_arrays
from lucidcube.lift.blocks import Output, over_blocks, over_planes
from lucidcube.lift.lazy_arrays import from_source
from lucidcube.lift.windows import over_windows
from lucidcube.runner import segment_graph
from lucidcube.runner.checkpoint import Checkpoint
from lucidcube.runner.segment_graph import SegmentGraph
from lucidcube.stages import Deconvolve
from lucidcube.stages.attach_psf import attach_psf


class Ramp:
    """A source whose planes have the value of their index."""

    ndim, dtype = 3, np.dtype("float32")

    def __init__(self, planes: int) -> None:
        self.shape = (planes, 3, 3)

    def __getitem__(self, key: Any) -> np.ndarray:
        planes = key[0] if isinstance(key, tuple) else key
        values = np.arange(*planes.indices(self.shape[0]), dtype=np.float32)
        return np.broadcast_to(values[:, None, None], (len(values), 3, 3)).copy()


def twice(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return 2 * plane, -plane


def total(window: np.ndarray, wanted: slice) -> np.ndarray:
    return window[wanted] + window.sum(axis=0)


def first(position: np.ndarray, *arrays: np.ndarray) -> np.ndarray:
    return np.array([float(position[0]) + sum(float(a[0, 0, 0]) for a in arrays)])


def segment(planes: int, block: int = 2) -> da.Array:
    """Return an array with an item per block, after a window of planes and a kernel with two results."""
    lazy = from_source(Ramp(planes), block, "ramp")
    cube = from_arrays(lazy.data, np.arange(1.0, planes + 1))
    cube[DATA].variable.encoding = lazy.encoding
    cube = cube.assign(over_planes(cube, "twice", twice, [DATA], {DATA: Output(), "other": Output()}))
    cube = cube.assign(over_windows(cube, "total", total, [DATA], {DATA: Output()}, halo=3))
    return over_blocks(cube, first, [DATA, "other"], "float64")


def values(graph: SegmentGraph, numbers: range) -> list[float]:
    blocks = [graph.block(number) for number in numbers]
    return [float(dask.get(block.graph, block.key)[0]) for block in blocks]


@pytest.mark.parametrize("most", [0, 1 << 20], ids=["its blocks", "the whole graph"])
def test_what_is_sent_gives_the_same_blocks(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_graph, "MOST_BYTES", most)
    lazy = segment(41)
    expected = lazy.compute(scheduler="synchronous")
    graph = SegmentGraph(lazy)
    np.testing.assert_array_equal(values(graph, range(21)), expected)
    sent = graph.packed(range(3, 9))
    assert (sent is graph.packed([20])) == bool(most), "the whole graph is packed once"
    np.testing.assert_array_equal(values(sent.unpack(), range(3, 9)), expected[3:9])


def test_a_graph_is_made_by_rules_whose_size_does_not_grow_with_the_cube() -> None:
    """There are some numbers for each plane: its wavelength, and the window that it needs."""
    sizes = [len(segment_graph.PackedGraph(SegmentGraph(segment(planes)))) for planes in (200, 2000)]
    assert sizes[1] - sizes[0] < 1800 * 12
    graph = SegmentGraph(segment(2000))
    assert not graph._tasks
    assert len(graph.block(500).graph) < 100


def test_a_graph_without_rules_is_cut_for_each_batch() -> None:
    lazy = da.stack(
        [da.from_delayed(dask.delayed(np.float64)(n), (), "float64") for n in range(segment_graph.MOST_TASKS)]
    )
    graph = SegmentGraph(lazy)
    sent = graph.packed([7, 8])
    assert len(sent) < 2000
    np.testing.assert_array_equal(values(sent.unpack(), range(7, 9)), [7, 8])


def test_a_graph_that_is_no_layers() -> None:
    class Plain:
        name = "x"

        def __dask_graph__(self) -> dict[Any, Any]:
            return {("x", 0): (float, "a"), ("x", 1): (np.float64, "a"), "a": 3}

    block = SegmentGraph(Plain()).block(1)  # type: ignore[arg-type]
    assert {*block.graph} == {("x", 1), "a"}
    assert dask.get(block.graph, block.key) == 3


def with_psf(planes: int) -> tuple[da.Array, np.ndarray]:
    """Return an array with an item per block of a plane and of a PSF in memory, and the items."""
    psf = np.random.default_rng(1).random((planes, 40, 40)).astype(np.float32)
    cube = from_arrays(from_source(Ramp(planes), 2, "ramp").data, np.arange(1.0, planes + 1))
    cube[PSF] = (WAVELENGTH, *PSF_PLANE), psf
    return over_blocks(cube, first, [DATA, PSF], "float64"), 4.0 * np.arange(planes // 2) + psf[::2, 0, 0]


def test_only_the_planes_of_a_block_are_sent_of_an_array_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy, expected = with_psf(60)
    graph = SegmentGraph(lazy)
    dumped = []
    compress = segment_graph.zlib.compress
    monkeypatch.setattr(segment_graph.zlib, "compress", lambda *a: dumped.append(a[0].nbytes) or compress(*a))
    sent = graph.packed([7, 8])
    assert dumped[-1] < 4 * 6400 + 5000
    np.testing.assert_allclose(values(sent.unpack(), range(7, 9)), expected[7:9], rtol=1e-6)


def test_a_graph_with_a_large_array_is_not_pickled_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy, expected = with_psf(400)
    monkeypatch.setattr(segment_graph, "MOST_BYTES", 1 << 30)  # whatever it is compressed
    sent = SegmentGraph(lazy).packed([199])
    assert len(sent) < 20_000
    np.testing.assert_allclose(values(sent.unpack(), range(199, 200)), expected[199:], rtol=1e-6)


def opened(folder: Path, planes: int, modes: int = 0) -> Any:
    """Return a cube of an empty checkpoint with blocks of 2 planes, and with modes of a PSF."""
    cube = from_arrays(da.zeros((planes, 31, 31), chunks=(2, 31, 31), dtype="f4"), np.arange(1.0, planes + 1))
    if modes:
        zeros = da.zeros((planes, modes, 31, 31), chunks=(2, modes, 31, 31), dtype="f4")
        cube[PSF_MODES] = (WAVELENGTH, MODE, *PSF_PLANE), zeros
    names = [str(name) for name in cube.data_vars]
    kept = Checkpoint.prepare(folder, cube, names, {}).open()
    return cube.assign({name: kept[name].variable for name in names})


def test_what_is_sent_of_a_run_with_errors_does_not_grow_with_the_cube(tmp_path: Path) -> None:
    sizes = []
    for planes in (16, 160):
        cube = attach_psf(opened(tmp_path / f"{planes}", planes), opened(tmp_path / f"s{planes}", planes, 4))
        assert {name: cube[name].chunks is not None for name in (PSF, PSF_MODES)} == {
            PSF: True,
            PSF_MODES: True,
        }
        sharp = Deconvolve(n_iter=2, errors={"draws": 2}).apply(cube)
        graph = SegmentGraph(over_blocks(sharp, first, [DATA, "error"], "float64"))
        assert len(graph.block(3).graph) < 100
        sizes.append(len(graph.packed([1, 2, 3])))
    assert sizes[1] - sizes[0] < 144 * 12

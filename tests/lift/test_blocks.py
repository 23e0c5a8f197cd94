"""The lift: kernels applied to blocks, planes that are not passed to kernels, and error messages."""

from __future__ import annotations

import pickle
from typing import Any, ClassVar

import cloudpickle
import dask
import dask.array as da
import hypothesis
import numpy as np
import pytest
import xarray as xr
from dask.optimization import cull
from hypothesis import strategies as st

import lucidcube.lift.blocks
from lucidcube.cube import CHANNEL, DATA, DIMS, WAVELENGTH, block_sizes, from_arrays
from lucidcube.errors import CubeError, StageError
from lucidcube.lift.blocks import (
    Output,
    limit_block_bytes,
    over_blocks,
    over_planes,
    planes_of_group,
    planes_per_block,
)
from lucidcube.lift.spectral_bins import over_bins

PLANES, HEIGHT, WIDTH = 9, 4, 5


def cube(sizes: tuple[int, ...] | None = None) -> xr.Dataset:
    rng = np.random.default_rng(1)
    data = rng.normal(10, 1, (PLANES, HEIGHT, WIDTH)).astype(np.float32)
    made = from_arrays(data, 1e-6 + 1e-9 * np.arange(PLANES), variance=data**2)
    made["weight"] = (WAVELENGTH, np.arange(PLANES, dtype=np.float64))
    if sizes is None:
        return made
    return made.assign(
        {
            n: (v.dims, da.from_array(v.values, chunks=(sizes, *v.shape[1:])))
            for n, v in made.data_vars.items()
        }
    )


cuts = st.sets(st.integers(1, PLANES - 1)).map(
    lambda c: tuple(int(n) for n in np.diff([0, *sorted(c), PLANES]))
)


def computed(value: Any) -> np.ndarray:
    return np.asarray(dask.compute(value, scheduler="synchronous")[0])


def several(plane: np.ndarray, weight: float, variance: np.ndarray | None) -> tuple[Any, ...]:
    spread = 0.0 if variance is None else float(variance.mean())
    return plane[::2] * weight, plane.mean(dtype=float), np.array([spread, 1.0]), np.uint8(plane[0, 0] > 10)


SEVERAL = {
    DATA: Output(),
    "mean": Output(dims=(), dtype="float64"),
    "pair": Output(dims=("parameter",), dtype="float64"),
    "flag": Output(dims=(), dtype="uint8", blank=7),
}


def lift(cube: xr.Dataset, kernel: Any = several, outputs: Any = SEVERAL) -> dict[str, xr.Variable]:
    return over_planes(
        cube, "test", kernel, [DATA, "weight"], outputs, optional=["variance"], sizes={"y": 2, "parameter": 2}
    )


@hypothesis.given(sizes=cuts)
@hypothesis.settings(max_examples=10)
def test_the_result_does_not_depend_on_blocks(sizes: tuple[int, ...]) -> None:
    now, later = lift(cube()), lift(cube(sizes))
    for name, output in SEVERAL.items():
        assert isinstance(now[name].data, np.ndarray)
        assert isinstance(later[name].data, da.Array)
        assert later[name].data.chunks[0] == sizes
        assert later[name].dtype == output.dtype
        np.testing.assert_array_equal(now[name].data, computed(later[name].data))
    assert now[DATA].shape == later[DATA].shape == (PLANES, 2, WIDTH)


def test_the_values_are_those_of_the_kernel() -> None:
    made, given = lift(cube()), cube()
    for i in range(PLANES):
        np.testing.assert_array_equal(made[DATA].values[i], given[DATA].values[i, ::2] * np.float32(i))
        assert made["pair"].values[i, 0] == given["variance"].values[i].mean()


def test_an_optional_variable_may_be_missing() -> None:
    made = lift(cube((4, 5)).drop_vars("variance"))
    assert not computed(made["pair"].data)[:, 0].any()


@pytest.mark.parametrize("sizes", [None, (4, 5)])
def test_infinities_become_nan_in_a_copy(sizes: tuple[int, ...] | None) -> None:
    given = cube()
    given[DATA].values[2, 0, 0], given[DATA].values[2, 1, 1] = np.inf, -np.inf
    given["variance"].values[3, 0, 0] = np.inf
    copy = given.copy(deep=True)
    if sizes:
        given = given.chunk({WAVELENGTH: sizes})

    def kernel(plane: np.ndarray, variance: np.ndarray) -> np.ndarray:
        assert not np.isinf(plane).any()
        assert not np.isinf(variance).any()
        return np.isnan(plane).astype(np.float32)

    made = computed(over_planes(given, "test", kernel, [DATA, "variance"], {DATA: Output()})[DATA].data)
    assert made[2].sum() == 2
    assert made.sum() == 2
    for name in (DATA, "variance"):
        np.testing.assert_array_equal(given[name], copy[name])


@pytest.mark.parametrize("sizes", [None, (4, 5)])
def test_a_plane_without_finite_values_is_not_passed_to_the_kernel(sizes: tuple[int, ...] | None) -> None:
    given = cube()
    given[DATA].values[3], given[DATA].values[5] = np.nan, np.inf
    given[DATA].values[6] = np.nan
    given[DATA].values[6, 1, 1] = 1
    seen: list[float] = []

    def kernel(plane: np.ndarray, weight: float, variance: np.ndarray) -> tuple[Any, ...]:
        seen.append(float(weight))
        return plane * 0, 1, variance * 0

    outputs = {DATA: Output(), "count": Output((), "int32", blank=-1), "variance": Output(blank="variance")}
    if sizes:
        given = given.chunk({WAVELENGTH: sizes})
    made = over_planes(given, "test", kernel, [DATA, "weight", "variance"], outputs)
    values = dask.compute(*(v.data for v in made.values()), scheduler="synchronous")
    results = dict(zip(made, values, strict=True))
    assert sorted(seen) == [0, 1, 2, 4, 6, 7, 8]
    assert np.isnan(results[DATA][[3, 5]]).all()
    assert results["count"].tolist() == [1, 1, 1, -1, 1, -1, 1, 1, 1]
    np.testing.assert_array_equal(results["variance"][[3, 5]], given["variance"].values[[3, 5]])


@pytest.mark.parametrize("sizes", [None, (4, 5)])
def test_an_error_names_the_stage_and_the_plane(sizes: tuple[int, ...] | None) -> None:
    def kernel(plane: np.ndarray, weight: float) -> np.ndarray:
        if weight == 6:
            raise ZeroDivisionError("no way")
        return plane

    with pytest.raises(StageError) as caught:
        computed(over_planes(cube(sizes), "sharpen", kernel, [DATA, "weight"], {DATA: Output()})[DATA].data)
    assert (caught.value.stage, caught.value.cause) == ("sharpen", "ZeroDivisionError: no way")
    assert caught.value.where == "plane 6 (1.006e-06 m)"
    assert "sharpen failed on plane 6 (1.006e-06 m): ZeroDivisionError" in str(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)


def test_a_user_error_remains_a_user_error() -> None:
    def kernel(plane: np.ndarray) -> np.ndarray:
        raise CubeError("the star is upside down", "and blue")

    with pytest.raises(CubeError) as caught:
        computed(over_planes(cube((PLANES,)), "sharpen", kernel, [DATA], {DATA: Output()})[DATA].data)
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].startswith("sharpen, plane 0 (1e-06 m): the star is upside down")
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems


def test_a_subset_of_a_cube_keeps_its_channel_numbers() -> None:
    def kernel(plane: np.ndarray) -> np.ndarray:
        raise ValueError

    with pytest.raises(StageError, match="plane 4 "):
        over_planes(cube().isel({WAVELENGTH: slice(4, 6)}), "test", kernel, [DATA], {DATA: Output()})


def test_an_error_after_planes_were_computed_together_names_its_plane() -> None:
    def kernel(plane: np.ndarray, *, found: int | None = None) -> np.ndarray:
        if found == 5:
            raise ValueError("sour")
        return plane * 0 + (-1 if found is None else found)

    def together(planes: list[np.ndarray]) -> range:
        return range(10, 10 + len(planes)) if planes[0][0, 0] > 0 else range(len(planes))

    given = cube((PLANES,))
    given[DATA] = given[DATA].copy(data=np.abs(given[DATA].values))
    given[DATA].values[3] = np.nan
    made = over_planes(given, "mix", kernel, [DATA], {DATA: Output()}, together=together)[DATA].values
    assert np.array_equal(made[:, 0, 0], [10, 11, 12, np.nan, 13, 14, 15, 16, 17], equal_nan=True)
    given[DATA].values[0] *= -1
    with pytest.raises(StageError, match=r"mix failed on plane 6 \(1.006e-06 m\): ValueError: sour"):
        computed(over_planes(given, "mix", kernel, [DATA], {DATA: Output()}, together=together)[DATA].data)


def test_an_error_of_planes_together_names_the_plane_that_fails_alone() -> None:
    given, calls = cube((PLANES,)), []
    given[DATA] = given[DATA].copy(data=given[DATA].values)

    def together(planes: list[np.ndarray]) -> list[int]:
        calls.append(len(planes))
        if any(plane[0, 0] == 77 for plane in planes):
            raise ValueError("sour")
        return [0] * len(planes)

    def kernel(plane: np.ndarray, *, found: int) -> np.ndarray:
        return plane * found

    given[DATA].values[4, 0, 0] = 77
    with pytest.raises(StageError, match=r"mix failed on plane 4 \(1.004e-06 m\): ValueError: sour"):
        computed(over_planes(given, "mix", kernel, [DATA], {DATA: Output()}, together=together)[DATA].data)
    assert calls == [PLANES, 1, 1, 1, 1, 1]


def test_planes_that_fail_together_only_have_the_results_that_they_have_alone() -> None:
    """This is so where the memory suffices for a plane, but not for all of them."""
    given, calls = cube((PLANES,)), []

    def together(planes: list[np.ndarray]) -> list[int]:
        calls.append(len(planes))
        if len(planes) > 1:
            raise MemoryError
        return [2] * len(planes)

    def kernel(plane: np.ndarray, *, found: int) -> np.ndarray:
        return plane * found

    made = over_planes(given, "mix", kernel, [DATA], {DATA: Output()}, together=together)[DATA].data
    assert np.array_equal(computed(made), 2 * given[DATA].values)
    assert calls == [PLANES, *[1] * PLANES]


# Ranges of planes


REACH = [(0, 2), (1, 5), (4, 5), (3, 9), (8, 9)]


def flat_weights(first: int, last: int, lo: int, hi: int) -> np.ndarray:
    """Return equal weights for the input planes of each output plane."""
    channel = np.arange(lo, hi)
    inside = [(channel >= a) & (channel < b) for a, b in REACH[first:last]]
    return np.array([row / row.sum() for row in inside])


def combine(weights: np.ndarray, *slabs: np.ndarray) -> tuple[np.ndarray, ...]:
    return tuple(np.einsum("ij,jyx->iyx", weights, s, dtype=float).astype(np.float32) for s in slabs)


@hypothesis.given(sizes=cuts, block=st.integers(1, 6))
@hypothesis.settings(max_examples=15)
def test_bins_do_not_depend_on_blocks(sizes: tuple[int, ...], block: int) -> None:
    given = cube()
    expected = {
        n: np.array([given[n].values[a:b].mean(0, dtype=float) for a, b in REACH]) for n in (DATA, "variance")
    }
    for source in (given, cube(sizes)):
        made = over_bins(source, "bin", combine, [DATA, "variance"], REACH, flat_weights, block=block)
        for name, array in made.items():
            assert array.shape == (len(REACH), HEIGHT, WIDTH)
            assert array.dtype == np.float32
            np.testing.assert_allclose(computed(array), expected[name], rtol=1e-6)
    assert made[DATA].chunks[0] == tuple(min(block, len(REACH) - i) for i in range(0, len(REACH), block))


def test_a_failure_in_a_bin_names_the_planes() -> None:
    def kernel(weights: np.ndarray, slab: np.ndarray) -> tuple[np.ndarray, ...]:
        raise ZeroDivisionError("no way")

    made = over_bins(cube((4, 5)), "rebin", kernel, [DATA], REACH, flat_weights, block=2)[DATA]
    with pytest.raises(StageError, match=r"rebin failed on planes 3 to 8 \(1.003e-06 to 1.008e-06 m\)"):
        computed(made.blocks[1])


class Source:
    """Planes that record which of them are read. The class is at module level because dask may pickle it."""

    shape, dtype, ndim = (PLANES, HEIGHT, WIDTH), np.dtype("float32"), 3
    read: ClassVar[list[tuple[int, int]]] = []

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        planes = range(PLANES)[index[0]]
        self.read.append((planes.start, planes.stop))
        return cube()[DATA].values[index]


def test_a_slab_is_read_once_and_contains_only_the_planes_needed() -> None:
    source = da.from_array(Source(), chunks=(1, HEIGHT, WIDTH), asarray=False, meta=np.empty((0, 0, 0), "f4"))
    given = cube((1,) * PLANES).assign({DATA: (DIMS, source)})
    made = over_bins(given, "bin", combine, [DATA], REACH, flat_weights, block=2)[DATA]
    assert not Source.read
    computed(made.blocks[0])
    assert sorted(Source.read) == [(i, i + 1) for i in range(5)]


# Functions of whole blocks, block sizes


def test_over_blocks_passes_whole_planes_and_their_positions() -> None:
    seen: list[Any] = []

    def note(position: np.ndarray, data: np.ndarray, weight: np.ndarray) -> np.ndarray:
        seen.append((position.tolist(), data.shape, weight.tolist()))
        return np.array([len(position)])

    work = over_blocks(cube((4, 3, 2)), note, [DATA, "weight"], "int64")
    assert not seen
    assert computed(work.blocks[1]).tolist() == [3]
    assert seen == [([4, 5, 6], (3, HEIGHT, WIDTH), [4.0, 5.0, 6.0])]
    assert computed(work).tolist() == [4, 3, 2]


def test_numpy_variables_are_chunked_like_dask_variables() -> None:
    mixed = cube((4, 5)).assign(weight=cube()["weight"])
    made = over_planes(mixed, "test", lambda p, w: p * w, [DATA, "weight"], {DATA: Output()})[DATA]
    assert made.data.chunks[0] == (4, 5)
    split = mixed.assign({DATA: (DIMS, mixed[DATA].data.rechunk({1: 2, 2: 3}))})
    np.testing.assert_array_equal(
        computed(
            over_planes(split, "test", lambda p, w: p * w, [DATA, "weight"], {DATA: Output()})[DATA].data
        ),
        computed(made.data),
    )


@hypothesis.given(planes=st.integers(1, 5000), side=st.integers(1, 4000))
def test_the_size_of_a_block(planes: int, side: int) -> None:
    size = planes_per_block(planes, side**2)
    assert 1 <= size <= planes
    assert size == 1 or size * side**2 * 4 <= lucidcube.lift.blocks.BLOCK_BYTES
    assert size == 1 or -(-planes // size) > lucidcube.lift.blocks.MIN_BLOCKS // 2
    assert block_sizes(cube()) == (PLANES,)


@pytest.mark.parametrize(
    ("megabytes", "expected"),
    [(0.1, 1), (4, 1), (8, 2), (15, 2), (16, 4), (63, 8), (64, 16), (127, 16), (192, 48), (1e4, 240)],
)
def test_a_block_is_as_large_as_a_limit_allows(megabytes: float, expected: int) -> None:
    """A power of two below a group of planes, and whole groups from there; 16 blocks at least."""
    with limit_block_bytes(int(megabytes * (1 << 20))):
        assert planes_per_block(16 * 240, 1 << 20) == expected
    with limit_block_bytes(192 << 20, least_blocks=4):
        assert planes_per_block(64, 1 << 20) == 16
        assert planes_of_group(1 << 20) == 16


@pytest.mark.slow
def test_the_graph_of_a_block_is_small_and_its_tasks_are_named_after_the_stage() -> None:
    sizes = []
    for count in (100, 10_000):
        data = da.zeros((count, 2, 2), chunks=(1, 2, 2), dtype=np.float32)
        lazy = from_arrays(data, np.arange(1.0, count + 1))
        made = over_planes(lazy, "sharpen", abs, [DATA, WAVELENGTH, CHANNEL], {DATA: Output()})[DATA].data
        graph, _ = cull(dict(made.__dask_graph__()), [(made.name, 7, 0, 0)])
        assert any(str(key[0]).startswith("sharpen-") for key in graph)
        sizes.append(len(cloudpickle.dumps(graph)))
    assert sizes[1] < 1.05 * sizes[0] < 5000

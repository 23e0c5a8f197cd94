"""Windows of planes: the same for any chunking, read from the source of a cube, and complete at its ends."""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import hypothesis
import numpy as np
import pytest
import xarray as xr
from hypothesis import strategies as st

from lucidcube.cube import DATA, from_arrays
from lucidcube.errors import CubeError, StageError, UserError
from lucidcube.lift.blocks import GROUP, Output, limit_block_bytes, planes_per_block
from lucidcube.lift.lazy_arrays import from_source
from lucidcube.lift.windows import over_windows, planes_read, window_of

PLANES, HALO = 41, 3


def cube(planes: int = PLANES) -> xr.Dataset:
    data = np.random.default_rng(3).normal(10, 1, (planes, 3, 4)).astype(np.float32)
    return from_arrays(data, 1e-6 + 1e-9 * np.arange(planes), variance=data**2)


def chunked(given: xr.Dataset, sizes: tuple[int, ...]) -> xr.Dataset:
    return given.assign(
        {n: (v.dims, da.from_array(v.values, chunks=(sizes, 3, 4))) for n, v in given.data_vars.items()}
    )


def medians(data: np.ndarray, variance: np.ndarray | None, *, wanted: slice) -> tuple[np.ndarray, ...]:
    """Return each wanted plane less the median of its window, and what the window holds."""
    middle = np.median(data, axis=0)
    first = data[wanted, 0, 0].astype(float)
    return data[wanted] - middle, np.full(len(first), len(data)), first


OUTPUTS = {
    DATA: Output(),
    "length": Output(dims=(), dtype="int32", blank=-1),
    "first": Output(dims=(), dtype="float64", blank=-5),
}


def lift(given: xr.Dataset, kernel: Any = medians, **options: Any) -> dict[str, np.ndarray]:
    made = over_windows(given, "test", kernel, [DATA], OUTPUTS, optional=["variance"], halo=HALO, **options)
    return {name: np.asarray(dask.compute(v.data, scheduler="synchronous")[0]) for name, v in made.items()}


cuts = st.sets(st.integers(1, PLANES - 1)).map(
    lambda c: tuple(int(n) for n in np.diff([0, *sorted(c), PLANES]))
)


@hypothesis.given(sizes=cuts)
@hypothesis.settings(max_examples=10)
def test_the_result_does_not_depend_on_blocks(sizes: tuple[int, ...]) -> None:
    now, later = lift(cube()), lift(chunked(cube(), sizes))
    for name in OUTPUTS:
        np.testing.assert_array_equal(now[name], later[name])


@hypothesis.given(sizes=cuts)
@hypothesis.settings(max_examples=5)
def test_blocks_can_be_whole_groups(sizes: tuple[int, ...]) -> None:
    given = chunked(cube(), sizes)
    made = over_windows(given, "test", medians, [DATA], OUTPUTS, halo=HALO)
    assert made[DATA].chunks[0] == sizes
    made = over_windows(
        given, "test", medians, [DATA], OUTPUTS, optional=["variance"], halo=HALO, whole_groups=True
    )
    assert made[DATA].chunks[0] == (16, 16, 9)
    np.testing.assert_array_equal(made[DATA].values, lift(cube())[DATA])
    with limit_block_bytes(4 * 12 * 5):
        made = over_windows(given, "test", medians, [DATA], OUTPUTS, halo=HALO, whole_groups=True)
    assert made[DATA].chunks[0][:3] == (4, 4, 4)


def test_a_window_is_the_group_and_its_neighbours() -> None:
    data = cube()[DATA].values
    made = lift(cube())
    expected = np.concatenate(
        [
            data[a:b] - np.median(data[c:d], axis=0)
            for a, b, c, d in [(0, 16, 0, 22), (16, 32, 13, 35), (32, 41, 19, 41)]
        ]
    )
    np.testing.assert_array_equal(made[DATA], expected)
    assert set(made["length"]) == {GROUP + 2 * HALO}


@pytest.mark.parametrize("planes", [1, 2, GROUP, GROUP + 1, 22, 23])
def test_a_window_holds_its_group_and_is_as_long_as_the_cube_allows(planes: int) -> None:
    for group in range(-(-planes // GROUP)):
        low, high = window_of(group, planes, HALO)
        assert 0 <= low <= GROUP * group
        assert min(GROUP * (group + 1), planes) <= high <= planes
        assert high - low == min(planes, GROUP + 2 * HALO) == planes_read(1, planes, HALO)
    assert lift(cube(planes))["length"].tolist() == [min(planes, GROUP + 2 * HALO)] * planes


def test_it_reads_only_what_it_needs_from_a_source() -> None:
    given, read = cube(), []

    class Source:
        shape, dtype = given[DATA].shape, given[DATA].dtype

        def __getitem__(self, key: Any) -> np.ndarray:
            read.append(key)
            return given[DATA].values[key]

    lazy = given.drop_vars("variance").assign({DATA: from_source(Source(), 16, "source")})
    made = over_windows(lazy, "test", medians, [DATA], OUTPUTS, optional=["variance"], halo=HALO)
    assert read == []
    block = made[DATA].data.blocks[1].compute(scheduler="synchronous")
    np.testing.assert_array_equal(block, lift(given)[DATA][16:32])
    assert read == [slice(13, 35)]


def test_planes_without_data_are_blank_and_infinities_are_missing() -> None:
    given = cube()
    given[DATA].values[3] = np.nan
    given[DATA].values[16:32] = np.nan
    given[DATA].values[35, 1, 1] = np.inf
    groups = []

    def kernel(data: np.ndarray, variance: np.ndarray, *, wanted: slice) -> tuple[np.ndarray, ...]:
        assert not np.isinf(data).any()
        groups.append(wanted)
        return data[wanted], np.ones(len(data[wanted])), data[wanted, 0, 0]

    made = lift(given, kernel)
    assert groups == [slice(0, 16), slice(13, 22)]
    assert np.isnan(made[DATA][[3, *range(16, 32)]]).all()
    assert made["length"][3] == -1
    assert made["first"][20] == -5
    assert made["length"][4] == 1
    assert np.isnan(made[DATA][35, 1, 1])


@pytest.mark.parametrize(("error", "kind"), [(ValueError("odd"), StageError), (UserError("odd"), CubeError)])
def test_an_error_names_the_planes(error: Exception, kind: type[Exception]) -> None:
    def kernel(data: np.ndarray, variance: np.ndarray, *, wanted: slice) -> Any:
        raise error

    with pytest.raises(kind, match=r"planes 0 to 15 \(1e-06 to 1.015e-06 m\).*odd"):
        lift(cube(), kernel)


def test_numbers_per_plane_are_windows_too_and_missing_variables_are_none() -> None:
    def kernel(data: np.ndarray, wavelength: np.ndarray, variance: None, *, wanted: slice) -> np.ndarray:
        assert variance is None
        return np.broadcast_to(wavelength[wanted, None, None], data[wanted].shape)

    given = cube().drop_vars("variance")
    for each in (given, chunked(given, (PLANES,))):
        made = over_windows(
            each, "test", kernel, [DATA, "wavelength"], {DATA: Output()}, optional=["variance"]
        )
        np.testing.assert_array_equal(
            np.asarray(made[DATA].data)[:, 0, 0], given["wavelength"].values.astype(np.float32)
        )


@pytest.mark.parametrize("planes", [1, 5, 31, 241, 400, 3681])
@pytest.mark.parametrize("side", [16, 101, 341, 1000])
def test_blocks_and_groups_have_common_borders(planes: int, side: int) -> None:
    block = planes_per_block(planes, side * side)
    assert GROUP % block == 0 or block % GROUP == 0


def medians_together(windows: list[list[Any]], wanted: list[slice]) -> list[tuple[np.ndarray, ...]]:
    """Return what `medians` does for several windows."""
    return [medians(*window, wanted=planes) for window, planes in zip(windows, wanted, strict=True)]


@pytest.mark.parametrize("sizes", [(PLANES,), (5, 20, 16), (1,) * PLANES], ids=str)
def test_windows_together_give_the_same_results(sizes: tuple[int, ...]) -> None:
    calls: list[int] = []

    def together(windows: list[list[Any]], wanted: list[slice]) -> list[tuple[np.ndarray, ...]]:
        calls.append(len(windows))
        return medians_together(windows, wanted)

    given = cube()
    given[DATA].values[[0, *range(GROUP, 2 * GROUP)]] = np.nan  # a plane, and all of the second group
    expected = lift(given)
    found = lift(chunked(given, sizes), together=together)
    assert all(np.array_equal(found[name], expected[name], equal_nan=True) for name in expected)
    groups = PLANES // GROUP + 1
    assert max(calls) == (groups - 1 if len(sizes) == 1 else 1)
    declined = lift(chunked(given, sizes), together=lambda windows, wanted: None)
    assert all(np.array_equal(declined[name], expected[name], equal_nan=True) for name in expected)


def test_an_error_of_windows_together_names_the_group() -> None:
    def together(windows: list[list[Any]], wanted: list[slice]) -> list[tuple[np.ndarray, ...]]:
        if any(np.isnan(window[0][planes]).any() for window, planes in zip(windows, wanted, strict=True)):
            raise ValueError("sour")
        return medians_together(windows, wanted)

    given = cube()
    given[DATA].values[GROUP + 2, 0, 0] = np.nan
    with pytest.raises(StageError, match="test failed on planes 16 to 31 .*: ValueError: sour"):
        lift(given, together=together)

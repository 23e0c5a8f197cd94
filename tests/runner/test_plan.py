"""Plans: blocks that fit into memory, errors, and graphs whose size does not depend on the cube."""

import warnings

import cloudpickle
import dask.array as da
import numpy as np
import pytest
import xarray as xr

from lucidcube.cube import DATA, VARIANCE, from_arrays
from lucidcube.errors import ConfigError
from lucidcube.lift import blocks
from lucidcube.lift.blocks import limit_block_bytes, over_blocks, planes_per_block
from lucidcube.runner.compute import SegmentGraph, compute_block
from lucidcube.runner.engines import Engines
from lucidcube.runner.plan import BASELINE, COMPILING, Step, fit_memory, least_memory, peak_memory, plan_stage
from lucidcube.stages import Artefacts, Interpolate, Mask, Rebin
from lucidcube.stages.base import REGISTRY

SIDE = 512
SSA = Artefacts(method="ssa")


def lazy(planes: int, side: int = SIDE, size: int | None = None) -> xr.Dataset:
    size = size or planes_per_block(planes, side * side)
    data = da.zeros((planes, side, side), chunks=(size, side, side), dtype=np.float32)
    return from_arrays(data, 7e-7 + 2.5e-10 * np.arange(planes), variance=data + 1)


def build():
    cube = lazy(400)
    return [plan_stage("target", SSA, cube, SSA(cube), checkpoint=True)]


def test_a_plan_that_fits_is_not_changed() -> None:
    steps, block_bytes = fit_memory(build, 2, 64 << 30)
    assert block_bytes == blocks.BLOCK_BYTES
    assert steps[0].block == blocks.BLOCK_BYTES // (4 * SIDE**2)


def test_blocks_shrink_until_they_fit() -> None:
    memory = least_memory(build(), 1) - (4 << 20)
    steps, _ = fit_memory(build, 1, memory)
    assert steps[0].block < build()[0].block
    assert peak_memory(steps, 1) <= 0.85 * memory


def test_a_plan_is_accepted_below_85_percent_of_the_memory_and_with_room_for_compilation() -> None:
    for threads in (1, 4, 16):
        steps = build()
        peak, least = peak_memory(steps, threads), least_memory(steps, threads)
        assert peak <= 0.85 * least
        assert peak + COMPILING <= 0.95 * least
        accepted, block_bytes = fit_memory(build, threads, least)
        assert (accepted, block_bytes) == (steps, blocks.BLOCK_BYTES)
        smaller, _ = fit_memory(build, threads, least - 1)
        assert smaller[0].block < steps[0].block


def test_a_refusal_says_how_much_memory_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"a worker has 350 MiB and needs (\d+) MiB: give") as caught:
        fit_memory(build, 1, 350 << 20)
    needed = int(str(caught.value).rpartition(" MiB: give")[0].rpartition(" ")[2])
    assert fit_memory(build, 1, (needed + 1) << 20)[0][0].block == 1


@pytest.mark.parametrize(
    ("threads", "memory", "remedy"),
    [(1, 350 << 20, "more memory"), (8, 600 << 20, "fewer workers or threads")],
)
def test_a_plan_that_cannot_fit_names_the_setting_to_change(threads: int, memory: int, remedy: str) -> None:
    with pytest.raises(ConfigError, match=remedy) as caught:
        fit_memory(build, threads, memory)
    (problem,) = caught.value.problems
    assert problem.startswith("profile: artefacts of the target needs")
    assert "512 x 512" in problem


def test_the_limit_on_blocks_ends_with_its_context() -> None:
    before = planes_per_block(10_000, 1000)
    with limit_block_bytes(8000):
        assert planes_per_block(10_000, 1000) == 2
    assert planes_per_block(10_000, 1000) == before


def test_numbers_of_a_step() -> None:
    cube = lazy(160)
    made = Rebin()(cube)
    planned = plan_stage("target", Rebin(), cube, made, checkpoint=True)
    assert planned.shape == (40, SIDE, SIDE)
    assert planned.blocks == -(-40 // planned.block)
    assert planned.read == 2 * 160 * SIDE**2 * 4
    assert planned.written == 2 * 40 * SIDE**2 * 4
    assert planned.working > 0
    assert BASELINE < peak_memory([planned], 1) < peak_memory([planned], 2)


def test_planes_computed_together_need_more_memory() -> None:
    cube = lazy(32, 64, size=16)
    cube = cube.assign(
        psf=(("wavelength", "psf_y", "psf_x"), da.zeros((32, 9, 9), chunks=(16, 9, 9), dtype="f4"))
    )
    usual = {"deconvolve": "map", "artefacts": "spectral_psf", "interpolate": "model"}
    for name, options, more in (
        ("deconvolve", {}, 27),
        ("deconvolve", {"errors": True}, 31),
        ("deconvolve", {"method": "clean_multiscale"}, 0),
        ("artefacts", {}, 40),
        ("interpolate", {}, 36),
        ("interpolate", {"method": "linear"}, 0),
    ):
        stage = REGISTRY[name].parse({"method": usual[name]} | options)
        apart, joined = (
            plan_stage("target", stage, cube, stage(cube), checkpoint=False, engines=engines)
            for engines in (Engines(), Engines("auto", "torch", "cuda"))
        )
        assert joined.working - apart.working == more * 4 * 16 * 64**2
        assert joined.device == 0


@pytest.mark.parametrize(("side", "bytes_"), [(64, 256 << 20), (1000, 4 * 130 * 1000**2)])
def test_the_plan_has_a_stack_of_planes_if_the_device_is_the_processor(side: int, bytes_: int) -> None:
    cube = lazy(32, side, size=16)
    cube = cube.assign(
        psf=(("wavelength", "psf_y", "psf_x"), da.zeros((32, 9, 9), chunks=(16, 9, 9), dtype="f4"))
    )
    stage = REGISTRY["deconvolve"].parse({"method": "map"})
    for engines in (Engines("auto", "torch", "cpu"), Engines("auto", "numpy")):
        planned = plan_stage("target", stage, cube, stage(cube), checkpoint=False, engines=engines)
        assert planned.device == bytes_
        without = planned._replace(device=0)
        # Threads use the device one after the other.
        assert all(peak_memory([planned], n) - peak_memory([without], n) == bytes_ for n in (1, 4))
    other = REGISTRY["deconvolve"].parse({"method": "clean_multiscale"})
    assert plan_stage("target", other, cube, other(cube), checkpoint=False, engines=engines).device == 0


def test_every_thread_has_a_block_of_those_that_are_large_for_a_device() -> None:
    def planned() -> list[Step]:
        cube = lazy(256, 341)
        cube = cube.assign(badness=cube[DATA])
        return [plan_stage("target", Mask(), cube, Mask()(cube), checkpoint=False)]

    for threads, number in ((1, 4), (4, 4), (8, 8), (64, 16)):
        steps, block_bytes = fit_memory(planned, 1, 64 << 30, 4 * blocks.BLOCK_BYTES, threads)
        assert steps[0].blocks == number
        assert block_bytes >= blocks.BLOCK_BYTES
    assert fit_memory(planned, 1, 64 << 30, None, 64)[1] == blocks.BLOCK_BYTES


def segment(planes: int) -> da.Array:
    cube = lazy(planes, 8, size=8)
    for stage in (Artefacts(method="ssa", window=2), Mask(), Interpolate(method="linear")):
        cube = stage(cube)
    return over_blocks(cube, _count, [DATA, VARIANCE, "filled", "mask", "badness"], "int64")


def _count(position: np.ndarray, *arrays: np.ndarray) -> np.ndarray:
    return np.array([len(position)])


@pytest.mark.slow
def test_the_graph_of_a_block_does_not_grow_with_the_cube() -> None:
    sizes = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for planes in (800, 8_000):
            graph = SegmentGraph(segment(planes))
            block = graph.block(7)
            sizes.append((len(block.graph), len(cloudpickle.dumps(block))))
            assert compute_block(block, Engines(), False)[0] > 0
    (tasks, nbytes), (many_tasks, many_nbytes) = sizes
    assert tasks == many_tasks < 40
    assert many_nbytes < 1.05 * nbytes < 20_000

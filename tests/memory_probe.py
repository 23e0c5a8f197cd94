"""Run one stage in this process and report the memory that it used.

``python memory_probe.py STAGE SIDE BLOCK JSON [SMALL LARGE]``: the two files are for stages that read.

Prints JSON: resident bytes before, the largest ever, and what the stage predicts for one block.
"""

import gc
import json
import os
import sys
import tempfile
from pathlib import Path

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ[_variable] = "1"

import dask  # noqa: E402
import dask.array as da  # noqa: E402
import numpy as np  # noqa: E402
import psutil  # noqa: E402
import xarray as xr  # noqa: E402

import lucidcube.stages  # noqa: E402, F401
from lucidcube.cube import BADNESS, DIMS, FILLED, MASK, PSF, PSF_PLANE, WAVELENGTH, from_arrays  # noqa: E402
from lucidcube.io.reader import open_cube  # noqa: E402
from lucidcube.kernels.fill_linear import fill_linear  # noqa: E402
from lucidcube.runner.checkpoint import Checkpoint  # noqa: E402
from lucidcube.runner.compute import resident_peak  # noqa: E402
from lucidcube.stages.base import REGISTRY, Stage  # noqa: E402

STAR_STAGES = ("normalise_psf", "fit_psf")
META = np.empty((0, 0, 0), np.float32)


def plane(index: int, side: int, star: bool) -> np.ndarray:
    """Return a round object with noise."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    width = 3.0 if star else side / 4
    noise = np.random.default_rng(index).normal(0, 30, (side, side)).astype(np.float32)
    return 1e4 * np.exp(-((y - side // 2) ** 2 + (x - side // 2) ** 2) / np.float32(2 * width**2)) + noise


def made_up(stage: Stage, side: int, planes: int, block: int) -> xr.Dataset:
    """Return a lazy cube whose data are created when it is computed, as by reading."""

    def make(block_info=None):
        first, last = block_info[None]["array-location"][0]
        return np.stack([plane(i, side, stage.name in STAR_STAGES) for i in range(first, last)])

    chunks = ((block,) * (planes // block), (side,), (side,))
    data = da.map_blocks(make, chunks=chunks, dtype=np.float32, meta=META)
    variance = da.full((planes, side, side), 900, chunks=chunks, dtype=np.float32)
    cube = from_arrays(data, 7e-7 + 2.5e-10 * np.arange(planes), variance=variance)
    half = np.arange(-(side // 2), side // 2 + 1)
    psf = np.exp(-(half[:, None] ** 2 + half**2) / 8.0)
    psf = (psf / psf.sum()).astype(np.float32)
    extra = {
        BADNESS: (DIMS, data.map_blocks(lambda b: np.abs(b) / 3e3, dtype=np.float32, meta=META)),
        MASK: (DIMS, data.map_blocks(lambda b: (b > 9e3).astype(np.uint8), dtype=np.uint8, meta=META.astype("u1"))),
        FILLED: (DIMS, da.zeros(data.shape, chunks=chunks, dtype=np.uint8)),
        PSF: (
            (WAVELENGTH, *PSF_PLANE),
            data.map_blocks(
                lambda b: np.repeat(psf[None], len(b), 0), chunks=(chunks[0], *((n,) for n in psf.shape)),
                dtype=np.float32, meta=META,
            ),
        ),
    }  # fmt: skip
    return cube.assign({k: v for k, v in extra.items() if k in (*stage.requires, *stage.optional)})


def work(stage: Stage, cube: xr.Dataset) -> xr.Dataset:
    """Apply the stage and write its variables, block after block."""
    made = stage(cube)
    names = [v for v in stage.produces if v in made]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint.prepare(Path(folder) / "c", made, names, {})
        writes = checkpoint.write(made, names)
        for number in range(writes.shape[0]):
            dask.compute(writes.blocks[number], scheduler="synchronous")
    return made


def main(name: str, side: int, block: int, options: dict, files: list[str]) -> None:
    stage = REGISTRY[name].parse(options)
    # A stage on windows of planes reads the neighbours of a block; three blocks give one of them all.
    blocks = 3 if stage.halo else 2
    if files:
        small, large = (open_cube(file) for file in files)
    else:
        small, large = made_up(stage, 33, 4, 2), made_up(stage, side, blocks * block, block)
    # Loading compiled kernels uses memory in every run, even for a stage without kernels.
    fill_linear(np.zeros((5, 5), np.float32), np.eye(5, dtype=bool))
    work(stage, small)
    gc.collect()
    before = psutil.Process().memory_info().rss
    made = work(stage, large)
    peak = resident_peak()  # not getrusage, which includes the parent process
    print(json.dumps({"before": before, "peak": peak, "working": stage.working_bytes(large, made)}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]), sys.argv[5:])

"""Planes computed together on a device, beside the usual engine on one core.

    python -m benchmarks.gpu                           # PyTorch, first GPU, 256 planes of 341 x 341
    python -m benchmarks.gpu --device cpu --side 101 --planes 8 --threads 1
    python -m benchmarks.gpu --markdown docs/gpu.md    # replaces the table in the page

Times of the device are wall times: preparation, transfers and results included. As in a run, several blocks
are in work; while one is on the device, the others are prepared. Those of the usual engine are CPU seconds of
one thread, for a few of the planes, or for one group of planes that share a window.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lucidcube.cube import BADNESS, DATA, DIMS, MASK, PSF, PSF_PLANE, WAVELENGTH, from_arrays
from lucidcube.kernels.deconvolution.common import Deconvolution
from lucidcube.kernels.stacked.arrays import Arrays, find_arrays, use_arrays
from lucidcube.kernels.stacked.stacks import PlaneInput
from lucidcube.lift.blocks import GROUP
from lucidcube.stages import Artefacts, Interpolate
from lucidcube.stages.base import Stage
from lucidcube.stages.deconvolution_methods import Deconvolve

from .scenes import scene

CASES: dict[str, dict[str, Any]] = {
    "map": {"method": "map"},
    "lucy_richardson, 100 iterations": {"method": "lucy_richardson", "chi2_target": None, "n_iter": 100},
}
OF_WINDOWS: dict[str, tuple[Stage, str]] = {
    "artefacts, spectral_psf": (Artefacts(method="spectral_psf"), BADNESS),
    "interpolate, model": (Interpolate(method="model"), DATA),
}
"""Stages that work on windows of planes, and the variable that is compared."""
DISTINCT = 8
"""Number of simulated planes, which are repeated."""
BLOCKS = 16
"""Number of blocks into which the planes are divided, if there are several threads."""
START, END = "<!-- table of benchmarks/gpu.py -->", "<!-- end of the table -->"


def planes_of(side: int, number: int) -> list[PlaneInput]:
    """Return planes of a simulated scene with holes, their PSFs and variances."""
    made = scene(side, DISTINCT)
    kinds = [made.plane(i) for i in range(min(number, DISTINCT))]
    return [PlaneInput(p.observed, p.psf, p.variance, None) for p in (kinds * number)[:number]]


def blocks_of(side: int, number: int, blocks: int) -> list[xr.Dataset]:
    """Return blocks of whole groups of planes, none of which are equal, with PSFs and marked pixels."""
    made = scene(side, DISTINCT)
    kinds = [made.plane(i) for i in range(DISTINCT)]
    groups = -(-number // GROUP)
    per_block = GROUP * -(-groups // blocks)
    cubes = []
    for first in range(0, number, per_block):
        planes = [kinds[i % DISTINCT] for i in range(per_block)]
        scales = 1 + np.arange(first, first + per_block, dtype=np.float32)[:, None, None] / number
        data, variance = np.stack([p.observed for p in planes]), np.stack([p.variance for p in planes])
        marks = np.stack([p.artefact_kind > 0 for p in planes]).astype(np.uint8)
        axis = 7e-7 + 1e-9 * np.arange(first, first + per_block)
        cube = from_arrays(scales * data, axis, variance=scales**2 * variance, units="")
        psf = (WAVELENGTH, *PSF_PLANE), np.stack([p.psf for p in planes])
        cubes.append(cube.assign({MASK: (DIMS, marks), PSF: psf}))
    return cubes


def device_name(arrays: Arrays) -> str:
    """Return the name of the device in words."""
    if arrays.library == "torch" and arrays.device.type == "cuda":
        import torch

        return str(torch.cuda.get_device_name(arrays.device))
    return str(arrays)


def seconds_of(function: Callable[[], object], clock: Callable[[], float]) -> float:
    """Return the seconds of a call."""
    start = clock()
    function()
    return clock() - start


def difference(found: list[Deconvolution], expected: list[Deconvolution], name: str) -> float:
    """Return the largest difference of a variable, relative to the brightest component."""
    pairs = zip(found, expected, strict=False)
    return max(
        float(np.nanmax(np.abs(getattr(a, name) - getattr(b, name))) / np.nanmax(b.components))
        for a, b in pairs
    )


def measure(
    stage: Deconvolve, planes: list[PlaneInput], single: int, threads: int, arrays: Arrays
) -> dict[str, float]:
    """Return seconds per plane, and how well the results agree."""
    kernel = stage.planes_kernel
    if kernel is None:
        raise SystemExit(f"{stage.method} does not deconvolve planes together")
    found: list[Deconvolution] = []
    expected: list[Deconvolution] = []

    def together() -> None:
        size = -(-len(planes) // (1 if threads == 1 else BLOCKS))
        blocks = [planes[first : first + size] for first in range(0, len(planes), size)]
        with ThreadPoolExecutor(threads) as pool:
            made = pool.map(lambda block: stage.deconvolve_planes(block, arrays, kernel), blocks)
            found[:] = [one for block in made for one in block]

    def one_by_one() -> None:
        known = [{"variance": p.variance, "filled": p.filled} for p in planes[:single]]
        expected[:] = [stage.deconvolve_plane(*p[:2], **k) for p, k in zip(planes, known, strict=False)]

    few = planes[: min(2, len(planes))]
    stage.deconvolve_planes(few, arrays, kernel)  # compiles kernels, and lets the device plan its transforms
    one_by_one()
    cpu = min(seconds_of(one_by_one, time.thread_time) for _ in range(2)) / single
    wall = min(seconds_of(together, time.perf_counter) for _ in range(2)) / len(planes)
    spent = seconds_of(together, time.process_time) / len(planes)
    return {
        "one core": cpu,
        "wall": wall,
        "cpu": spent,
        "components": difference(found, expected, "components"),
        "residual": difference(found, expected, "residual"),
    }


def measure_windows(
    stage: Stage, variable: str, blocks: list[xr.Dataset], threads: int, arrays: Arrays, device: str | None
) -> dict[str, float]:
    """Return seconds per plane of a stage that works on windows, and how well the results agree."""
    group, planes = blocks[0].isel({WAVELENGTH: slice(GROUP)}), sum(b.sizes[WAVELENGTH] for b in blocks)
    # Of other brightness, so that nothing is remembered of what is measured.
    warm, alone = (group.assign({DATA: factor * group[DATA]}) for factor in (np.float32(2), np.float32(3)))
    found: list[np.ndarray] = []
    expected: list[np.ndarray] = []

    def block(cube: xr.Dataset) -> np.ndarray:
        with use_arrays(arrays.library, device):
            return np.asarray(stage(cube)[variable])

    def together() -> None:
        with ThreadPoolExecutor(threads) as pool:
            found[:] = pool.map(block, blocks)

    def one_by_one() -> None:
        expected[:] = [np.asarray(stage(alone)[variable])]

    block(warm)  # compiles kernels
    stage(warm)
    cpu = seconds_of(one_by_one, time.thread_time) / GROUP
    spent = time.process_time()
    wall = seconds_of(together, time.perf_counter) / planes
    spent = (time.process_time() - spent) / planes
    alike = block(alone)
    scale = float(np.nanmax(np.abs(expected[0])))
    worst = float(np.nanmax(np.abs(alike - expected[0]))) / scale
    return {"one core": cpu, "wall": wall, "cpu": spent, "components": worst, "residual": np.nan}


def main() -> None:
    """Print a table, or write it into a page."""
    parser = argparse.ArgumentParser(description="Compute planes on a device and on one core.")
    parser.add_argument("--library", default="torch", choices=["torch", "cupy", "numpy"])
    parser.add_argument("--device", default=None, help="cuda, cuda:1 or cpu")
    parser.add_argument("--side", type=int, default=341, help="pixels along y and x")
    parser.add_argument("--planes", type=int, default=256)
    parser.add_argument("--single", type=int, default=4, help="planes that the usual engine deconvolves")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="blocks in work at a time")
    parser.add_argument("--markdown", type=Path, help="page whose table is replaced")
    given = parser.parse_args()
    arrays = find_arrays(given.library, given.device)
    planes = planes_of(given.side, given.planes)
    rows = [
        f"{device_name(arrays)}, {given.planes} planes of {given.side} x {given.side}, "
        f"{given.threads} threads on a host with {os.cpu_count()} cores",
        "",
        "| method | one core, s per plane | device, wall s per plane | its host, CPU s per plane | ratio | "
        "difference of components, scores or filled pixels | of residuals |",
        "|---|---|---|---|---|---|---|",
    ]
    measured = {
        name: measure(Deconvolve(**options), planes, given.single, given.threads, arrays)
        for name, options in CASES.items()
    }
    blocks = blocks_of(given.side, given.planes, 1 if given.threads == 1 else BLOCKS)
    for name, (stage, variable) in OF_WINDOWS.items():
        rest = blocks, given.threads, arrays, given.device
        measured[name] = measure_windows(stage, variable, *rest)
    for name, got in measured.items():
        rows.append(
            f"| {name} | {got['one core']:.3f} | {got['wall']:.4f} | {got['cpu']:.4f} | "
            f"{got['one core'] / got['wall']:.1f} | {got['components']:.1e} | {got['residual']:.1e} |"
        )
    text = "\n".join(rows)
    print(text)
    if given.markdown is not None:
        page = given.markdown.read_text()
        before, _, rest = page.partition(START)
        _, _, after = rest.partition(END)
        given.markdown.write_text(f"{before}{START}\n{text}\n{END}{after}")


if __name__ == "__main__":
    main()

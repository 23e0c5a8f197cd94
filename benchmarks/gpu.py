"""Deconvolution of planes together on a device, beside the usual engine on one core.

    python -m benchmarks.gpu                           # PyTorch, first GPU, 256 planes of 341 x 341
    python -m benchmarks.gpu --device cpu --side 101 --planes 8 --threads 1
    python -m benchmarks.gpu --markdown docs/gpu.md    # replaces the table in the page

Times of the device are wall times: preparation, transfers and results included. As in a run, several blocks
are in work; while one is on the device, the others are prepared. Those of the usual engine are CPU seconds of
one thread, for a few of the planes.
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

from lucidcube.kernels.batched.arrays import Arrays, find_arrays
from lucidcube.kernels.batched.batches import PlaneInput
from lucidcube.kernels.deconvolution.common import Deconvolution
from lucidcube.stages.deconvolution_methods import Deconvolve

from .scenes import scene

CASES: dict[str, dict[str, Any]] = {
    "map": {"method": "map"},
    "lucy_richardson, 100 iterations": {"method": "lucy_richardson", "chi2_target": None, "n_iter": 100},
}
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


def main() -> None:
    """Print a table, or write it into a page."""
    parser = argparse.ArgumentParser(description="Deconvolve planes on a device and on one core.")
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
        "difference of components | of residuals |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, options in CASES.items():
        got = measure(Deconvolve(**options), planes, given.single, given.threads, arrays)
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

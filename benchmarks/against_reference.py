"""Comparisons with the reference program: each kernel with its command, and whole runs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lucidcube.kernels.deconvolution.clean import clean_modified
from lucidcube.kernels.deconvolution.lucy_richardson import lucy_richardson
from lucidcube.kernels.fill_linear import fill_linear
from lucidcube.kernels.mask import bad_pixel_mask
from lucidcube.kernels.ssa.artefact_score import badness

from .comparison import Comparison, children_cpu, cpu_of
from .reference_program import THREADS, Reference, planes_of
from .scenes import CLEAN, LUCY, SSA, normalised, radial_psf
from .whole_run import run, write_config


class Products(NamedTuple):
    """Planes that the commands of the reference made; each field is a list with one item per plane."""

    target: list[np.ndarray]
    star: list[np.ndarray]
    scores: list[np.ndarray]
    masks: list[np.ndarray]
    filled: list[np.ndarray]
    prepared: list[np.ndarray]
    psfs: list[np.ndarray]

    @classmethod
    def read(cls, folder: Path) -> Products:
        """Read the products; the PSFs are ours, from the same star."""
        names = ("obs_rebin", "star_rebin", "obs_rebin_artefactmap", "obs_rebin_artefactmap_bpmask")
        target, star, scores, masks = (planes_of(folder / f"{name}.fits") for name in names)
        return cls(
            target=target,
            star=star,
            scores=scores,
            masks=[mask.astype(bool) for mask in masks],
            filled=planes_of(folder / "obs_rebin_interp.fits"),
            prepared=planes_of(folder / "star_rebin_normalised.fits"),
            psfs=[radial_psf(normalised(plane)) for plane in star],
        )


class Row(NamedTuple):
    """A comparison of a kernel with a command of the reference.

    `kernel` is called with the products and the number of a plane. Without `options`, the command has the
    arguments that it has in the chain.
    """

    goal: float
    module: str
    kernel: Callable[[Products, int], object]
    options: tuple[str, ...] = ()


def clean(p: Products, i: int, **changes: Any) -> object:
    """Deconvolve a plane by CLEAN with the defaults of the stage, except for `changes`."""
    return clean_modified(p.filled[i], p.psfs[i], filled=p.masks[i], **CLEAN | changes)


def richardson(p: Products, i: int) -> object:
    """Deconvolve a plane by Lucy-Richardson with the defaults of the stage."""
    return lucy_richardson(p.filled[i], p.psfs[i], filled=p.masks[i], **LUCY)


ROWS = {
    "artefacts": Row(30, "artefact_detection", lambda p, i: badness(p.target[i], **SSA)),
    "mask": Row(
        10, "create_bad_pixel_mask", lambda p, i: bad_pixel_mask(p.scores[i], 3.0, max_dilation=None)
    ),
    "interpolate": Row(
        100, "interpolate", lambda p, i: fill_linear(p.target[i], p.masks[i] | np.isnan(p.target[i]))
    ),
    "normalise_psf": Row(10, "psf_normalise", lambda p, i: normalised(p.star[i])),
    "fit_psf radial": Row(20, "fit_psf_model", lambda p, i: radial_psf(p.prepared[i])),
    "lucy_richardson": Row(15, "deconvolve", richardson, ("--deconv_method", "lucy_richardson")),
    "clean 0.3": Row(10, "deconvolve", clean, ("--threshold", "0.3")),
    "clean -1": Row(15, "deconvolve", lambda p, i: clean(p, i, threshold=-1), ("--threshold", "-1")),
}


def compare_kernels(
    reference: Reference, folder: Path, planes: int, rounds: int, wanted: list[str]
) -> Iterator[Comparison]:
    """Compare every kernel with the command of the reference, on the products of the reference."""
    reference.prepare(planes)
    products, commands = Products.read(folder), dict(reference.chain())
    count = len(products.target)
    for name, row in ROWS.items():
        if wanted and name not in wanted:
            continue
        common = reference.deconvolve("one") if row.options else commands[row.module]
        comparison = Comparison(f"{name} / reference", row.goal)

        def ours(kernel: Callable[[Products, int], object] = row.kernel) -> object:
            return [kernel(products, number) for number in range(count)]

        ours()
        for _ in range(rounds):
            start_up = reference.run(row.module, "--help")
            spent = reference.run(row.module, *common, *row.options)
            comparison.add((spent - start_up) / count, cpu_of(ours) / count)
        yield comparison


def compare_whole(reference: Reference, folder: Path, rounds: int, blas: str) -> Iterator[Comparison]:
    """Compare whole runs from raw files to products on all cores, including the start-up of every command.

    The reference has `blas` threads. It takes minutes, during which the speed of the machine may change. Our
    run is therefore repeated before each of its commands, and the mean of these runs is compared with the
    sum of the commands. A run of the recommended stages is compared with them as well, once in a round. The
    reference has no settings with which it reaches that result (see ``docs/quality.md``), so it has no goal.
    """
    threads = f"{blas} BLAS thread" + ("s" if blas != "1" else "")
    cpu = Comparison(f"whole run / reference, {threads}", 25)
    wall = Comparison(f"whole run / reference, {threads}", 40, clock="wall")
    better = Comparison(f"recommended stages (a better result) / reference, {threads}", None)
    for number in range(rounds):
        theirs, ours = np.zeros(2), []
        for module, arguments in reference.chain():
            ours.append(times_of_run(folder))
            start = time.perf_counter()
            spent = reference.run(module, *arguments, blas=blas)
            theirs += spent, time.perf_counter() - start
        means = np.mean(ours, axis=0)
        recommended, _ = times_of_run(folder, None)
        for comparison, peer, own in (
            (cpu, theirs[0], means[0]),
            (wall, theirs[1], means[1]),
            (better, theirs[0], recommended),
        ):
            comparison.add(float(peer), float(own))
        print(
            f"round {number}, CPU and wall: {theirs.round(1)} s / {means.round(2)} s; "
            f"recommended stages: {recommended:.1f} s",
            file=sys.stderr,
            flush=True,
        )
    yield from (cpu, wall, better)


def times_of_run(folder: Path, iterations: int | None = CLEAN["n_iter"]) -> tuple[float, float]:
    """Return the CPU and the wall time of our run of the case in a folder; see `write_config`."""
    environment = {name: value for name, value in os.environ.items() if name not in THREADS}
    write_config(folder, "obs.fits", iterations)
    before, start = children_cpu(), time.perf_counter()
    run(folder, environment)
    return children_cpu() - before, time.perf_counter() - start

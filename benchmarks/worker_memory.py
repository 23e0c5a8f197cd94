"""Run small cubes at the smallest memory limit that a plan accepts, and count the workers that are lost.

``python -m benchmarks.worker_memory [RUNS]`` prints a line for each run: the limit, what was predicted, what
the largest worker used, and how often dask ended a worker because of its memory.
"""

from __future__ import annotations

import logging
import random
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import yaml

from lucidcube.config.load import load
from lucidcube.errors import ConfigError
from lucidcube.runner.pipeline import check, run
from lucidcube.runner.plan import least_memory, peak_memory
from lucidcube.simulate import Scene, write_scene

MIB = 1 << 20
SIDES, PLANES = (33, 61, 101, 161, 241), (4, 8)
METHODS = ({}, {"preset": "reference"}, {"deconvolve": {"method": "lucy_richardson", "n_iter": 5}})


class Run(NamedTuple):
    """Memory of one run in bytes; `refused` is whether a limit that is 1 MiB lower was refused."""

    limit: int
    predicted: int
    measured: int
    lost: int
    refused: bool


class LostWorkers(logging.Handler):
    """Count the messages of nannies that a worker used too much memory or died."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self.count += "memory budget" in text or "died unexpectedly" in text or "exited" in text


def measure(folder: Path, side: int, planes: int, settings: dict, workers: int, threads: int) -> Run:
    """Run a cube with the smallest limit that is accepted."""
    scene = Scene(shape=(planes, side, side), seed=side, wavelength_step=1e-9, star_shape=(31, 31))
    files = write_scene(scene, folder)
    config, profile = folder / "run.yaml", folder / "profile.yaml"
    values = {"target": str(files.target), "star": str(files.star), "deconvolve": {"n_iter": 5}, **settings}
    values["output"] = {"path": str(folder / "sharp.fits")}
    config.write_text(yaml.safe_dump(values))

    def limited(memory: int) -> list[str]:
        asked = {"kind": "processes", "workers": workers, "threads": threads, "memory": f"{memory}B"}
        profile.write_text(yaml.safe_dump(asked))
        return [f"profile={profile}"]

    needed = least_memory(check(load(config, limited(8 << 30))).steps, threads)
    limit = -(-needed // MIB) * MIB
    refused = False
    try:
        smaller = check(load(config, limited(needed - MIB)))
    except ConfigError:
        refused = True
    else:
        assert least_memory(smaller.steps, threads) <= needed - MIB, "blocks are smaller"
    loaded = load(config, limited(limit))
    plan, lost = check(loaded), LostWorkers()
    logs = [logging.getLogger(f"distributed.{name}") for name in ("nanny", "worker")]
    for log in logs:
        log.addHandler(lost)
    try:
        done = run(loaded)
    finally:
        for log in logs:
            log.removeHandler(lost)
    return Run(limit, peak_memory(plan.steps, threads), done.worker_memory, lost.count, refused)


def main(runs: int, seed: int = 1) -> None:
    draw, lost = random.Random(seed), 0
    print("| side | planes | workers x threads | settings | limit | predicted | measured | ratio | lost |")
    print("|---|---|---|---|---|---|---|---|---|")
    for _ in range(runs):
        side, planes = draw.choice(SIDES), draw.choice(PLANES)
        settings, (workers, threads) = draw.choice(METHODS), draw.choice([(1, 1), (2, 1), (1, 2)])
        with TemporaryDirectory() as folder:
            made = measure(Path(folder), side, planes, dict(settings), workers, threads)
        label = settings.get("preset") or settings.get("deconvolve", {}).get("method", "recommended")
        memory = " | ".join(f"{value / MIB:.0f}" for value in made[:3])
        ratio = made.predicted / made.measured
        print(
            f"| {side} | {planes} | {workers} x {threads} | {label} | {memory} | {ratio:.2f} | {made.lost} |",
            flush=True,
        )
        lost += made.lost > 0
    print(f"runs that lost a worker: {lost} of {runs}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20)

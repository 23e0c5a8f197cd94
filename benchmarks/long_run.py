"""Long runs: CPU time and memory by the size of the input, in threads and in processes.

    python -m benchmarks.long_run --work SCRATCH --sizes 1GB 4GB 16GB
    python -m benchmarks.long_run --work SCRATCH --sizes 64GB --chains recommended --kinds threads

For each size, a target of 341 x 341 and a star of 151 x 151 pixels (a fifth of its size), data and variance,
are rebinned to `PLANES` planes, so that the product stays small. The inputs repeat a simulated cube. Where a
file system can share blocks between parts of a file (XFS, btrfs), they take up to 1.1 GB of the disk, and are
read like any other file. They are removed after the runs. A run is a process of ``lucidcube run`` without
earlier results; `COLUMNS` says what is measured of it and of all processes that it starts.

The results are kept in the scratch folder, and a table is printed of all that are there. With ``--markdown
PAGE`` it replaces the one after ``<!-- long_run.py long -->``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import yaml
from astropy.io import fits

from lucidcube.config.presets import CHAINS
from lucidcube.simulate import Scene, parse_size, write_scene

from .comparison import children_cpu, replace_table
from .whole_run import PROGRAM

MIB = 1 << 20
PLANES = 32
"""Number of planes after rebinning, whatever the size of the input."""
RANGE = 475e-9, 935e-9
"""First and last wavelength in metres."""
SHORT, SIDE, STAR = 128, 341, 151
"""Number of planes that are simulated, and the sides of the target's and the star's planes in pixels."""
PERIOD = 1024
"""Planes after which the input repeats: these have a multiple of `BLOCK` bytes."""
BLOCK = 4096
"""Size of the blocks of a file system."""
INTERVAL = 0.5
"""Seconds between two looks at the memory."""
DECONVOLVE = {"recommended": {}, "reference": {"method": "lucy_richardson", "n_iter": 20}}
PROFILES = {"threads": "laptop", "processes": "processes"}
COLUMNS = {
    "stages": "the preset; with `reference`, 20 iterations of Lucy-Richardson",
    "workers": "kind of the profile, with as many workers as there are cores",
    "target": "size of its file; that of the star has a fifth",
    "CPU s": "of all processes",
    "s per GB": "of both inputs",
    "threads": "CPU time beside that with threads",
    "not in blocks": "part of the CPU time that is not that of stages: imports, hash, plan, product, report",
    "wall s": "",
    "largest worker, MiB": "its peak resident memory; with threads, there is one process only",
    "predicted": "by the plan, for the same",
    "all processes": "largest sum of their memory (PSS: shared pages count once), without the page cache",
    "product, MB": "",
}


@dataclass(frozen=True)
class LongRun:
    """What was measured of a run: seconds and bytes."""

    chain: str
    kind: str
    target: int
    """Size of the target's file."""
    read: int
    """Size of both files."""
    cpu: float
    blocks_cpu: float
    wall: float
    worker: int
    predicted: int
    together: int
    product: int


def lengthen(short: Path, long: Path, planes: int) -> None:
    """Write a cube of more planes, which are those of another with factors, and repeat after `PERIOD`."""
    first, step = RANGE[0] * 1e10, (RANGE[1] - RANGE[0]) * 1e10 / planes
    with fits.open(short) as hdus, long.open("wb+", buffering=0) as file:
        for hdu in hdus:
            header = hdu.header.copy()
            if hdu.data is not None:
                header["NAXIS3"], header["CRVAL3"], header["CD3_3"] = planes, first, step
            file.write(header.tostring().encode())
            if hdu.data is not None:
                power = 2 if hdu.name == "STAT" else 1
                _repeat(file.fileno(), hdu.data, power, planes)
                file.seek(0, os.SEEK_END)
                file.write(bytes(-file.tell() % 2880))
        os.fsync(file.fileno())


def _repeat(file: int, data: np.ndarray, power: int, planes: int) -> None:
    """Append planes to a file: the first `PERIOD` multiplied by factors, and then those again."""
    start, written = os.lseek(file, 0, os.SEEK_CUR), 0
    while written < min(planes, PERIOD):
        some = data[: min(planes, PERIOD) - written]
        factor = (1 + 0.01 * written / PERIOD) ** power
        os.write(file, np.multiply(some, factor, dtype="f4").astype(">f4").data.cast("B"))
        written += len(some)
    at, period, end = os.lseek(file, 0, os.SEEK_CUR), PERIOD * data[0].nbytes, start + planes * data[0].nbytes
    while at < end:
        # A file system shares its blocks only where both places, and the length, are multiples of their size.
        left, whole = end - at, (end - at) // BLOCK * BLOCK
        length = min(left, period, -at % BLOCK or whole or left)
        at += os.copy_file_range(file, file, length, at - period, at)


@contextmanager
def inputs(work: Path, nbytes: int) -> Iterator[Path]:
    """Make a folder with a target of about `nbytes` bytes and a star, and remove it afterwards."""
    short, folder = work / "short", work / f"{nbytes}"
    scene = Scene((SHORT, SIDE, SIDE), 700e-9, 0.25e-9, seed=1, star_shape=(STAR, STAR))
    if not (short / "target.fits").exists():
        write_scene(scene, short)
    folder.mkdir(parents=True, exist_ok=True)
    planes = max(2 * PLANES, nbytes // (8 * SIDE**2))
    try:
        for name in ("target.fits", "star.fits"):
            lengthen(short / name, folder / name, planes)
        yield folder
    finally:
        shutil.rmtree(folder)


def write_config(folder: Path, out: Path, chain: str) -> Path:
    """Write the config of a run whose product has `PLANES` planes."""
    rebin = {"rebin": {"bin_step": (RANGE[1] - RANGE[0]) / PLANES}}
    values = {
        name: {"input": f"{folder / name}.fits{{DATA}}", "stages": [rebin, *CHAINS[chain][name][1:]]}
        for name in ("target", "star")
    }
    values |= {"preset": chain, "deconvolve": DECONVOLVE[chain], "output": {"path": str(out / "sharp.fits")}}
    config = out / "run.yaml"
    config.write_text(yaml.safe_dump(values | {"checkpoints": {"dir": str(out / "work")}}))
    return config


def memory_of(process: psutil.Process) -> int:
    """Return the memory of a process and of those that it started, in bytes; shared pages count once."""
    total = 0
    with suppress(psutil.NoSuchProcess):
        for each in (process, *process.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += each.memory_full_info().pss
    return total


def watched(command: Sequence[str]) -> tuple[float, float, int]:
    """Run a command; return its CPU and wall seconds, and the largest memory of all its processes."""
    before, start = children_cpu(), time.monotonic()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    ended, largest = threading.Event(), [0]

    def watch() -> None:
        while not ended.wait(INTERVAL):
            largest.append(memory_of(process))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        failed = process.wait()
    finally:
        ended.set()
        watcher.join()
        with suppress(psutil.NoSuchProcess):
            process.terminate()  # if this process is stopped
    if failed:
        raise SystemExit(f"{' '.join(command)} failed with exit code {failed}")
    return children_cpu() - before, time.monotonic() - start, max(largest)


def measure(folder: Path, out: Path, chain: str, kind: str) -> LongRun:
    """Run a chain on the inputs of a folder."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    arguments = [str(write_config(folder, out, chain)), "--profile", PROFILES[kind]]
    planned = subprocess.run([PROGRAM, "plan", *arguments, "--json"], check=True, stdout=subprocess.PIPE)
    cpu, wall, together = watched([PROGRAM, "run", *arguments, "--quiet"])
    run = json.loads((out / "sharp.json").read_text())["run"]
    sizes = [(folder / f"{name}.fits").stat().st_size for name in ("target", "star")]
    return LongRun(
        chain, kind, sizes[0], sum(sizes), cpu,
        sum(part["cpu_seconds"] for part in run["parts"] if part["label"] != "product"),
        wall, run["worker_memory"] or run["memory"], json.loads(planned.stdout)["peak_memory_bytes"],
        together, (out / "sharp.fits").stat().st_size,
    )  # fmt: skip


def table(runs: Sequence[LongRun]) -> str:
    """Return a Markdown table of runs."""
    ordered = sorted(runs, key=lambda run: (run.chain, run.target, run.kind != "threads"))
    threads = {(run.chain, run.target): run.cpu for run in ordered if run.kind == "threads"}
    lines = [f"| {' | '.join(COLUMNS)} |", "|---" * len(COLUMNS) + "|"]
    for run in ordered:
        beside = run.cpu / threads.get((run.chain, run.target), np.nan)
        cells = (
            run.chain, run.kind, f"{run.target / 1e9:.3g} GB",
            f"{run.cpu:.1f}", f"{run.cpu / run.read * 1e9:.2f}",
            f"{beside:.2f}" if run.kind != "threads" and np.isfinite(beside) else "",
            f"{1 - run.blocks_cpu / run.cpu:.1%}", f"{run.wall:.1f}", f"{run.worker / MIB:.0f}",
            f"{run.predicted / MIB:.0f} ({run.predicted / run.worker:.2f})", f"{run.together / MIB:.0f}",
            f"{run.product / 1e6:.1f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Make the inputs, run everything, and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.long_run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--work", type=Path, required=True, help="folder for inputs and results")
    parser.add_argument("--sizes", nargs="*", default=["1GB"], help="sizes of the target (1GB)")
    parser.add_argument("--chains", nargs="*", choices=DECONVOLVE, default=[*DECONVOLVE])
    parser.add_argument("--kinds", nargs="*", choices=PROFILES, default=[*PROFILES])
    parser.add_argument("--markdown", type=Path, help="page whose table is replaced")
    given = parser.parse_args(arguments)
    work, results = given.work.resolve(), given.work / "results.json"
    known = json.loads(results.read_text()) if results.exists() else {}
    for size in given.sizes:
        with inputs(work, parse_size(size)) as folder:
            for chain in given.chains:
                for kind in given.kinds:
                    run = measure(folder, work / "out", chain, kind)
                    known[f"{chain} {kind} {size}"] = asdict(run)
                    results.write_text(json.dumps(known, indent=1))
                    print(table([run]).splitlines()[-1], flush=True)
    text = table([LongRun(**run) for run in known.values()])
    print(text)
    if given.markdown is not None:
        given.markdown.write_text(replace_table(given.markdown.read_text(), "long", text, "long_run.py"))


if __name__ == "__main__":
    main()

"""Emulate a large cluster on this machine, and measure what each block costs the client and the scheduler.

The scheduler is a process, and so is the client. The workers are objects of dask with one thread each, many
of them in a process, and their blocks sleep for the time that a block takes. So a few cores can be as many
workers as a cluster has, and what is measured is the work of the client and the scheduler alone.

    python -m benchmarks.large_cluster --workers 64 --blocks 100000 --seconds 0.05
    python -m benchmarks.large_cluster --workers 64 --blocks 5000 --seconds 0.05 --by submit
    python -m benchmarks.large_cluster --workers 64 --blocks 1000000 --seconds 0.001 --stop 60

A line is printed with the CPU time per block of the client, of the scheduler and of all workers (which on a
cluster are on other machines), the efficiency (the time
that the workers would take if they never waited, divided by the time that was taken), the part of their time
that the workers spent in tasks (which is larger if they themselves wait for the cores of this machine), the
number of tasks, and the largest memory of both processes. With --stop the run ends after that many seconds,
which is enough to measure memory.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import dask
import numpy as np
import psutil
import xarray as xr
from distributed import Client, Scheduler, Worker, as_completed

from lucidcube.cluster import Results
from lucidcube.cluster.client import DaskWorkers
from lucidcube.cube import DATA, from_arrays
from lucidcube.lift.blocks import over_blocks
from lucidcube.lift.lazy_arrays import from_source
from lucidcube.runner.compute import BlockComputer, resident_peak
from lucidcube.runner.monitor import Monitor, Summary
from lucidcube.runner.signals import Stop

QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "1h",
}
"""What hundreds of workers in one process would otherwise do all the time."""
WAYS = ("batches", "submit", "map")
COLUMNS = (
    "by", "workers", "blocks", "time of a block", "client, ms of CPU per block", "scheduler", "all workers",
    "efficiency", "in tasks", "tasks", "client, MiB", "scheduler, MiB", "wall", "load before",
)  # fmt: skip


@dataclass(frozen=True)
class Planes:
    """A source of planes that are all zero."""

    shape: tuple[int, int, int]
    dtype = np.dtype("float32")
    ndim = 3

    def __getitem__(self, key: tuple[slice, ...]) -> np.ndarray:
        first, last, _ = key[0].indices(self.shape[0])
        return np.zeros((last - first, *self.shape[1:]), self.dtype)


@dataclass(frozen=True)
class Sleep:
    """The work of a block."""

    seconds: float

    def __call__(self, position: np.ndarray, planes: np.ndarray) -> np.ndarray:
        time.sleep(self.seconds)
        return np.array([planes.nbytes])


def lazy_cube(blocks: int) -> xr.Dataset:
    """Return a cube with one plane in each block."""
    planes = from_source(Planes((blocks, 8, 8)), 1, "planes")
    return from_arrays(planes.data, np.arange(1.0, blocks + 1))


class Busy(DaskWorkers):
    """Workers that count their tasks, and the time that these take."""

    seconds, tasks = 0.0, 0

    def result(self, future: Future[Results]) -> Results:
        results = super().result(future)
        Busy.seconds += results.seconds
        Busy.tasks += 1
        return results


def in_batches(client: Client, blocks: int, seconds: float) -> Iterator[object]:
    """Compute the blocks as a run does."""
    Busy.seconds, Busy.tasks = 0.0, 0
    computer = BlockComputer(Busy(client), Monitor(), Stop(), Summary(Path()))
    work = over_blocks(lazy_cube(blocks), Sleep(seconds), [DATA], "int64")
    yield from computer.compute("target: sleep", work, range(blocks))


def by_submit(client: Client, blocks: int, seconds: float) -> Iterator[object]:
    """Submit one task for each block, two for each worker at a time."""
    window = 2 * len(client.nthreads())
    first = [client.submit(time.sleep, seconds, pure=False) for _ in range(min(window, blocks))]
    running, submitted = as_completed(first, loop=client.loop), len(first)
    for future in running:
        if submitted < blocks:
            running.add(client.submit(time.sleep, seconds, pure=False))
            submitted += 1
        yield future


def by_map(client: Client, blocks: int, seconds: float) -> Iterator[object]:
    """Submit one task for each block, all at once."""
    yield from as_completed(client.map(time.sleep, [seconds] * blocks, pure=False), loop=client.loop)


def measure(
    address: str, others: Sequence[psutil.Process], way: str,
    workers: int, blocks: int, seconds: float, stop: float,
) -> str:  # fmt: skip
    """Compute blocks, and return a row of a table."""
    compute = {"batches": in_batches, "submit": by_submit, "map": by_map}[way]
    with Client(address, set_as_default=False) as client:
        client.wait_for_workers(workers)
        for _ in compute(client, 4 * workers, 0.01):
            pass  # so that everything is imported and connected
        done, load = 0, psutil.getloadavg()[0]
        before, start = spent(others), time.monotonic()
        for _ in compute(client, blocks, seconds):
            done += 1
            if stop and time.monotonic() - start > stop:
                break
        wall = time.monotonic() - start
        costs = [f"{1e3 * (now - then) / done:.2f}" for now, then in zip(spent(others), before, strict=True)]
        memory = resident_peak() >> 20, peak_of(others[0].pid) >> 20
    busy = f"{Busy.seconds / workers / wall:.0%}" if Busy.tasks else ""
    cells = (
        way, workers, f"{done} of {blocks}", f"{seconds * 1e3:g} ms",
        *costs,
        f"{done * seconds / workers / wall:.0%}", busy,
        Busy.tasks or done, *memory, f"{wall:.0f} s", f"{load:.1f}",
    )  # fmt: skip
    return f"| {' | '.join(map(str, cells))} |"


def spent(others: Sequence[psutil.Process]) -> tuple[float, float, float]:
    """Return the CPU seconds of this process, the scheduler, which is the first, and all workers."""
    scheduler, *workers = (times.user + times.system for times in (each.cpu_times() for each in others))
    return time.process_time(), scheduler, sum(workers)


def peak_of(pid: int) -> int:
    """Return the largest resident memory of another process in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))


async def serve(file: Path) -> None:
    """Run a scheduler that writes its address to a file."""
    async with Scheduler(host="127.0.0.1", port=0, dashboard=False) as scheduler:
        part = file.with_suffix(".part")
        part.write_text(scheduler.address)
        part.rename(file)
        await scheduler.finished()


async def work(address: str, number: int, name: str) -> None:
    """Run some workers."""
    options = {"nthreads": 1, "memory_limit": 0, "dashboard": False, "host": "127.0.0.1"}
    workers = [Worker(address, name=f"{name}-{n}", **options) for n in range(number)]
    for first in range(0, number, 16):
        await asyncio.gather(*workers[first : first + 16])
    await asyncio.gather(*(worker.finished() for worker in workers))


def end_with_parent() -> None:
    """End this process when its standard input is closed, as when the process that started it was killed."""
    sys.stdin.buffer.read()
    os._exit(1)


def start(stack: ExitStack, folder: Path, *arguments: str) -> psutil.Process:
    """Start another process of this module, which ends with the stack, and with this process."""
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.large_cluster", *arguments]
    settings = {"DASK_TEMPORARY_DIRECTORY": str(folder), "DASK_LOGGING__DISTRIBUTED": "critical"}
    process = subprocess.Popen(command, env=os.environ | settings, stdin=subprocess.PIPE)
    stack.callback(process.wait)
    stack.callback(process.kill)
    return psutil.Process(process.pid)


def main(arguments: list[str] | None = None) -> None:
    """Start the cluster and measure."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.large_cluster", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=64, help="number of workers (64)")
    parser.add_argument("--blocks", type=int, default=100_000, help="number of blocks (100000)")
    parser.add_argument("--seconds", type=float, default=0.05, help="time that a block takes (0.05)")
    parser.add_argument("--by", choices=WAYS, nargs="+", default=["batches"], help="ways to submit blocks")
    parser.add_argument("--processes", type=int, default=2, help="processes that hold the workers (2)")
    parser.add_argument("--stop", type=float, default=0, help="end after this many seconds")
    parser.add_argument("--run", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    dask.config.set(QUIET)
    for name in ("distributed", "tornado"):  # about tasks that are cancelled by --stop
        logging.getLogger(name).setLevel(logging.CRITICAL)
    if given.run:
        threading.Thread(target=end_with_parent, daemon=True).start()
        role, *rest = given.run
        asyncio.run(serve(Path(rest[0])) if role == "scheduler" else work(rest[0], int(rest[1]), rest[2]))
        return
    print(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    for way in given.by:
        with TemporaryDirectory() as folder, ExitStack() as stack:
            file = Path(folder, "address")
            others = [start(stack, Path(folder), "--run", "scheduler", str(file))]
            while not file.exists():
                time.sleep(0.1)
            address = file.read_text()
            for n in range(given.processes):
                share = given.workers // given.processes + (n < given.workers % given.processes)
                others.append(start(stack, Path(folder), "--run", "workers", address, str(share), str(n)))
            row = address, others, way, given.workers, given.blocks, given.seconds, given.stop
            print(measure(*row), flush=True)


if __name__ == "__main__":
    main()

"""What a person sees: progress of a run, a plan, what is in a cube."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import xarray as xr
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from lucidcube.cluster import load_profile
from lucidcube.cluster.jobqueue import job_script
from lucidcube.cube import DATA, SOURCE, UNITS, VARIANCE, WAVELENGTH, X, Y, block_sizes
from lucidcube.run.monitor import Monitor, Summary
from lucidcube.run.pipeline import Plan
from lucidcube.run.plan import peak_memory
from lucidcube.run.prune import Entry

PLAN_WIDTH = 110
"""Characters that a plan needs at least, so that no number is cut off."""

LOG_INTERVAL = 30.0
"""Seconds between lines where there is no terminal."""


class Progress(Monitor):
    """A bar per segment on a terminal, else a line per segment and interval; on stderr.

    Parameters
    ----------
    console
        Where to write; stderr if not given.
    clock
        Seconds.
    """

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self.clock = clock
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.label, self.total, self.reused, self.count = "", 0, 0, 0
        self.began = self.said = clock()

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def message(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(text, soft_wrap=True, markup=False)

    def segment(self, label: str, blocks: int, reused: int) -> None:
        """Begin a bar, or say that all of it is there."""
        self.label, self.total, self.reused, self.count = label, blocks, reused, reused
        self.began = self.said = self.clock()
        if reused == blocks:
            self.message(f"{label}: reused")
            return
        note = f" ({reused} of {blocks} blocks reused)" if reused else ""
        if self.console.is_terminal:
            self.task = self.bars.add_task(label + note, total=blocks, completed=reused, rate="")
        else:
            self.message(f"{label}: {blocks - reused} blocks{note}")

    def block(self, number: int) -> None:
        """Move the bar."""
        self.count += 1
        now = self.clock()
        rate = (self.count - self.reused) / max(now - self.began, 1e-9)
        if self.console.is_terminal:
            self.bars.update(self.task, advance=1, rate=_rate(rate))
        elif now - self.said >= LOG_INTERVAL:
            self.said = now
            left = duration((self.total - self.count) / rate)
            self.message(f"{self.label}: {self.count} of {self.total} blocks, {_rate(rate)}, {left} left")

    def finished(self, done: Summary) -> None:
        """Say what it took."""
        self.message(summary(done))


def summary(done: Summary) -> str:
    """What a run did, in two lines."""
    memory = f"{size(done.memory)} in this process"
    if done.worker_memory:
        memory += f", {size(done.worker_memory)} in the largest worker"
    written = f"{size(done.nbytes)} to checkpoints"
    if done.product_bytes:
        written += f", {size(done.product_bytes)} to the product"
    blocks = f"{done.computed} done, {done.reused} reused, {done.failed} failed"
    return f"{duration(done.seconds)}; blocks: {blocks}\nwritten: {written}; peak memory: {memory}"


def _rate(rate: float) -> str:
    """Blocks per second or, where they are slow, seconds per block."""
    return f"{rate:.1f} blocks/s" if rate >= 1 else f"{1 / max(rate, 1e-9):.1f} s/block"


def duration(seconds: float) -> str:
    """Seconds for people: ``12.3 s``, ``4:05``, ``1:02:03``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def clean_table(work: Path, entries: Sequence[Entry], stray: Sequence[Path]) -> None:
    """Print what lies in a work folder."""
    console = Console(highlight=False)
    console.width = max(console.width, PLAN_WIDTH)
    if entries:
        table = Table(box=None, pad_edge=False)
        for column in ("track", "stage", "checkpoint", "age", "size", "blocks", "use"):
            table.add_column(column, justify="right" if column in ("age", "size") else "left")
        uses = {True: "current", False: "stale", None: ""}
        for e in entries:
            state = "complete" if not e.missing else f"{e.blocks - e.missing} of {e.blocks}"
            state = state if e.blocks else "unreadable"
            name = e.path.name.rpartition("-")[2]
            table.add_row(e.track, e.stage, name, duration(e.age), size(e.nbytes), state, uses[e.current])
        console.print(table)
    stale = [e for e in entries if e.current is False]
    lost = sum(e.nbytes for e in stale) + sum(p.stat().st_size for p in stray if p.exists())
    total = size(sum(e.nbytes for e in entries))
    console.print(
        f"{work}: {len(entries)} checkpoints, {total}; temporary files: {len(stray)}", soft_wrap=True
    )
    if stale or stray:
        console.print(f"--remove frees {size(lost)}")


def plan_table(checked: Plan) -> None:
    """Print a plan."""
    table = Table(box=None, pad_edge=False)
    words = ("track", "stage", "kept")
    for column in (
        *words[:2],
        "planes y x",
        "planes/block",
        "blocks",
        "reads",
        "makes",
        "memory/block",
        words[2],
    ):
        table.add_column(column, justify="left" if column in words else "right", no_wrap=True)
    for s in checked.steps:
        table.add_row(
            s.track, s.stage, " ".join(map(str, s.shape)), str(s.block), str(s.blocks), size(s.read),
            size(s.written), size(s.working), "yes" if s.checkpoint else "",
        )  # fmt: skip
    console = Console(highlight=False)
    console.width = max(console.width, PLAN_WIDTH)
    console.print(table)
    known = plan_json(checked)
    layout = checked.layout
    where = f"{layout.processes or 'some'} processes of {layout.threads or 'some'} threads"
    limit = f" of {size(layout.memory)}" if layout.memory else ""
    console.print(
        f"{known['tasks']} tasks; reads {size(known['read_bytes'])}; "
        f"checkpoints: at most {size(known['scratch_bytes'])} in {known['work']}\n"
        f"profile {checked.config.profile}: {where}; "
        f"predicted peak memory of each: {size(known['peak_memory_bytes'])}{limit}",
        soft_wrap=True,
    )
    if known["job_script"]:
        console.print(f"\njob script:\n{known['job_script']}", soft_wrap=True, markup=False)


def plan_json(checked: Plan) -> dict[str, Any]:
    """A plan as plain data."""
    inputs = {name: sum(v.nbytes for v in cube.data_vars.values()) for name, cube in checked.sources.items()}
    return {
        "steps": [s._asdict() for s in checked.steps],
        "inputs": {
            name: {"shape": list(cube[DATA].shape), "bytes": inputs[name]}
            for name, cube in checked.sources.items()
        },
        "tasks": sum(s.blocks for s in checked.steps if s.checkpoint),
        "read_bytes": sum(inputs.values()) + sum(s.read for s in checked.steps if s.stage != "rebin"),
        "scratch_bytes": sum(s.written for s in checked.steps),
        "work": str(checked.config.work()),
        "block_bytes": checked.block_bytes,
        "processes": checked.layout.processes,
        "threads": checked.layout.threads,
        "memory_bytes": checked.layout.memory,
        "peak_memory_bytes": peak_memory(checked.steps, checked.layout.threads or 1),
        "job_script": job_script(load_profile(checked.config.profile)),
    }


def size(nbytes: float) -> str:
    """Bytes for people: ``12.3 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if nbytes < 1024:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.1f} {unit}"
        nbytes /= 1024
    return f"{nbytes:.1f} TiB"


def cube_text(cube: xr.Dataset) -> str:
    """What is in a cube, in a few lines; reads one plane."""
    axis, unit = cube[WAVELENGTH].values, cube[WAVELENGTH].attrs.get(UNITS, "")
    planes = cube.sizes[WAVELENGTH]
    middle = cube[DATA].isel({WAVELENGTH: planes // 2}).values
    known = np.isfinite(middle)
    lines = [
        f"source      {cube.attrs.get(SOURCE, '')}",
        f"planes      {planes} of {cube.sizes[Y]} x {cube.sizes[X]} (y x)",
    ]
    if np.isfinite(axis).all():
        step = f", step {np.median(np.diff(axis)):.6g}" if planes > 1 else ""
        kind = cube[WAVELENGTH].attrs.get("ctype", "")
        lines.append(f"wavelength  {axis[0]:.6g} to {axis[-1]:.6g} {unit}{step} {kind}".rstrip())
    else:
        lines.append("wavelength  unknown: give wave_start and wave_step")
    lines.append(
        f"data        {cube[DATA].attrs.get(UNITS) or 'no unit'}, {max(block_sizes(cube))} planes a block"
    )
    lines.append(f"variance    {'yes' if VARIANCE in cube else 'none'}")
    value = (
        f"{np.median(middle[known]):.6g} median, {middle[known].max():.6g} largest"
        if known.any()
        else "all NaN"
    )
    lines.append(f"plane {planes // 2:<6}{value}; {1 - known.mean():.1%} missing")
    return "\n".join(lines)

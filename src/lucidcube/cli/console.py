"""Print the progress of a run, plans, checkpoints and the contents of cubes."""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

import rich.console
from dask.utils import format_bytes, format_time
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from lucidcube.cli.closed_pipe import Console
from lucidcube.cli.compilation import Compilation, listening
from lucidcube.cli.options import to_stdout
from lucidcube.cluster.jobqueue import job_script
from lucidcube.cube import DATA
from lucidcube.errors import printable, printable_lines
from lucidcube.runner.monitor import Monitor, Summary
from lucidcube.runner.pipeline import Plan
from lucidcube.runner.plan import peak_memory
from lucidcube.runner.prune import Entry

TABLE_WIDTH = 110
"""Smallest width of a table in characters, so that no number is cut off."""

LOG_INTERVAL = 30.0
"""Seconds between lines of progress where there is no terminal."""


class Progress(Monitor):
    """Show a bar for each segment on a terminal; elsewhere write a line at intervals.

    It writes to `console`, which is stderr by default; `clock` returns the time in seconds. The time that
    this process compiles kernels, which happens once, does not count in the estimate of the time left.
    """

    def __init__(
        self, console: rich.console.Console | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.console = console or Console(stderr=True, highlight=False)
        self.clock = clock
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.label, self.total, self.reused, self.count = "", 0, 0, 0
        self.compilation = Compilation(partial(self.message, "compiling kernels, once"), clock)
        self.started = self.reported = clock()
        self.compiled = 0.0
        self._listening = ExitStack()

    def __enter__(self) -> Self:
        self.bars.start()
        self._listening.enter_context(listening(self.compilation))
        return self

    def __exit__(self, *error: object) -> None:
        self._listening.close()
        self.bars.stop()

    def message(self, text: str) -> None:
        """Print a line above the bars."""
        self.console.print(printable_lines(text), soft_wrap=True, markup=False)

    def segment(self, label: str, blocks: int, reused: int) -> None:
        """Start a bar, or report that the whole segment is reused."""
        self.label, self.total, self.reused, self.count = label, blocks, reused, reused
        self.started = self.reported = self.clock()
        self.compiled = self.compilation.seconds()
        if reused == blocks:
            self.message(f"{label}: reused")
            return
        note = f" ({reused} of {blocks} blocks reused)" if reused else ""
        if self.console.is_terminal:
            self.task = self.bars.add_task(label + note, total=blocks, completed=reused, rate="", left="")
        else:
            self.message(f"{label}: {blocks - reused} blocks{note}")

    def block(self, number: int) -> None:
        """Advance the bar."""
        self.count += 1
        now = self.clock()
        spent = now - self.started - (self.compilation.seconds() - self.compiled)
        rate = (self.count - self.reused) / max(spent, 1e-9)
        left = f"{format_time((self.total - self.count) / rate)} left" if self.count < self.total else ""
        if self.console.is_terminal:
            self.bars.update(self.task, advance=1, rate=_rate(rate), left=left)
        elif now - self.reported >= LOG_INTERVAL:
            self.reported = now
            text = f"{self.label}: {self.count} of {self.total} blocks, {_rate(rate)}, {left or 'done'}"
            self.message(text)

    def finished(self, done: Summary) -> None:
        """Print the summary, and the warnings again, which are easily missed among the progress."""
        self.message(summary(done))
        for text in done.warnings:
            self.message(f"warning: {text}")


def summary(done: Summary) -> str:
    """Describe what a run did, in two lines."""
    memory = f"{format_bytes(done.memory)} in this process"
    if done.worker_memory:
        memory += f", {format_bytes(done.worker_memory)} in the largest worker"
    written = f"{format_bytes(done.nbytes)} to checkpoints"
    if done.product_bytes:
        written += f", {format_bytes(done.product_bytes)} to the product"
    blocks = f"{done.computed} done, {done.reused} reused, {done.failed} failed"
    return f"{format_time(done.seconds)}; blocks: {blocks}\nwritten: {written}; peak memory: {memory}"


def _rate(blocks: float) -> str:
    return f"{blocks:.1f} blocks/s" if blocks >= 1 else f"{1 / max(blocks, 1e-9):.1f} s/block"


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], text: set[str]) -> None:
    """Print a table; the columns named in `text` are aligned to the left."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in text else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    console = Console(highlight=False)
    console.width = max(console.width, TABLE_WIDTH)
    console.print(table)


def prune_table(work: Path, entries: Sequence[Entry], temporary: Sequence[Path]) -> None:
    """Print the checkpoints and the number of temporary files in a work folder."""
    uses = {True: "current", False: "stale", None: ""}
    rows = [
        (e.track, e.stage, e.path.name.rpartition("-")[2], format_time(e.age), format_bytes(e.nbytes),
         _state(e), uses[e.current])
        for e in entries
    ]  # fmt: skip
    columns = ("track", "stage", "checkpoint", "age", "size", "blocks", "use")
    if rows:
        _print_table(columns, rows, {*columns} - {"age", "size"})
    total = format_bytes(sum(e.nbytes for e in entries))
    to_stdout(f"{work}: {len(entries)} checkpoints, {total}; temporary files: {len(temporary)}")
    stale = [e.nbytes for e in entries if e.current is False]
    if stale or temporary:
        freed = sum(stale) + sum(p.stat().st_size for p in temporary if p.exists())
        print(f"--remove frees {format_bytes(freed)}")


def _state(entry: Entry) -> str:
    if not entry.blocks:
        return "unreadable"
    return f"{entry.blocks - entry.missing} of {entry.blocks}" if entry.missing else "complete"


def plan_table(plan: Plan) -> None:
    """Print a plan."""
    rows = [
        (s.track, s.stage, " ".join(map(str, s.shape)), s.block, s.blocks, format_bytes(s.read),
         format_bytes(s.written), format_bytes(s.working), "yes" if s.checkpoint else "")
        for s in plan.steps
    ]  # fmt: skip
    numbers = ("planes y x", "planes/block", "blocks", "reads", "makes", "memory/block")
    _print_table(("track", "stage", *numbers, "kept"), rows, {"track", "stage", "kept"})
    known, layout = plan_json(plan), plan.layout
    limit = f" of {format_bytes(layout.memory)}" if layout.memory else ""
    to_stdout(
        f"{known['tasks']} tasks; reads {format_bytes(known['read_bytes'])}; "
        f"checkpoints: at most {format_bytes(known['scratch_bytes'])} in {known['work']}\n"
        f"profile {plan.config.profile}: {layout.processes or 'some'} processes of "
        f"{layout.threads or 'some'} threads; "
        f"predicted peak memory of each: {format_bytes(known['peak_memory_bytes'])}{limit}"
    )
    if known["job_script"]:
        to_stdout(f"\njob script:\n{known['job_script']}")


def plan_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as plain data."""
    sizes = {name: cube.drop_vars(cube.coords).nbytes for name, cube in plan.sources.items()}
    layout = plan.layout
    return {
        "steps": [s._asdict() for s in plan.steps],
        "inputs": {k: {"shape": list(plan.sources[k][DATA].shape), "bytes": n} for k, n in sizes.items()},
        "tasks": sum(s.blocks for s in plan.steps if s.checkpoint),
        "read_bytes": sum(sizes.values()) + sum(s.read for s in plan.steps if s.stage != "rebin"),
        "scratch_bytes": sum(s.written for s in plan.steps),
        "work": str(plan.config.work()),
        "block_bytes": plan.block_bytes,
        "processes": layout.processes,
        "threads": layout.threads,
        "memory_bytes": layout.memory,
        "peak_memory_bytes": peak_memory(plan.steps, layout.threads or 1),
        "job_script": job_script(plan.profile),
    }

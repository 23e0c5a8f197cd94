"""Two functions that are measured alternately, and rows of a table about them."""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

HEAD = "| what | clock | peer, ms | lucidcube, ms | ratio (spread) | goal |\n|---|---|---|---|---|---|"


@dataclass
class Comparison:
    """The times of a peer and of lucidcube in each round, in seconds of a clock, CPU or wall.

    `goal` is the smallest ratio of the peer's time to ours; with `at_most` it is the largest ratio of our
    time to that of the peer, which is then the time that the arithmetic needs. None stands for no goal.
    """

    name: str
    goal: float | None
    at_most: bool = False
    clock: str = "CPU"
    peer: list[float] = field(default_factory=list)
    ours: list[float] = field(default_factory=list)

    def add(self, peer: float, ours: float) -> None:
        """Record one round."""
        self.peer.append(peer)
        self.ours.append(ours)

    def line(self) -> str:
        """Return one row of a Markdown table."""
        pairs = zip(self.peer, self.ours, strict=True)
        ratios = [b / a if self.at_most else a / b for a, b in pairs]
        middle = statistics.median(ratios)
        goal = ""
        if self.goal is not None:
            met = middle <= self.goal if self.at_most else middle >= self.goal
            goal = f"{'<=' if self.at_most else '>='} {self.goal:g}{'' if met else ' (missed)'}"
        peer, ours = (1e3 * statistics.median(side) for side in (self.peer, self.ours))
        spread = f"{min(ratios):.3g} to {max(ratios):.3g}"
        return f"| {self.name} | {self.clock} | {peer:.4g} | {ours:.4g} | {middle:.3g} ({spread}) | {goal} |"


def cpu_of(function: Callable[[], object], shortest: float = 0.05) -> float:
    """Return the CPU seconds of a call, averaged over as many calls as fit into `shortest` seconds."""
    calls, start = 0, time.process_time()
    while (spent := time.process_time() - start) < shortest or calls == 0:
        function()
        calls += 1
    return spent / calls


def ratio(one: Callable[[], object], other: Callable[[], object], rounds: int = 5) -> float:
    """Return the ratio of the shortest times of two functions that are measured alternately."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for spent, call in zip(times, (one, other), strict=True):
            start = time.perf_counter()
            call()
            spent.append(time.perf_counter() - start)
    return min(times[0]) / min(times[1])


def children_cpu() -> float:
    """Return the CPU seconds of the processes that this one started and that have ended."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def replace_table(text: str, name: str, table: str, program: str = "compare.py") -> str:
    """Return a Markdown page with a new table after the comment ``<!-- PROGRAM NAME -->``.

    ValueError is raised if the page has no such comment.
    """
    before, mark, after = text.partition(f"<!-- {program} {name} -->\n")
    if not mark:
        raise ValueError(f"there is no comment <!-- {program} {name} -->")
    lines = after.lstrip("\n").split("\n")
    rest = next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return before + mark + "\n" + table.rstrip("\n") + "\n\n" + "\n".join(lines[rest:]).lstrip("\n")

"""What this machine, container or batch job really grants: cores and memory.

The numbers that an operating system reports are those of the whole machine. A batch system or a
container hands out less, and says so in the affinity of the process, in control groups or in the
environment; the smallest counts.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

CORE_VARIABLES = (
    ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"),
    ("NCPUS", "PBS_NP"),
    ("LSB_DJOB_NUMPROC",),
    ("NSLOTS",),
)
"""Of SLURM, PBS, LSF and Grid Engine; within a group the first that is set counts."""

PROCESS_MEMORY = 2 << 30
"""Memory that a worker process should have at least, where the number of processes is chosen for the user."""

USABLE = 0.9
"""Part of the granted memory that workers may share; the rest is for the client and the system."""


class Grant(NamedTuple):
    """What this process may use.

    Attributes
    ----------
    cores
        Number, at least 1.
    memory
        Bytes.
    """

    cores: int
    memory: int


def granted(environ: Mapping[str, str] | None = None, root: Path = Path("/")) -> Grant:
    """What this process may use, by affinity, control groups, the batch system and the machine.

    Parameters
    ----------
    environ
        Environment variables; those of this process if not given.
    root
        Where ``proc`` and ``sys`` lie.

    Returns
    -------
    Grant
        The smallest of all that is known.
    """
    environ = os.environ if environ is None else environ
    cores = [_affinity(), *_cores_of_groups(root), *_cores_of_queue(environ)]
    memory = [psutil.virtual_memory().total, *_memory_of_groups(root), *_memory_of_queue(environ, min(cores))]
    return Grant(max(1, min(cores)), min(memory))


def cores() -> int:
    """Cores that this process may use."""
    return granted().cores


def processes_for(grant: Grant, memory: int | None = None) -> int:
    """Worker processes for a grant: one per core, but none with less memory than it needs.

    Parameters
    ----------
    grant
        Cores and memory.
    memory
        Bytes for each process; `PROCESS_MEMORY` if not given.

    Returns
    -------
    int
        At least 1.
    """
    return max(1, min(grant.cores, int(grant.memory * USABLE) // (memory or PROCESS_MEMORY)))


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cores_of_queue(environ: Mapping[str, str]) -> Iterator[int]:
    for group in CORE_VARIABLES:
        counts = (_number(environ.get(name)) for name in group)
        yield from [c for c in counts if c][:1]


def _memory_of_queue(environ: Mapping[str, str], cores: int) -> Iterator[int]:
    """SLURM states MiB, for the node or for each core; 0 means all of the node."""
    if node := _number(environ.get("SLURM_MEM_PER_NODE")):
        yield node << 20
    elif per_core := _number(environ.get("SLURM_MEM_PER_CPU")):
        yield (per_core << 20) * (_number(environ.get("SLURM_CPUS_ON_NODE")) or cores)


def _cores_of_groups(root: Path) -> Iterator[int]:
    """Quotas of version 2 and version 1; part of a core counts as one."""
    for folder in _groups(root, ""):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if _number(quota) and _number(period):
            yield math.ceil(int(quota) / int(period))
    for folder in _groups(root, "cpu"):
        limit = _number(_read(folder / "cpu.cfs_quota_us")), _number(_read(folder / "cpu.cfs_period_us"))
        if limit[0] and limit[1]:
            yield math.ceil(limit[0] / limit[1])


def _memory_of_groups(root: Path) -> Iterator[int]:
    for folder, name in (
        *((f, "memory.max") for f in _groups(root, "")),
        *((f, "memory.limit_in_bytes") for f in _groups(root, "memory")),
    ):
        if limit := _number(_read(folder / name)):
            yield limit


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The group of this process and all above it: each may have a limit. '' is the one tree of version 2."""
    mounts = [root / "sys/fs/cgroup" / controller] if controller else [
        root / "sys/fs/cgroup", root / "sys/fs/cgroup/unified"
    ]  # fmt: skip
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        names, _, path = rest.partition(":")
        if controller in names.split(","):
            for mount in mounts:
                inside = mount / path.strip("/")
                yield from (f for f in (inside, *inside.parents) if f.is_relative_to(mount) and f.is_dir())


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(text: str | None) -> int | None:
    """A positive whole number, or None for anything else ('max', '-1', '', '0')."""
    return int(text) or None if text and re.fullmatch(r"\d{1,19}", text) else None

"""Determine the cores and the memory that this process may use.

An operating system reports the resources of the whole machine. An affinity mask, a container or a batch job
may leave less of them; the smallest number counts.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil
from dask.system import CPU_COUNT

CORE_VARIABLES = (
    ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"),
    ("NCPUS", "PBS_NP"),
    ("LSB_DJOB_NUMPROC",),
    ("NSLOTS",),
)
"""Variables of SLURM, PBS, LSF and Grid Engine; the first of each group that is set counts."""

CONTAINER_MEMORY = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files that hold the memory limit of a container (control groups, version 2 and version 1)."""

PROCESS_MEMORY = 2 << 30
"""Smallest memory of a worker process, in bytes, where the profile does not set the number of processes."""

USABLE = 0.9
"""Fraction of the memory that the workers may share; the rest is left to the client and the system."""


class Resources(NamedTuple):
    """Number of cores (at least 1) and bytes of memory."""

    cores: int
    memory: int


def available_resources() -> Resources:
    """Return the cores and the memory that this process may use."""
    groups = [[count for name in names if (count := _variable(name))] for names in CORE_VARIABLES]
    number = min([CPU_COUNT, *(counts[0] for counts in groups if counts)])
    # distributed.system reads the files of containers too, but importing it would add 0.3 s to every run on
    # threads, which needs nothing else of distributed.
    memory = [psutil.virtual_memory().total]
    for path in CONTAINER_MEMORY:
        with suppress(OSError, ValueError):  # there is no such file, or its content is "max"
            memory.append(int(Path(path).read_text()))
    # SLURM states MiB, for the node or for each core.
    if per_node := _variable("SLURM_MEM_PER_NODE"):
        memory.append(per_node << 20)
    elif per_core := _variable("SLURM_MEM_PER_CPU"):
        memory.append((per_core << 20) * (_variable("SLURM_CPUS_ON_NODE") or number))
    return Resources(number, min(memory))


def _variable(name: str) -> int:
    """Return a number from the environment; 0 if there is none (SLURM writes 0 for all memory of a node)."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else 0

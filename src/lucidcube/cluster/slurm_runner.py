"""One SLURM allocation whose tasks are scheduler, client and workers, by dask-jobqueue's SLURMRunner.

Every task starts the same program. Task 0 becomes the scheduler and task 1 goes on as the client; all
others become workers. Scheduler and workers end when the client does.
"""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Mapping
from typing import Any

from dask.utils import format_bytes, parse_bytes

from lucidcube.cluster.jobqueue import import_class
from lucidcube.cluster.profile import Layout, Profile, expanded
from lucidcube.cluster.resources import USABLE, granted
from lucidcube.errors import ConfigError

CLIENT = 1
"""Number of the task that is the client."""

TASKS = 3
"""The fewest: scheduler, client and a worker."""

RUNNER = "dask_jobqueue.slurm.SLURMRunner"


def allocation_layout(profile: Profile, environ: Mapping[str, str] | None = None) -> Layout:
    """Processes, threads and memory of the workers in this allocation.

    Parameters
    ----------
    profile
        Of kind slurm_runner.
    environ
        Environment variables; those of this process if not given.

    Returns
    -------
    Layout
        All numbers known.

    Raises
    ------
    ConfigError
        If this is no SLURM allocation, or one of too few tasks.
    """
    environ = os.environ if environ is None else environ
    tasks = environ.get("SLURM_NTASKS", "")
    if "SLURM_PROCID" not in environ or not tasks.isdigit():
        raise ConfigError("profile: kind: slurm_runner works inside an allocation: start it with srun")
    if int(tasks) < TASKS:
        raise ConfigError(
            f"profile: kind: slurm_runner needs {TASKS} tasks (scheduler, client, workers), not {tasks}"
        )
    grant = granted(environ)
    threads = profile.threads or int(environ.get("SLURM_CPUS_PER_TASK") or 1)
    spread = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or tasks
    # As '4' or '4(x2),3': the fullest node decides.
    on_node = max(int(count) for count in re.findall(r"(\d+)(?:\(x\d+\))?", spread))
    share = int(grant.memory * USABLE) // on_node
    return Layout(int(tasks) - 2, threads, parse_bytes(profile.memory) if profile.memory else share)


def serve(profile: Profile) -> None:
    """Be the scheduler or a worker, if this process is to be one; then it ends here when the run does.

    To be called before anything that only the client should do, such as opening files or printing.

    Parameters
    ----------
    profile
        Any; nothing happens unless it is of kind slurm_runner.

    Raises
    ------
    ConfigError
        See `allocation_layout`.
    """
    if profile.kind == "slurm_runner":
        allocation_layout(profile)
        if int(os.environ["SLURM_PROCID"]) != CLIENT:
            join(profile)


def join(profile: Profile) -> Any:
    """Take this process's part; returns in the client only, with a SLURMRunner to be connected to."""
    layout = allocation_layout(profile)
    runner = import_class(RUNNER)
    if int(os.environ["SLURM_PROCID"]) != CLIENT:
        # A runner ends its own process with SIGINT, which is to be no error and no traceback.
        signal.signal(signal.SIGINT, lambda *_: sys.exit())
        # SLURM tells all tasks that the end is near. The client finishes what is in flight, for which it
        # still needs the others; they end with it.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    where = {"interface": profile.interface} if profile.interface else {}
    return runner(
        scheduler_file="lucidcube-scheduler-{job_id}.json",
        scheduler_options={"dashboard_address": ":0", **where},
        worker_class="distributed.Nanny",
        worker_options={
            "nthreads": layout.threads,
            "memory_limit": format_bytes(layout.memory or 0).replace(" ", ""),
            "local_directory": expanded(profile.local_directory or "${TMPDIR:-/tmp}"),
            **where,
        },
    )

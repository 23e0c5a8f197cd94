"""One SLURM allocation whose tasks are scheduler, client and workers, by dask-jobqueue's SLURMRunner.

Every task starts the same program. Task 0 becomes the scheduler and task 1 continues as the client; all
others become workers. The scheduler and the workers end with the client.
"""

import os
import re
import signal
import sys
from typing import Any

import dask
from dask.utils import parse_bytes

from lucidcube.cluster.jobqueue import WORKER_ENVIRONMENT, WORKER_SETTINGS
from lucidcube.cluster.profile import Layout, Profile, expand_variables, import_class
from lucidcube.cluster.resources import USABLE, available_resources
from lucidcube.errors import ConfigError

CLIENT = "1"
"""Number of the task that is the client."""

MIN_TASKS = 3
"""A scheduler, a client and a worker."""


def allocation_layout(profile: Profile) -> Layout:
    """Return the processes, threads and memory of the workers in this allocation.

    ConfigError is raised if this process is not in a SLURM allocation, or if that has too few tasks.
    """
    environ = os.environ
    tasks = environ.get("SLURM_NTASKS", "")
    if "SLURM_PROCID" not in environ or not tasks.isdigit():
        raise ConfigError("profile: kind: slurm_runner works inside an allocation: start it with srun")
    if int(tasks) < MIN_TASKS:
        raise ConfigError(
            f"profile: kind: slurm_runner needs {MIN_TASKS} tasks (scheduler, client, workers), not {tasks}"
        )
    threads = profile.threads or int(environ.get("SLURM_CPUS_PER_TASK") or 1)
    per_node = environ.get("SLURM_STEP_TASKS_PER_NODE") or environ.get("SLURM_TASKS_PER_NODE") or tasks
    # As '4' or '4(x2),3': the node with the most tasks decides.
    most = max(int(count) for count in re.findall(r"(\d+)(?:\(x\d+\))?", per_node))
    share = int(available_resources().memory * USABLE) // most
    return Layout(int(tasks) - 2, threads, parse_bytes(profile.memory) if profile.memory else share)


def serve(profile: Profile) -> None:
    """Run as scheduler or worker, where this task is one, until the run ends; then end this process.

    Call it before anything that only the client should do, such as opening files or printing. It does nothing
    for other kinds of profiles than slurm_runner. For errors see `allocation_layout`.
    """
    if profile.kind == "slurm_runner":
        allocation_layout(profile)
        if os.environ["SLURM_PROCID"] != CLIENT:
            start_runner(profile)


def start_runner(profile: Profile) -> Any:
    """Start the role of this task; only the client returns, with a SLURMRunner to connect to."""
    layout = allocation_layout(profile)
    runner = import_class("dask_jobqueue.slurm.SLURMRunner")
    if os.environ["SLURM_PROCID"] != CLIENT:
        dask.config.set(WORKER_SETTINGS | {"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT})
        # A runner ends its own process with SIGINT, which must not be reported as an error.
        signal.signal(signal.SIGINT, lambda *_: sys.exit())
        # SLURM sends SIGTERM to all tasks some time before the end. The client needs the others to finish the
        # blocks in flight, and ends them itself.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    interface = {"interface": profile.interface} if profile.interface else {}
    return runner(
        scheduler_file="lucidcube-scheduler-{job_id}.json",
        scheduler_options={"dashboard_address": ":0", **interface},
        worker_class="distributed.Nanny",
        worker_options={
            "nthreads": layout.threads,
            "memory_limit": layout.memory,
            "local_directory": expand_variables(profile.local_directory or "${TMPDIR:-/tmp}"),
            **interface,
        },
    )

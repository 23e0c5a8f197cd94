"""One SLURM allocation whose tasks are scheduler, client and workers, by dask-jobqueue's SLURMRunner.

Every task starts the same program. Task 0 becomes the scheduler and task 1 continues as the client; all
others become workers. The scheduler and the workers end with the client.
"""

import os
import re
import shutil
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
from dask.utils import parse_bytes

from lucidcube.cluster.jobqueue import WORKER_ENVIRONMENT, WORKER_SETTINGS, scheduler_settings
from lucidcube.cluster.profile import Layout, Profile
from lucidcube.cluster.resources import USABLE, available_resources
from lucidcube.cluster.values import expand_variables, import_class, parse_duration
from lucidcube.errors import ConfigError

if TYPE_CHECKING:
    from distributed.security import Security

SCHEDULER, CLIENT = "0", "1"
"""Numbers of the tasks that are the scheduler and the client."""

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


def serve(profile: Profile, work: Path) -> None:
    """Run as scheduler or worker, where this task is one, until the run ends; then end this process.

    Call it before anything that only the client should do, such as opening files or printing. It does nothing
    for other kinds of profiles than slurm_runner. All tasks find the keys of the run in the work folder. For
    errors see `allocation_layout`.
    """
    if profile.kind == "slurm_runner":
        allocation_layout(profile)
        if os.environ["SLURM_PROCID"] != CLIENT:
            with ExitStack() as stack:
                start_runner(profile, work, stack)


def start_runner(profile: Profile, work: Path | None, stack: ExitStack) -> tuple[Any, "Security | None"]:
    """Start the role of this task; only the client returns, with a SLURMRunner to connect to.

    The credentials for the connection are the second result; closing the stack removes their files.
    """
    layout = allocation_layout(profile)
    runner = import_class("dask_jobqueue.slurm.SLURMRunner")
    if os.environ["SLURM_PROCID"] != CLIENT:
        dask.config.set(
            WORKER_SETTINGS
            | {"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}
            | scheduler_settings(profile)
        )
        # A runner ends its own process with SIGINT, which must not be reported as an error.
        signal.signal(signal.SIGINT, lambda *_: sys.exit())
        # SLURM sends SIGTERM to all tasks some time before the end. The client needs the others to finish the
        # blocks in flight, and ends them itself.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    security = _credentials(profile, work or Path(), stack) if profile.security == "tls" else None
    both = {"interface": profile.interface} if profile.interface else {}
    protected = {"security": security, "protocol": "tls://"} if security else {}
    page = {"dashboard_address": "127.0.0.1:0"}
    made = runner(
        scheduler_file="lucidcube-scheduler-{job_id}.json",
        scheduler_options={**page, "dashboard": profile.dashboard, **both, **protected},
        worker_class="distributed.Nanny",
        worker_options={
            "nthreads": layout.threads,
            "memory_limit": layout.memory,
            "local_directory": expand_variables(profile.local_directory or "${TMPDIR:-/tmp}"),
            **page,
            "dashboard": False,
            **both,
            **protected,
        },
    )
    if security:
        from distributed.core import rpc

        # The runner ends the scheduler through this connection, for which it knows no credentials.
        made.scheduler_comm = rpc(
            made.scheduler_address, connection_args=security.get_connection_args("client")
        )
    return made, security


def _credentials(profile: Profile, work: Path, stack: ExitStack) -> "Security":
    """Return the credentials of this run: the scheduler makes them, and the other tasks wait for them."""
    from lucidcube.cluster.credentials import PREFIX, from_folder, write_folder

    # A job that SLURM starts again keeps its id.
    ids = (os.environ.get(n, "0") for n in ("SLURM_JOB_ID", "SLURM_STEP_ID", "SLURM_RESTART_COUNT"))
    folder = work / f"{PREFIX}{'.'.join(ids)}"
    if os.environ["SLURM_PROCID"] == SCHEDULER:
        try:
            work.mkdir(parents=True, exist_ok=True)
            new = Path(tempfile.mkdtemp(prefix=f".{PREFIX}", dir=work))
            write_folder(new)
            new.rename(folder)
        except OSError as error:
            raise ConfigError(f"profile: {folder}: the keys of the run cannot be written: {error}") from error
    ends = time.monotonic() + parse_duration(profile.wait)
    while not folder.exists():
        if time.monotonic() > ends:
            raise ConfigError(f"profile: the scheduler has not written {folder} within {profile.wait}")
        time.sleep(0.2)
    if os.environ["SLURM_PROCID"] == CLIENT:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
    return from_folder(folder)

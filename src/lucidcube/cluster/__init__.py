"""Start the workers that a profile describes, which compute the blocks of a run."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dask
from dask.local import SynchronousExecutor
from dask.utils import parse_bytes
from threadpoolctl import threadpool_limits

from lucidcube.cluster.jobqueue import WORKER_SETTINGS, job_arguments, job_script, queue_class, site_settings
from lucidcube.cluster.profile import PROFILES, Layout, Profile, load_profile, local_layout, profile_name
from lucidcube.cluster.slurm_runner import allocation_layout, serve
from lucidcube.cluster.workers import Record, Results, Workers, WorkersDied, WorkersLost

__all__ = [
    "PROFILES", "Layout", "Profile", "Record", "Results", "Workers", "WorkersDied", "WorkersLost",
    "job_script", "layout", "load_profile", "profile_name", "serve", "start_workers",
]  # fmt: skip


@contextmanager
def start_workers(profile: Profile, work: Path | None = None) -> Iterator[Workers]:
    """Start the workers that a profile describes and stop them at the end.

    Keys for connections to other machines are written in the work folder, if one is given.
    ConfigError is raised if they cannot be started: there is no such scheduler, the queue refuses the job, or
    no worker comes in time.
    """
    if profile.kind in ("threads", "synchronous"):
        # One level of parallelism: a block per core and no threads within a block. Without a scheduler
        # that is a function, dask looks for a client and imports distributed while some stages run.
        with dask.config.set(scheduler=dask.get), threadpool_limits(1):
            threads = local_layout(profile).threads or 1
            synchronous = profile.kind == "synchronous"
            with SynchronousExecutor() if synchronous else ThreadPoolExecutor(threads, "block") as executor:
                yield Workers(executor, threads)
        return
    # Imported before the settings are changed: leaving `dask.config.set` would otherwise remove the
    # defaults that the package adds when it is imported.
    from lucidcube.cluster.client import start_cluster

    with ExitStack() as stack:
        stack.enter_context(dask.config.set(WORKER_SETTINGS | {"scheduler": dask.get}))
        yield start_cluster(stack, profile, work)


def layout(profile: Profile) -> Layout:
    """Return the processes, threads and memory that a profile asks for; nothing is started.

    ConfigError is raised if the profile does not say enough, or if what it needs is not installed.
    """
    if profile.kind == "slurm_runner":
        return allocation_layout(profile)
    if profile.queued:
        with site_settings(profile):
            asked = job_arguments(profile, queue_class(profile))
        processes = int(asked["processes"])
        memory = parse_bytes(asked["memory"]) // processes
        return Layout((profile.jobs or 1) * processes, int(asked["cores"]) // processes, memory)
    if profile.kind in ("address", "class"):
        return Layout(None, None, None)
    return local_layout(profile)

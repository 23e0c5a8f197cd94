"""Where a run executes: a profile becomes something that computes blocks, a few at a time."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import dask
from dask.utils import parse_bytes
from threadpoolctl import threadpool_limits

from lucidcube.cluster.executors import Executor, Threads, WorkerLost
from lucidcube.cluster.jobqueue import (
    WORKER_SETTINGS,
    import_class,
    job_arguments,
    job_script,
    site_settings,
)
from lucidcube.cluster.profile import PROFILES, Layout, Profile, load_profile, local_layout
from lucidcube.cluster.resources import cores
from lucidcube.cluster.slurm_runner import allocation_layout, serve

__all__ = [
    "PROFILES", "Executor", "Layout", "Profile", "Threads", "WorkerLost", "cores", "executor", "job_script",
    "layout", "load_profile", "serve",
]  # fmt: skip


@contextmanager
def executor(profile: Profile) -> Iterator[Executor]:
    """Start what the profile describes, and stop it in the end whatever happens.

    Raises
    ------
    ConfigError
        If it cannot be started: no such scheduler, the queue refuses, no worker came in time.
    """
    if profile.kind in ("threads", "synchronous"):
        # One level of parallelism: a block per core, and no threads inside a block. Given a name, or nothing,
        # and not a function, dask looks for a client, and loads for that as long as some stages run.
        with dask.config.set(scheduler=dask.get), threadpool_limits(1):
            yield Threads(local_layout(profile).threads or 1)
        return
    # Before the settings, which would take the package's own with them when they are taken back.
    clients = importlib.import_module("lucidcube.cluster.client")
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(WORKER_SETTINGS))
        yield clients.started(stack, profile)


def layout(profile: Profile) -> Layout:
    """Processes, threads and memory that a profile asks for; nothing is started.

    Raises
    ------
    ConfigError
        If the profile does not say enough, or what it needs is not installed.
    """
    if profile.kind == "slurm_runner":
        return allocation_layout(profile)
    if profile.queued:
        with site_settings(profile):
            asked = job_arguments(profile, import_class(str(profile.path_of_class)))
        processes = int(asked["processes"])
        memory = parse_bytes(asked["memory"]) // processes
        return Layout((profile.jobs or 1) * processes, int(asked["cores"]) // processes, memory)
    if profile.kind in ("address", "class"):
        return Layout(None, None, None)
    return local_layout(profile)

"""Where a run executes: a profile becomes something that computes blocks, a few at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import dask
from dask.utils import parse_bytes
from distributed import Client, LocalCluster
from threadpoolctl import threadpool_limits

from lucidcube.cluster.allocation import allocation_layout, join, serve
from lucidcube.cluster.executors import LOOK, Distributed, Executor, Threads, WorkerLost
from lucidcube.cluster.grants import cores
from lucidcube.cluster.jobs import (
    WORKER_ENVIRONMENT,
    WORKER_SETTINGS,
    Jobs,
    import_class,
    job_arguments,
    job_script,
    section,
    site_settings,
)
from lucidcube.cluster.profiles import (
    PROFILES,
    Layout,
    Profile,
    expanded,
    load_profile,
    local_layout,
    seconds,
)
from lucidcube.cluster.queues import preflight
from lucidcube.errors import ConfigError

__all__ = [
    "PROFILES", "Distributed", "Executor", "Layout", "Profile", "Threads", "WorkerLost", "cores", "executor",
    "job_script", "layout", "load_profile", "serve",
]  # fmt: skip


@contextmanager
def executor(profile: Profile) -> Iterator[Executor]:
    """Start what the profile describes, and stop it in the end whatever happens.

    Raises
    ------
    ConfigError
        If it cannot be started: no such scheduler, the queue refuses, no worker came in time.
    """
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(WORKER_SETTINGS))
        if profile.kind in ("threads", "synchronous"):
            # One level of parallelism: a block per core, and no threads inside a block.
            stack.enter_context(threadpool_limits(1))
            yield Threads(local_layout(profile).threads or 1)
        elif profile.kind == "processes":
            yield _processes(stack, profile)
        elif profile.kind == "address":
            yield _connected(stack, profile)
        elif profile.kind == "slurm_runner":
            client = stack.enter_context(Client(stack.enter_context(join(profile))))
            # Told to, workers end quietly; left without a scheduler, their nannies cry murder.
            stack.callback(client.retire_workers, close_workers=True)
            yield _with_workers(client, profile, lambda: "no task of the allocation became a worker")
        elif profile.queued:
            yield _jobs(stack, profile)
        else:
            yield _cluster(stack, profile)


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


def _processes(stack: ExitStack, profile: Profile) -> Distributed:
    """Worker processes on this machine, each with its share of what is granted."""
    made = local_layout(profile)
    stack.enter_context(dask.config.set({"distributed.nanny.pre-spawn-environ": WORKER_ENVIRONMENT}))
    directory = expanded(profile.local_directory) if profile.local_directory else None
    cluster = LocalCluster(
        n_workers=made.processes,
        threads_per_worker=made.threads,
        memory_limit=made.memory,
        dashboard_address="127.0.0.1:0",
        local_directory=directory,
    )
    client = stack.enter_context(Client(stack.enter_context(cluster)))
    return Distributed(client, memory=made.memory)


def _connected(stack: ExitStack, profile: Profile) -> Distributed:
    address = str(profile.address)
    try:
        client = stack.enter_context(Client(address))
    except (OSError, ValueError) as error:
        raise ConfigError(f"profile: there is no dask scheduler at {address}: {error}") from error
    return _with_workers(client, profile, lambda: f"the scheduler at {address} has no workers")


def _jobs(stack: ExitStack, profile: Profile) -> Distributed:
    """Workers in jobs of a batch queue; a job that is lost is replaced."""
    stack.enter_context(site_settings(profile))
    made = import_class(str(profile.path_of_class))
    arguments, queue = job_arguments(profile, made), section(made)
    preflight(queue, str(job_script(profile)))
    cluster = _started(stack, made, arguments)
    jobs = Jobs(cluster, queue, profile.jobs or 1)
    client = stack.enter_context(Client(cluster))
    jobs.tend()
    made_of = _with_workers(client, profile, jobs.reason, jobs.gone)
    made_of.tend = jobs.tend
    return made_of


def _cluster(stack: ExitStack, profile: Profile) -> Distributed:
    """Any other dask cluster."""
    arguments = dict(profile.arguments)
    for name in ("interface", "local_directory"):
        if getattr(profile, name) is not None:
            arguments[name] = getattr(profile, name)
    cluster = _started(stack, import_class(str(profile.class_path)), arguments)
    client = stack.enter_context(Client(cluster))
    if profile.jobs:
        cluster.adapt(minimum=profile.jobs, maximum=profile.jobs)
    return _with_workers(client, profile, lambda: f"{profile.class_path} started none")


def _started(stack: ExitStack, made: type[Any], arguments: dict[str, Any]) -> Any:
    try:
        return stack.enter_context(made(**arguments))
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise ConfigError(f"profile: {made.__name__}: {' '.join(str(error).split())}") from error


def _with_workers(
    client: Client, profile: Profile, reason: Callable[[], str], gone: Callable[[], bool] = lambda: False
) -> Distributed:
    """Wait for the first worker; the others join while the work goes on."""
    patience = seconds(profile.wait)
    deadline = time.monotonic() + patience
    while True:
        left = deadline - time.monotonic()
        try:
            client.wait_for_workers(1, timeout=max(0.1, min(LOOK, left)))
            break
        except TimeoutError:
            if gone():
                why = f"{reason()}: look at what they wrote (arguments: log_directory)"
                raise ConfigError(f"profile: the jobs ended before a worker came: {why}") from None
            if left <= LOOK:
                raise ConfigError(f"profile: no worker within {profile.wait}: {reason()}") from None
    workers = client.scheduler_info()["workers"].values()
    memory = min((w["memory_limit"] for w in workers if w.get("memory_limit")), default=None)
    return Distributed(client, memory, patience, reason)

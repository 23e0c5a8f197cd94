"""Workers in other processes, on this machine or on others, through a client of dask."""

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster
from distributed.security import Security

from lucidcube.cluster import credentials, jobqueue
from lucidcube.cluster.dask_logs import short_logs
from lucidcube.cluster.dask_workers import DaskWorkers
from lucidcube.cluster.kernel_cache import compiled_kernels
from lucidcube.cluster.profile import Profile, local_layout
from lucidcube.cluster.slurm_runner import start_runner
from lucidcube.cluster.values import expand_variables, import_class, parse_duration
from lucidcube.errors import ConfigError

QUIET = {"DASK_LOGGING__DISTRIBUTED": "warning"}
"""Worker processes of this machine share the terminal of the run, and log their connections by default."""
LOG = logging.getLogger(__name__)
LOGS_OF_THE_END = tuple(logging.getLogger(f"distributed.{name}") for name in ("nanny", "scheduler"))
"""Logs with warnings and errors about workers that end, also where they were asked to."""
POLL_INTERVAL = 5.0
"""Seconds between checks while waiting for the first worker."""
CLOSE_TIMEOUT = 30.0
"""Seconds to wait for workers that are asked to end."""


def start_cluster(stack: ExitStack, profile: Profile, work: Path | None = None) -> DaskWorkers:
    """Start the workers that a profile describes, or raise ConfigError; closing the stack stops them.

    Keys for the connections to other machines are written in the work folder, if one is given.
    """
    stack.enter_context(short_logs())
    for log in LOGS_OF_THE_END:
        stack.callback(log.setLevel, log.level)
    stack.enter_context(dask.config.set(jobqueue.scheduler_settings(profile)))
    workers = _start(stack, profile, work)
    if not profile.dashboard and profile.kind != "address":
        workers.dashboard = None
    workers.cold = not compiled_kernels()
    return workers


def _start(stack: ExitStack, profile: Profile, work: Path | None) -> DaskWorkers:
    if profile.kind == "processes":
        return _processes(stack, profile)
    if profile.kind == "address":
        return _connected(stack, profile)
    if profile.kind == "slurm_runner":
        runner, security = start_runner(profile, work, stack)
        client = stack.enter_context(_client(stack.enter_context(runner), security))
        stack.callback(_retire, client)
        return _with_workers(client, profile, lambda: "no task of the allocation became a worker")
    if profile.queued:
        return _jobs(stack, profile, work)
    return _cluster(stack, profile)


def _of_local_cluster(profile: Profile) -> dict[str, Any]:
    """Return the arguments of a LocalCluster that say who can connect to it."""
    security: Security | None = credentials.in_memory() if profile.security == "tls" else None
    return {
        "security": security,
        "dashboard_address": "127.0.0.1:0",
        "scheduler_kwargs": {"dashboard": profile.dashboard},
    }


def _client(address: Any, security: Security | None = None) -> Client:
    """Connect to a scheduler without making it the default of this process.

    The default stays behind if the first of two clients is closed first, and whatever is computed afterwards
    then fails because no client is left.
    """
    return _Client(address, security=security, set_as_default=False)


class _Client(Client):  # type: ignore[misc]
    """A client that leaves no thread behind if it cannot connect."""

    def start(self, **kwargs: Any) -> None:
        """Connect to the scheduler."""
        try:
            super().start(**kwargs)
        except BaseException:
            self._loop_runner.stop()
            self.status = "closed"  # there is nothing to close when it is deleted
            raise


def _retire(client: Client) -> None:
    """Ask the workers to end before the scheduler does; nannies without a scheduler print warnings.

    The scheduler warns as well if a worker sends its regular report while it is asked to end, and a nanny
    logs an error if it is stopped while its worker ends.
    """
    # Everything is computed, so do not wait for a worker that takes more than a few seconds to end.
    for log in LOGS_OF_THE_END:
        log.setLevel(logging.CRITICAL)
    with suppress(OSError, TimeoutError):  # the scheduler may be lost
        client.sync(client.scheduler.retire_workers, close_workers=True, callback_timeout=CLOSE_TIMEOUT)


def _processes(stack: ExitStack, profile: Profile) -> DaskWorkers:
    """Start worker processes on this machine, each with its share of cores and memory."""
    layout = local_layout(profile)
    stack.enter_context(
        dask.config.set({"distributed.nanny.pre-spawn-environ": jobqueue.WORKER_ENVIRONMENT | QUIET})
    )
    arguments = {
        "n_workers": layout.processes,
        "threads_per_worker": layout.threads,
        "memory_limit": layout.memory,
        "local_directory": expand_variables(profile.local_directory) if profile.local_directory else None,
        "preload": ["lucidcube.cluster.worker_preload"],
        # Without it, a nanny would wait for ever for a worker that stops while it starts.
        "death_timeout": parse_duration(profile.start_timeout),
        **_of_local_cluster(profile),
    }
    try:
        cluster = _started(stack, LocalCluster, arguments)
    except (AssertionError, ConfigError) as error:  # dask asserts that all workers have started
        if isinstance(error, ConfigError) and not isinstance(error.__cause__, TimeoutError):
            raise
        # The nanny, which is ended with this process, would say so once more.
        logging.getLogger("distributed.process").setLevel(logging.CRITICAL)
        raise ConfigError(
            f"profile: a worker did not start within {profile.start_timeout} (start_timeout)"
        ) from error
    client = stack.enter_context(_client(cluster))
    stack.callback(_retire, client)
    return DaskWorkers(client, memory=layout.memory, profile=profile)


def _connected(stack: ExitStack, profile: Profile) -> DaskWorkers:
    """Connect to a scheduler that is running already."""
    address = str(profile.address)
    if not address.startswith("tls://"):
        LOG.warning(
            "the connection to %s is not protected: whoever can reach it can run commands as you; use a "
            "scheduler with TLS, and give tls_ca, tls_cert and tls_key in a profile", address,
        )  # fmt: skip
    security = credentials.from_profile(profile)
    try:
        client = stack.enter_context(_client(address, security))
    except (OSError, TypeError, ValueError) as error:  # TypeError: an address with TLS and no certificate
        raise ConfigError(f"profile: there is no dask scheduler at {address}: {error}") from error
    return _with_workers(client, profile, lambda: f"the scheduler at {address} has no workers")


def _jobs(stack: ExitStack, profile: Profile, work: Path | None) -> DaskWorkers:
    """Start workers in jobs of a batch queue; a job that is lost is replaced."""
    stack.enter_context(jobqueue.site_settings(profile))
    cluster_class = jobqueue.queue_class(profile)
    arguments, queue = jobqueue.job_arguments(profile, cluster_class), cluster_class.job_cls.config_name
    jobqueue.preflight(queue, str(jobqueue.job_script(profile)))
    security = credentials.for_jobs(stack, work) if profile.security == "tls" else None
    cluster = _started(stack, cluster_class, arguments | {"security": security})
    jobs = jobqueue.Jobs(cluster, queue, profile.jobs or 1)
    client = stack.enter_context(_client(cluster))
    jobs.replace_lost()
    workers = _with_workers(client, profile, jobs.reason, jobs.ended)
    workers.maintain = jobs.replace_lost
    return workers


def _cluster(stack: ExitStack, profile: Profile) -> DaskWorkers:
    """Start any other dask cluster."""
    arguments = dict(profile.arguments)
    if profile.class_path == "distributed.LocalCluster":
        arguments = _of_local_cluster(profile) | arguments
    for name in ("interface", "local_directory"):
        if getattr(profile, name) is not None:
            arguments[name] = getattr(profile, name)
    cluster = _started(stack, import_class(str(profile.class_path)), arguments)
    client = stack.enter_context(_client(cluster))
    if profile.jobs:
        cluster.adapt(minimum=profile.jobs, maximum=profile.jobs)
    return _with_workers(client, profile, lambda: f"{profile.class_path} started none")


def _started(stack: ExitStack, cluster_class: type[Any], arguments: dict[str, Any]) -> Any:
    try:
        return stack.enter_context(cluster_class(**arguments))
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise ConfigError(f"profile: {cluster_class.__name__}: {' '.join(str(error).split())}") from error


def _with_workers(
    client: Client, profile: Profile, reason: Callable[[], str], ended: Callable[[], bool] = lambda: False
) -> DaskWorkers:
    """Wait for the first worker; the others join during the run."""
    timeout = parse_duration(profile.wait)
    deadline = time.monotonic() + timeout
    while True:
        left = deadline - time.monotonic()
        try:
            client.wait_for_workers(1, timeout=max(0.1, min(POLL_INTERVAL, left)))
            break
        except TimeoutError:
            if ended():
                why = f"{reason()}: read their log files (arguments: log_directory)"
                raise ConfigError(f"profile: the jobs ended before a worker started: {why}") from None
            if left <= POLL_INTERVAL:
                raise ConfigError(f"profile: no worker within {profile.wait}: {reason()}") from None
    workers = client.scheduler_info()["workers"].values()
    memory = min((w["memory_limit"] for w in workers if w.get("memory_limit")), default=None)
    return DaskWorkers(client, memory, timeout, reason, profile=profile)

"""Workers in other processes, on this machine or on others, through a client of dask."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from typing import Any

import dask
import dask.array as da
from dask.utils import format_bytes
from distributed import Client, LocalCluster
from distributed.scheduler import KilledWorker

from lucidcube.cluster.executors import WorkerLost
from lucidcube.cluster.jobqueue import (
    WORKER_ENVIRONMENT,
    Jobs,
    import_class,
    job_arguments,
    job_script,
    section,
    site_settings,
)
from lucidcube.cluster.profile import Profile, expanded, local_layout, seconds
from lucidcube.cluster.queue_commands import preflight
from lucidcube.cluster.slurm_runner import join
from lucidcube.errors import ConfigError

LOOK = 5.0
"""Seconds between looks at workers that are waited for."""


@dataclass
class Distributed:
    """Blocks on the workers of a dask cluster, never many more at a time than there are workers.

    Attributes
    ----------
    client
        Connected to the cluster.
    memory
        Limit of each worker in bytes, if it has one.
    patience
        Seconds without any worker after which the work is given up; those that are lost may be replaced.
    reason
        Says why there is none.
    tend
        Looks after the workers, every few seconds while there is work.
    """

    client: Client
    memory: int | None = None
    patience: float = 300.0
    reason: Callable[[], str] = lambda: "they ended and did not come back"
    tend: Callable[[], None] = lambda: None
    _lonely: float | None = field(default=None, init=False)

    @property
    def workers(self) -> int:
        """Threads of all workers now."""
        return max(1, self._threads())

    def _threads(self) -> int:
        try:
            return sum(self.client.nthreads().values())
        except OSError as error:
            raise WorkerLost(None, f"the dask scheduler is gone: {error}") from error

    @property
    def dashboard(self) -> str | None:
        """Address of dask's own page, if bokeh is there to draw it."""
        if find_spec("bokeh") is None:
            return None
        try:
            return self.client.dashboard_link or None
        except KeyError:
            return None  # the scheduler was started without one

    def compute(self, work: da.Array, blocks: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Compute these blocks; see `Executor`.

        Raises
        ------
        WorkerLost
            If the workers that computed a block died one after the other, or all are gone.
        """
        waiting, running = list(reversed(blocks)), dict[Any, tuple[int, Any]]()
        finished: SimpleQueue[Any] = SimpleQueue()
        tended = -LOOK

        def submit() -> None:
            nonlocal tended
            if time.monotonic() - tended >= LOOK:
                self.tend()
                tended = time.monotonic()
            room = 2 * self.workers - len(running)
            while waiting and room > 0:
                block, room = waiting.pop(), room - 1
                future = self.client.compute(work.blocks[block], optimize_graph=True)
                running[future.key] = block, future
                future.add_done_callback(finished.put)

        try:
            submit()
            while running:
                block, future = running.pop(self._next(finished).key)
                item = self._result(block, future)
                future.release()
                self._lonely = None
                yield block, item
                submit()
        finally:
            for _, future in running.values():
                future.release()

    def _result(self, block: int, future: Any) -> Any:
        while True:
            try:
                return future.result(timeout=LOOK)[0]
            except TimeoutError:
                if future.status == "error":
                    raise  # the block's own
                # What a worker held was lost with it, and is being computed again.
                self._look_after()
            except KilledWorker as error:
                limit = f"{format_bytes(self.memory)} of memory each" if self.memory else "no limit of memory"
                raise WorkerLost(
                    block,
                    f"{error.allowed_failures + 1} workers died on it, one after the other, with {limit}: "
                    "give them more memory, or fewer threads each",
                ) from error
            except CancelledError as error:
                raise WorkerLost(None, "the dask scheduler is gone") from error

    def _next(self, finished: SimpleQueue[Any]) -> Any:
        """The next future that is done."""
        while True:
            try:
                return finished.get(timeout=LOOK)
            except Empty:
                self._look_after()

    def _look_after(self) -> None:
        """Tend the workers; give up when there has been none for too long."""
        there, now = bool(self._threads()), time.monotonic()
        self.tend()
        self._lonely = None if there else self._lonely or now
        if self._lonely is not None and now - self._lonely > self.patience:
            raise WorkerLost(None, f"no workers left: {self.reason()}")


def started(stack: ExitStack, profile: Profile) -> Distributed:
    """Start the workers that a profile describes; the stack stops them.

    Raises
    ------
    ConfigError
        If they cannot be started.
    """
    if profile.kind == "processes":
        return _processes(stack, profile)
    if profile.kind == "address":
        return _connected(stack, profile)
    if profile.kind == "slurm_runner":
        client = stack.enter_context(Client(stack.enter_context(join(profile))))
        # Told to, workers end quietly; left without a scheduler, their nannies cry murder.
        stack.callback(client.retire_workers, close_workers=True)
        return _with_workers(client, profile, lambda: "no task of the allocation became a worker")
    if profile.queued:
        return _jobs(stack, profile)
    return _cluster(stack, profile)


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

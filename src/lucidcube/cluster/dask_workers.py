"""Workers in other processes, to which the client of a dask cluster is connected."""

import asyncio
import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from importlib.util import find_spec
from typing import Any
from weakref import WeakKeyDictionary

from dask.utils import format_bytes
from distributed import Client
from distributed.scheduler import KilledWorker

from lucidcube.cluster.profile import PROFILES, Profile
from lucidcube.cluster.slow_blocks import ATTEMPTS, Key, Overdue, SlowBlocks
from lucidcube.cluster.values import parse_duration
from lucidcube.cluster.workers import Results, Workers, WorkersDied, WorkersLost

LOG = logging.getLogger(__name__)
RESTART_TIMEOUT = 15.0
"""Seconds to wait for a worker that is restarted."""


class DaskWorkers(Workers):
    """The workers of the dask cluster to which a client is connected.

    `memory` is the memory limit of each worker in bytes, if it has one. After `timeout` seconds without any
    worker the run is given up, and `reason` says why there are none; lost workers may be replaced before by
    `maintain`, which is called every few seconds. The worker of a block that is `slow` is restarted, and if
    that is impossible, removed; the `profile` says when.
    """

    remote = True

    def __init__(
        self,
        client: Client,
        memory: int | None = None,
        timeout: float = 300.0,
        reason: Callable[[], str] = lambda: "they ended and did not come back",
        maintain: Callable[[], None] = lambda: None,
        profile: Profile = PROFILES["processes"],
    ) -> None:
        super().__init__(client.get_executor(pure=False), 0, _dashboard(client))
        self.client, self.memory, self.timeout = client, memory, timeout
        self.reason, self.maintain = reason, maintain
        self._slow = SlowBlocks(profile.block_factor, parse_duration(profile.block_timeout))
        self._answer_timeout = parse_duration(profile.worker_timeout)
        self._keys: WeakKeyDictionary[Future[Any], Key] = WeakKeyDictionary()
        self._run = uuid.uuid4().hex[:8]
        self._tasks = 0
        self._last_seen = time.monotonic()
        self.check()

    @property
    def window(self) -> int:
        """Two tasks for each thread of the workers, as counted at the last check."""
        return 2 * max(1, self.threads)

    @property
    def batch_threads(self) -> int:
        """Number of threads of the workers, as counted at the last check."""
        return max(1, self.threads)

    def submit(
        self, name: str, block: int, function: Callable[..., Any], *arguments: Any, blocks: int = 1
    ) -> Future[Any]:
        """Submit blocks as a task whose key names the first, as ``('deconvolve target-1f3a', 17, 4)``.

        All tasks of a segment are one group of dask. A task of a large group waits in the scheduler until a
        worker needs it. Tasks of small groups would be dealt out to the workers in turn, so that some would
        have several tasks and others none.
        """
        self._tasks += 1  # a block that is retried needs a key of its own
        key = (f"{name}-{self._run}", block, self._tasks)
        self._slow.submitted(name, key, time.monotonic(), blocks)
        future = self.executor.submit(function, *arguments, key=key)
        self._keys[future] = key
        return future

    def result(self, future: Future[Any]) -> Any:
        """Return the result of a task or raise its exception; see `Workers`."""
        key, computed = self._keys.pop(future), 0
        try:
            result = future.result()
            computed = len(result.records) if isinstance(result, Results) else 1
        except KilledWorker as error:
            limit = f"{format_bytes(self.memory)} of memory each" if self.memory else "no memory limit"
            raise WorkersDied(
                f"{error.allowed_failures + 1} workers died while computing it, one after the other, with "
                f"{limit}: give them more memory, or fewer threads each"
            ) from error
        except CancelledError as error:
            given_up = self._slow.given_up.get(key, 0)
            if given_up >= ATTEMPTS:
                raise WorkersDied(
                    f"it was given up {given_up} times, because it takes much longer than others: if "
                    "that may be, set block_timeout in the profile"
                ) from error
            raise WorkersLost("the connection to the dask scheduler was lost") from error
        finally:
            self._slow.finished(key, time.monotonic(), computed)
        return result

    def check(self) -> None:
        """Count the workers, maintain them, and give up blocks that are too slow; see `Workers`."""
        timeout = self._answer_timeout
        ask = partial(self.client.sync, callback_timeout=timeout)
        try:
            # As nthreads() and processing() of the client, which wait for ever if the scheduler is stopped.
            threads = ask(self.client.scheduler.ncores)
            processing = ask(self.client.scheduler.processing)
        except TimeoutError as error:
            raise WorkersLost(f"the dask scheduler has not answered for {timeout} s") from error
        except OSError as error:
            raise WorkersLost(f"the connection to the dask scheduler was lost: {error}") from error
        self.threads = sum(threads.values())
        for overdue in self._slow.overdue(processing, threads, time.monotonic()):
            self._give_up(overdue)
        self.maintain()
        now = time.monotonic()
        if self.threads:
            self._last_seen = now
        elif now - self._last_seen > self.timeout:
            raise WorkersLost(f"no workers left: {self.reason()}")

    def _give_up(self, overdue: Overdue) -> None:
        """Restart or remove the worker of a task, so that dask computes it again, or let it fail."""
        key, worker, limit, blocks = overdue
        LOG.warning(
            "%s takes more than %.0f s on %s, which is given up",
            f"block {key[1]}" if blocks == 1 else f"a batch of {blocks} blocks from block {key[1]}",
            limit, worker,
        )  # fmt: skip
        if self._slow.given_up[key] >= ATTEMPTS:
            for future in [future for future, its in self._keys.items() if its == key]:
                future.cancel()
        # A nanny that has stopped, too, answers only after the timeout; other blocks must not wait for it.
        threading.Thread(target=self._restart, args=(worker,), daemon=True).start()

    def _restart(self, worker: str) -> None:
        """Restart a worker, or remove one that has no nanny."""
        client = self.client
        try:
            try:
                client.restart_workers([worker], timeout=RESTART_TIMEOUT, raise_for_error=False)
            except ValueError:  # nobody would restart it
                retire = client.scheduler.retire_workers
                client.sync(retire, workers=[worker], close_workers=True, callback_timeout=RESTART_TIMEOUT)
        except (Exception, asyncio.CancelledError) as error:  # it was lost meanwhile, or the run has ended
            LOG.debug("%s was not restarted", worker, exc_info=error)


def _dashboard(client: Client) -> str | None:
    """Return the address of dask's own page, if bokeh is installed to draw it."""
    with suppress(KeyError):  # the scheduler was started without one
        return (client.dashboard_link or None) if find_spec("bokeh") else None
    return None

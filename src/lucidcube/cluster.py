"""Where a run executes: a profile becomes something that computes blocks, a few at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Protocol, Self

import dask
import dask.array as da
import yaml
from dask.utils import parse_bytes
from distributed import Client, LocalCluster
from distributed import as_completed as client_as_completed
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from threadpoolctl import threadpool_limits

from lucidcube.errors import ConfigError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Profile(BaseModel):
    """Where a run executes.

    ``threads``: this process. ``processes``: a dask cluster on this machine. ``synchronous``: one block
    after the other, for debugging. ``address``: a dask scheduler that is running already.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["threads", "processes", "synchronous", "address"] = Field(
        "threads", description="threads, processes, synchronous or address"
    )
    workers: int | None = Field(None, ge=1, description="threads or processes; one per core if not given")
    memory: str | None = Field(None, description="limit for each worker process, as '4GiB'")
    address: str | None = Field(None, description="of a running scheduler, as tcp://10.0.0.1:8786")

    @field_validator("memory")
    @classmethod
    def _bytes(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse_bytes(value)
            except ValueError as error:
                raise ValueError(f"{value!r} is no amount of memory, such as '4GiB'") from error
        return value

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.kind == "address" and not self.address:
            raise ValueError("kind: address needs the address of a scheduler, as tcp://10.0.0.1:8786")
        return self


PROFILES = {
    "laptop": Profile(),
    "processes": Profile(kind="processes"),
    "synchronous": Profile(kind="synchronous"),
}


def load_profile(name: str) -> Profile:
    """A built-in profile by name, the address of a scheduler, or a YAML file.

    Raises
    ------
    ConfigError
        If there is no such profile or it is wrong.
    """
    if name in PROFILES:
        return PROFILES[name]
    if "://" in name:
        return Profile(kind="address", address=name)
    path = Path(name).expanduser()
    if not path.is_file():
        near = get_close_matches(name, PROFILES, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"built in: {', '.join(PROFILES)}"
        raise ConfigError(f"profile: {name!r} is neither a built-in profile nor a file; {hint}")
    try:
        return Profile.model_validate(yaml.safe_load(path.read_text()) or {})
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        raise ConfigError(
            *(f"{path}: {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        ) from error


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Executor(Protocol):
    """Computes the items of a one-dimensional lazy array of one item per block."""

    @property
    def workers(self) -> int:
        """How many blocks are computed at a time."""
        ...

    def compute(self, work: da.Array, blocks: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Compute these blocks, a few at a time; yields (block, item) as they are done."""
        ...


@contextmanager
def executor(profile: Profile) -> Iterator[Executor]:
    """Start what the profile describes, and stop it in the end whatever happens."""
    with ExitStack() as stack:
        if profile.kind in ("threads", "synchronous"):
            # One level of parallelism: a block per core, and no threads inside a block.
            stack.enter_context(threadpool_limits(1))
            yield Threads(1 if profile.kind == "synchronous" else profile.workers or cores())
            return
        if profile.kind == "processes":
            env = dict.fromkeys(THREAD_VARIABLES, "1")
            stack.enter_context(dask.config.set({"distributed.nanny.pre-spawn-environ": env}))
            count = profile.workers or cores()
            options = {"memory_limit": profile.memory} if profile.memory else {}
            cluster = stack.enter_context(
                LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address=":0", **options)
            )
            client = stack.enter_context(Client(cluster))
        else:
            client = stack.enter_context(_connected(str(profile.address)))
        yield Distributed(client)


def _connected(address: str) -> Client:
    try:
        return Client(address)
    except OSError as error:
        raise ConfigError(f"profile: there is no dask scheduler at {address}: {error}") from error


@dataclass
class Threads:
    """Blocks on threads of this process, one per thread, each computed from start to end by its own."""

    workers: int = field(default_factory=cores)

    def compute(self, work: da.Array, blocks: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Compute these blocks; see `Executor`."""
        if self.workers == 1:
            for block in blocks:
                yield block, _compute(work, block)
            return
        waiting, running = list(reversed(blocks)), dict[Future[Any], int]()
        with ThreadPoolExecutor(self.workers, thread_name_prefix="block") as pool:
            try:
                while waiting or running:
                    while waiting and len(running) < self.workers + 1:
                        block = waiting.pop()
                        running[pool.submit(_compute, work, block)] = block
                    done, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield running.pop(future), future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


@dataclass
class Distributed:
    """Blocks on the workers of a dask cluster, never many more at a time than there are workers."""

    client: Client

    @property
    def workers(self) -> int:
        """Threads of all workers now."""
        return max(1, sum(self.client.nthreads().values()))

    def compute(self, work: da.Array, blocks: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Compute these blocks; see `Executor`."""
        waiting, running = list(reversed(blocks)), dict[Any, int]()
        finished = client_as_completed()

        def submit() -> None:
            while waiting and len(running) < 2 * self.workers:
                block = waiting.pop()
                future = self.client.compute(work.blocks[block], optimize_graph=True)
                running[future.key] = block
                finished.add(future)

        submit()
        for future in finished:
            block = running.pop(future.key)
            yield block, future.result()[0]
            future.release()
            submit()


def _compute(work: da.Array, block: int) -> Any:
    (item,) = dask.compute(work.blocks[block], scheduler="synchronous")
    return item[0]

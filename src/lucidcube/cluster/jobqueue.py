"""Jobs of a batch queue: what a profile and the site's settings ask for, as dask-jobqueue submits it.

What a profile leaves open is filled from the site's and the user's own dask settings.
"""

from __future__ import annotations

import os
import shlex
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import dask.config
from dask.utils import parse_timedelta

from lucidcube.cluster.profile import Profile, seconds
from lucidcube.cluster.queue_commands import left_the_queue, why_waiting
from lucidcube.errors import ConfigError

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

WORKER_ENVIRONMENT = {**dict.fromkeys(THREAD_VARIABLES, "1"), "MALLOC_TRIM_THRESHOLD_": "65536"}
"""One thread per block, and memory given back to the system as soon as it is free."""

WORKER_SETTINGS: dict[str, Any] = {
    # Memory is bounded by design: what passes the limit is a fault, and to write it to disk or to pause until
    # it goes away would only hide that. Such a worker is ended at once and its blocks are computed again.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    # Tasks queue on the scheduler, not on the workers, whatever the user's settings say.
    "distributed.scheduler.worker-saturation": 1.1,
}


ASK = 60.0
"""Seconds between questions to the queue about a job that has not begun."""


@contextmanager
def site_settings(profile: Profile) -> Iterator[None]:
    """The settings of dask with those of the profile's site file on top."""
    if profile.site is None:
        yield
        return
    path = Path(profile.site).expanduser()
    if not path.is_file():
        raise ConfigError(f"profile: site: there is no file {path}")
    try:
        site = dask.config.collect(paths=[str(path)], env={})
    except ValueError as error:
        raise ConfigError(f"profile: site: {' '.join(str(error).split())}") from error
    # Merged by hand: setting `site` alone would drop the defaults beside its keys.
    with dask.config.set(dask.config.merge(dask.config.config, site)):
        yield


def import_class(path: str) -> type[Any]:
    """A class by its path.

    Raises
    ------
    ConfigError
        If it is not installed or no class.
    """
    module, _, name = path.rpartition(".")
    package = module.partition(".")[0]
    try:
        with _keep_interrupt():
            found = getattr(import_module(module), name, None)
    except ImportError as error:
        extra = "'lucidcube[hpc]'" if package == "dask_jobqueue" else package.replace("_", "-")
        raise ConfigError(f"profile: {path} cannot be imported ({error}): pip install {extra}") from error
    if not isinstance(found, type):
        raise ConfigError(f"profile: there is no class {path}")
    return found


@contextmanager
def _keep_interrupt() -> Iterator[None]:
    """Importing dask_jobqueue makes Ctrl-C end the program without a word; here it stays what it was."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def section(cluster: type[Any]) -> str:
    """The part of the dask settings that a queue's class reads, as ``slurm``."""
    return str(cluster.job_cls.config_name)


def job_arguments(profile: Profile, cluster: type[Any]) -> dict[str, Any]:
    """Keyword arguments of a dask-jobqueue class: the profile's, and the site's where they are added to.

    Parameters
    ----------
    profile
        Of a batch queue.
    cluster
        Its class.

    Returns
    -------
    dict
        What is left out comes from the site's settings.

    Raises
    ------
    ConfigError
        If neither the profile nor the site says how many cores and how much memory a job has.
    """
    given, queue = dict(profile.arguments), section(cluster)
    site: Mapping[str, Any] = dask.config.get(f"jobqueue.{queue}", {})
    cores = profile.cores or given.pop("cores", None) or site.get("cores")
    memory = profile.memory or given.pop("memory", None) or site.get("memory")
    if not cores or not memory:
        raise ConfigError(f"profile: give cores and memory of a job (the dask settings of {queue} have none)")
    processes = profile.processes or given.pop("processes", None) or site.get("processes") or cores
    if processes > cores:
        raise ConfigError(f"profile: {processes} processes on {cores} cores: give each process a core")
    walltime = profile.walltime or given.pop("walltime", None) or site.get("walltime")
    made: dict[str, Any] = {
        "job_name": "lucidcube",
        "cores": cores,
        "memory": memory,
        "processes": processes,
        "local_directory": profile.local_directory or site.get("local-directory") or "${TMPDIR:-/tmp}",
        **_of_this_queue(profile, queue, walltime),
        **given,
    }
    prologue = given.get("job_script_prologue") or site.get("job-script-prologue") or []
    made["job_script_prologue"] = [*_prologue(), *prologue]
    extra = given.get("worker_extra_args") or site.get("worker-extra-args") or []
    made["worker_extra_args"] = [*extra, *lifetime(walltime)]
    options = given.get("scheduler_options") or site.get("scheduler-options") or {}
    # Two runs on one login node must not want the same port.
    made["scheduler_options"] = {"dashboard_address": ":0", **options}
    return {name: value for name, value in made.items() if value is not None}


def _of_this_queue(profile: Profile, queue: str, walltime: str | None) -> dict[str, Any]:
    """What each queue calls, or writes, in its own way; None leaves it to the site."""
    length = seconds(str(walltime)) if walltime else 0
    clock = f"{length // 3600:02d}:{length // 60 % 60:02d}"
    common: dict[str, Any] = {"interface": profile.interface}
    if queue == "htcondor":
        # HTCondor has neither queues nor walltimes; sites that have them name them in their own words.
        for name in ("queue", "account"):
            if getattr(profile, name) is not None:
                raise ConfigError(f"profile: {name}: give it as arguments: job_extra_directives")
        return common | {"disk": dask.config.get("jobqueue.htcondor.disk", None) or "1GiB"}
    if queue != "lsf":
        clock += f":{length % 60:02d}"
    account = "project" if queue in ("lsf", "sge", "oar") else "account"
    return common | {
        "queue": profile.queue,
        account: profile.account,
        "walltime": clock if walltime else None,
    }


def _prologue() -> list[str]:
    """What a job does first: go where the run was started, and pin its threads."""
    settings = {
        f"DASK_{k.upper().replace('.', '__').replace('-', '_')}": v for k, v in WORKER_SETTINGS.items()
    }
    return [
        f"cd {shlex.quote(os.getcwd())}",
        *(f"export {name}={value}" for name, value in (WORKER_ENVIRONMENT | settings).items()),
    ]


def lifetime(walltime: str | None) -> list[str]:
    """Arguments of a worker that ends by itself before its job is killed, not all at the same moment.

    A worker that ends by itself hands its work over; one that is killed loses it.
    """
    if not walltime:
        return []
    length = seconds(str(walltime))
    margin = min(600, length // 4)
    return ["--lifetime", f"{length - margin}s", "--lifetime-stagger", f"{margin // 2}s"]


def job_script(profile: Profile) -> str | None:
    """The script of one job, as the queue would get it but for the scheduler's address.

    Parameters
    ----------
    profile
        Any.

    Returns
    -------
    str or None
        None if the profile has nothing to do with a queue.

    Raises
    ------
    ConfigError
        If the profile does not say enough, or dask-jobqueue is not installed.
    """
    if not profile.queued:
        return None
    cluster = import_class(str(profile.path_of_class))
    with site_settings(profile):
        return _script(cluster, job_arguments(profile, cluster))


def _script(cluster: type[Any], arguments: Mapping[str, Any]) -> str:
    base = next(c for c in cluster.__mro__ if c.__name__ == "JobQueueCluster")
    of_cluster = {*signature(base).parameters} - {"interface", "protocol", "config_name"}
    of_job = {k: v for k, v in arguments.items() if k not in of_cluster}
    try:
        return str(cluster.job_cls("tcp://SCHEDULER:PORT", name="lucidcube", **of_job).job_script())
    except (TypeError, ValueError) as error:
        raise ConfigError(f"profile: arguments: {' '.join(str(error).split())}") from error


def lost_after() -> float:
    """Seconds after which a worker that is not heard of counts as lost: dask's own setting."""
    return float(parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout")))


@dataclass
class Jobs:
    """Jobs that are kept at a number: one whose workers are lost is submitted anew.

    dask-jobqueue itself replaces lost jobs only where each has a single worker process.

    Attributes
    ----------
    cluster
        Of dask-jobqueue.
    queue
        As ``slurm``.
    count
        How many there should be.
    """

    cluster: Any
    queue: str
    count: int
    _begun: set[str] = field(default_factory=set)
    _missed: dict[str, float] = field(default_factory=dict)

    def tend(self) -> None:
        """Give up the jobs that are lost, and ask for as many as are missing."""
        now, patience = time.monotonic(), lost_after()
        here = {str(name) for name in self.cluster.observed}
        for name, spec in list(self.cluster.worker_spec.items()):
            # By the queue's number: what is submitted anew may keep its name, and has not begun.
            number = self._number(self.cluster.workers.get(name))
            if any(f"{name}{suffix}" in here for suffix in spec.get("group", [""])):
                self._begun.add(number)
                self._missed.pop(number, None)
                continue
            begun = number in self._begun
            silent = now - self._missed.setdefault(number, now)
            if number and silent >= (patience if begun else max(patience, ASK)):
                del self._missed[number]
                # A job that nothing was heard of may be waiting for its turn, unless the queue knows better.
                if begun or left_the_queue(self.queue, [number]):
                    self.cluster.sync(self.cluster.scale_down, [name])
        if len(self.cluster.workers) < self.count:
            self.cluster.scale(jobs=self.count)

    def numbers(self) -> list[str]:
        """What the queue calls them."""
        return [number for job in list(self.cluster.workers.values()) if (number := self._number(job))]

    @staticmethod
    def _number(job: Any) -> str:
        """What the queue calls a job; nothing while it is being submitted."""
        return str(getattr(job, "job_id", None) or "")

    def reason(self) -> str:
        """Why they are not running, in the queue's own words."""
        return why_waiting(self.queue, self.numbers())

    def gone(self) -> bool:
        """Whether none of them is waiting or running any more."""
        return left_the_queue(self.queue, self.numbers())

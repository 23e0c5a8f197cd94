"""Batch queues: the job that a profile asks for, whether the queue would take it, and what it waits for.

The jobs are those of dask-jobqueue; what a profile leaves open is filled from the site's and the user's
own dask settings. Programs of the queue are run by argument list, never through a shell.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import dask.config

from lucidcube.errors import ConfigError
from lucidcube.profiles import Profile, seconds

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

PREFLIGHT = {"slurm": ("sbatch", "--test-only")}
"""Programs that say whether a queue would take the script on their input."""

SUBMIT = {"slurm": "sbatch", "pbs": "qsub", "lsf": "bsub", "sge": "qsub", "htcondor": "condor_submit"}

REASON: dict[str, tuple[str, ...]] = {
    "slurm": ("squeue", "--noheader", "--format=%i %T %r", "--jobs"),
    "pbs": ("qstat", "-s"),
    "lsf": ("bjobs", "-p"),
    "sge": ("qstat", "-j"),
    "htcondor": ("condor_q", "-better-analyze"),
}
"""Programs that say why jobs are not running; the numbers of the jobs follow."""

PATIENCE = 60.0
"""Seconds that a program of the queue may take."""


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


def preflight(queue: str, script: str) -> None:
    """Ask the queue whether it would take a job, without submitting it.

    Parameters
    ----------
    queue
        As ``slurm``; one that cannot be asked is not.
    script
        Of the job.

    Raises
    ------
    ConfigError
        If the program that submits jobs is not on this machine, or the queue refuses; in its own words.
    """
    program = SUBMIT.get(queue)
    if program is not None and shutil.which(program) is None:
        raise ConfigError(
            f"profile: kind: {queue} needs {program}, which is not here: start the run on a login node"
        )
    if queue in PREFLIGHT:
        code, said = _ask(PREFLIGHT[queue], script)
        if code != 0:
            raise ConfigError(f"profile: the queue refuses the job: {said}")


def left_the_queue(queue: str, jobs: Sequence[str]) -> bool:
    """Whether none of the jobs is waiting or running any more, as far as the queue can be asked."""
    if queue != "slurm" or not jobs:
        return False
    code, said = _ask((*REASON[queue], ",".join(jobs)))
    return (code == 0 and not said) or "Invalid job id" in said


def why_waiting(queue: str, jobs: Sequence[str]) -> str:
    """What the queue says about jobs that do not run yet, in one line."""
    if not jobs:
        return "the queue took no job"
    if queue not in REASON or shutil.which(REASON[queue][0]) is None:
        return f"jobs {', '.join(jobs)}"
    numbers = [",".join(jobs)] if queue == "slurm" else list(jobs)
    _, said = _ask((*REASON[queue], *numbers))
    return said or f"jobs {', '.join(jobs)} have left the queue"


def _ask(command: Sequence[str], text: str = "") -> tuple[int, str]:
    """Run a program of the queue; its exit code, and what it said in one line."""
    try:
        done = subprocess.run(
            list(command), input=text, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, f"{command[0]}: {error}"
    said = " ".join(f"{done.stdout} {done.stderr}".split())
    return done.returncode, said if len(said) < 400 else said[:400] + " ..."

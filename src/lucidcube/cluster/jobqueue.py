"""Jobs of a batch queue, as dask-jobqueue submits them, and the programs that report on them.

What a profile leaves out is taken from the dask settings of the site and the user. Programs of the queue are
run by argument list, never through a shell.
"""

import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any, NamedTuple

import dask.config
from dask.utils import parse_bytes, parse_timedelta

from lucidcube.cluster.profile import Profile
from lucidcube.cluster.values import import_class, parse_duration
from lucidcube.errors import ConfigError

WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "NUMBA_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
    "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(8 << 20),
}
"""Environment of worker processes: one thread per block, and settings of glibc's memory allocator.

dask's own ``MALLOC_TRIM_THRESHOLD_=65536`` makes glibc map and unmap every array of more than 128 KiB, which
is most planes. Reusing arrays of up to 4 MiB instead takes 24 to 32 % less CPU time, and 2 to 4 MiB more
memory. The defaults of glibc are as fast, but need 15 to 45 MiB more.
"""

WORKER_SETTINGS: dict[str, Any] = {
    # The plan keeps workers below their limit. Spilling to disk or pausing would only hide an error of the
    # plan: a worker that reaches its limit is ended, and its blocks are computed again.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
    # Tasks queue on the scheduler and not on the workers, whatever the settings of the user are.
    "distributed.scheduler.worker-saturation": 1.1,
    # Workers have no pages for others to read.
    "distributed.worker.http.routes": [],
}

NO_PAGE = ("--no-dashboard", "--dashboard-address", "127.0.0.1:0")
"""Arguments of workers without a page of their own."""


def scheduler_settings(profile: Profile) -> dict[str, Any]:
    """Return the settings of dask for a scheduler that is started for this profile."""
    timeout = {"distributed.scheduler.worker-ttl": f"{parse_duration(profile.worker_timeout)}s"}
    return timeout if profile.dashboard else timeout | {"distributed.scheduler.http.routes": []}


class Queue(NamedTuple):
    """Class of dask-jobqueue for one batch system, and the programs that submit and explain its jobs."""

    cluster: str
    submit: str
    explain: tuple[str, ...]


QUEUES = {
    "slurm": Queue("SLURMCluster", "sbatch", ("squeue", "--noheader", "--format=%i %T %r", "--jobs")),
    "pbs": Queue("PBSCluster", "qsub", ("qstat", "-s")),
    "lsf": Queue("LSFCluster", "bsub", ("bjobs", "-p")),
    "sge": Queue("SGECluster", "qsub", ("qstat", "-j")),
    "htcondor": Queue("HTCondorCluster", "condor_submit", ("condor_q", "-better-analyze")),
}

QUERY_INTERVAL = 60.0
"""Seconds between two queries to the queue about a job that has not started."""


def queue_class(profile: Profile) -> type[Any]:
    """Return the class of dask-jobqueue for a profile of a batch queue."""
    return import_class(profile.class_path or f"dask_jobqueue.{QUEUES[profile.kind].cluster}")


@contextmanager
def site_settings(profile: Profile) -> Iterator[None]:
    """Add the settings of the profile's site file to those of dask while the context lasts."""
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
    # Setting `site` alone would drop the defaults of the sections that it changes.
    with dask.config.set(dask.config.merge(dask.config.config, site)):
        yield


def job_arguments(profile: Profile, cluster: type[Any]) -> dict[str, Any]:
    """Return the keyword arguments of a dask-jobqueue class for a profile; the site gives the others.

    ConfigError is raised if neither of them gives the cores and the memory of a job.
    """
    given, queue = dict(profile.arguments), cluster.job_cls.config_name
    site: Mapping[str, Any] = dask.config.get(f"jobqueue.{queue}", {})

    def first(name: str) -> Any:
        return getattr(profile, name, None) or given.pop(name, None) or site.get(name.replace("_", "-"))

    cores, memory, walltime = first("cores"), first("memory"), first("walltime")
    processes = first("processes") or cores
    if not cores or not memory:
        raise ConfigError(f"profile: give cores and memory of a job (the dask settings of {queue} have none)")
    try:
        cores, processes = int(cores), int(processes)
        parse_bytes(memory)
        length = parse_duration(str(walltime)) if walltime else None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"profile: cores, processes, memory or walltime of a job: {error}") from error
    if processes > cores:
        raise ConfigError(f"profile: {processes} processes on {cores} cores: give each process a core")
    arguments: dict[str, Any] = {
        "job_name": "lucidcube",
        "cores": cores,
        "memory": memory,
        "processes": processes,
        "local_directory": first("local_directory") or "${TMPDIR:-/tmp}",
        "job_script_prologue": [*_prologue(), *(first("job_script_prologue") or [])],
        "worker_extra_args": [*(first("worker_extra_args") or []), *NO_PAGE, *_lifetime(length)],
        # Two runs on one login node must not ask for the same port.
        "scheduler_options": {"dashboard_address": "127.0.0.1:0", "dashboard": profile.dashboard}
        | (first("scheduler_options") or {}),
        "interface": profile.interface,
        **_queue_arguments(profile, queue, length),
        **given,
    }
    return {name: value for name, value in arguments.items() if value is not None}


def _queue_arguments(profile: Profile, queue: str, length: int | None) -> dict[str, Any]:
    """Return the arguments whose name or form depends on the queue; None leaves one to the site."""
    if queue == "htcondor":
        # HTCondor has neither queues nor accounts; sites that do have their own directives for them.
        for name in ("queue", "account"):
            if getattr(profile, name) is not None:
                raise ConfigError(f"profile: {name}: give it as arguments: job_extra_directives")
        return {"disk": dask.config.get("jobqueue.htcondor.disk", None) or "1GiB"}
    account = "project" if queue in ("lsf", "sge", "oar") else "account"
    minutes, seconds = divmod(length or 0, 60)
    clock = f"{minutes // 60:02d}:{minutes % 60:02d}" + ("" if queue == "lsf" else f":{seconds:02d}")
    return {"queue": profile.queue, account: profile.account, "walltime": clock if length else None}


def _prologue() -> list[str]:
    """Return the first lines of a job: go to the directory of the run, and set the environment."""
    settings = {
        f"DASK_{k.upper().replace('.', '__').replace('-', '_')}": v for k, v in WORKER_SETTINGS.items()
    }
    return [
        f"cd {shlex.quote(os.getcwd())}",
        *(f"export {name}={value}" for name, value in (WORKER_ENVIRONMENT | settings).items()),
    ]


def _lifetime(length: int | None) -> list[str]:
    """Return arguments that end workers before their job is killed, and not all at the same moment.

    A worker that ends by itself passes its results on; those of a worker that is killed are lost.
    """
    if length is None:
        return []
    margin = min(600, length // 4)
    return ["--lifetime", f"{length - margin}s", "--lifetime-stagger", f"{margin // 2}s"]


def job_script(profile: Profile) -> str | None:
    """Return the script of one job without the address of the scheduler; None if there is no queue.

    The paths of the certificate are missing as well, which is made when the run begins.

    ConfigError is raised if the profile is incomplete, or if dask-jobqueue is not installed.
    """
    if not profile.queued:
        return None
    cluster = queue_class(profile)
    with site_settings(profile):
        arguments = job_arguments(profile, cluster)
        base = next(c for c in cluster.__mro__ if c.__name__ == "JobQueueCluster")
        of_cluster = {*signature(base).parameters} - {"interface", "protocol", "config_name"}
        of_job = {k: v for k, v in arguments.items() if k not in of_cluster}
        try:
            address = f"{'tls' if profile.security == 'tls' else 'tcp'}://SCHEDULER:PORT"
            return str(cluster.job_cls(address, name="lucidcube", **of_job).job_script())
        except (TypeError, ValueError) as error:
            raise ConfigError(f"profile: arguments: {' '.join(str(error).split())}") from error


@dataclass
class Jobs:
    """Keep `count` jobs of a dask-jobqueue `cluster` on a `queue`: lost jobs are submitted again.

    dask-jobqueue itself replaces lost jobs only where each has a single worker process.
    """

    cluster: Any
    queue: str
    count: int
    _started: set[str] = field(default_factory=set)
    _missing_since: dict[str, float] = field(default_factory=dict)

    def replace_lost(self) -> None:
        """Give up jobs whose workers are lost, and submit as many jobs as are missing."""
        now = time.monotonic()
        timeout = float(parse_timedelta(dask.config.get("distributed.deploy.lost-worker-timeout")))
        observed = {str(name) for name in self.cluster.observed}
        for name, spec in list(self.cluster.worker_spec.items()):
            # A job that is submitted again may keep its name, but not its id.
            job_id = _job_id(self.cluster.workers.get(name))
            if any(f"{name}{suffix}" in observed for suffix in spec.get("group", [""])):
                self._started.add(job_id)
                self._missing_since.pop(job_id, None)
                continue
            started = job_id in self._started
            missing = now - self._missing_since.setdefault(job_id, now)
            if job_id and missing >= (timeout if started else max(timeout, QUERY_INTERVAL)):
                del self._missing_since[job_id]
                # A job that never had a worker may still be waiting in the queue.
                if started or self._left_the_queue([job_id]):
                    self.cluster.sync(self.cluster.scale_down, [name])
        if len(self.cluster.workers) < self.count:
            self.cluster.scale(jobs=self.count)

    @property
    def ids(self) -> list[str]:
        """Ids that the queue gave to the jobs."""
        return [job_id for job in list(self.cluster.workers.values()) if (job_id := _job_id(job))]

    def reason(self) -> str:
        """Return in one line the reason that the queue reports for jobs that are not running."""
        ids, jobs = self.ids, f"jobs {', '.join(self.ids)}"
        if not ids:
            return "the queue accepted no job"
        if self.queue not in QUEUES or shutil.which(QUEUES[self.queue].explain[0]) is None:
            return jobs
        _, output = _run([*QUEUES[self.queue].explain, *([",".join(ids)] if self.queue == "slurm" else ids)])
        return output or f"{jobs} have left the queue"

    def ended(self) -> bool:
        """Return whether all jobs have left the queue."""
        return self._left_the_queue(self.ids)

    def _left_the_queue(self, ids: list[str]) -> bool:
        """Return whether none of the jobs is waiting or running, where the queue can tell (SLURM)."""
        if self.queue != "slurm" or not ids:
            return False
        code, output = _run([*QUEUES["slurm"].explain, ",".join(ids)])
        return (code == 0 and not output) or "Invalid job id" in output


def _job_id(job: Any) -> str:
    """Return the id that the queue gave to a job; it is empty while the job is being submitted."""
    return str(getattr(job, "job_id", None) or "")


def preflight(queue: str, script: str) -> None:
    """Raise ConfigError unless jobs can be submitted here, and SLURM would accept this one."""
    if queue in QUEUES and shutil.which(program := QUEUES[queue].submit) is None:
        raise ConfigError(
            f"profile: kind: {queue} needs {program}, which is not here: start the run on a login node"
        )
    if queue == "slurm":
        code, output = _run(["sbatch", "--test-only"], script)
        if code != 0:
            raise ConfigError(f"profile: the queue refuses the job: {output}")


def _run(command: list[str], text: str = "") -> tuple[int, str]:
    """Run a program of the queue; return its exit code and its output in one line."""
    try:
        # The programs are those of the queue, and their arguments are checked fields of the profile.
        done = subprocess.run(  # noqa: S603
            command, input=text, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, f"{command[0]}: {error}"
    output = " ".join(f"{done.stdout} {done.stderr}".split())
    return done.returncode, output if len(output) < 400 else output[:400] + " ..."

"""Profiles: where a run executes, as data."""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import yaml
from dask.utils import parse_bytes
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from lucidcube.cluster.resources import USABLE, granted, processes_for
from lucidcube.errors import ConfigError

Kind = Literal[
    "threads", "processes", "synchronous", "address",
    "slurm", "pbs", "lsf", "sge", "htcondor", "slurm_runner", "class",
]  # fmt: skip

CLASSES = {
    "slurm": "dask_jobqueue.SLURMCluster",
    "pbs": "dask_jobqueue.PBSCluster",
    "lsf": "dask_jobqueue.LSFCluster",
    "sge": "dask_jobqueue.SGECluster",
    "htcondor": "dask_jobqueue.HTCondorCluster",
}

PACKAGES = (
    "dask_jobqueue",
    "distributed",
    "dask_kubernetes",
    "dask_cloudprovider",
    "dask_gateway",
    "dask_yarn",
)
"""A profile may name a class of these packages and of no others: naming a class is importing its module."""

CLASS_PATH = re.compile(rf"({'|'.join(PACKAGES)})(\.[a-z]\w*)*\.[A-Z]\w*Cluster")

QUEUES = frozenset(CLASSES)

MEANING: dict[str, frozenset[str]] = {
    "workers": frozenset({"threads", "processes", "synchronous"}),
    "threads": frozenset({"processes", "slurm_runner"}),
    "memory": frozenset({"processes", "slurm_runner", "class", *QUEUES}),
    "address": frozenset({"address"}),
    "arguments": frozenset({"class", *QUEUES}),
    "wait": frozenset({"address", "slurm_runner", "class", *QUEUES}),
    "local_directory": frozenset({"processes", "slurm_runner", "class", *QUEUES}),
    "interface": frozenset({"slurm_runner", "class", *QUEUES}),
    **dict.fromkeys(("jobs", "cores", "processes", "walltime", "queue", "account", "site"),
                    frozenset({"class", *QUEUES})),
}  # fmt: skip
"""Which kinds each field means something for; where it means nothing it is refused."""


class Profile(BaseModel):
    """Where a run executes.

    ``threads``: this process. ``processes``: a dask cluster on this machine. ``synchronous``: one block
    after the other, for debugging. ``address``: a dask scheduler that is running already. ``slurm``,
    ``pbs``, ``lsf``, ``sge``, ``htcondor``: jobs of a batch queue. ``slurm_runner``: the tasks of the
    SLURM allocation that this process is in. ``class``: any dask cluster, by class path.

    What is not given for a batch queue is taken from the site's or the user's own dask settings
    (``jobqueue.yaml``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    kind: Kind = Field("threads", description="threads, processes, address, slurm, pbs, ...")
    workers: int | None = Field(None, ge=1, description="threads or processes; one per core if not given")
    threads: int | None = Field(None, ge=1, description="threads of each worker process")
    memory: str | None = Field(
        None, description="limit for each worker process, as '4GiB'; of each job, where there are jobs"
    )
    address: str | None = Field(None, description="of a running scheduler, as tcp://10.0.0.1:8786")
    jobs: int | None = Field(None, ge=1, description="how many jobs; 1 if not given")
    cores: int | None = Field(None, ge=1, description="of each job")
    processes: int | None = Field(None, ge=1, description="of each job; one per core if not given")
    walltime: str | None = Field(None, description="of each job: '12:00:00', '1-00:00:00' or '90 min'")
    queue: str | None = Field(None, description="queue or partition")
    account: str | None = Field(None, description="account or project to be charged")
    interface: str | None = Field(None, description="network interface, as ib0")
    local_directory: str | None = Field(None, description="scratch on the node's own disk, as '$TMPDIR'")
    wait: str = Field("1h", description="how long to wait for a first worker, or for lost ones to return")
    site: str | None = Field(None, description="one more YAML file of dask settings, as a site hands it out")
    class_path: str | None = Field(None, alias="class", description="as dask_jobqueue.SLURMCluster")
    product: Literal["parallel", "gather"] = Field(
        "parallel",
        description="who writes the product: the workers, each its planes, or this process alone, for file "
        "systems on which several machines may not write to one file (NFS)",
    )
    arguments: dict[str, Any] = Field({}, description="further keyword arguments of the class")

    @model_validator(mode="before")
    @classmethod
    def _kind_of_class(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("class") is not None and "kind" not in values:
            return values | {"kind": "class"}
        return values

    @field_validator("memory")
    @classmethod
    def _bytes(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                parse_bytes(value)
            except ValueError as error:
                raise ValueError(f"{value!r} is no amount of memory, such as '4GiB'") from error
        return value

    @field_validator("walltime", mode="before")
    @classmethod
    def _quoted(cls, value: Any) -> Any:
        if isinstance(value, int):
            # YAML 1.1 reads 12:00:00 as a number to base 60.
            raise ValueError("must be quoted, as '12:00:00'")
        return value

    @field_validator("walltime", "wait")
    @classmethod
    def _time(cls, value: str | None) -> str | None:
        if value is not None:
            seconds(value)
        return value

    @field_validator("class_path")
    @classmethod
    def _allowed(cls, value: str | None) -> str | None:
        if value is not None and not CLASS_PATH.fullmatch(value):
            raise ValueError(f"{value!r} is no cluster class of {', '.join(PACKAGES)}")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if self.kind == "address" and not self.address:
            raise ValueError("kind: address needs the address of a scheduler, as tcp://10.0.0.1:8786")
        if (self.kind == "class") != (self.class_path is not None):
            raise ValueError("class and kind: class go together, as class: dask_jobqueue.SLURMCluster")
        for name in sorted(self.model_fields_set & MEANING.keys()):
            if self.kind not in MEANING[name] and getattr(self, name) not in (None, {}):
                raise ValueError(f"{name} means nothing for kind: {self.kind}")
        return self

    @property
    def queued(self) -> bool:
        """Whether the workers are jobs of a batch queue."""
        return self.kind in QUEUES or bool(self.class_path and self.class_path.startswith("dask_jobqueue."))

    @property
    def path_of_class(self) -> str | None:
        """The dask cluster class that does it, if one does."""
        return self.class_path or CLASSES.get(self.kind)


class Layout(NamedTuple):
    """Processes of a run, as far as the profile says.

    Attributes
    ----------
    processes
        Worker processes; None if only the cluster knows.
    threads
        Blocks computed at a time in each of them; None likewise.
    memory
        Limit of each process in bytes; None likewise.
    """

    processes: int | None
    threads: int | None
    memory: int | None


PROFILES = {
    "laptop": Profile(),
    "processes": Profile(kind="processes"),
    "synchronous": Profile(kind="synchronous"),
}


def local_layout(profile: Profile) -> Layout:
    """Processes, threads and memory of a run on this machine, from what it really grants.

    Parameters
    ----------
    profile
        Of kind threads, synchronous or processes.

    Returns
    -------
    Layout
        All numbers known.
    """
    grant = granted()
    usable = int(grant.memory * USABLE)
    if profile.kind != "processes":
        threads = 1 if profile.kind == "synchronous" else profile.workers or grant.cores
        return Layout(1, threads, usable)
    limit = parse_bytes(profile.memory) if profile.memory else None
    processes = profile.workers or processes_for(grant, limit)
    threads = profile.threads or max(1, grant.cores // processes)
    return Layout(processes, threads, limit or usable // processes)


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
        raise ConfigError(*(_line(path, e) for e in error.errors())) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error


def _line(path: Path, error: Any) -> str:
    where = ".".join(map(str, error["loc"]))
    message = error["msg"].removeprefix("Value error, ")
    return f"{path}: {where}: {message}" if where else f"{path}: {message}"


def expanded(directory: str) -> str:
    """A folder with its variables filled in, as a shell would: ``$TMPDIR``, ``${TMPDIR:-/tmp}``.

    Raises
    ------
    ConfigError
        If a variable is not set here.
    """
    chosen = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: os.environ.get(m[1]) or m[2], directory)
    found = os.path.expanduser(os.path.expandvars(chosen))
    if "$" in found:
        raise ConfigError(f"profile: local_directory: {directory}: a variable is not set here")
    return found


def seconds(text: str) -> int:
    """A length of time: ``[D-]HH:MM:SS``, ``HH:MM``, or a number of ``s``, ``min``, ``h`` or ``d``.

    Raises
    ------
    ValueError
        If it is none.
    """
    if clock := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", text):
        days, hours, minutes, rest = (int(part or 0) for part in clock.groups())
        total = ((days * 24 + hours) * 60 + minutes) * 60 + rest
    elif amount := re.fullmatch(r"(\d+(?:\.\d+)?) *(s|min|h|d)", text):
        total = int(float(amount[1]) * {"s": 1, "min": 60, "h": 3600, "d": 86400}[amount[2]])
    else:
        total = 0
    if total <= 0:
        raise ValueError(f"{text!r} is no length of time, such as '12:00:00' or '90 min'")
    return total

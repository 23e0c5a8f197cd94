"""Profiles describe where a run executes."""

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, get_args

from dask.utils import parse_bytes
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from lucidcube.cluster.resources import PROCESS_MEMORY, USABLE, available_resources
from lucidcube.cluster.rules import check_field, commands
from lucidcube.cluster.values import parse_duration
from lucidcube.errors import ConfigError, closest
from lucidcube.io.yaml_text import parse_yaml, read_yaml_text

QueueKind = Literal["slurm", "pbs", "lsf", "sge", "htcondor"]
Kind = Literal["threads", "processes", "synchronous", "address", QueueKind, "slurm_runner", "class"]

QUEUE_KINDS = frozenset(get_args(QueueKind))

PACKAGES = (
    "dask_jobqueue", "distributed", "dask_kubernetes", "dask_cloudprovider", "dask_gateway", "dask_yarn",
)  # fmt: skip
"""Packages whose cluster classes a profile may name; to import a class is to run the code of its module."""

CLASS_PATH = re.compile(rf"({'|'.join(PACKAGES)})(\.[a-z]\w*)*\.[A-Z]\w*Cluster")

_LOCAL = frozenset({"threads", "processes", "synchronous"})
_JOBS = QUEUE_KINDS | {"class"}
_NETWORK = _JOBS | {"slurm_runner"}
_PROCESSES = _NETWORK | {"processes"}
_ADDRESS = frozenset({"address"})
_REMOTE = _PROCESSES | _ADDRESS


def _only(kinds: frozenset[str], description: str, default: Any = None, **constraints: Any) -> Any:
    """Return a field of a profile that applies to some kinds only and is refused for all others."""
    extra: dict[str, Any] = {"kinds": sorted(kinds)}
    return Field(default, description=description, json_schema_extra=extra, **constraints)


class Profile(BaseModel):
    """A description of where a run executes.

    ``threads``: in this process. ``processes``: on a dask cluster on this machine. ``synchronous``: one block
    after the other, for debugging. ``address``: on a dask scheduler that is already running. ``slurm``,
    ``pbs``, ``lsf``, ``sge``, ``htcondor``: in jobs of a batch queue. ``slurm_runner``: in the tasks of the
    SLURM allocation to which this process belongs. ``class``: on any dask cluster, given by its class.

    What a profile of a batch queue leaves out is taken from the dask settings of the site or the user
    (``jobqueue.yaml``).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, strict=True)

    kind: Kind = Field("threads", description="where the blocks are computed: threads, processes, slurm, ...")
    fft: Literal["auto", "simd", "scipy"] = Field("auto", description="engine of the Fourier transforms")
    array_library: Literal["numpy", "torch", "cupy"] | None = Field(
        None,
        description="library with which stages that can compute planes together on a device; null "
        "computes them one by one on the processor",
    )
    device: str | None = Field(
        None, description="device of the array library: cuda, cuda:1 or cpu; null is its first GPU"
    )
    workers: int | None = _only(_LOCAL, "number of threads or processes; by default one per core", ge=1)
    threads: int | None = _only(
        frozenset({"processes", "slurm_runner"}), "number of threads in each worker process", ge=1
    )
    memory: str | None = _only(
        _PROCESSES, "memory limit of each worker process, or of each job of a queue, such as '4GiB'"
    )
    security: Literal["tls", "none"] = _only(
        _PROCESSES, "protection of the connections: tls (certificates made for each run) or none", "tls"
    )
    dashboard: bool = _only(_PROCESSES, "whether dask's own page is served, on 127.0.0.1", False)
    address: str | None = _only(_ADDRESS, "address of the scheduler, as tls://10.0.0.1:8786")
    tls_ca: str | None = _only(_ADDRESS, "file with the certificate that signed that of the scheduler")
    tls_cert: str | None = _only(_ADDRESS, "file with the certificate to show to the scheduler")
    tls_key: str | None = _only(_ADDRESS, "file with the private key of that certificate")
    jobs: int | None = _only(_JOBS, "number of jobs; by default 1", ge=1)
    cores: int | None = _only(_JOBS, "number of cores of each job", ge=1)
    processes: int | None = _only(_JOBS, "worker processes in each job; by default one per core", ge=1)
    walltime: str | None = _only(_JOBS, "time limit of each job: '12:00:00', '1-00:00:00' or '90 min'")
    queue: str | None = _only(_JOBS, "queue or partition of the jobs")
    account: str | None = _only(_JOBS, "account or project that is charged")
    interface: str | None = _only(_NETWORK, "network interface, such as ib0")
    local_directory: str | None = _only(_PROCESSES, "scratch directory on the node's own disk, as '$TMPDIR'")
    wait: str = _only(
        _NETWORK | _ADDRESS, "time to wait for the first worker, or for the replacement of lost ones", "1h"
    )
    block_timeout: str = _only(_REMOTE, "shortest time after which a block may be given up", "2min")
    block_factor: float = _only(_REMOTE, "times the median after which a block is given up", 20.0, gt=1)
    worker_timeout: str = _only(_REMOTE, "time without sign of life after which a worker is given up", "5min")
    start_timeout: str = _only(
        frozenset({"processes"}), "time in which a worker process must have started", "5min"
    )
    site: str | None = _only(_JOBS, "further YAML file of dask settings, as a site provides it")
    class_path: str | None = Field(
        None, alias="class", description="class of the dask cluster, such as dask_jobqueue.SLURMCluster"
    )
    product: Literal["parallel", "gather"] = Field(
        "parallel",
        description="whether each worker writes its planes of the product (parallel), or this process writes "
        "all of them (gather), for file systems on which machines cannot write to one file together (NFS)",
    )
    arguments: dict[str, Any] = _only(_JOBS, "further keyword arguments of the cluster class", {})

    @model_validator(mode="before")
    @classmethod
    def _infer_kind(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("class") is not None and "kind" not in values:
            return values | {"kind": "class"}
        return values

    @field_validator(
        "memory", "walltime", "wait", "block_timeout", "worker_timeout", "start_timeout", mode="before"
    )
    @classmethod
    def _check_units(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, str):
            try:
                (parse_bytes if info.field_name == "memory" else parse_duration)(value)
            except OverflowError:
                raise ValueError(f"{value!r} is not finite") from None
        elif isinstance(value, int) and info.field_name != "memory":
            # YAML 1.1 reads 12:00:00 as a number to base 60.
            raise ValueError("must be quoted, as '12:00:00'")
        return value

    @field_validator("queue", "account", "interface", "local_directory")
    @classmethod
    def _check_field(cls, value: str | None, info: ValidationInfo) -> str | None:
        return None if value is None else check_field(str(info.field_name), value)

    @field_validator("class_path")
    @classmethod
    def _check_class(cls, value: str | None) -> str | None:
        if value is not None and not CLASS_PATH.fullmatch(value):
            raise ValueError(f"{value!r} is not a cluster class of {', '.join(PACKAGES)}")
        return value

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"cpu|cuda(:\d{1,3})?", value):
            raise ValueError(f"{value!r} is not a device: cuda, cuda:1 or cpu")
        return value

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.device is not None and self.array_library is None:
            raise ValueError("device needs array_library, as array_library: torch")
        self._check_processes()
        if self.kind == "address" and not self.address:
            raise ValueError("kind: address needs the address of a scheduler, such as tcp://10.0.0.1:8786")
        files = (self.tls_ca, self.tls_cert, self.tls_key)
        if any(files) and not (all(files) and str(self.address).startswith("tls://")):
            raise ValueError(
                "tls_ca, tls_cert and tls_key go together, with an address that begins with tls://"
            )
        if (self.kind == "class") != (self.class_path is not None):
            raise ValueError("class and kind: class go together, as class: dask_jobqueue.SLURMCluster")
        for name in sorted(self.model_fields_set):
            extra: Any = type(self).model_fields[name].json_schema_extra
            if extra and self.kind not in extra["kinds"] and getattr(self, name) not in (None, {}):
                raise ValueError(f"{name} does not apply to kind: {self.kind}")
        return self

    def _check_processes(self) -> None:
        """Raise ValueError if several processes would use one GPU: each would take its memory for its own."""
        if self.array_library in (None, "numpy") or self.device == "cpu":
            return
        field = "workers" if self.kind == "processes" else "processes" if self.queued else None
        if field and getattr(self, field) != 1:
            raise ValueError(
                f"{field} must be 1 with array_library: {self.array_library}, as processes cannot share "
                f"a GPU: {field}: 1 (its threads share it), or device: cpu"
            )

    @property
    def queued(self) -> bool:
        """Whether the workers are jobs of a batch queue."""
        return self.kind in QUEUE_KINDS or (self.class_path or "").startswith("dask_jobqueue.")


PROFILES = {
    "laptop": Profile(),
    "processes": Profile(kind="processes"),
    "synchronous": Profile(kind="synchronous"),
    "gpu": Profile(array_library="torch"),
}


class Layout(NamedTuple):
    """Number of worker processes, blocks that each computes at a time, and its memory limit in bytes.

    Numbers that only the cluster can determine are None.
    """

    processes: int | None
    threads: int | None
    memory: int | None

    @property
    def all_threads(self) -> int:
        """Number of blocks computed at a time, as far as it is known."""
        return (self.processes or 1) * (self.threads or 1)


def local_layout(profile: Profile) -> Layout:
    """Return the processes, threads and memory of a run on this machine, from the available resources."""
    available = available_resources()
    usable = int(available.memory * USABLE)
    if profile.kind != "processes":
        threads = 1 if profile.kind == "synchronous" else profile.workers or available.cores
        return Layout(1, threads, usable)
    limit = parse_bytes(profile.memory) if profile.memory else None
    processes = profile.workers or max(1, min(available.cores, usable // (limit or PROCESS_MEMORY)))
    threads = profile.threads or max(1, available.cores // processes)
    return Layout(processes, threads, limit or usable // processes)


def load_profile(name: str, *, trust: bool = False) -> Profile:
    """Return a profile by its built-in name, by the address of a scheduler, or from a YAML file.

    ConfigError is raised if there is no such profile, if it is not valid, or if a file can run commands and
    `trust` is False; see `lucidcube.cluster.rules`.
    """
    if name in PROFILES:
        return PROFILES[name]
    if "://" in name:
        return Profile(kind="address", address=name)
    if not _is_file(name):
        near = closest(name, PROFILES)
        hint = f"did you mean {near!r}?" if near else f"built in: {', '.join(PROFILES)}"
        raise ConfigError(f"profile: {name!r} is neither a built-in profile nor a file; {hint}")
    path = Path(name).expanduser()
    try:
        profile = Profile.model_validate(parse_yaml(read_yaml_text(path)) or {})
    except ValidationError as error:
        raise ConfigError(*(_problem(path, e) for e in error.errors())) from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    found = commands(profile.kind, profile.class_path, profile.arguments, profile.site)
    if found and not trust:
        raise ConfigError(
            f"{path}: {', '.join(found)}: this profile can run commands as you: "
            "read it, then add --trust-profile"
        )
    return profile


def profile_name(name: str) -> str:
    """Return the name of a profile without the folder of its file or the address of its scheduler."""
    return "address" if "://" in name else name if name in PROFILES else Path(name).name


def _is_file(name: str) -> bool:
    """Return whether this is the path of a file, whatever the text is."""
    try:
        return Path(name).expanduser().is_file()
    except (OSError, RuntimeError, ValueError):  # too long, an unknown user, a null character
        return False


def _problem(path: Path, error: Any) -> str:
    where = ".".join(map(str, error["loc"]))
    message = error["msg"].removeprefix("Value error, ")
    return f"{path}: {where}: {message}" if where else f"{path}: {message}"

"""What the fields of a profile may contain, and which of them can run commands.

Some fields become part of a job script, which a shell executes. They are matched against patterns that allow
neither white space nor a character with a meaning for the shell. Whatever can run a command by design, such
as a line of a job script, is only accepted from a profile that the user has declared to be trusted.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

VARIABLES = (
    "HOME", "USER", "TMPDIR", "SCRATCH", "WORK", "SLURM_JOB_ID", "SLURM_TMPDIR", "PBS_JOBID", "PBS_JOBFS",
    "LSB_JOBID", "JOB_ID", "_CONDOR_SCRATCH_DIR",
)  # fmt: skip
"""Environment variables that expand in `local_directory`; docs/hpc.md lists them."""

_VARIABLE = "|".join(VARIABLES)
_PATH = rf"~?(?:[\w./@%+=:,-]|\$(?:{_VARIABLE})(?!\w)|\$\{{(?:{_VARIABLE})(?::-[\w./-]*)?\}})+"
_VALUE = r"[\w./][\w.,:@%+/=-]*"

PATTERNS = {
    "queue": re.compile(_VALUE, re.ASCII),
    "account": re.compile(_VALUE, re.ASCII),
    "interface": re.compile(r"[a-zA-Z][\w.:-]{0,14}", re.ASCII),
    "local_directory": re.compile(_PATH, re.ASCII),
}

DIRECTIVE = re.compile(
    r"--(?:begin|constraint|exclude|exclusive|gres|hint|licenses|mail-type|nodelist|qos|reservation)"
    rf"(?:={_VALUE})?|-pe {_VALUE} \d+|-l {_VALUE}",
    re.ASCII,
)
"""Directives of job scripts that only choose where and when a job runs."""

_OF_JOBS = frozenset(
    {
        "cores",
        "death_timeout",
        "disk",
        "job_cpu",
        "job_mem",
        "job_name",
        "log_directory",
        "lsf_units",
        "memory",
    }
    | {"processes", "resource_spec"}
)
_OF_LOCAL_CLUSTER = frozenset(
    {"memory_limit", "n_workers", "name", "processes", "silence_logs", "threads_per_worker"}
)


def check_field(name: str, value: str) -> str:
    """Return the value of a field; raise ValueError unless it matches the pattern of the field."""
    if not PATTERNS[name].fullmatch(value):
        known = f"; variables that expand are {', '.join(VARIABLES)}" if name == "local_directory" else ""
        raise ValueError(
            f"{value!r} has white space or a character that a shell could take for a command{known}"
        )
    return value


def commands(kind: str, class_path: str | None, arguments: Mapping[str, Any], site: str | None) -> list[str]:
    """Return the names of those fields of a profile that can run commands; values are not judged further.

    A scheduler elsewhere is among them, because this process unpickles what it sends.
    """
    if kind == "address":
        return ["address"]
    found = ["site"] if site is not None else []
    if kind == "class" and not (class_path or "").startswith("dask_jobqueue."):
        if class_path != "distributed.LocalCluster":
            return [*found, "class"]
        return [*found, *(f"arguments.{name}" for name in sorted({*arguments} - _OF_LOCAL_CLUSTER))]
    return [*found, *_of_jobs(arguments)]


def _of_jobs(arguments: Mapping[str, Any]) -> Iterator[str]:
    for name, value in sorted(arguments.items()):
        if name == "job_extra_directives":
            items = value if isinstance(value, list) else [value]
            harmless = all(isinstance(item, str) and DIRECTIVE.fullmatch(item) for item in items)
        elif isinstance(value, str):
            harmless = name in _OF_JOBS and re.fullmatch(_VALUE, value, re.ASCII) is not None
        else:
            harmless = name in _OF_JOBS and isinstance(value, int | float)
        if not harmless:
            yield f"arguments.{name}"

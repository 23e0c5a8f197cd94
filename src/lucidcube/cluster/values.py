"""What the values of some fields of a profile mean: directories, durations and classes."""

import os
import re
import signal
import threading
from importlib import import_module
from typing import Any

from dask.utils import parse_timedelta

from lucidcube.errors import ConfigError


def expand_variables(directory: str) -> str:
    """Return a directory with its environment variables expanded: ``$TMPDIR``, ``${TMPDIR:-/tmp}``.

    ConfigError is raised if a variable without a default is not set.
    """
    text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda m: os.environ.get(m[1]) or m[2], directory)
    expanded = os.path.expanduser(os.path.expandvars(text))
    if "$" in expanded:
        raise ConfigError(f"profile: local_directory: {directory}: a variable in it is not set")
    return expanded


def parse_duration(text: str) -> int:
    """Return a duration in seconds, from ``[D-]HH:MM:SS``, ``HH:MM``, or a number with a unit (``90 min``).

    ValueError is raised if the text is not a duration of at least a second.
    """
    if clock := re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", text):
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        duration = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    else:
        try:
            duration = int(parse_timedelta(re.sub("min$", "m", text), default=False))  # dask knows no "min"
        except (KeyError, IndexError, ValueError, OverflowError):
            duration = 0
    if duration <= 0:
        raise ValueError(f"{text!r} is not a duration, such as '12:00:00' or '90 min'")
    return duration


def import_class(path: str) -> type[Any]:
    """Import a class by its path; raise ConfigError if its package is not installed or has no such class."""
    module, _, name = path.rpartition(".")
    package = module.partition(".")[0]
    handler = signal.getsignal(signal.SIGINT)
    try:
        found = getattr(import_module(module), name, None)
    except ImportError as error:
        extra = "'lucidcube[hpc]'" if package == "dask_jobqueue" else package.replace("_", "-")
        raise ConfigError(f"profile: {path} cannot be imported ({error}): pip install {extra}") from error
    finally:
        # dask_jobqueue replaces the handler of Ctrl-C when it is imported.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
    if not isinstance(found, type):
        raise ConfigError(f"profile: there is no class {path}")
    return found

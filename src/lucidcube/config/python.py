"""Accept configs in the forms that Python programs have."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lucidcube.config.load import from_plain, load
from lucidcube.config.schema import Config
from lucidcube.stages.base import Stage


def from_python(config: Mapping[str, Any] | str | os.PathLike[str]) -> Config:
    """Return the config in a YAML file, or in plain data that may have stages and paths as Python objects.

    ConfigError is raised if anything is wrong, with one line for each problem.
    """
    return from_plain(_plain(config)) if isinstance(config, Mapping) else load(Path(config))


def _plain(value: Any) -> Any:
    """Return the plain data that stand for Python objects in a YAML file."""
    if isinstance(value, Stage):
        return value.flat()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):  # a stage in a list needs its name
        return [{item.name: item.flat()} if isinstance(item, Stage) else _plain(item) for item in value]
    return value

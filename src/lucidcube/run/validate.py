"""Checks of a config that need no data."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lucidcube.config.schema import Config, Track
from lucidcube.cube import DATA, PSF, VARIANCE
from lucidcube.stages.base import REGISTRY


def order_problems(config: Config) -> Iterator[str]:
    """Yield a line for each stage that stands before the stage that it needs."""
    for name, track in config.tracks().items():
        available = {DATA, VARIANCE} | ({PSF} if name == "target" and config.star is not None else set())
        for number, stage in enumerate(track.stages):
            for variable in stage.requires:
                if variable not in available:
                    yield f"{name}.stages: {stage.name} needs {variable!r}{_advice(variable, track, number)}"
            available = (available | {*stage.produces}) - {*stage.drops}


def output_problems(config: Config) -> Iterator[str]:
    """Yield a line for each reason why the product could not be written."""
    path = Path(config.output.path).expanduser()
    for name, track in config.tracks().items():
        file = track.specifier().file
        if path.exists() and file.exists() and path.samefile(file):
            yield f"output.path: {path} is the input of the {name}; give the product another name"
    if path.is_dir():
        yield f"output.path: {path} is a folder; give the name of a file in it"
    elif path.exists() and not path.is_file():
        yield f"output.path: {path} is not a regular file; give the product another name"
    elif path.exists() and not config.output.overwrite:
        yield f"output.path: {path} exists; give another name, or output.overwrite: true"
    for folder in path.parents:
        if folder.exists():
            if not folder.is_dir():
                yield f"output.path: {folder} is a file, not a folder"
            elif not os.access(folder, os.W_OK):
                yield f"output.path: there is no permission to write in {folder}"
            break


def _advice(variable: str, track: Track, number: int) -> str:
    makers = [s.name for s in REGISTRY.values() if variable in s.produces]
    later = [s.name for s in track.stages[number + 1 :] if s.name in makers]
    if later:
        return f", which {later[0]} makes: move {later[0]} before it"
    return f": put {' or '.join(makers)} before it" if makers else ""

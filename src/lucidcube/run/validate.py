"""What can be said against a config before its inputs are read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from lucidcube.config.schema import Config, Track
from lucidcube.cube import DATA, VARIANCE
from lucidcube.stages.base import REGISTRY


def order_problems(config: Config) -> Iterator[str]:
    """Stages that stand before what they need."""
    for name, track in config.tracks().items():
        there: set[str] = {DATA, VARIANCE}
        for number, stage in enumerate(track.stages):
            for variable in stage.requires:
                if variable not in there:
                    yield f"{name}.stages: {stage.name} needs {variable!r}{_maker(variable, track, number)}"
            there = (there | {*stage.produces}) - {*stage.drops}


def output_problems(config: Config) -> Iterator[str]:
    """Why the product could not be written in the end."""
    path = Path(config.output.path).expanduser()
    for name, track in config.tracks().items():
        file = track.specifier().file
        if path.exists() and file.exists() and path.samefile(file):
            yield f"output.path: {path} is the input of the {name}; give the product another name"
    if path.is_dir():
        yield f"output.path: {path} is a folder; give the name of a file in it"
    elif path.exists() and not config.output.overwrite:
        yield f"output.path: {path} exists; give another name, or output.overwrite: true"
    for folder in path.parents:
        if folder.exists():
            if not folder.is_dir():
                yield f"output.path: {folder} is a file, not a folder"
            elif not os.access(folder, os.W_OK):
                yield f"output.path: there is no permission to write in {folder}"
            break


def _maker(variable: str, track: Track, number: int) -> str:
    makers = [s.name for s in REGISTRY.values() if variable in s.produces]
    later = [s.name for s in track.stages[number + 1 :] if s.name in makers]
    if later:
        return f", which {later[0]} makes: move {later[0]} before it"
    return f": put {' or '.join(makers)} before it" if makers else ""

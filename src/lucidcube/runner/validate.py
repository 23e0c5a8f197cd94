"""Check a config without reading data."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from lucidcube.config.schema import Config
from lucidcube.config.track import Track
from lucidcube.cube import DATA, PSF, VARIANCE
from lucidcube.io.headers import is_product
from lucidcube.stages.base import REGISTRY


def order_problems(config: Config) -> Iterator[str]:
    """Yield a line for each stage that precedes the stage whose output it needs."""
    for name, track in config.tracks().items():
        available = {DATA, VARIANCE} | ({PSF} if name == "target" and config.star is not None else set())
        for number, stage in enumerate(track.stages):
            for variable in stage.requires:
                if variable not in available:
                    yield f"{name}.stages: {stage.name} needs {variable!r}{_advice(variable, track, number)}"
            around = track.stages[:number], track.stages[number:]
            earlier, later = ({s.name for s in part} & {*stage.prepared_by} for part in around)
            if later and not earlier:
                late = ", ".join(later)
                yield f"{name}.stages: {stage.name} needs the result of {late}: move {late} before it"
            available = (available | {*stage.produces}) - {*stage.drops}


def output_problems(config: Config) -> Iterator[str]:
    """Yield a line for each reason why the product of a run cannot be written."""
    inputs = [track.specifier().file for track in config.tracks().values()]
    path = Path(config.output.path).expanduser()
    for problem in path_problems(path, inputs, config.output.overwrite, "output.overwrite: true"):
        yield f"output.path: {problem}"


def path_problems(path: Path, inputs: Iterable[Path], overwrite: bool, hint: str) -> Iterator[str]:
    """Yield a line for each reason why a product cannot be written to a path.

    A product never replaces one of the `inputs`, which are files that are read. Any other file may be
    replaced if `overwrite`; `hint` is the option that allows it, for the message.
    """
    try:
        path.exists()
    except OSError as error:
        yield f"{path} cannot be used: {error.strerror}"
        return
    if any(path.exists() and file.exists() and path.samefile(file) for file in inputs):
        yield f"{path} is one of the inputs; give the product another name"
    elif path.is_dir():
        yield f"{path} is a folder; give the name of a file in it"
    elif path.exists() and not path.is_file():
        yield f"{path} is not a regular file; give the product another name"
    elif path.exists() and not may_replace(path, overwrite):
        yield f"{path} exists and was not made by lucidcube; give another name, or {hint}"
    for folder in path.parents:
        if folder.exists():
            if not folder.is_dir():
                yield f"{folder} is a file, not a folder"
            elif not os.access(folder, os.W_OK):
                yield f"there is no permission to write in {folder}"
            break


def may_replace(path: Path, overwrite: bool) -> bool:
    """Return whether a file may be replaced: any file if `overwrite`, else only products of lucidcube."""
    return overwrite or is_product(path)


def _advice(variable: str, track: Track, number: int) -> str:
    makers = [s.name for s in REGISTRY.values() if variable in s.produces]
    later = [s.name for s in track.stages[number + 1 :] if s.name in makers]
    if later:
        return f", which {later[0]} makes: move {later[0]} before it"
    return f": put {' or '.join(makers)} before it" if makers else ""

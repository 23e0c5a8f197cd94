"""Check a config without reading data."""

from collections.abc import Iterator
from pathlib import Path

from lucidcube.config.schema import Config
from lucidcube.config.track import Track
from lucidcube.cube import DATA, PSF, VARIANCE
from lucidcube.io.output_path import INPUT, files_in, path_problems
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
    path, work = Path(config.output.path).expanduser(), config.work()
    for problem in path_problems(path, files_read(config), config.output.overwrite, "output.overwrite: true"):
        yield f"output.path: {problem}"
    if path.absolute() in (work.absolute(), *work.absolute().parents):
        yield f"output.path: {path} is where the checkpoints are kept; set another checkpoints.dir"


def files_read(config: Config) -> dict[Path, str]:
    """Return the files that a run reads, apart from the config, with what a message calls them."""
    files: dict[Path, str] = {}
    for name, track in config.tracks().items():
        files[track.specifier().file] = INPUT
        for stage in config.stages(name):
            files |= files_in(stage.flat(), f"a file that {stage.name} reads")
    return files | files_in(config.profile, "the profile")


def _advice(variable: str, track: Track, number: int) -> str:
    makers = [s.name for s in REGISTRY.values() if variable in s.produces]
    later = [s.name for s in track.stages[number + 1 :] if s.name in makers]
    if later:
        return f", which {later[0]} makes: move {later[0]} before it"
    return f": put {' or '.join(makers)} before it" if makers else ""

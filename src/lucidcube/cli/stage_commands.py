"""Make the command of a stage from its parameter model, when the command is called.

`lucidcube.cli.app` lists the commands by the files in `lucidcube/stages` and imports this module only when
one is called; the command is the attribute of this module with the name of the stage.
"""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from lucidcube.cli.logs import running
from lucidcube.cli.options import PROFILE, TRUST, to_stdout
from lucidcube.config.describe import settings_help
from lucidcube.config.schema import Output
from lucidcube.config.track import Input
from lucidcube.cube import PSF
from lucidcube.runner.one_stage import run_stage
from lucidcube.runner.pipeline import Inspect
from lucidcube.stages.base import REGISTRY, Stage

READING = {name: field.description for name, field in Input.model_fields.items() if name != "input"}
WRITING = {
    "output": "path, or a template of {parent}, {stem}, {tag} and {suffix}",
    "profile": PROFILE,
    "trust_profile": TRUST,
    "overwrite": Output.model_fields["overwrite"].description,
}
RUNNING = {
    "quiet": "show no progress and no messages but warnings",
    "verbose": "show details of what happens, which are always in the log",
    "log_file": "path of the log, which is written beside the product if not given",
}
FLAGS = ("overwrite", "trust_profile", "plot", "quiet", "verbose")
SHORT = {"output": ["-o", "--output"], "quiet": ["-q", "--quiet"], "verbose": ["-v", "--verbose"]}
PLOTTING = {
    "plot": "show how one plane is deconvolved; without a display, write frames as PNG files",
    "plot_wavelength": "wavelength of that plane, such as 0.72um; the middle one if not given",
    "plot_folder": "folder to write frames to, even if there is a display",
}


def __getattr__(name: str) -> Callable[..., None]:
    if name in REGISTRY:
        return _command(REGISTRY[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def inspector(
    plot: bool | None = None, plot_wavelength: str | None = None, plot_folder: str | Path | None = None
) -> Inspect | None:
    """Return the function that plots a plane, or None; only with it matplotlib is imported."""
    if not (plot or plot_wavelength or plot_folder):
        return None
    from lucidcube.plotting.live import watch_plane

    show: Any = partial(watch_plane, wavelength=plot_wavelength, folder=plot_folder)
    return show  # only the stage Deconvolve is plotted


def _command(cls: type[Stage]) -> Callable[..., None]:
    """Return a function with the options of a stage: files, parameters, how to read and where to write."""

    def command(*files: str, **options: Any) -> None:
        reading = {key: options.pop(key, None) for key in READING}
        output, profile = options.pop("output", None), options.pop("profile", None) or "laptop"
        overwrite, trust = bool(options.pop("overwrite", False)), bool(options.pop("trust_profile", False))
        plotting = {key: options.pop(key, None) for key in PLOTTING}
        telling = {key: options.pop(key, None) for key in RUNNING}
        log = telling["log_file"]
        quiet, verbose = bool(telling["quiet"]), bool(telling["verbose"])
        given = {key: value for key, value in options.items() if value is not None}
        with running(quiet=quiet, verbose=verbose, log_file=Path(log) if log else None) as monitor:
            path = run_stage(
                cls.name,
                files,
                given,
                output=output,
                reading=reading,
                profile=profile,
                trust_profile=trust,
                overwrite=overwrite,
                monitor=monitor,
                inspect=inspector(**plotting),
            )
        to_stdout(path)

    kinds = inspect.Parameter
    files = Annotated[str, Parameter(help=f"FITS files: {', '.join(cls().files)}")]
    parameters = [kinds("files", kinds.VAR_POSITIONAL, annotation=files)]
    groups: dict[Group, Mapping[str, str | None]] = {
        Group("Settings", sort_key=1): settings_help(cls),
        Group("Reading", sort_key=2): READING,
        Group("Writing", sort_key=3): WRITING,
        Group("Running", sort_key=5): RUNNING,
    }
    if PSF in cls.requires:
        groups[Group("Plotting", sort_key=4)] = PLOTTING
    for group, options in groups.items():
        for key, text in options.items():
            names = SHORT.get(key)
            note = Parameter(name=names, help=text, group=group, negative=())
            flag = key in FLAGS
            annotation = Annotated[bool, note] if flag else Annotated[str | None, note]
            default = False if flag else None
            parameters.append(kinds(key, kinds.KEYWORD_ONLY, default=default, annotation=annotation))
    command.__name__ = cls.name
    command.__doc__ = inspect.cleandoc(cls.__doc__ or "")
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command

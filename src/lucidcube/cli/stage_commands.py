"""The commands of the stages, made from their models when they are asked for.

`lucidcube.cli.app` names them by the files in `lucidcube/stages` and loads this module only for the one that
is typed; an attribute of this module of a stage's name is that stage's command.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Group, Parameter

from lucidcube.cli.console import Progress
from lucidcube.config.describe import settings_help
from lucidcube.cube import PSF
from lucidcube.run.one_stage import run_stage
from lucidcube.run.pipeline import Inspect
from lucidcube.stages.base import REGISTRY, Stage

READING = {
    "ext": "name or number of the HDU",
    "slice": "part to read, in numpy order: 100:200,:,3:-3",
    "wave": "range of wavelengths to read: 0.55:0.60um",
    "axes": "numpy axis numbers: spectral=0,celestial=1,2",
    "wave_start": "wavelength of the first plane, where the header has none",
    "wave_step": "wavelength between planes, likewise",
    "wave_unit": "unit of wave_start and wave_step, as nm",
}
WRITING = {
    "output": "path, or a template of {parent}, {stem}, {tag} and {suffix} (-o)",
    "profile": "where to run: a built-in name, the address of a scheduler, or a YAML file",
    "overwrite": "replace the product if it is there",
}
PLOTTING = {
    "plot": "show how one plane is deconvolved; without a display, write frames as PNG",
    "plot_wavelength": "of that plane, as 0.72um; the middle one if not given",
    "plot_folder": "write frames there, display or not",
}


def __getattr__(name: str) -> Callable[..., None]:
    if name in REGISTRY:
        return _command(REGISTRY[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def inspector(
    plot: bool | None = None, plot_wavelength: str | None = None, plot_folder: str | Path | None = None
) -> Inspect | None:
    """What shows the plane to be plotted; matplotlib is loaded only for this."""
    if not (plot or plot_wavelength or plot_folder):
        return None
    plotting = importlib.import_module("lucidcube.plotting.live")
    return partial(plotting.watch_plane, wavelength=plot_wavelength, folder=plot_folder)


def _command(cls: type[Stage]) -> Callable[..., None]:
    """A function whose signature is the stage's: files, its parameters, how to read and where to write."""

    def command(*files: str, **options: Any) -> None:
        reading = {key: options.pop(key, None) for key in READING}
        output, profile = options.pop("output", None), options.pop("profile", None) or "laptop"
        overwrite = bool(options.pop("overwrite", False))
        plotting = {key: options.pop(key, None) for key in PLOTTING}
        given = {key: value for key, value in options.items() if value is not None}
        with Progress() as monitor:
            path = run_stage(
                cls.name,
                files,
                given,
                output=output,
                reading=reading,
                profile=profile,
                overwrite=overwrite,
                monitor=monitor,
                inspect=inspector(**plotting),
            )
        print(path)

    kinds = inspect.Parameter
    files = Annotated[str, Parameter(help=f"FITS files: {', '.join(cls.files)}")]
    parameters = [kinds("files", kinds.VAR_POSITIONAL, annotation=files)]
    groups = {
        Group("Settings", sort_key=1): settings_help(cls),
        Group("Reading", sort_key=2): READING,
        Group("Writing", sort_key=3): WRITING,
    }
    if PSF in cls.requires:
        groups[Group("Plotting", sort_key=4)] = PLOTTING
    for group, options in groups.items():
        for key, text in options.items():
            names = ["-o", "--output"] if key == "output" else None
            note = Parameter(name=names, help=text, group=group, negative=())
            flag = key in ("overwrite", "plot")
            annotation = Annotated[bool, note] if flag else Annotated[str | None, note]
            default = False if flag else None
            parameters.append(kinds(key, kinds.KEYWORD_ONLY, default=default, annotation=annotation))
    command.__name__ = cls.name
    command.__doc__ = inspect.cleandoc(cls.__doc__ or "")
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command

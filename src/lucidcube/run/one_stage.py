"""One stage on FITS files: what each stage does as a command."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import Formatter
from typing import Any

import xarray as xr
import yaml
from astropy.io import fits

from lucidcube.cluster import executor, load_profile
from lucidcube.config.schema import TRACKS, Track, stage_of
from lucidcube.cube import DATA, FILLED, PSF, VARIABLES, VARIANCE
from lucidcube.errors import ConfigError, CubeError
from lucidcube.io.specifier import Specifier
from lucidcube.run.attach_psf import join
from lucidcube.run.attempts import shielded
from lucidcube.run.input_checksum import identity
from lucidcube.run.monitor import Done, Watch
from lucidcube.run.pipeline import Inspect, open_track
from lucidcube.run.products import stage_product, write
from lucidcube.run.signals import Stop
from lucidcube.run.worker import Worker
from lucidcube.stages.base import Stage

TEMPLATE = "{parent}/{stem}{tag}{suffix}"
SUFFIX = re.compile(r"\.(fits?|fts|mt)?(\.?(gz|fz|bz2|xz|z))?$", re.IGNORECASE)


def run_stage(
    name: str,
    files: Sequence[str],
    options: Mapping[str, str],
    *,
    output: str | None = None,
    reading: Mapping[str, Any] | None = None,
    profile: str = "laptop",
    overwrite: bool = False,
    watch: Watch | None = None,
    inspect: Inspect | None = None,
) -> Path:
    """Apply one stage to FITS files, block by block.

    Parameters
    ----------
    name
        Of the stage.
    files
        Specifiers, one for each of the stage's `files`; the first gives the header, and the variance and
        the map of filled pixels if it has them.
    options
        Parameters of the stage as YAML text.
    output
        Path of the product, or a template with the fields parent, stem, tag and suffix of the first file.
    reading
        ``ext``, ``slice``, ``wave``, ``axes``, ``wave_start``, ``wave_step``, ``wave_unit``: how to read the
        first file.
    profile
        Where to run.
    overwrite
        Whether to replace a product of that name.
    watch
        Told what happens.
    inspect
        Shown the cube that the stage is about to work on, and the stage.

    Returns
    -------
    pathlib.Path
        The product.

    Raises
    ------
    UserError
        If an option or a file is wrong; nothing has been computed then.
    BlocksFailed
        If the stage failed on some planes; then there is no product.
    """
    watch = watch or Watch()
    stage = stage_of(name, {key: _value(key, text) for key, text in options.items()})
    tracks = _tracks(stage, files, reading or {})
    before = _inputs(stage, tracks, watch)
    cube = stage(before)
    first = tracks[0].specifier()
    path = output_path(first, stage, output)
    inputs = {key: identity(track) for key, track in zip(TRACKS, tracks, strict=False)}
    recipe = {"stage": {name: stage.flat()}, "files": [t.input for t in tracks]}
    if inspect is not None:
        inspect(before, stage)
    with shielded(), executor(load_profile(profile)) as workers:
        worker = Worker(workers, watch, Stop(), Done(path))
        write(path, stage_product(stage, cube, recipe, inputs), overwrite=overwrite, compute=worker.products)
    return path


def output_path(first: Specifier, stage: Stage, template: str | None) -> Path:
    """Where the product goes: ``{parent}/{stem}{tag}{suffix}``, or as the user says.

    Raises
    ------
    ConfigError
        If the template names a field that there is not.
    """
    file = first.file
    stem = (
        re.sub(r"\.(fits?|fts|mt)?(\.?(gz|fz|bz2|xz|z))?$", "", file.name, flags=re.IGNORECASE) or file.name
    )
    fields = {"parent": str(file.parent), "stem": stem, "tag": stage.file_tag(), "suffix": ".fits"}
    template = template or TEMPLATE
    try:
        unknown = [f for _, f, _, _ in Formatter().parse(template) if f is not None and f not in fields]
    except ValueError as error:
        raise ConfigError(f"--output {template!r}: {error}") from error
    if unknown:
        raise ConfigError(
            f"--output {template!r}: there is no field {{{unknown[0]}}}; there are: {', '.join(fields)}"
        )
    return Path(template.format(**fields)).expanduser()


def _tracks(stage: Stage, files: Sequence[str], reading: Mapping[str, Any]) -> list[Track]:
    wanted = stage.files
    least = sum(1 for v in wanted if v in stage.requires)
    if not least <= len(files) <= len(wanted):
        need = ", ".join(f"{v} ({VARIABLES[v].meaning})" for v in wanted)
        raise ConfigError(f"{stage.name} takes {least} to {len(wanted)} files: {need}; {len(files)} given")
    given = {key: value for key, value in reading.items() if value is not None}
    return [Track(input=file, **(given if n == 0 else {})) for n, file in enumerate(files)]


def _inputs(stage: Stage, tracks: Sequence[Track], watch: Watch) -> xr.Dataset:
    """The cube that the stage works on, of one file per variable."""
    cube = open_track(tracks[0], watch)
    if stage.files[0] != DATA:
        cube = cube.drop_vars([VARIANCE], errors="ignore").rename({DATA: stage.files[0]})
    elif FILLED in stage.optional:
        cube = _with_filled(cube, tracks[0], watch)
    for variable, track in zip(stage.files[1:], tracks[1:], strict=False):
        other = open_track(track, watch)
        if variable == PSF:
            cube = join(cube, other)
            continue
        if other[DATA].shape != cube[stage.files[0]].shape:
            raise CubeError(
                f"{stage.name}: {track.input} has the shape {other[DATA].shape}, "
                f"{tracks[0].input} {cube[stage.files[0]].shape}; they must be the same"
            )
        values = other[DATA].astype("uint8") if variable != DATA else other[DATA]
        cube = cube.assign({variable: values.variable})
    return cube


def _with_filled(cube: xr.Dataset, track: Track, watch: Watch) -> xr.Dataset:
    """Add the map of filled pixels that `interpolate` wrote beside the data, if there is one."""
    specifier = track.specifier()
    with fits.open(specifier.file) as hdus:
        if FILLED.upper() not in hdus:
            return cube
    beside = open_track(track, watch, specifier=replace(specifier, ext=FILLED.upper()))
    return cube.assign({FILLED: beside[DATA].astype("uint8").variable})


def _value(key: str, text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--{key.replace('_', '-')} {text}: the value is not YAML") from error

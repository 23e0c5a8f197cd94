"""Apply one stage to FITS files, as the commands of the stages do."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from string import Formatter
from tempfile import TemporaryDirectory
from typing import Any

import xarray as xr
from astropy.io import fits

from lucidcube.cluster import Profile, layout, load_profile, start_workers
from lucidcube.config.load import input_of, stage_of
from lucidcube.config.track import Track
from lucidcube.cube import (
    AMPLITUDE,
    DATA,
    DIMS,
    FILLED,
    MODE,
    PSF,
    PSF_MODES,
    PSF_PLANE,
    VARIABLES,
    VARIANCE,
    WAVELENGTH,
)
from lucidcube.errors import ConfigError, CubeError
from lucidcube.io.atomic import hidden_name
from lucidcube.io.output_path import INPUT, expanded, files_in, may_replace, path_problems
from lucidcube.io.specifier import Specifier
from lucidcube.io.yaml_text import parse_yaml
from lucidcube.runner.checkpoint import fingerprint
from lucidcube.runner.compute import BlockComputer
from lucidcube.runner.engines import Engines, engines_of, say_where
from lucidcube.runner.input_checksum import input_identity
from lucidcube.runner.inputs import in_blocks, open_track
from lucidcube.runner.lock import WAIT, product_locked
from lucidcube.runner.monitor import Monitor, Summary
from lucidcube.runner.pipeline import Inspect
from lucidcube.runner.plan import Step, fit_memory, plan_stage, planned_blocks
from lucidcube.runner.products import stage_product
from lucidcube.runner.segments import Segment, compute_segment
from lucidcube.runner.signals import Stop
from lucidcube.runner.write_product import write
from lucidcube.stages.base import Stage
from lucidcube.stages.psf_argument import with_psf

BESIDE = {FILLED: "uint8", AMPLITUDE: "float32"}
"""Types of the variables that are read from the same file as the data, if they exist there."""
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
    trust_profile: bool = False,
    overwrite: bool = False,
    monitor: Monitor | None = None,
    inspect: Inspect | None = None,
) -> Path:
    """Apply one stage to FITS files, block by block.

    Parameters
    ----------
    name
        Name of the stage.
    files
        Specifiers, one for each of the stage's `files`, or only for those that it requires; the first
        provides the header, and the variance and the map of filled pixels if they exist.
    options
        Parameters of the stage as YAML text.
    output
        Path of the product, or a template with the fields parent, stem, tag and suffix of the first file.
    reading
        ``ext``, ``slice``, ``wave``, ``axes``, ``wave_start``, ``wave_step``, ``wave_unit``: how to read the
        first file.
    profile
        Profile to run with.
    trust_profile
        Whether a profile from a file may run commands.
    overwrite
        Whether to replace an existing file that was not made by lucidcube.
    monitor
        Informed about progress.
    inspect
        Function that is called with the cube that the stage will be applied to, and the stage.

    Returns
    -------
    pathlib.Path
        Path of the product.

    Raises
    ------
    UserError
        If an option or a file is wrong, before anything is computed.
    BlocksFailed
        If the stage failed on some planes; no product is written.
    """
    monitor = monitor or Monitor()
    stage = stage_of(name, {key: _value(key, text) for key, text in options.items()})
    tracks = _tracks(stage, files, reading or {})
    path = output_path(tracks[0].specifier(), stage, output)
    reads = dict.fromkeys((track.specifier().file for track in tracks), INPUT)
    reads |= files_in(stage.flat(), f"a file that {name} reads") | files_in(profile, "the profile")
    problems = list(path_problems(path, reads, overwrite, "--overwrite"))
    if problems:
        raise ConfigError(*problems)
    cube = _inputs(stage, tracks, monitor)
    inputs = {
        key: input_identity(track) for key, track in zip(_roles(stage, len(tracks)), tracks, strict=True)
    }
    recipe = {"stage": {name: stage.flat()}, "files": [t.input for t in tracks]}
    where = load_profile(profile, trust=trust_profile)
    engines = engines_of(where, monitor.message)
    say_where(engines, [stage], monitor.message)
    cube = _fitted(stage, cube, where, engines)
    segment = Segment("target", (stage,), (cube, stage(cube)), fingerprint(recipe, inputs))
    numbers = [v for v in stage.produces if v in segment.cube and VARIABLES[v].dims != DIMS]
    warnings = [*stage.warnings(cube)]
    for text in warnings:
        monitor.message(f"{stage.name}: {text}")
    monitor.starts(path)
    with product_locked(path, WAIT), start_workers(where) as workers, scratch_beside(path) as scratch:
        computer = BlockComputer(workers, monitor, Stop(), Summary(path), engines)
        if any(segment.cube[v].chunks for v in numbers):
            # The tables are needed before the images are written, and must not be computed on their own.
            made = compute_segment(segment, scratch, "none", computer)
        else:
            stage.check(cube)
            made = segment.cube
        if inspect is not None:
            inspect(cube, stage)
        for text in stage.findings(made):
            monitor.message(f"{stage.name}: {text}")
            warnings.append(text)
        product = stage_product(stage, made, recipe, inputs, warnings)
        gather, allowed = where.product == "gather", may_replace(path, overwrite)
        write(path, product, overwrite=allowed, compute=computer.compute, gather=gather)
    return path


@contextmanager
def scratch_beside(product: Path) -> Iterator[Path]:
    """Make a folder beside a product, on the same file system as every worker writes to, and remove it."""
    beside = next(folder for folder in product.absolute().parents if folder.exists())
    try:
        scratch = TemporaryDirectory(prefix=f"{hidden_name(product)}.", suffix=".part", dir=beside)
    except OSError as error:
        raise CubeError(f"nothing can be written in {beside}: {error.strerror}") from error
    with scratch as folder:
        yield Path(folder)


def _roles(stage: Stage, files: int) -> list[str]:
    """Return the names of the inputs in the provenance: the target, the star for a PSF, else the variable."""
    names = {PSF: "star"}
    return ["target", *(names.get(variable, variable) for variable in _variables(stage, files)[1:])]


def _variables(stage: Stage, files: int) -> Sequence[str]:
    """Return the variable that is read from each file: the required ones, if there are no more files."""
    required = [v for v in stage.files if v in stage.requires]
    return required if files == len(required) else stage.files[:files]


def _fitted(stage: Stage, cube: xr.Dataset, profile: Profile, engines: Engines) -> xr.Dataset:
    """Return the cube in blocks that fit into the memory of the workers."""
    made_for = layout(profile)

    def plan() -> list[Step]:
        blocks = in_blocks(cube)
        return [plan_stage("target", stage, blocks, stage(blocks), checkpoint=False, engines=engines)]

    memory = made_for.memory or sys.maxsize
    limit = engines.block_bytes(profile.kind)
    _, block_bytes = fit_memory(plan, made_for.threads or 1, memory, limit, made_for.all_threads)
    with planned_blocks(block_bytes):
        return in_blocks(cube)


def output_path(first: Specifier, stage: Stage, template: str | None) -> Path:
    """Return the path of the product: ``{parent}/{stem}{tag}{suffix}`` unless another template is given.

    ConfigError is raised if the template has an unknown field.
    """
    file = first.file
    stem = SUFFIX.sub("", file.name) or file.name
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
    return expanded(template.format(**fields))


def _tracks(stage: Stage, files: Sequence[str], reading: Mapping[str, Any]) -> list[Track]:
    wanted = stage.files
    least = sum(1 for v in wanted if v in stage.requires)
    if not least <= len(files) <= len(wanted):
        need = ", ".join(f"{v} ({VARIABLES[v].meaning})" for v in wanted)
        count = f"{least} to {len(wanted)}" if least < len(wanted) else f"{least}"
        fewer = any(sum(v in c.requires for v in c.files) < least for c in stage.variants())
        other = "; other methods take fewer" if fewer else ""
        noun = "file" if count == "1" else "files"
        raise ConfigError(f"{stage.name} takes {count} {noun}: {need}; {len(files)} given{other}")
    given = {key: value for key, value in reading.items() if value is not None}
    return [input_of({"input": file, **(given if n == 0 else {})}) for n, file in enumerate(files)]


def _inputs(stage: Stage, tracks: Sequence[Track], monitor: Monitor) -> xr.Dataset:
    """Return the cube that the stage is applied to, with each variable from its own file."""
    cube = open_track(tracks[0], monitor)
    if stage.files[0] != DATA:
        cube = cube.drop_vars([VARIANCE], errors="ignore").rename({DATA: stage.files[0]})
    for variable in BESIDE:
        if variable in stage.optional:
            cube = _with_beside(cube, variable, tracks[0], monitor)
    for variable, track in zip(_variables(stage, len(tracks))[1:], tracks[1:], strict=True):
        other = open_track(track, monitor)
        if variable == PSF:
            cube = _with_psf(cube, _with_modes(other, track, monitor), track.input, monitor)
            continue
        if other[DATA].shape != cube[stage.files[0]].shape:
            raise CubeError(
                f"{stage.name}: {track.input} has the shape {other[DATA].shape}, "
                f"{tracks[0].input} {cube[stage.files[0]].shape}; they must be the same"
            )
        values = other[DATA].astype("uint8") if variable != DATA else other[DATA]
        cube = cube.assign({variable: values.variable})
    return cube


def _with_psf(cube: xr.Dataset, psf: xr.Dataset, file: str, monitor: Monitor) -> xr.Dataset:
    """Add the PSF of a file."""
    return with_psf(cube, psf, observed=False, message=lambda text: monitor.message(f"{file}: {text}"))


def _with_beside(cube: xr.Dataset, variable: str, track: Track, monitor: Monitor) -> xr.Dataset:
    """Add a variable that another stage wrote to the same file, if it exists."""
    specifier = track.specifier()
    with fits.open(specifier.file) as hdus:
        if variable.upper() not in hdus:
            return cube
    beside = open_track(track, monitor, specifier=replace(specifier, ext=variable.upper()))
    return cube.assign({variable: beside[DATA].astype(BESIDE[variable]).variable})


def _with_modes(star: xr.Dataset, track: Track, monitor: Monitor) -> xr.Dataset:
    """Add the modes that the stage `fit_psf` wrote to the file of a PSF, if it did."""
    name = PSF_MODES.upper()
    with fits.open(track.specifier().file) as hdus:
        shape = hdus[name].shape if name in hdus else (0, 0)
    if shape[0] != star.sizes[WAVELENGTH] or shape[-2:] != star[DATA].shape[1:]:
        return star
    specifiers = [track.specifier().with_options(ext=name, slice=f":,{k}") for k in range(shape[1])]
    parts = xr.concat([open_track(track, monitor, specifier=s)[DATA] for s in specifiers], MODE)
    modes = parts.transpose(WAVELENGTH, MODE, *DIMS[1:]).data
    return star.assign({PSF_MODES: ((WAVELENGTH, MODE, *PSF_PLANE), modes)})


def _value(key: str, text: str) -> Any:
    try:
        return parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"--{key.replace('_', '-')} {text}: the value is {error}") from None

"""The run, as a story: check everything, plan it, then do segment after segment.

A segment is the stages between two checkpoints: one lazy graph, computed block by block. What a
checkpoint already vouches for is not computed again.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import xarray as xr

from lucidcube.checkpoint import Checkpoint, fingerprint, unchanged
from lucidcube.cluster import Executor, executor, load_profile
from lucidcube.config import DECONVOLVE, Config, Track
from lucidcube.cube import DATA, DIMS, PSF, PSF_PLANE, UNITS, VARIANCE, WAVELENGTH
from lucidcube.errors import ConfigError, CubeError, UserError
from lucidcube.io.fits_read import file_identity, open_cube
from lucidcube.io.products import run_product, write
from lucidcube.io.specifier import Specifier
from lucidcube.plan import Step, step
from lucidcube.stage import REGISTRY, Stage

SAME_GRID = 0.01
"""Fraction of a channel by which the wavelengths of the tracks may differ."""

Inspect = Callable[[xr.Dataset, Stage], None]


class Watch:
    """Told what happens during a run; this one keeps quiet."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to put away."""

    def message(self, text: str) -> None:
        """Something that the user should know."""

    def segment(self, label: str, blocks: int, reused: int) -> None:
        """A segment begins: so many blocks, of which so many are there already."""

    def block(self, number: int) -> None:
        """Block of this number was done."""


@dataclass(frozen=True)
class Segment:
    """Stages of one track between two checkpoints."""

    track: str
    stages: tuple[Stage, ...]

    @property
    def label(self) -> str:
        """As ``target: mask, interpolate``."""
        return f"{self.track}: {', '.join(s.name for s in self.stages)}"


@dataclass
class Done:
    """What a run did.

    Attributes
    ----------
    path
        The product.
    seconds
        Wall time.
    computed, reused
        Blocks.
    nbytes
        Bytes written to checkpoints.
    """

    path: Path
    seconds: float = 0.0
    computed: int = 0
    reused: int = 0
    nbytes: int = 0


@dataclass(frozen=True)
class Checked:
    """A config whose inputs are open and whose stages fit together.

    Attributes
    ----------
    config
        As given.
    sources
        The lazy input cube of each track.
    steps
        The plan.
    """

    config: Config
    sources: Mapping[str, xr.Dataset]
    steps: list[Step] = field(default_factory=list)


def check(config: Config, watch: Watch | None = None) -> Checked:
    """Open the inputs and build the whole run lazily, so that every mistake shows before any work.

    Raises
    ------
    ConfigError
        With every problem found, one line each.
    """
    watch = watch or Watch()
    problems: list[str] = [*_order_problems(config), *_output_problems(config)]
    sources: dict[str, xr.Dataset] = {}
    for name, track in config.tracks().items():
        try:
            sources[name] = open_track(track, watch, scratch=config.work() / "scratch")
        except UserError as error:
            problems += [f"{name}.input: {p}" for p in error.problems]
    if problems:
        raise ConfigError(*problems)
    checked = Checked(config, sources)
    try:
        _walk(checked)
    except UserError as error:
        raise ConfigError(*error.problems) from None
    return checked


def run(config: Config, watch: Watch | None = None, inspect: Inspect | None = None) -> Done:
    """Do what the config says; a second run goes on where the first was stopped.

    Parameters
    ----------
    config
        Validated.
    watch
        Told what happens.
    inspect
        Shown the cube that is about to be deconvolved, and the stage that will do it.

    Returns
    -------
    Done
        Where the product is, and what it took.

    Raises
    ------
    UserError
        Before any work, if something is wrong with the config or the inputs.
    StageError
        If a stage failed on some planes; what was done is kept.
    """
    began, watch = time.monotonic(), watch or Watch()
    checked = check(config, watch)
    done = Done(Path(config.output.path).expanduser())
    with executor(load_profile(config.profile)) as workers:
        worker = _Worker(config, workers, watch, done)
        cubes, keys, inputs = {}, {}, {}
        for name, track in config.tracks().items():
            inputs[name] = identity(track)
            keys[name] = fingerprint(inputs[name])
            cubes[name] = checked.sources[name]
            for segment in segments(name, track.stages, config.checkpoints.after):
                cubes[name], keys[name] = worker.segment(segment, cubes[name], keys[name])
        cube = cubes["target"]
        if config.deconvolve is not None:
            last = Segment(DECONVOLVE, (config.deconvolve,))
            joined = join(cubes["target"], cubes["star"])
            if inspect is not None:
                inspect(joined, config.deconvolve)
            cube, _ = worker.segment(last, joined, fingerprint(keys["target"], keys["star"]))
        product = run_product(cube, cubes.get("star"), config.output.products, config.plain(), inputs)
        write(done.path, product, overwrite=config.output.overwrite, compute=worker.products)
    done.seconds = time.monotonic() - began
    return done


def segments(track: str, stages: Sequence[Stage], after: Sequence[str]) -> Iterator[Segment]:
    """Cut a track's stages at its checkpoints; the last segment is always kept."""
    pending: list[Stage] = []
    for stage in stages:
        pending.append(stage)
        if stage.name in after:
            yield Segment(track, tuple(pending))
            pending = []
    if pending:
        yield Segment(track, tuple(pending))


def join(target: xr.Dataset, star: xr.Dataset) -> xr.Dataset:
    """Put the star's planes beside the target's as their PSF.

    Parameters
    ----------
    target, star
        Cubes on the same wavelengths; a star of one plane serves all planes.

    Returns
    -------
    xarray.Dataset
        The target with the variable `psf` (wavelength, psf_y, psf_x).

    Raises
    ------
    CubeError
        If the wavelengths differ.
    """
    psf = star[DATA].variable
    if psf.shape[0] == 1:
        psf = xr.Variable(DIMS, psf.data).isel({WAVELENGTH: np.zeros(target.sizes[WAVELENGTH], int)})
    else:
        _same_grid(target, star)
    return target.assign({PSF: xr.Variable((WAVELENGTH, *PSF_PLANE), psf.data)})


def _same_grid(target: xr.Dataset, star: xr.Dataset) -> None:
    a, b = target[WAVELENGTH].values, star[WAVELENGTH].values
    unit = target[WAVELENGTH].attrs.get(UNITS, "")
    if a.size != b.size:
        raise CubeError(
            f"deconvolve: the target has {a.size} wavelengths ({_range(a, unit)}) and the star {b.size} "
            f"({_range(b, unit)}): {_overlap(a, b, unit)}"
        )
    known = np.isfinite(a) & np.isfinite(b)
    step = abs(np.median(np.diff(a))) if a.size > 1 else abs(a[0])
    apart = np.abs(a - b)[known]
    if apart.size and apart.max() > SAME_GRID * step:
        raise CubeError(
            f"deconvolve: the wavelengths of the target ({_range(a, unit)}) and of the star "
            f"({_range(b, unit)}) differ by up to {apart.max():.3g} {unit}: {_overlap(a, b, unit)}"
        )


def _range(axis: np.ndarray, unit: str) -> str:
    return f"{axis[0]:.6g} to {axis[-1]:.6g} {unit}"


def _overlap(a: np.ndarray, b: np.ndarray, unit: str) -> str:
    low, high = max(a.min(), b.min()), min(a.max(), b.max())
    if not low <= high:
        return "they do not overlap; is this the right star?"
    return (
        f"give both inputs the range that they share, wave: '{low:.8g}:{high:.8g}{unit}', or rebin both alike"
    )


@dataclass
class _Worker:
    """Does segments, and keeps count."""

    config: Config
    workers: Executor
    watch: Watch
    done: Done

    def segment(self, segment: Segment, cube: xr.Dataset, key: str) -> tuple[xr.Dataset, str]:
        """Make sure that the segment's checkpoint is whole; returns its cube and its key."""
        made = cube
        for stage in segment.stages:
            made = stage(made)
            key = fingerprint(key, stage.fingerprint())
        passed_on = {*unchanged(cube, made), PSF}
        variables = [str(v) for v in made.data_vars if v not in passed_on]
        if not variables:
            return made, key
        # What is stored beside the data depends on where the segment begins.
        name = f"{segment.track}-{segment.stages[-1].name}-{fingerprint(key, variables)}"
        made_of = {"track": segment.track, "stages": [s.fingerprint() for s in segment.stages], "key": key}
        checkpoint = Checkpoint.prepare(self.config.work() / name, made, variables, made_of)
        missing = checkpoint.missing()
        if missing:
            self._look(segment, cube)
        work = checkpoint.writes(made, variables)
        for _, nbytes in self.each(segment.label, work, missing, len(checkpoint.starts)):
            self.done.nbytes += int(nbytes)
        opened = checkpoint.open()
        kept = {v: opened[v] for v in variables} | {v: made[v] for v in passed_on & set(made.data_vars)}
        return xr.Dataset(kept, coords=made.coords, attrs=made.attrs), key

    def products(self, work: Any, blocks: Sequence[int]) -> Iterator[tuple[int, Any]]:
        """Compute the blocks of a product."""
        return self.each("products", work, blocks, len(blocks))

    def _look(self, segment: Segment, cube: xr.Dataset) -> None:
        """Let the stages that work on what is there already look at it before anything is computed."""
        for stage in segment.stages:
            if {*stage.requires} <= {*cube.variables}:
                stage.check(cube)
                for text in stage.warnings(cube):
                    self.watch.message(f"{segment.track}, {stage.name}: {text}")

    def each(self, label: str, work: Any, blocks: Sequence[int], total: int) -> Iterator[tuple[int, Any]]:
        """Compute blocks, telling the watch."""
        self.watch.segment(label, total, total - len(blocks))
        self.done.computed += len(blocks)
        self.done.reused += total - len(blocks)
        for block, item in self.workers.compute(work, blocks):
            self.watch.block(block)
            yield block, item


def open_track(
    track: Track, watch: Watch, *, scratch: Path | None = None, specifier: Specifier | None = None
) -> xr.Dataset:
    """Open what a track reads, or another array read in the same way; see `open_cube`."""
    return open_cube(
        specifier or track.specifier(),
        wave_start=track.wave_start,
        wave_step=track.wave_step,
        wave_unit=track.wave_unit,
        scratch=scratch,
        message=watch.message,
    )


def identity(track: Track) -> dict[str, Any]:
    """What a track reads: the content of the file, and the part of it."""
    specifier = track.specifier()
    size, digest = file_identity(specifier.file)
    reading = track.model_dump(mode="json", exclude={"stages", "input"}, exclude_none=True)
    part = hashlib.sha256(str(specifier).removeprefix(specifier.path).encode()).hexdigest()[:16]
    return {"file": specifier.file.name, "size": size, "sha256": digest, "part": part, **reading}


def _order_problems(config: Config) -> Iterator[str]:
    """Stages that stand before what they need."""
    for name, track in config.tracks().items():
        there: set[str] = {DATA, VARIANCE}
        for number, stage in enumerate(track.stages):
            for variable in stage.requires:
                if variable not in there:
                    yield f"{name}.stages: {stage.name} needs {variable!r}{_maker(variable, track, number)}"
            there = (there | {*stage.produces}) - {*stage.drops}


def _output_problems(config: Config) -> Iterator[str]:
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


def _walk(checked: Checked) -> None:
    """Build everything lazily, noting the plan."""
    config, cubes = checked.config, dict(checked.sources)
    problems: list[str] = []

    def go(track: str, stage: Stage, cube: xr.Dataset, *, kept: bool) -> xr.Dataset:
        after = stage(cube)
        checked.steps.append(step(track, stage, cube, after, checkpoint=kept))
        return after

    for name, track in config.tracks().items():
        try:
            for segment in segments(name, track.stages, config.checkpoints.after):
                for stage in segment.stages:
                    kept = stage is segment.stages[-1]
                    cubes[name] = go(name, stage, cubes[name], kept=kept)
        except UserError as error:
            problems += [f"{name}: {p}" for p in error.problems]
    if not problems and config.deconvolve is not None:
        joined = join(cubes["target"], cubes["star"])
        go(DECONVOLVE, config.deconvolve, joined, kept=True)
        if config.star is not None and not config.star.stages:
            config.deconvolve.check(joined)  # a ready-made PSF can be looked at now
    if problems:
        raise ConfigError(*problems)

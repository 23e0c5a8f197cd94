"""The run, as a story: check everything, plan it, then do segment after segment.

A segment is the stages between two checkpoints: one lazy graph, computed block by block. What a
checkpoint already vouches for is not computed again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import xarray as xr

from lucidcube.checkpoint import Checkpoint, fingerprint, unchanged
from lucidcube.checks import order_problems, output_problems
from lucidcube.cluster import Executor, executor, load_profile
from lucidcube.config import DECONVOLVE, Config, Track
from lucidcube.cube import PSF
from lucidcube.errors import ConfigError, UserError
from lucidcube.io.fits_read import file_identity, open_cube
from lucidcube.io.products import run_product, write
from lucidcube.io.specifier import Specifier
from lucidcube.join import join
from lucidcube.plan import Step, step
from lucidcube.stage import Stage

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
    problems: list[str] = [*order_problems(config), *output_problems(config)]
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

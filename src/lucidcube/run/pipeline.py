"""The run, as a story: check everything, plan it, then do segment after segment.

A segment is the stages between two checkpoints: one lazy graph, computed block by block. What a
checkpoint already vouches for is not computed again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from lucidcube.cluster import executor, layout, load_profile
from lucidcube.cluster.profile import Layout
from lucidcube.config.schema import DECONVOLVE, Config, Track
from lucidcube.errors import ConfigError, UserError
from lucidcube.io.reader import open_cube
from lucidcube.io.specifier import Specifier
from lucidcube.lift.blocks import blocks_of
from lucidcube.run.attach_psf import join
from lucidcube.run.attempts import resident_peak, shielded
from lucidcube.run.checkpoint import fingerprint
from lucidcube.run.failures import BlocksFailed, Failure
from lucidcube.run.input_checksum import identity
from lucidcube.run.lock import locked
from lucidcube.run.monitor import Done, Watch
from lucidcube.run.plan import Step, fit, step
from lucidcube.run.products import run_product, sweep_parts, write
from lucidcube.run.segments import Segment, make, segments
from lucidcube.run.signals import Stop
from lucidcube.run.validate import order_problems, output_problems
from lucidcube.run.worker import Worker
from lucidcube.stages.base import Stage

__all__ = [
    "Checked",
    "Done",
    "Inspect",
    "Watch",
    "check",
    "checkpoints",
    "open_track",
    "run",
    "segments",
]

Inspect = Callable[[xr.Dataset, Stage], None]


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
    block_bytes
        Size of the blocks that it was made for.
    layout
        Processes, threads and memory of the profile.
    """

    config: Config
    sources: Mapping[str, xr.Dataset]
    steps: Sequence[Step]
    block_bytes: int
    layout: Layout


def check(config: Config, watch: Watch | None = None) -> Checked:
    """Open the inputs and build the whole run lazily, so that every mistake shows before any work.

    Raises
    ------
    ConfigError
        With every problem found, one line each.
    """
    problems: list[str] = [*order_problems(config), *output_problems(config)]
    try:
        _opened(config, watch or Watch())
    except ConfigError as error:
        problems += error.problems
    if problems:
        raise ConfigError(*problems)
    try:
        made_for = layout(load_profile(config.profile))
        threads, memory = made_for.threads or 1, made_for.memory or sys.maxsize
        found = fit(lambda: _walk(config, _opened(config, Watch())), threads, memory)
    except UserError as error:
        raise ConfigError(*error.problems) from None
    with blocks_of(found.block_bytes):
        return Checked(config, _opened(config, Watch()), found.steps, found.block_bytes, made_for)


def run(
    config: Config, watch: Watch | None = None, inspect: Inspect | None = None, stop: Stop | None = None
) -> Done:
    """Do what the config says; a second run goes on where the first was stopped.

    Parameters
    ----------
    config
        Validated.
    watch
        Told what happens.
    inspect
        Shown the cube that is about to be deconvolved, and the stage that will do it.
    stop
        When asked, the blocks in flight are finished, and nothing new is begun.

    Returns
    -------
    Done
        Where the product is, and what it took.

    Raises
    ------
    UserError
        Before any work, if something is wrong with the config or the inputs, or if another run is at work
        in the same folder. During the work, if a disk is full.
    BlocksFailed
        If a stage failed on some planes; all that does not depend on them was done, and is kept.
    Stopped
        After `stop` was asked.
    """
    began, watch, stop = time.monotonic(), watch or Watch(), stop or Stop()
    checked = check(config, watch)
    done = Done(Path(config.output.path).expanduser())
    try:
        with locked(config.work()), shielded(), executor(load_profile(config.profile)) as workers:
            dashboard = getattr(workers, "dashboard", None)
            if dashboard:
                watch.message(f"dashboard: {dashboard}")
            with blocks_of(checked.block_bytes):
                _run(checked, Worker(workers, watch, stop, done), inspect)
        done.product_bytes = done.path.stat().st_size
    finally:
        done.seconds, done.memory = time.monotonic() - began, resident_peak()
        watch.finished(done)
    return done


def _run(checked: Checked, worker: Worker, inspect: Inspect | None) -> None:
    config, failures = checked.config, list[Failure]()
    cubes, keys, inputs = dict(checked.sources), {}, {}
    for name, track in config.tracks().items():
        inputs[name] = identity(track, config.work())
        keys[name] = fingerprint(inputs[name])
        try:
            for segment in segments(name, track.stages, config.checkpoints.after):
                cubes[name], keys[name] = worker.segment(segment, cubes[name], keys[name], config.work())
        except BlocksFailed as error:
            failures += error.failures
            worker.watch.message(f"{name}: what comes after {error.failures[0].label} has to wait for that")
    if failures:
        raise BlocksFailed(failures)
    cube = cubes["target"]
    if config.deconvolve is not None:
        last = Segment(DECONVOLVE, (config.deconvolve,))
        joined = join(cubes["target"], cubes["star"])
        if inspect is not None:
            inspect(joined, config.deconvolve)
        key = fingerprint(keys["target"], keys["star"])
        cube, _ = worker.segment(last, joined, key, config.work())
    product = run_product(cube, cubes.get("star"), config.output.products, config.plain(), inputs)
    sweep_parts(worker.done.path)
    gather = load_profile(config.profile).product == "gather"
    overwrite = config.output.overwrite
    write(worker.done.path, product, overwrite=overwrite, compute=worker.products, gather=gather)


def checkpoints(config: Config) -> list[str]:
    """Names of the checkpoints that a run of this config uses; nothing is computed.

    Raises
    ------
    ConfigError
        If the config cannot be run.
    """
    output = config.output.model_copy(update={"overwrite": True})  # nothing will be written
    checked = check(config.model_copy(update={"output": output}))
    cubes, keys, names = dict(checked.sources), {}, []

    def go(segment: Segment, cube: xr.Dataset, key: str) -> tuple[xr.Dataset, str]:
        made = make(segment, cube, key)
        names.append(made.name)
        return made.cube, made.key

    for name, track in config.tracks().items():
        keys[name] = fingerprint(identity(track, config.work()))
        for segment in segments(name, track.stages, config.checkpoints.after):
            cubes[name], keys[name] = go(segment, cubes[name], keys[name])
    if config.deconvolve is not None:
        joined = join(cubes["target"], cubes["star"])
        go(Segment(DECONVOLVE, (config.deconvolve,)), joined, fingerprint(keys["target"], keys["star"]))
    return names


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


def _opened(config: Config, watch: Watch) -> dict[str, xr.Dataset]:
    """The lazy input cube of each track; every problem with any of them at once."""
    sources: dict[str, xr.Dataset] = {}
    problems: list[str] = []
    for name, track in config.tracks().items():
        try:
            sources[name] = open_track(track, watch, scratch=config.work() / "scratch")
        except UserError as error:
            problems += [f"{name}.input: {p}" for p in error.problems]
    if problems:
        raise ConfigError(*problems)
    return sources


def _walk(config: Config, sources: Mapping[str, xr.Dataset]) -> list[Step]:
    """Build everything lazily; the plan."""
    cubes, steps = dict(sources), list[Step]()
    problems: list[str] = []

    def go(track: str, stage: Stage, cube: xr.Dataset, *, kept: bool) -> xr.Dataset:
        after = stage(cube)
        steps.append(step(track, stage, cube, after, checkpoint=kept))
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
    return steps

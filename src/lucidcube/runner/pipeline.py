"""Run a config: check everything, plan it, compute segment after segment, and write the product.

A segment consists of the stages between two checkpoints: one lazy graph, computed block by block. Blocks
that exist in a checkpoint are not computed again.
"""

import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from lucidcube.cluster import layout, start_workers
from lucidcube.cluster.profile import Layout, Profile
from lucidcube.config.python import from_python
from lucidcube.config.schema import Config
from lucidcube.config.star import PartOfTarget
from lucidcube.config.track import Track
from lucidcube.cube import PSF
from lucidcube.errors import ConfigError, UserError
from lucidcube.io.output_path import may_replace
from lucidcube.runner.compare_inputs import star_problems, star_warnings
from lucidcube.runner.compute import BlockComputer, resident_peak
from lucidcube.runner.engines import Engines, engines_of, say_where
from lucidcube.runner.inputs import changed_inputs, in_blocks, input_identities, open_track, track_keys
from lucidcube.runner.lock import WAIT, locked, product_locked
from lucidcube.runner.monitor import Monitor, Summary
from lucidcube.runner.part_files import remove_part_files
from lucidcube.runner.plan import Step, fit_memory, plan_segment, planned_blocks
from lucidcube.runner.products import run_product
from lucidcube.runner.segments import Segment, compute_segment, raise_first, stages_of, walk
from lucidcube.runner.signals import Stop
from lucidcube.runner.validate import order_problems, output_problems
from lucidcube.runner.work_folder import scratch_folder
from lucidcube.runner.write_product import write
from lucidcube.stages.attach_psf import NOTE
from lucidcube.stages.base import Stage
from lucidcube.stages.match_psf import match_psf

Inspect = Callable[[xr.Dataset, Stage], None]
"""A function that is called with the cube that a stage will be applied to, and the stage."""


@dataclass(frozen=True)
class Plan:
    """A config with open inputs and matching stages."""

    config: Config
    profile: Profile
    sources: Mapping[str, xr.Dataset]
    """The lazy input cube of each track, in blocks that fit into memory."""
    steps: Sequence[Step]
    """Shapes, blocks, bytes and memory of each stage."""
    block_bytes: int
    """Target size of blocks."""
    layout: Layout
    """Processes, threads and memory of the profile."""
    engines: Engines
    """Engines with which the blocks are computed."""
    warnings: Sequence[str] = ()
    """Reasons why the inputs may not be what they should be."""


def check(config: Config, monitor: Monitor | None = None) -> Plan:
    """Open the inputs and build the whole run lazily, so that mistakes are found before any computation.

    ConfigError is raised with every problem that was found, one line each, or UserError for the work folder.
    """
    scratch = scratch_folder(config.work())
    problems: list[str] = [*order_problems(config), *output_problems(config)]
    sources: dict[str, xr.Dataset] = {}
    for name, track in config.tracks().items():
        try:
            sources[name] = open_track(track, monitor or Monitor(), scratch=scratch)
        except UserError as error:
            where = name if isinstance(track, PartOfTarget) else f"{name}.input"
            problems += [f"{where}: {p}" for p in error.problems]
    if {"target", "star"} <= {*sources}:
        try:
            observed = bool(config.stages("star"))
            text = match_psf(sources["star"], sources["target"], observed=observed).text
            if text and monitor is not None:
                monitor.message(f"star: {text}")
        except UserError as error:
            problems += [f"star.input: {p}" for p in error.problems]
        problems += star_problems(config, sources)
    if problems:
        raise ConfigError(*problems)
    try:
        profile = config.where
        warnings: list[str] = []
        engines = engines_of(profile, warnings.append)
        made_for = layout(profile)
        steps, block_bytes = fit_memory(
            lambda: _plan_segments(config, _all_in_blocks(sources), engines),
            made_for.threads or 1,
            made_for.memory or sys.maxsize,
            engines.block_bytes(profile.kind),
            made_for.all_threads,
        )
    except UserError as error:
        raise ConfigError(*error.problems) from None
    with planned_blocks(block_bytes):
        warnings += star_warnings(config, sources)
        sources = _all_in_blocks(sources)
        return Plan(config, profile, sources, steps, block_bytes, made_for, engines, tuple(warnings))


def run(
    config: Config | Mapping[str, Any] | str | os.PathLike[str],
    monitor: Monitor | None = None,
    inspect: Inspect | None = None,
    stop: Stop | None = None,
    *,
    wait: float = WAIT,
    verify_inputs: bool = False,
) -> Summary:
    """Run a config; a run that was stopped is continued.

    The config is one from `load_config`, the path of a YAML file, or plain data as in such a file, in which
    stages and paths may be Python objects.

    The monitor is informed about progress. `inspect` is called with the cube that will be deconvolved, and
    the stage that deconvolves it. Once a stop is requested, the blocks in flight are finished and no others
    are submitted. If another run uses the same work folder or product, it is waited for for up to `wait`
    seconds. The summary holds the path of the product, numbers of blocks, time and memory.

    While a file is read, a change of its size or time is noticed. With `verify_inputs`, the content of the
    inputs is also compared before and after the computation, for which they are read two more times.

    Raises
    ------
    UserError
        Before the computation, if the config or an input is invalid, or if another run uses the same work
        folder or product; during the computation, if a disk is full.
    BlocksFailed
        If a stage failed on some planes; everything that does not depend on them was computed and is kept.
    Stopped
        After a stop was requested.

    Examples
    --------
    >>> import lucidcube as lc
    >>> summary = lc.run({
    ...     "target": "example_data/target.fits[20:24]",
    ...     "star": {"psf": {"model": "moffat", "fwhm": 3}},
    ...     "deconvolve": lc.Deconvolve(method="lucy_richardson"),
    ...     "output": {"path": "sharp.fits"},
    ... })
    >>> summary.path.name
    'sharp.fits'
    """
    start, monitor = time.monotonic(), monitor or Monitor()
    if not isinstance(config, Config):
        config = from_python(config)
    plan = check(config, monitor)
    summary = Summary(Path(config.output.path).expanduser())
    monitor.starts(summary.path)
    try:
        with (
            locked(config.work(), wait),
            product_locked(summary.path, wait),
            start_workers(plan.profile, config.work()) as workers,
            planned_blocks(plan.block_bytes),
        ):
            if workers.dashboard:
                monitor.message(f"dashboard: {workers.dashboard}")
            computer = BlockComputer(workers, monitor, stop or Stop(), summary, plan.engines)
            say_where(plan.engines, config.stages("target"), monitor.message)
            _run(plan, computer, monitor, inspect, verify_inputs)
        summary.product_bytes = summary.path.stat().st_size
    finally:
        summary.seconds, summary.memory = time.monotonic() - start, resident_peak()
        monitor.finished(summary)
    return summary


def _run(
    plan: Plan, computer: BlockComputer, monitor: Monitor, inspect: Inspect | None, verify_inputs: bool
) -> None:
    config = plan.config
    inputs = input_identities(config, cached=not verify_inputs)

    said: set[str] = set()
    checkpoints: set[str] = set()

    def visit(segment: Segment) -> xr.Dataset:
        for note in {cube[PSF].attrs.get(NOTE, "") for cube in segment.cubes if PSF in cube} - {"", *said}:
            monitor.message(f"{segment.track}: {note}")
            said.add(note)
        if inspect is not None:
            for stage, cube in zip(segment.stages, segment.cubes, strict=False):
                if stage is config.deconvolve:
                    inspect(cube, stage)
        for stage, cube in zip(segment.stages, segment.cubes, strict=False):
            warn(f"{segment.track}, {stage.name}", stage.warnings(cube))
        checkpoints.add(segment.name)
        made = compute_segment(segment, config.work(), config.checkpoints.codec, computer)
        for stage in segment.stages:
            warn(f"{segment.track}, {stage.name}", stage.findings(made))
        return made

    def warn(label: str, texts: Iterable[str]) -> None:
        for text in texts:
            monitor.message(f"{label}: {text}")
            computer.summary.warnings.append(f"{label}: {text}")

    for text in plan.warnings:
        monitor.message(text)
        computer.summary.warnings.append(text)
    if config.deconvolve is None:
        missing = "a star, or star: {psf: ...}" if config.star is None else "deconvolve: {}"
        warn("product", [f"nothing is deconvolved; to sharpen the cube, add {missing} to the config"])

    def verify() -> None:
        if verify_inputs and (changed := changed_inputs(config, inputs)):
            for name in checkpoints:
                shutil.rmtree(config.work() / name, ignore_errors=True)
            raise UserError(*changed)

    cubes, errors = walk(config, plan.sources, track_keys(inputs), visit)
    raise_first(errors, monitor)
    product = run_product(
        cubes["target"],
        cubes.get("star"),
        config.output.products,
        config.plain(),
        inputs,
        computer.summary.warnings,
    )
    path = computer.summary.path
    remove_part_files(path)
    gather = plan.profile.product == "gather"
    overwrite = may_replace(path, config.output.overwrite)
    write(path, product, overwrite=overwrite, compute=computer.compute, gather=gather, check=verify)


def _all_in_blocks(sources: Mapping[str, xr.Dataset]) -> dict[str, xr.Dataset]:
    return {name: in_blocks(cube) for name, cube in sources.items()}


def _plan_segments(config: Config, sources: Mapping[str, xr.Dataset], engines: Engines) -> list[Step]:
    """Build everything lazily and plan it."""
    steps: list[Step] = []
    resampled = "star" in sources and bool(stages_of(config, "star", sources))

    def visit(segment: Segment) -> xr.Dataset:
        steps.extend(plan_segment(segment, engines))
        if isinstance(config.star, Track) and not config.star.stages:
            for stage, cube in zip(segment.stages, segment.cubes, strict=False):
                if segment.track == "star" or (PSF in stage.requires and not resampled):
                    stage.check(cube)  # a PSF from a file can be checked now
        return segment.cube

    _, errors = walk(config, sources, dict.fromkeys(config.tracks(), ""), visit)
    if errors:
        raise ConfigError(*(f"{n}: {p}" for n, e in errors.items() for p in getattr(e, "problems", [str(e)])))
    return steps

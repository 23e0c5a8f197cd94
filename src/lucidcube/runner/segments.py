"""Build segments, the stages between two checkpoints as one lazy graph, and compute them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.array as da
import xarray as xr

from lucidcube.config.schema import Codec, Config
from lucidcube.cube import PSF, PSF_MODES, describe_blocks
from lucidcube.errors import BlocksFailed, Failure, UserError
from lucidcube.runner.checkpoint import Checkpoint, fingerprint
from lucidcube.runner.compute import BlockComputer
from lucidcube.runner.monitor import Monitor
from lucidcube.stages.attach_psf import attach_psf
from lucidcube.stages.base import Stage
from lucidcube.stages.match_psf import match_psf


@dataclass(frozen=True)
class Segment:
    """Stages of one track between two checkpoints, applied to a lazy cube."""

    track: str
    stages: tuple[Stage, ...]
    cubes: tuple[xr.Dataset, ...]
    """The cube that each stage is applied to, and the cube after the last."""
    key: str
    """Fingerprint of everything on which the last cube depends."""

    @property
    def cube(self) -> xr.Dataset:
        """The lazy cube after the last stage."""
        return self.cubes[-1]

    @property
    def label(self) -> str:
        """Track and stages, as ``target: mask, interpolate``."""
        return f"{self.track}: {', '.join(s.name for s in self.stages)}"

    @property
    def variables(self) -> tuple[str, ...]:
        """Variables to keep in a checkpoint: those that the segment adds or changes."""
        same = {*_unchanged(self.cubes[0], self.cube), PSF, PSF_MODES}
        same -= {name for name in (PSF, PSF_MODES) if self._makes(name)}
        return tuple(str(v) for v in self.cube.data_vars if v not in same)

    def _makes(self, name: str) -> bool:
        """Return whether a stage of this segment makes or changes a variable that is the star's otherwise."""
        around = zip(self.stages, self.cubes, self.cubes[1:], strict=False)
        return any(name in s.produces and name not in {*_unchanged(a, b)} for s, a, b in around)

    @property
    def name(self) -> str:
        """Name of the checkpoint, as ``target-interpolate-3f2a9c41d0b7a6e5``."""
        # The kept variables depend on the stage with which the segment begins.
        return f"{self.track}-{self.stages[-1].name}-{fingerprint(self.key, sorted(self.variables))}"

    @property
    def ingredients(self) -> dict[str, Any]:
        """The data from which the name was made."""
        return {"track": self.track, "stages": [s.fingerprint() for s in self.stages], "key": self.key}


def cut(stages: Sequence[Stage], after: Sequence[str]) -> Iterator[tuple[Stage, ...]]:
    """Divide the stages of a track at its checkpoints; the last stage always has a checkpoint."""
    pending: list[Stage] = []
    for stage in stages:
        pending.append(stage)
        if stage.name in after:
            yield tuple(pending)
            pending = []
    if pending:
        yield tuple(pending)


def build_segment(
    track: str, stages: Sequence[Stage], cube: xr.Dataset, key: str, star: tuple[xr.Dataset, str] | None
) -> Segment:
    """Apply stages to a lazy cube with a fingerprint; nothing is computed.

    `star` is the cube and the fingerprint of the star's track, which becomes the PSF of the first stage that
    requires one. CubeError is raised if the cube does not have what a stage requires.
    """
    cubes = []
    for stage in stages:
        if PSF in stage.requires and PSF not in cube and star is not None:
            cube, key = attach_psf(cube, star[0]), fingerprint(key, star[1])
        cubes.append(cube)
        cube, key = stage(cube), fingerprint(key, stage.fingerprint())
    return Segment(track, tuple(stages), (*cubes, cube), key)


def stages_of(config: Config, name: str, sources: Mapping[str, xr.Dataset]) -> tuple[Stage, ...]:
    """Return the stages of a track; the star's may end with one that matches its pixels."""
    stages = config.stages(name)
    if name != "star" or any(stage.name == "resample_psf" for stage in stages):
        return stages
    match = match_psf(sources[name], sources["target"], observed=bool(stages))
    return stages if match.stage is None else (*stages, match.stage)


def walk(
    config: Config,
    sources: Mapping[str, xr.Dataset],
    keys: Mapping[str, str],
    visit: Callable[[Segment], xr.Dataset],
) -> tuple[dict[str, xr.Dataset], dict[str, Exception]]:
    """Visit the segments of all tracks in the order of computation, the star's first.

    The tracks start from the cubes `sources` with the fingerprints `keys`. `visit` is called for each segment
    and returns the cube with which the next segment starts. The last cube of each track is returned, and a
    `UserError` or `BlocksFailed` for each track that failed; independent segments are still visited.
    """
    cubes, reached = dict(sources), dict(keys)
    errors: dict[str, Exception] = {}
    for name in reversed(config.tracks()):
        try:
            for stages in cut(stages_of(config, name, sources), config.checkpoints.after):
                if "star" in errors and any(PSF in stage.requires for stage in stages):
                    break
                star = (cubes["star"], reached["star"]) if name == "target" and "star" in cubes else None
                segment = build_segment(name, stages, cubes[name], reached[name], star)
                cubes[name], reached[name] = visit(segment), segment.key
        except (UserError, BlocksFailed) as error:
            errors[name] = error
    return cubes, errors


def compute_segment(
    segment: Segment,
    work: Path,
    codec: Codec,
    computer: BlockComputer,
    wanted: Sequence[int] | None = None,
) -> xr.Dataset:
    """Compute the missing blocks of a segment; return the segment's cube, read from its checkpoint.

    The checkpoint is in the folder `work`, and compressed by `codec` if it is new. If only some blocks are
    `wanted`, the others may be missing in the result, where they are NaN or zero.
    """
    if not segment.variables:
        return segment.cube
    checkpoint = Checkpoint.prepare(
        work / segment.name, segment.cube, segment.variables, segment.ingredients, codec
    )
    missing = [n for n in checkpoint.missing() if wanted is None or n in wanted]
    if missing:
        for stage, cube in zip(segment.stages, segment.cubes, strict=False):
            stage.check(cube)
    tasks, describe = checkpoint.write(segment.cube, segment.variables), describe_blocks(segment.cube)
    written = sum(int(nbytes) for _, nbytes in computer.compute(segment.label, tasks, missing, describe))
    computer.summary.parts[-1].nbytes = written
    computer.summary.nbytes += written
    kept = checkpoint.open()
    return segment.cube.assign({name: kept[name].variable for name in segment.variables})


def raise_first(errors: Mapping[str, Exception], monitor: Monitor) -> None:
    """Raise the errors of the tracks, if there are any: those of blocks together, any other at once."""
    failures: list[Failure] = []
    for name, error in errors.items():
        if not isinstance(error, BlocksFailed):
            raise error
        failures += error.failures
        monitor.message(f"{name}: the stages after {error.failures[0].label} were not run because of that")
    if failures:
        raise BlocksFailed(failures)


def _unchanged(before: xr.Dataset, after: xr.Dataset) -> Iterator[str]:
    """Yield the variables that are identical lazy arrays in both cubes."""
    for name in after.data_vars:
        if name in before.data_vars:
            a, b = before[name].data, after[name].data
            if a is b or (isinstance(a, da.Array) and isinstance(b, da.Array) and a.name == b.name):
                yield str(name)

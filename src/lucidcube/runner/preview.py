"""Compute a few planes of a run, with the same result as the whole run.

A plane of the result depends on others: some stages see windows of planes, and the model of the star is
smooth along wavelength. The graph of the whole run, built without checkpoints, tells which blocks the chosen
planes depend on. These alone are computed, in blocks of half a group of planes, and kept in checkpoints of
their own, from which the next preview starts. The segments from the last one that sees a window on are
computed for the chosen planes only, and are not kept.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import xarray as xr

from lucidcube.config.schema import Config
from lucidcube.cube import DATA, PSF, TRACK, WAVELENGTH, X, Y, block_sizes
from lucidcube.errors import ConfigError
from lucidcube.lift.blocks import GROUP, limit_block_bytes
from lucidcube.runner.checkpoint import Checkpoint
from lucidcube.runner.compute import BlockComputer
from lucidcube.runner.inputs import in_blocks, input_identities, track_keys
from lucidcube.runner.monitor import Monitor
from lucidcube.runner.needed_blocks import in_memory, needed_blocks, planes_at
from lucidcube.runner.pipeline import check
from lucidcube.runner.prune import PREVIEW
from lucidcube.runner.segments import Segment, compute_segment, cut, raise_first, walk
from lucidcube.stages.base import Stage

BLOCK = GROUP // 2
"""Planes in a block: a window, a group and half a group on either side, consists of four of them."""
MOST = 24
"""Largest number of planes of a preview, which are held in memory."""
CLEANING = ("noise", "broaden_psf", "artefacts", "mask", "interpolate", "model_psf", "deconvolve")
"""Stages of the target after which, or instead of which, its grid does not change any more."""


@dataclass(frozen=True)
class PreviewedPlanes:
    """The chosen planes, in memory, after all stages and before some of them."""

    planes: tuple[int, ...]
    """Their numbers in the whole run, from 0."""
    total: int
    """Number of planes of the whole run."""
    result: xr.Dataset
    before: xr.Dataset
    """The data before artefacts were removed."""
    cleaned: xr.Dataset
    """The data before the deconvolution."""
    star: xr.Dataset | None
    """The star after its last stage, and `observed_star` before it was modelled; None if there is none, or
    if its planes are not those of the target."""
    observed_star: xr.Dataset | None
    warnings: Sequence[str]

    def cubes(self) -> dict[str, xr.Dataset]:
        """Return the cubes for a report; see `lucidcube.report.finished_run.FinishedRun`."""
        found = {"before": self.before, "cleaned": self.cleaned, "result": self.result}
        return found if self.observed_star is None else found | {"star": self.observed_star}


@dataclass
class _Walk:
    """The segments of a run for some planes, in order; `ends` are those that are not kept in checkpoints."""

    segments: list[Segment] = field(default_factory=list)
    ends: list[Segment] = field(default_factory=list)
    target: xr.Dataset = field(default_factory=xr.Dataset)
    star: xr.Dataset | None = None

    def input_of(self, track: str, names: Sequence[str]) -> xr.Dataset | None:
        """Return the cube to which the first of the named stages of a track is applied."""
        for segment in self.segments:
            for stage, cube in zip(segment.stages, segment.cubes, strict=False):
                if segment.track == track and stage.name in names:
                    return cube
        return None

    def wanted(self) -> dict[str, xr.Dataset]:
        """Return the cubes whose planes are computed for their own sake."""
        found = {str(n): segment.cube for n, segment in enumerate(self.ends)}
        for name, stages in (("before", CLEANING), ("cleaned", ("deconvolve",))):
            cube = self.input_of("target", stages)
            found[name] = (self.target if cube is None else cube)[[DATA]]
        return found | {"result": self.target}


class Preview:
    """A config whose inputs are open, to compute planes of its run.

    `wavelength` holds the wavelengths of the planes after rebinning. ConfigError is raised with every problem
    of the config.
    """

    def __init__(self, config: Config, monitor: Monitor | None = None) -> None:
        self._monitor = monitor or Monitor()
        plan = check(config, self._monitor)
        target = plan.sources["target"]
        self._block_bytes = min(plan.block_bytes, 4 * BLOCK * target.sizes[Y] * target.sizes[X])
        with limit_block_bytes(self._block_bytes):
            self._sources = {name: in_blocks(cube) for name, cube in plan.sources.items()}
        self._inputs: dict[str, dict[str, Any]] = {}
        self.profile, self.folder = plan.profile, config.work() / PREVIEW
        lazily = self._walk(config, dict.fromkeys(config.tracks(), ""), (), lambda _, segment: segment.cube)
        self.wavelength: xr.DataArray = lazily.target[WAVELENGTH]

    def inputs(self, config: Config) -> dict[str, dict[str, Any]]:
        """Return the identities of the inputs, which are read once."""
        self._inputs = self._inputs or input_identities(config)
        return self._inputs

    def compute(self, config: Config, planes: Sequence[int], computer: BlockComputer) -> PreviewedPlanes:
        """Compute planes of the run of a config, which must have the same inputs as the one of this preview.

        UserError is raised for planes that do not exist, and for stages that cannot be applied. See
        `lucidcube.runner.compute.BlockComputer.compute` for other errors.
        """
        chosen = checked_planes(planes, self.wavelength.size)
        keys, findings = track_keys(self.inputs(config)), _Findings(config, computer.monitor)
        lazily = self._walk(config, keys, chosen, lambda _, segment: _of_run(config, segment) or segment.cube)
        needed = needed_blocks(lazily.segments, lazily.ends, lazily.wanted(), chosen)
        findings.warn(lazily.segments)

        def keep(number: int, segment: Segment) -> xr.Dataset:
            found = _of_run(config, segment)
            if found is not None or not needed[number]:
                return segment.cube if found is None else found
            codec = config.checkpoints.codec
            made = compute_segment(segment, self.folder, codec, computer, needed[number])
            findings.find(segment, made.isel({WAVELENGTH: _planes_of(made, needed[number])}))
            return made

        walked = self._walk(config, keys, chosen, keep)
        for segment in walked.ends:
            for stage, cube in zip(segment.stages, segment.cubes, strict=False):
                stage.check(planes_at(cube, chosen))
        label = ", ".join(stage.name for segment in walked.ends for stage in segment.stages)
        made = in_memory(walked.wanted(), chosen, f"target: {label}", computer)
        findings.look_at(walked, made, chosen)
        star = walked.star
        if star is None or TRACK not in made["result"].get(PSF, xr.DataArray()).attrs:
            star = observed = None
        else:
            rows = chosen if star.sizes[WAVELENGTH] > 1 else [0]
            observed = walked.input_of("star", ("fit_psf",))
            observed = None if observed is None else planes_at(observed[[DATA]], rows).load()
            star = planes_at(star, rows).load()
        return PreviewedPlanes(
            tuple(chosen),
            self.wavelength.size,
            made["result"],
            made["before"],
            made["cleaned"],
            star,
            observed,
            findings.texts,
        )

    def _walk(
        self,
        config: Config,
        keys: Mapping[str, str],
        planes: Sequence[int],
        keep: Callable[[int, Segment], xr.Dataset],
    ) -> _Walk:
        """Walk over the segments; `keep` returns the cube after one that is kept, given its number."""
        first, walked, sources = _first_end(config), _Walk(), dict(self._sources)
        if first == 0 and planes and sources["target"].sizes[WAVELENGTH] == self.wavelength.size:
            sources["target"] = _separated(sources["target"], planes)

        def visit(segment: Segment) -> xr.Dataset:
            walked.segments.append(segment)
            number = [s.track for s in walked.segments].count("target") - 1
            if segment.track == "target" and number >= first:
                walked.ends.append(segment)
                return segment.cube
            cube = keep(len(walked.segments) - 1, segment)
            return _separated(cube, planes) if segment.track == "target" and number == first - 1 else cube

        with limit_block_bytes(self._block_bytes):
            cubes, errors = walk(config, sources, keys, visit)
        raise_first(errors, self._monitor)
        walked.target, walked.star = cubes["target"], cubes.get("star")
        return walked


class _Findings:
    """The warnings of the stages, each of which is passed to a monitor once."""

    def __init__(self, config: Config, monitor: Monitor) -> None:
        self._config, self._monitor = config, monitor
        self.texts: list[str] = []

    def warn(self, segments: Sequence[Segment]) -> None:
        """Collect the warnings about the inputs of the stages, but for the deconvolution."""
        for segment in segments:
            for stage, cube in zip(segment.stages, segment.cubes, strict=False):
                if stage is not self._config.deconvolve:
                    self._add(segment, stage, stage.warnings(cube))

    def find(self, segment: Segment, made: xr.Dataset) -> None:
        """Collect what the stages of a segment say about its result."""
        for stage in segment.stages:
            self._add(segment, stage, stage.findings(made))

    def look_at(self, walked: _Walk, made: Mapping[str, xr.Dataset], planes: Sequence[int]) -> None:
        """Collect the warnings about the chosen planes."""
        for number, segment in enumerate(walked.ends):
            for stage, cube in zip(segment.stages, segment.cubes, strict=False):
                if stage is self._config.deconvolve:
                    given = planes_at(cube, planes).assign({DATA: made["cleaned"][DATA].variable})
                    self._add(segment, stage, stage.warnings(given))
            self.find(segment, made[str(number)])

    def _add(self, segment: Segment, stage: Stage, texts: Iterator[str]) -> None:
        for text in texts:
            labelled = f"{segment.track}, {stage.name}: {text}"
            if labelled not in self.texts:
                self.texts.append(labelled)
                self._monitor.message(labelled)


def checked_planes(planes: Sequence[int], total: int) -> list[int]:
    """Return the numbers of planes in order, each once; ConfigError is raised if they cannot be computed."""
    chosen = sorted({*planes})
    missing = [n for n in chosen if not 0 <= n < total]
    if missing:
        raise ConfigError(f"there is no plane {missing[0]}: the planes after rebinning are 0 to {total - 1}")
    if len(chosen) > MOST:
        raise ConfigError(
            f"{len(chosen)} planes are too many for a preview: choose at most {MOST}, or use lucidcube run"
        )
    return chosen


def spread_planes(total: int, count: int = 3) -> list[int]:
    """Return the numbers of a few planes that are spread over the cube."""
    return sorted({(2 * n + 1) * total // (2 * count) for n in range(count)})


def _first_end(config: Config) -> int:
    """Return the number of the first segment of the target that is computed for the chosen planes alone.

    Stages that see a window of planes need the segments before them in other planes as well.
    """
    segments = [*cut(config.stages("target"), config.checkpoints.after)]
    windows = [n for n, stages in enumerate(segments) if any(stage.halo for stage in stages)]
    rebinned = [n + 1 for n, stages in enumerate(segments) if any(stage.name == "rebin" for stage in stages)]
    return min((windows or rebinned or [0])[-1], max(len(segments) - 1, 0))


def _of_run(config: Config, segment: Segment) -> xr.Dataset | None:
    """Return the cube after a segment from the checkpoint of the run; None if that is not complete."""
    checkpoint = Checkpoint(config.work() / segment.name)
    if not segment.variables or not checkpoint.is_complete():
        return None
    kept = checkpoint.open()
    return segment.cube.assign({name: kept[name].variable for name in segment.variables})


def _separated(cube: xr.Dataset, planes: Sequence[int]) -> xr.Dataset:
    """Return a lazy cube in which each of some planes is a block of its own."""
    borders = {*accumulate(block_sizes(cube))} | {n + end for n in planes for end in (0, 1)}
    ends = sorted(borders - {0})
    sizes = tuple(end - start for start, end in zip([0, *ends], ends, strict=False))
    lazy = {name: v for name, v in cube.data_vars.items() if v.chunks}
    return cube.assign({name: v.variable.chunk({WAVELENGTH: sizes}) for name, v in lazy.items()})


def _planes_of(cube: xr.Dataset, blocks: Sequence[int]) -> list[int]:
    """Return the numbers of the planes in some blocks of a cube."""
    ends = [*accumulate(block_sizes(cube), initial=0)]
    return [n for block in blocks for n in range(ends[block], ends[block + 1])]

"""Segments: the stages between two checkpoints, and where what they make is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from lucidcube.cube import PSF
from lucidcube.run.checkpoint import Checkpoint, fingerprint, unchanged
from lucidcube.stages.base import Stage


@dataclass(frozen=True)
class Segment:
    """Stages of one track between two checkpoints."""

    track: str
    stages: tuple[Stage, ...]

    @property
    def label(self) -> str:
        """As ``target: mask, interpolate``."""
        return f"{self.track}: {', '.join(s.name for s in self.stages)}"


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


@dataclass(frozen=True)
class Made:
    """What a segment makes of a cube, lazily.

    Attributes
    ----------
    cube
        The lazy cube after the segment.
    key
        Of all that it depends on.
    variables
        Those to keep: new or changed; none if the segment changes nothing.
    name
        Of the checkpoint.
    made_of
        Plain data: what the key was made of.
    """

    cube: xr.Dataset
    key: str
    variables: tuple[str, ...]
    name: str
    made_of: dict[str, Any]

    def prepare(self, work: Path) -> Checkpoint:
        """The checkpoint in the work folder, made if it is not there."""
        return Checkpoint.prepare(work / self.name, self.cube, self.variables, self.made_of)

    def kept(self, checkpoint: Checkpoint) -> xr.Dataset:
        """The cube, what was kept of it read from the checkpoint."""
        opened = checkpoint.open()
        return self.cube.assign({v: opened[v].variable for v in self.variables})


def make(segment: Segment, cube: xr.Dataset, key: str) -> Made:
    """Apply the stages of a segment to a lazy cube with this key; nothing is computed."""
    made = cube
    for stage in segment.stages:
        made = stage(made)
        key = fingerprint(key, stage.fingerprint())
    same = {*unchanged(cube, made), PSF}
    variables = tuple(str(v) for v in made.data_vars if v not in same)
    # What is stored beside the data depends on where the segment begins.
    name = f"{segment.track}-{segment.stages[-1].name}-{fingerprint(key, sorted(variables))}"
    made_of = {"track": segment.track, "stages": [s.fingerprint() for s in segment.stages], "key": key}
    return Made(made, key, variables, name, made_of)

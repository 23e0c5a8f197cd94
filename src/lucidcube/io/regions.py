"""Interpolate regions between channels and draw them plane by plane; `region_file` defines the files."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from astropy.wcs import WCS
from numpy.typing import NDArray
from regions import PixCoord

from lucidcube.errors import ConfigError, CubeError
from lucidcube.io.region_file import Region, load_regions

HALF_TURN = 180.0
"""Degrees after which every shape with an angle repeats."""


@dataclass(frozen=True, slots=True)
class RegionTrack:
    """One region as a function of the channel.

    `regions` holds it as each file has it, and `channels` the channel of each of those, rising; there are
    none for one region that holds in every channel.
    """

    regions: tuple[Region, ...]
    channels: tuple[float, ...] = ()

    def at(self, channel: float) -> Region | None:
        """Return the region at a channel, linear between files; None before the first and after the last."""
        if not self.channels:
            return self.regions[0]
        if not self.channels[0] <= channel <= self.channels[-1]:
            return None
        after = int(np.searchsorted(self.channels, channel))
        if self.channels[after] == channel:
            return self.regions[after]
        left, right = self.regions[after - 1], self.regions[after]
        share = (channel - self.channels[after - 1]) / (self.channels[after] - self.channels[after - 1])
        steps = [b - a for a, b in zip(left.parameters, right.parameters, strict=True)]
        if left.has_angle:
            steps[-1] = HALF_TURN / 2 - (HALF_TURN / 2 - steps[-1]) % HALF_TURN
        moved = tuple(a + share * step for a, step in zip(left.parameters, steps, strict=True))
        return replace(left, parameters=moved)


@dataclass(frozen=True, slots=True)
class RegionGroup:
    """Regions that are combined with each other: those of one file, or of one dynamic list."""

    tracks: tuple[RegionTrack, ...]

    def at(self, channel: float) -> tuple[Region, ...]:
        """Return the regions that exist at a channel."""
        found = (track.at(channel) for track in self.tracks)
        return tuple(region for region in found if region is not None)

    def mask(self, channel: float, shape: tuple[int, int]) -> NDArray[np.bool_]:
        """Draw the regions of a channel on a plane; see `region_mask`."""
        return region_mask(self.at(channel), shape)


def region_mask(regions: Iterable[Region], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Draw the regions of one group at one channel on a plane of this (y, x) shape.

    A pixel is True where its centre lies in an included and in no excluded region (on an edge: out).
    """
    included, excluded = np.zeros(shape, dtype=np.bool_), np.zeros(shape, dtype=np.bool_)
    for region in regions:
        drawn = region.drawn()
        box = drawn.bounding_box
        y0, y1 = max(box.iymin, 0), min(box.iymax, shape[0])
        x0, x1 = max(box.ixmin, 0), min(box.ixmax, shape[1])
        if y0 < y1 and x0 < x1:
            y, x = np.mgrid[y0:y1, x0:x1]
            into = excluded if region.excluded else included
            into[y0:y1, x0:x1] |= drawn.contains(PixCoord(x, y))
    return included & ~excluded


def const_regions(
    paths: Iterable[str | Path], *, wcs: WCS | None = None, header: Mapping[str, Any] | None = None
) -> tuple[RegionGroup, ...]:
    """Read regions that hold in every channel, one group for each file; see `load_regions`."""
    files = [load_regions(path, wcs=wcs, header=header) for path in paths]
    return tuple(RegionGroup(tuple(RegionTrack((region,)) for region in file)) for file in files)


def dynamic_regions(
    files: Sequence[tuple[float, str | Path]],
    *,
    wcs: WCS | None = None,
    header: Mapping[str, Any] | None = None,
) -> RegionGroup:
    """Read regions that move from file to file.

    Regions of different files are one if they have the same ``text`` (the n-th of those with that text);
    those without ``text`` are matched by their order. Between files every parameter goes linearly, an angle
    by the shorter way (boxes and ellipses look the same after half a turn). A region missing in a file
    between two that have it is interpolated there too; before its first and after its last it does not exist.

    `files` are (channel index, path) pairs, in any order; for the others, and for errors, see `load_regions`.
    No file, or two for one channel, raise ConfigError; matched regions that differ in shape, number of
    corners or sign raise CubeError.
    """
    channels = sorted(float(channel) for channel, _ in files)
    if not channels or not all(map(math.isfinite, channels)) or len(set(channels)) < len(channels):
        raise ConfigError(
            f"dynamic_regions: give at least one [channel, file] pair and each channel once, not {channels}"
        )
    seen: dict[tuple[str, int], list[tuple[float, Region]]] = {}
    for channel, path in sorted(files, key=lambda pair: float(pair[0])):
        counts = Counter[str]()
        for region in load_regions(path, wcs=wcs, header=header):
            counts[region.label] += 1
            seen.setdefault((region.label, counts[region.label]), []).append((float(channel), region))
    problems = [
        f"{other.where}: this {other.shape} does not match the {first.shape} at {first.where}; "
        "give matching regions the same shape, corners and sign, and others different text={...}"
        for (_, first), *others in seen.values()
        for _, other in others
        if other.kind != first.kind
    ]
    if problems:
        raise CubeError(*problems)
    tracks = (RegionTrack(tuple(r for _, r in t), tuple(c for c, _ in t)) for t in seen.values())
    return RegionGroup(tuple(tracks))

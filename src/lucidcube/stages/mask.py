"""Stage `mask`: mark the pixels that are artefacts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import xarray as xr
from astropy.io import fits
from pydantic import AfterValidator, BeforeValidator

from lucidcube.cube import AMPLITUDE, BADNESS, CHANNEL, DATA, HEADER, MASK, UNITS, WAVELENGTH
from lucidcube.errors import CubeError
from lucidcube.kernels.artefacts.mask_summary import MaskSummary, mask_summary
from lucidcube.kernels.mask import Mark, bad_pixel_mask, cut_by_channel, grow
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.stages.base import Stage, parameter

SAMPLE = 8
"""Number of planes that are looked at."""
BRIGHT, LARGE, MANY = 0.3, 0.05, 0.15
"""Fractions that are worth a warning: of the brightest pixels that are marked, of the pixels of a plane in
one group of marks, and of all marked pixels."""

if TYPE_CHECKING:
    from lucidcube.io.regions import RegionGroup


def _cuts(value: Any) -> Any:
    """Return the list of one (channel, score) for a number, and anything else as it is."""
    return ((0, value),) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _one_per_channel(value: Pairs) -> Pairs:
    """Return the list; ValueError is raised if a channel has two cuts, or a number is not finite."""
    if value:  # an empty one is refused by the stage
        cut_by_channel(value, ())
    return value


Pairs = tuple[tuple[float, float], ...]
Cuts = Annotated[
    Pairs,
    BeforeValidator(_cuts, json_schema_input_type=Pairs | float),
    AfterValidator(_one_per_channel),
]
"""A list of (channel, score); a number is the score of all channels."""


class Mask(Stage):
    """Mark pixels whose artefact score reaches the cut, and pixels inside DS9 regions.

    If `max_dilation` allows it, the higher the score of a pixel, the more of its surroundings are marked as
    well: for each whole unit above the cut, the mark spreads by one 4-connected step. If there is an
    amplitude, the smoothed score of the method spectral_psf, marks also grow along connected pixels with a
    small amplitude, such as the wings of a ghost. The mask is 1 at marked and 2 at grown pixels; later stages
    trust neither. Regions are given in image or sky coordinates.
    Dynamic regions move linearly from the channel of one file to that of the next; they are matched by
    their `text`, and do not exist before the first or after the last file. NaN pixels are missing data, not
    artefacts: they are never marked. The data and the variance are passed on unchanged.
    """

    name: ClassVar[str] = "mask"
    version: ClassVar[int] = 2
    requires: ClassVar[tuple[str, ...]] = (BADNESS,)
    optional: ClassVar[tuple[str, ...]] = (AMPLITUDE,)
    produces: ClassVar[tuple[str, ...]] = (MASK, "cut")
    copies: ClassVar[float] = 3.5
    scratch: ClassVar[float] = 6
    tag: ClassVar[str] = "_bpmask"
    files: ClassVar[tuple[str, ...]] = (BADNESS,)

    cut: Cuts = parameter(
        ((0, 5.0),),
        "standard deviations",
        "list of (channel, score): a pixel with this score or a higher one is an artefact; the cut is linear "
        "between the channels and constant outside; a number is the cut of all channels",
        min_length=1,
    )
    max_dilation: int | None = parameter(
        0,
        "pixel",
        "maximum number of steps by which a mark spreads; null sets no limit, which suits only the moderate "
        "scores of the method ssa",
        ge=0,
    )
    grow: float | None = parameter(
        1.5,
        "standard deviations",
        "marks grow to connected pixels with at least this amplitude, if the method of artefacts gives one; "
        "null turns this off",
        gt=0,
    )
    const_regions: tuple[str, ...] = parameter(
        (), "", "DS9 region files; pixels inside the regions are marked in all channels"
    )
    dynamic_regions: tuple[tuple[float, str], ...] = parameter(
        (), "", "list of (channel, DS9 region file) for regions that move from channel to channel"
    )

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        cuts = cut_by_channel(self.cut, cube[CHANNEL].values)
        cube = cube.assign({"cut": (WAVELENGTH, cuts, {UNITS: ""})})
        groups = self.region_groups(cube)
        kernel = partial(_marked, max_dilation=self.max_dilation, low=self.grow, groups=groups)
        outputs = {MASK: Output(dtype="uint8", blank=0, attrs={UNITS: ""})}
        inputs = [BADNESS, "cut", CHANNEL]
        return cube.assign(over_planes(cube, self.name, kernel, inputs, outputs, optional=[AMPLITUDE]))

    def findings(self, cube: xr.Dataset) -> Iterator[str]:
        if DATA not in cube:
            return
        planes = cube.sizes[WAVELENGTH]
        sample = np.unique(np.linspace(0, planes - 1, SAMPLE).round().astype(int))
        shown = [cube[[DATA, MASK]].isel({WAVELENGTH: i}) for i in sample]
        found = np.median([mask_summary(s[DATA].values, s[MASK].values) for s in shown], axis=0)
        usual = MaskSummary(*found.tolist())
        if usual.brightest_marked > BRIGHT:
            yield (
                f"groups of marks cover {usual.brightest_marked:.0%} of the brightest parts of the object in "
                "half of the planes: if they are a core, a limb or a moon, and not artefacts, raise the cut"
            )
        if usual.largest_group > LARGE or usual.marked > MANY:
            yield (
                f"{usual.marked:.0%} of the pixels are marked in half of the planes, "
                f"{usual.largest_group:.0%} in one group: the data say nothing about the object there; "
                "raise the cut if they are not artefacts"
            )

    def region_groups(self, cube: xr.Dataset) -> tuple[RegionGroup, ...]:
        """Return the regions of all files, as numbers in pixels of the cube.

        CubeError is raised if a file cannot be read, has no usable region, or needs coordinates that the cube
        does not have.
        """
        if not self.const_regions and not self.dynamic_regions:
            return ()
        # Imported only where there are regions, because the package `regions` takes 0.3 s to import.
        from lucidcube.io.regions import const_regions, dynamic_regions
        from lucidcube.io.wcs import celestial_wcs

        header = fits.Header.fromstring(cube.attrs.get(HEADER, ""), sep="\n")
        try:
            wcs = celestial_wcs(header) if header else None
        except CubeError:
            wcs = None  # regions in image coordinates need none; others raise an error
        groups = const_regions(self.const_regions, wcs=wcs, header=header)
        if self.dynamic_regions:
            groups += (dynamic_regions(self.dynamic_regions, wcs=wcs, header=header),)
        return groups

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that the mask depends on, including the contents of the region files."""
        files = [*self.const_regions, *(path for _, path in self.dynamic_regions)]
        contents = [hashlib.sha256(Path(f).expanduser().read_bytes()).hexdigest() for f in files]
        return {**super().fingerprint(), "regions": contents}


def _marked(
    score: np.ndarray,
    cut: float,
    channel: int,
    amplitude: np.ndarray | None,
    *,
    max_dilation: int | None,
    low: float | None,
    groups: Sequence[RegionGroup],
) -> np.ndarray:
    mask = bad_pixel_mask(score, float(cut), max_dilation=max_dilation)
    for group in groups:
        mask |= group.mask(float(channel), score.shape)
    if amplitude is not None and low is not None:
        mask = grow(mask, amplitude, low)
    mask[np.isnan(score)] = Mark.NO
    return mask

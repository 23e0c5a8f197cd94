"""Select the part of an array that is the cube by its axes, its slices and its range of wavelengths."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from astropy.io import fits

from lucidcube.errors import ConfigError, CubeError
from lucidcube.io.axes import Axes, find_axes
from lucidcube.io.hdus import Hdu
from lucidcube.io.specifier import AxisSlice, Specifier, WaveRange
from lucidcube.io.spectral import Lookup, SpectralGrid, spectral_grid, spectral_unit
from lucidcube.io.spectral_cards import override_cards
from lucidcube.io.wcs import reorder_axes, slice_cards

_SPEED_OF_LIGHT = 299_792_458.0


class Selection(NamedTuple):
    """The part of an array that is the cube.

    `specifier` is the user's choice, with the range of wavelengths replaced by a slice; `kept` holds the
    selected elements of each axis; `header` describes the whole array and includes the user's values for the
    spectral axis; `grid` holds the positions of the selected channels (a single NaN for an image).
    """

    specifier: Specifier
    axes: Axes
    kept: list[range]
    header: fits.Header
    grid: SpectralGrid

    @property
    def channels(self) -> range:
        """Numbers of the planes in the file."""
        return range(1) if self.axes.spectral is None else self.kept[self.axes.spectral]


def select(
    wanted: Specifier, hdu: Hdu, given: tuple[float | None, float | None, str | None], lookup: Lookup
) -> Selection:
    """Apply the axes, slices and range of wavelengths of a specifier to an array.

    `given` holds wave_start, wave_step and wave_unit, see `override_cards`; for `lookup` see `spectral_grid`.
    Ambiguous axes and an empty selection raise CubeError, an unknown unit raises ConfigError.
    """
    name = wanted.path
    kept = _kept(wanted.index, hdu.shape, name)
    axes = find_axes(
        hdu.header,
        [len(part) for part in kept],
        celestial=wanted.celestial,
        spectral=wanted.spectral,
        name=name if wanted.ext is None else f"{name}{{{wanted.ext}}}",
    )
    if axes.spectral is None:
        if wanted.wave is not None or given != (None, None, None):
            raise CubeError(f"{name} is an image: wave, wave_start, wave_step, wave_unit are for cubes")
        return Selection(wanted, axes, kept, hdu.header, SpectralGrid(np.full(1, math.nan), "", "", ""))
    n = len(hdu.shape) - axes.spectral
    header = override_cards(hdu.header, n, *given)
    grid = spectral_grid(header, n, hdu.shape[axes.spectral], lookup)
    if wanted.wave is not None:
        kept[axes.spectral] = _within(kept[axes.spectral], grid, wanted.wave, name)
        index = tuple((k.start, k.stop if k.stop >= 0 else None, k.step) for k in kept)
        wanted = replace(wanted, index=index, wave=None)
    grid = grid._replace(values=grid.values[np.asarray(kept[axes.spectral])])
    return Selection(wanted, axes, kept, header, grid)


def product_header(chosen: Selection) -> tuple[fits.Header, int]:
    """Return a header for the selected part, and the FITS number of its spectral axis (0 if there is none).

    The axes of the header are in the order in which products are written: wavelength, y, x. Axes of length
    one keep their positions unless the other axes are reordered.
    """
    ndim = len(chosen.kept)
    header = chosen.header
    for axis, part in enumerate(chosen.kept):
        header = slice_cards(header, ndim - axis, part)
    spectral = chosen.axes.spectral
    main = [axis for axis in chosen.axes if axis is not None]
    order = list(range(ndim))
    if main != sorted(main):  # otherwise only axes of length one are between them
        order = [axis for axis in order if axis not in main] + main
    header = reorder_axes(header, [ndim - axis for axis in reversed(order)])
    return header, 0 if spectral is None else ndim - order.index(spectral)


def _kept(index: Sequence[int | AxisSlice], shape: tuple[int, ...], name: str) -> list[range]:
    """Return the elements of each axis that the slices select; an integer selects one."""
    sides = " x ".join(map(str, shape))
    if len(index) > len(shape):
        raise CubeError(f"{name}: {len(index)} slices, but the array has {len(shape)} axes ({sides})")
    kept = []
    for axis, length in enumerate(shape):
        choice = index[axis] if axis < len(index) else (None, None, None)
        if isinstance(choice, int):
            choice = (choice, choice + 1 or None, 1)
        part = range(length)[slice(*choice)]
        if not part:
            raise CubeError(f"{name}: the slice leaves nothing of axis {axis} of length {length} ({sides})")
        kept.append(part)
    return kept


def _within(part: range, grid: SpectralGrid, wave: WaveRange, name: str) -> range:
    """Return the channels of `part` within a closed range of the spectral axis."""
    unit = spectral_unit(wave.unit)
    if unit is None:
        raise ConfigError(f"wave: {wave.unit!r} is not a unit of wavelength, frequency or speed, such as um")
    low = -math.inf if wave.low is None else wave.low * unit.scale
    high = math.inf if wave.high is None else wave.high * unit.scale
    if {unit.si, grid.si} == {"m", "Hz"}:
        low, high = (_SPEED_OF_LIGHT / end if end > 0 else math.inf for end in (high, max(low, 0.0)))
    elif unit.si != grid.si:
        raise CubeError(
            f"{name}: wave is in {wave.unit}, the spectral axis in {grid.si or 'an unknown unit'}"
        )
    positions = grid.values[np.asarray(part)]
    margin = 1e-9 * np.abs(positions)
    inside = np.flatnonzero((positions >= low - margin) & (positions <= high + margin))
    if not len(inside):
        first, last = positions.min(), positions.max()
        reach = f"{first:.6g} to {last:.6g} {grid.si}"
        if unit.si == grid.si:
            reach = f"{first / unit.scale:.6g} to {last / unit.scale:.6g} {wave.unit}"
        raise CubeError(f"{name}: no channel lies in the range of wave; the channels reach from {reach}")
    return part[int(inside[0]) : int(inside[-1]) + 1]

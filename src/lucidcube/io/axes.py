"""Which axes of an array are wavelength, y and x."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from astropy.io import fits

from lucidcube.errors import CubeError
from lucidcube.io.header_cards import text
from lucidcube.io.spectral import is_spectral

_LONGITUDE = re.compile(r"RA|LON|[A-Z]LON|[A-Z]{2}LN")
_LATITUDE = re.compile(r"DEC|LAT|[A-Z]LAT|[A-Z]{2}LT")
_NEITHER = re.compile(r"STOKES|POL.*|COMPLEX|TIME|UTC|TAI")


class Axes(NamedTuple):
    """Numpy axis numbers of an array.

    Attributes
    ----------
    spectral
        None for an image.
    y, x
        The spatial axes.
    """

    spectral: int | None
    y: int
    x: int


def find_axes(
    header: fits.Header,
    shape: Sequence[int],
    *,
    celestial: tuple[int, int] | None = None,
    spectral: int | None = None,
    name: str = "PATH",
) -> Axes:
    """Tell the axes of an array by what the user says, then by CTYPE and CUNIT, then by elimination.

    Parameters
    ----------
    header
        Of the array. An axis with neither a celestial nor a spectral CTYPE (``LINEAR``, ``PIXEL``, none) is
        taken for what is missing, if there is only one way to do it.
    shape
        Of the array, in numpy order, after slicing; axes of length 1 may be anything.
    celestial, spectral
        What the user says: numpy numbers of y and x, and of the wavelength. Negative ones count from the end.
    name
        Of the file, for the message.

    Returns
    -------
    Axes
        All others have length 1.

    Raises
    ------
    CubeError
        If there is no way or more than one; it lists every axis and shows what to type.
    """
    ndim = len(shape)
    if ndim < 2:
        raise CubeError(f"{name}: the array has {ndim} axis; an image has 2, a cube 3")
    given = [
        _checked(axis, ndim, name)
        for axis in (*(celestial or ()), *(() if spectral is None else (spectral,)))
    ]
    if len(set(given)) != len(given):
        raise CubeError(f"{name}: one axis is named twice; {_listing(header, shape)}")
    ctypes = [text(header, f"CTYPE{ndim - axis}").upper().split("-")[0] for axis in range(ndim)]
    free = [axis for axis in range(ndim) if axis not in given]
    wave: int | None = given[-1] if spectral is not None else None
    plane = tuple(given[:2]) if celestial is not None else _celestial(ctypes, free)
    if wave is None:
        told = [a for a in free if a not in plane and is_spectral(header, ndim - a)]
        long = [axis for axis in told if shape[axis] > 1]
        wave = long[0] if len(long) == 1 else told[0] if len(told) == 1 else None
    rest = [
        a for a in free if a not in plane and a != wave and shape[a] > 1 and not _NEITHER.fullmatch(ctypes[a])
    ]
    if len(plane) != 2:
        short = [a for a in free if a != wave and a not in rest and not _NEITHER.fullmatch(ctypes[a])]
        candidates = (
            sorted({*plane, *rest}) if len({*plane, *rest}) >= 2 else sorted({*plane, *rest, *short[-2:]})
        )
        plane = tuple(candidates) if len(candidates) == 2 else ()
        rest = [axis for axis in rest if axis not in plane]
    if wave is None and len(plane) == 2 and len(rest) == 1:
        wave = rest[0]
    if len(plane) != 2:
        raise CubeError(
            f"{name}: cannot tell which axes are what; {_listing(header, shape)}; {_advice(name, ndim)}"
        )
    found = Axes(wave, plane[0], plane[1])
    extra = [axis for axis in range(ndim) if axis not in found and shape[axis] > 1]
    if extra:
        pick = ",".join("0" if axis in extra else ":" for axis in range(ndim))
        raise CubeError(
            f"{name}: more axes than a cube has; {_listing(header, shape)}; choose one of the others, "
            f"as in {name}[{pick}]"
        )
    return found


def _checked(axis: int, ndim: int, name: str) -> int:
    if not -ndim <= axis < ndim:
        raise CubeError(
            f"{name}: there is no axis {axis}; the array has {ndim}, numbered from 0 to {ndim - 1}"
        )
    return axis % ndim


def _celestial(ctypes: list[str], free: list[int]) -> tuple[int, ...]:
    """A longitude and a latitude in numpy order, whichever comes first; or less."""
    longitude = [axis for axis in free if _LONGITUDE.fullmatch(ctypes[axis])]
    latitude = [axis for axis in free if _LATITUDE.fullmatch(ctypes[axis])]
    if len(longitude) > 1 or len(latitude) > 1:
        return ()
    return tuple(sorted(longitude + latitude))


def _listing(header: fits.Header, shape: Sequence[int]) -> str:
    ndim = len(shape)
    axes = []
    for axis, length in enumerate(shape):
        ctype = text(header, f"CTYPE{ndim - axis}")
        axes.append(f"axis {axis} ({ctype or 'no CTYPE'}, {length} long)")
    return "it has " + ", ".join(axes)


def _advice(name: str, ndim: int) -> str:
    last = f"({ndim - 2},{ndim - 1})"
    if ndim == 2:
        return f"name y and x, as in {name}{last}"
    return f"name them, as in {name}{{CELESTIAL:{last},SPECTRAL:({ndim - 3})}}"

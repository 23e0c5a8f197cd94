"""Find the axes of an array that are wavelength, y and x."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from astropy.io import fits

from lucidcube.errors import CubeError
from lucidcube.io.header_cards import text
from lucidcube.io.spectral import is_spectral

_LONGITUDE = re.compile(r"RA|LON|[A-Z]LON|[A-Z]{2}LN")
_LATITUDE = re.compile(r"DEC|LAT|[A-Z]LAT|[A-Z]{2}LT")
_OTHER = re.compile(r"STOKES|POL.*|COMPLEX|TIME|UTC|TAI")


class Axes(NamedTuple):
    """NumPy axis numbers of an array; `spectral` is None for an image."""

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
    """Find the axes of an array by the user's choice, then by CTYPE and CUNIT, then by elimination.

    An axis with neither a celestial nor a spectral CTYPE (``LINEAR``, ``PIXEL``, none) is taken for what is
    missing, if there is only one way to do it; else CubeError lists every axis of the file `name` and shows
    what to type. `shape` is that after slicing, in NumPy order; axes of length 1 may be anything. The user
    chooses with `celestial`, the NumPy numbers of y and x, and `spectral`; negative ones count from the end.
    """
    ndim = len(shape)
    if ndim < 2:
        raise CubeError(f"{name}: the array has {ndim} axis; an image has 2, a cube 3")
    given = [*(celestial or ()), *(() if spectral is None else (spectral,))]
    for axis in given:
        if not -ndim <= axis < ndim:
            raise CubeError(f"{name}: there is no axis {axis}; the array has the axes 0 to {ndim - 1}")
    given = [axis % ndim for axis in given]
    if len(set(given)) != len(given):
        raise CubeError(f"{name}: one axis is named twice; {_listing(header, shape)}")
    ctypes = [text(header, f"CTYPE{ndim - axis}").upper().split("-")[0] for axis in range(ndim)]
    free = [axis for axis in range(ndim) if axis not in given]
    plane = tuple(given[:2]) if celestial is not None else _celestial(ctypes, free)
    wave = given[-1] if spectral is not None else None
    if wave is None:
        named = [axis for axis in free if axis not in plane and is_spectral(header, ndim - axis)]
        long = [axis for axis in named if shape[axis] > 1]
        wave = long[0] if len(long) == 1 else named[0] if len(named) == 1 else None
    open_axes = [axis for axis in free if axis != wave and not _OTHER.fullmatch(ctypes[axis])]
    rest = [axis for axis in open_axes if axis not in plane and shape[axis] > 1]
    if len(plane) != 2:
        candidates = {*plane, *rest}
        linear = {axis for axis in rest if ctypes[axis] == "LINEAR"}
        if len(linear) == 2 and not any(ctypes[axis] for axis in candidates - linear):
            candidates = linear  # as in the PSF of a product whose wavelengths have no CTYPE
        if len(candidates) < 2:
            candidates |= {*[axis for axis in open_axes if axis not in rest][-2:]}
        plane = tuple(sorted(candidates)) if len(candidates) == 2 else ()
        rest = [axis for axis in rest if axis not in plane]
    if wave is None and len(plane) == 2 and len(rest) == 1:
        wave = rest[0]
    if len(plane) != 2:
        last = f"({ndim - 2},{ndim - 1})"
        advice = f"name them, as in {name}{{CELESTIAL:{last},SPECTRAL:({ndim - 3})}}"
        if ndim == 2:
            advice = f"name y and x, as in {name}{last}"
        raise CubeError(f"{name}: cannot tell which axes are what; {_listing(header, shape)}; {advice}")
    found = Axes(wave, plane[0], plane[1])
    extra = [axis for axis in range(ndim) if axis not in found and shape[axis] > 1]
    if extra:
        pick = ",".join("0" if axis in extra else ":" for axis in range(ndim))
        raise CubeError(
            f"{name}: more axes than a cube has; {_listing(header, shape)}; pick one element of the others, "
            f"as in {name}[{pick}]"
        )
    return found


def _celestial(ctypes: list[str], free: list[int]) -> tuple[int, ...]:
    """Return the longitude and the latitude axis in NumPy order; fewer if one of them is missing."""
    longitude = [axis for axis in free if _LONGITUDE.fullmatch(ctypes[axis])]
    latitude = [axis for axis in free if _LATITUDE.fullmatch(ctypes[axis])]
    if len(longitude) > 1 or len(latitude) > 1:
        return ()
    return tuple(sorted(longitude + latitude))


def _listing(header: fits.Header, shape: Sequence[int]) -> str:
    ctypes = (text(header, f"CTYPE{len(shape) - axis}") or "no CTYPE" for axis in range(len(shape)))
    axes = zip(range(len(shape)), ctypes, shape, strict=True)
    return "it has " + ", ".join(f"axis {axis} ({ctype}, {length} long)" for axis, ctype, length in axes)

"""Read DS9 region files into plain numbers in pixels of the plane.

Definitions
-----------
* Pixels whose centre is in an included region are marked, except those in an excluded one (``-circle`` or
  ``include=0``). The order does not matter, and files are independent: pixels that one file excludes may be
  marked by another file. A file with excluded regions only is an error.
* ``image`` coordinates count from (1, 1), the centre of the first pixel of the plane. Celestial ones are
  converted by the WCS; a circle or ellipse on the sky becomes one in pixels, with the scale at its centre.
  ``physical`` ones are converted by the cards LTM1_1, LTM2_2, LTV1, LTV2, by default 1, 1, 0, 0.
* An annulus with several rings is reduced to its innermost and its outermost edge.
* Points, lines, texts and other markers without area are ignored; a shape that has an area and cannot be
  drawn is an error, and so is a file that encloses nothing. A ``composite`` is split into members.

Coordinates, sizes and angles are parsed by `regions.Regions.parse`, one region at a time. The statements
around them are parsed here, so that messages name the line, labels remain text, and the time is linear in
the size of the file, which is not trusted.
"""

import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import regions
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS

from lucidcube.errors import CubeError
from lucidcube.io.limits import open_regular

LARGEST_FILE = 1 << 20
"""Number of bytes that a region file may have."""
MOST_REGIONS = 10_000
"""Number of regions that a file may have; each takes about half a millisecond."""
MOST_PROBLEMS = 20
"""Number of unusable lines that a message names."""

FARTHEST = 1e9
"""Number of pixels that no coordinate and no size may reach; squares of larger numbers could overflow."""

SKY_FRAMES = ("icrs", "fk5", "j2000", "fk4", "b1950", "galactic", "ecliptic")
FRAMES = (*SKY_FRAMES, "image", "physical")
MARKERS = ("point", "line", "text", "vector", "ruler", "compass", "projection", "segment")
SHAPES = {
    "circle": "3 numbers: x, y, radius",
    "ellipse": "5 numbers: x, y, two radii, angle",
    "box": "5 numbers: x, y, width, height, angle",
    "polygon": "x, y of 3 corners or more",
    "annulus": "4 or more: x, y, radii",
}
"""Description of the numbers of each shape, for messages."""

# Our name of each pixel region of the `regions` package, and its attributes after the centre.
_RINGS = ("inner_width", "outer_width", "inner_height", "outer_height", "angle")
_KINDS: dict[Any, tuple[str, tuple[str, ...]]] = {
    regions.CirclePixelRegion: ("circle", ("radius",)),
    regions.EllipsePixelRegion: ("ellipse", ("width", "height", "angle")),
    regions.RectanglePixelRegion: ("box", ("width", "height", "angle")),
    regions.PolygonPixelRegion: ("polygon", ()),
    regions.CircleAnnulusPixelRegion: ("annulus", ("inner_radius", "outer_radius")),
    regions.EllipseAnnulusPixelRegion: ("ellipse annulus", _RINGS),
    regions.RectangleAnnulusPixelRegion: ("box annulus", _RINGS),
}

_TEXT = r"""\btext\s{0,9}=\s{0,9}(?:\{([^}]{0,999})\}|"([^"]{0,999})"|'([^']{0,999})')"""
_LABEL = re.compile(_TEXT, re.IGNORECASE)
_STATEMENT = re.compile(rf"(?:{_TEXT}|[^;])++", re.IGNORECASE)
_INCLUDE = re.compile(r"\binclude\s{0,9}=\s{0,9}([01])\b", re.IGNORECASE)
_NUMBER = re.compile(r"[-+.0-9:dhmsrie'\"]{1,60}", re.IGNORECASE)
_WORD = re.compile(r"([+-]?)\s*([a-z][a-z0-9]*)\s*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Region:
    """One shape in pixels of the plane, counted from (0, 0), which may be `excluded` from the others.

    Its `parameters` are x, y, radius of a ``circle``; x, y and both radii of an ``annulus``; x, y, full width
    and height, angle in degrees of an ``ellipse`` or a ``box``; x, y, both widths, both heights, angle of an
    ``ellipse annulus`` or ``box annulus``; x, y of each corner of a ``polygon``. `label` is its ``text``, and
    `where` the file and the line.
    """

    shape: str
    parameters: tuple[float, ...]
    excluded: bool = False
    label: str = ""
    where: str = field(default="", compare=False)

    @property
    def kind(self) -> tuple[str, int, bool]:
        """What two regions must have in common to be matched: shape, number of parameters, sign."""
        return self.shape, len(self.parameters), self.excluded

    @property
    def has_angle(self) -> bool:
        """Whether the last parameter is an angle."""
        return self.shape.startswith(("ellipse", "box"))

    def drawn(self) -> Any:
        """Return the pixel region of the `regions` package."""
        values: list[Any] = list(self.parameters)
        made = next(kind for kind, (name, _) in _KINDS.items() if name == self.shape)
        if self.shape == "polygon":
            return made(regions.PixCoord(np.array(values[0::2]), np.array(values[1::2])))
        if self.has_angle:
            values[-1] = values[-1] * u.deg
        return made(regions.PixCoord(values[0], values[1]), *values[2:])


def load_regions(
    path: str | Path, *, wcs: WCS | None = None, header: Mapping[str, Any] | None = None
) -> tuple[Region, ...]:
    """Read the regions of a DS9 region file of at most 1 MiB, in their order.

    `wcs` is that of the cube, for celestial frames, and `header` its FITS header, for the ``physical`` frame.
    A file that cannot be read or includes nothing raises CubeError, which names the first unusable lines.
    """
    found: list[Region] = []
    problems: list[str] = []
    frame, markers = "", 0
    for where, statement in _statements(path):
        match = _WORD.match(statement)
        sign, word, rest = (match[1], match[2].lower(), statement[match.end() :]) if match else ("", "", "")
        if word in FRAMES and not sign and not rest:
            frame = word
        elif word in MARKERS:
            markers += 1
        elif word == "composite" and sign != "-":
            pass
        elif word not in SHAPES:
            problems.append(
                f"{where}: cannot read `{_short(statement)}`; known shapes are {', '.join(SHAPES)}, "
                f"known frames {', '.join(FRAMES)}"
            )
        elif not frame:
            problems.append(f"{where}: {word} stands before any frame; put a line such as `image` above it")
        else:
            try:
                numbers, _, comment = rest.partition("#")
                kind, parameters = _numbers(word, numbers, frame, wcs, header)
            except CubeError as error:
                problems.append(f"{where}: {error}")
                continue
            label, include = _LABEL.search(comment), _INCLUDE.search(_LABEL.sub("", comment))
            excluded = include[1] == "0" if include else sign == "-"
            text = "".join(part or "" for part in label.groups()) if label else ""
            found.append(Region(kind, parameters, excluded, text.strip(), where))
            if len(found) > MOST_REGIONS:
                raise CubeError(f"{path}: a region file may have {MOST_REGIONS} regions at most; divide it")
    if not problems and all(region.excluded for region in found):
        problems.append(
            f"{path}: no region here marks a pixel ({len(found)} excluded, {markers} without area); "
            "write at least one, such as `image; circle(20,30,5)`"
        )
    if (more := len(problems) - MOST_PROBLEMS) > 0:
        problems[MOST_PROBLEMS:] = [f"{path}: and {more} more unusable statements"]
    if problems:
        raise CubeError(*problems)
    return tuple(found)


def _statements(path: str | Path) -> Iterator[tuple[str, str]]:
    """Yield place and text of each statement, without comments and display settings."""
    try:
        with open_regular(path) as file:
            content = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        raise CubeError(
            f"{path}: cannot read this region file ({getattr(error, 'strerror', None) or error})"
        ) from error
    if len(content) > LARGEST_FILE:
        raise CubeError(f"{path}: a region file may have {LARGEST_FILE} bytes at most; divide it")
    text = content.decode("utf-8-sig", errors="replace")
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if line.lstrip().startswith("#"):
            continue
        for match in _STATEMENT.finditer(line):
            statement = match[0].strip()
            if statement and not statement.lower().startswith("global"):
                yield f"{path}, line {number}", statement


def _numbers(
    shape: str, text: str, frame: str, wcs: WCS | None, header: Mapping[str, Any] | None
) -> tuple[str, tuple[float, ...]]:
    """Return the name and the parameters in pixels of the region with these coordinates, sizes and angle."""
    values = text.strip().removesuffix("||").replace("(", " ").replace(")", " ").replace(",", " ").split()
    for value in values:
        if not _NUMBER.fullmatch(value):
            raise CubeError(f"`{_short(value)}` is no position, size or angle; write {shape}(x,y,...)")
    drawn = _parsed(shape, _complete(shape, values), frame, wcs)
    kind, attributes = _KINDS[type(drawn)]
    if kind == "polygon":
        corners = zip(drawn.vertices.x, drawn.vertices.y, strict=True)
        parameters = [float(value) for corner in corners for value in corner]
    else:
        sizes = [getattr(drawn, name) for name in attributes]
        parameters = [float(drawn.center.x), float(drawn.center.y)]
        parameters += [float(v.to_value(u.deg) if isinstance(v, u.Quantity) else v) for v in sizes]
    if frame == "physical":
        parameters = _from_physical(parameters, kind, header or {})
    if not all(abs(value) < FARTHEST for value in parameters):
        raise CubeError(f"this {shape} is nowhere on the plane; correct its coordinates")
    return kind, tuple(parameters)


def _complete(shape: str, values: list[str]) -> list[str]:
    """Check how many numbers a shape has; add an angle that was left out, drop the inner rings of annuli."""
    count = len(values)
    if shape == "annulus" and count >= 4:
        return [*values[:3], values[-1]]
    if shape in ("ellipse", "box") and count == 4:
        return [*values, "0"]
    if shape in ("ellipse", "box") and count >= 7 and count % 2 == 1:
        return [*values[:4], *values[-3:]]
    if count == {"circle": 3, "ellipse": 5, "box": 5, "polygon": max(6, count // 2 * 2)}.get(shape):
        return values
    raise CubeError(f"{shape} with {count} numbers; it needs {SHAPES[shape]}")


def _parsed(shape: str, values: list[str], frame: str, wcs: WCS | None) -> Any:
    """Let the `regions` package parse a shape, and place it on the plane if it is on the sky."""
    text = f"{'image' if frame == 'physical' else frame}\n{shape}({','.join(values)})"
    reason = "check its units"
    try:
        with warnings.catch_warnings(), np.errstate(invalid="ignore"):  # off the projection all is NaN
            warnings.simplefilter("ignore", AstropyWarning)
            for drawn in regions.Regions.parse(text, format="ds9"):
                if frame not in SKY_FRAMES:
                    return drawn
                if wcs is not None and wcs.has_celestial:
                    return drawn.to_pixel(wcs.celestial)
                reason = "the cube has no celestial WCS; save in image coordinates"
    except Exception as error:  # whatever the package raises on damaged numbers
        reason = _short(str(error))
    raise CubeError(f"cannot read {shape}({_short(','.join(values))}) in the {frame} frame: {reason}")


def _from_physical(parameters: list[float], kind: str, header: Mapping[str, Any]) -> list[float]:
    """Turn physical coordinates (IRAF's: image = LTM * physical + LTV, counted from 1) into pixels from 0."""
    cards = {"LTM1_1": 1, "LTM2_2": 1, "LTV1": 0, "LTV2": 0, "LTM1_2": 0, "LTM2_1": 0}
    try:
        scale, scale_y, *shift, cross, cross_y = (float(header.get(k, cards[k])) for k in cards)
        usable = scale == scale_y > 0 and cross == cross_y == 0
    except (TypeError, ValueError):
        usable = False
    if not usable:
        raise CubeError(
            "the physical frame of this cube is turned, mirrored or stretched (LTM cards); "
            "save in image coordinates"
        )
    # A position p counted from 0 is p + 1 in the file; lengths only scale, an angle stays.
    positions = len(parameters) if kind == "polygon" else 2
    moved = [scale * (p + 1) + shift[i % 2] - 1 for i, p in enumerate(parameters[:positions])]
    moved += [scale * p for p in parameters[positions:]]
    if Region(kind, ()).has_angle:
        moved[-1] = parameters[-1]
    return moved


def _short(text: str) -> str:
    """Make foreign text fit for a message: printable, on one line, not long."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown if len(shown) <= 60 else shown[:57] + "..."

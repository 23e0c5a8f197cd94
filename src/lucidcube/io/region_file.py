"""DS9 region files, read into plain numbers in pixels of the plane.

What a file means
-----------------
* Pixels whose centre lies in an included region are marked, except those in an excluded one (``-circle`` or
  ``include=0``). The order does not matter, and a file stands for itself: what it excludes may still be
  marked by another file. A file that only excludes marks nothing, so it is refused.
* ``image`` coordinates count from (1, 1), the centre of the first pixel of the plane. Celestial ones go
  through the WCS; a circle or ellipse on the sky becomes one in pixels, with the scale at its centre.
  ``physical`` ones go through the cards LTM1_1, LTM2_2, LTV1, LTV2, which are 1, 1, 0, 0 where absent.
* Of an annulus with several rings the innermost and the outermost edge count.
* Points, lines, texts and other markers without area are left out, and listed; a shape that has an area and
  cannot be drawn is an error, and so is a file that encloses nothing. A ``composite`` is its members.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import astropy.units as u
import numpy as np
import regions
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS, NoConvergence

from lucidcube.errors import CubeError

LARGEST_FILE = 1 << 20
"""Bytes. Region files come from elsewhere; ten thousand regions fit in this."""

FARTHEST = 1e9
"""Pixels. No region needs more, and the squares of greater numbers could overflow."""

SKY_FRAMES = ("icrs", "fk5", "j2000", "fk4", "b1950", "galactic", "ecliptic")
FRAMES = (*SKY_FRAMES, "image", "physical")
MARKERS = ("point", "line", "text", "vector", "ruler", "compass", "projection", "segment")
SHAPES = ("circle", "ellipse", "box", "polygon", "annulus")

# Of each pixel region of the `regions` package: our name and its attributes after the centre.
_KINDS: dict[Any, tuple[str, tuple[str, ...]]] = {
    regions.CirclePixelRegion: ("circle", ("radius",)),
    regions.EllipsePixelRegion: ("ellipse", ("width", "height", "angle")),
    regions.RectanglePixelRegion: ("box", ("width", "height", "angle")),
    regions.PolygonPixelRegion: ("polygon", ()),
    regions.CircleAnnulusPixelRegion: ("annulus", ("inner_radius", "outer_radius")),
    regions.EllipseAnnulusPixelRegion: (
        "ellipse annulus",
        ("inner_width", "outer_width", "inner_height", "outer_height", "angle"),
    ),
    regions.RectangleAnnulusPixelRegion: (
        "box annulus",
        ("inner_width", "outer_width", "inner_height", "outer_height", "angle"),
    ),
}

_TEXT_OR_END = re.compile(r"""text\s*=\s*([{"'])|;""", re.IGNORECASE)
_LABEL = re.compile(r"""\btext\s*=\s*(?:\{([^}]{0,999})\}|"([^"]{0,999})"|'([^']{0,999})')""", re.IGNORECASE)
_INCLUDE = re.compile(r"\binclude\s*=\s*([01])\b", re.IGNORECASE)
_WORD = re.compile(r"([+-]?)\s*([a-z][a-z0-9]*)\s*", re.IGNORECASE)
_NUMBER = re.compile(  # decimal with a unit, or sexagesimal; neither can overflow
    r"""[+-]?(?:(?:[0-9]{1,20}\.?[0-9]{0,20}|\.[0-9]{1,20})(?:e[+-]?[0-9]{1,2})?[dri'"]?"""
    r"""|[0-9]{1,3}[:dh][0-9]{1,2}[:m][0-9]{1,2}\.?[0-9]{0,20}s?)"""
)


@dataclass(frozen=True, slots=True)
class Region:
    """One shape in pixels of the plane, counted from (0, 0).

    Parameters
    ----------
    shape
        ``circle``, ``ellipse``, ``box``, ``polygon``, ``annulus``, ``ellipse annulus`` or ``box annulus``.
    parameters
        Of a circle x, y, radius; of an annulus x, y and both radii; of an ellipse or a box x, y, full width
        and height, angle in degrees; of their annuli x, y, both widths, both heights, angle; of a polygon x,
        y of each corner.
    excluded
        Whether it is taken out of the others.
    label
        Its ``text``, empty if it has none.
    where
        File and line, for messages.
    """

    shape: str
    parameters: tuple[float, ...]
    excluded: bool = False
    label: str = ""
    where: str = field(default="", compare=False)

    @property
    def has_angle(self) -> bool:
        """Whether the last parameter is an angle."""
        return self.shape.startswith(("ellipse", "box"))

    def drawn(self) -> Any:
        """Pixel region of the `regions` package."""
        values: list[Any] = list(self.parameters)
        made = next(kind for kind, (name, _) in _KINDS.items() if name == self.shape)
        if self.shape == "polygon":
            return made(regions.PixCoord(np.array(values[0::2]), np.array(values[1::2])))
        if self.has_angle:
            values[-1] = values[-1] * u.deg
        return made(regions.PixCoord(values[0], values[1]), *values[2:])


class RegionFile(NamedTuple):
    """What a region file holds.

    Parameters
    ----------
    regions
        Its regions, in order; at least one is included.
    left_out
        Its markers without area, in words.
    """

    regions: tuple[Region, ...]
    left_out: tuple[str, ...]


def load_regions(
    path: str | Path, *, wcs: WCS | None = None, header: Mapping[str, Any] | None = None
) -> RegionFile:
    """Read a DS9 region file.

    Parameters
    ----------
    path
        Text file of at most 1 MiB.
    wcs
        WCS of the cube; only its celestial part is used, and only for celestial frames.
    header
        FITS header of the cube, for the ``physical`` frame.

    Raises
    ------
    CubeError
        Names every line that cannot be used, with the file and the line number; also if the file cannot be
        read or includes nothing.
    """
    found: list[Region] = []
    left_out: list[str] = []
    problems: list[str] = []
    frame = ""
    for where, statement in _statements(path):
        signed, word, rest = _parted(statement)
        if word in FRAMES and not signed and not rest:
            frame = word
        elif word in MARKERS:
            left_out.append(f"{where}: {word} encloses no pixels")
        elif word == "composite" and signed != "-":
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
                found.append(_region(signed, word, rest, frame, where, wcs, header))
            except CubeError as error:
                problems.extend(error.problems)
    if not problems and not any(not region.excluded for region in found):
        problems.append(
            f"{path}: no region here marks a pixel ({len(found)} excluded, {len(left_out)} without area); "
            "write at least one, such as `image; circle(20,30,5)`"
        )
    if problems:
        raise CubeError(*problems)
    return RegionFile(tuple(found), tuple(left_out))


def _statements(path: str | Path) -> Iterator[tuple[str, str]]:
    """Place and text of each statement; comments and display settings are dropped."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
    except (OSError, ValueError) as error:
        raise CubeError(f"{path}: cannot read this region file ({error})") from error
    if len(content) > LARGEST_FILE:
        raise CubeError(f"{path}: a region file may have {LARGEST_FILE} bytes at most; divide it")
    text = content.decode("utf-8-sig", errors="replace")
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), start=1):
        if line.lstrip().startswith("#"):
            continue
        for statement in map(str.strip, _split(line)):
            if statement and not statement.lower().startswith("global"):
                yield f"{path}, line {number}", statement


def _split(line: str) -> Iterator[str]:
    """Parts of a line between semicolons, except those inside ``text={...}``."""
    start, unclosed, inside_until = 0, set[str](), 0
    for match in _TEXT_OR_END.finditer(line):
        if match.start() < inside_until:
            continue
        if match[0] == ";":
            yield line[start : match.start()]
            start = match.end()
            continue
        closing = "}" if match[1] == "{" else match[1]
        if closing not in unclosed:
            end = line.find(closing, match.end())
            inside_until = end + 1
            if end < 0:
                unclosed.add(closing)
    yield line[start:]


def _parted(statement: str) -> tuple[str, str, str]:
    """Sign, first word in lower case, rest; all empty if the statement does not start with a word."""
    match = _WORD.match(statement)
    return (match[1], match[2].lower(), statement[match.end() :]) if match else ("", "", "")


def _region(
    sign: str,
    shape: str,
    rest: str,
    frame: str,
    where: str,
    wcs: WCS | None,
    header: Mapping[str, Any] | None,
) -> Region:
    """One region from the text after its shape's name."""
    numbers, _, comment = rest.partition("#")
    numbers = numbers.strip().removesuffix("||").lower()
    values = _values(shape, numbers.replace("(", " ").replace(")", " ").replace(",", " ").split(), where)
    drawn = _parsed(shape, values, frame, where)
    if frame in SKY_FRAMES:
        drawn = _on_plane(drawn, wcs, where)
    kind, attributes = _KINDS[type(drawn)]
    parameters = _corners(drawn) if kind == "polygon" else _parameters(drawn, attributes)
    if frame == "physical":
        parameters = _from_physical(parameters, kind, header, where)
    if not all(abs(value) < FARTHEST for value in parameters):
        raise CubeError(f"{where}: this {shape} lies nowhere on the plane; correct its coordinates")
    label, include = _LABEL.search(comment), _INCLUDE.search(_LABEL.sub("", comment))
    excluded = include[1] == "0" if include else sign == "-"
    text = next((part for part in label.groups() if part is not None), "") if label else ""
    return Region(kind, parameters, excluded, text.strip(), where)


def _values(shape: str, values: list[str], where: str) -> list[str]:
    """Check the numbers of a shape; add an angle that was left out and drop the inner rings of annuli."""
    count = len(values)
    for value in values:
        if not _NUMBER.fullmatch(value):
            raise CubeError(
                f"{where}: `{_short(value)}` is no position, size or angle; write {shape}(x,y,...)"
            )
    match shape:
        case "circle" if count == 3:
            return values
        case "annulus" if count >= 4:
            return [*values[:3], values[-1]]
        case "polygon" if count >= 6 and count % 2 == 0:
            return values
        case "ellipse" | "box" if count == 4:
            return [*values, "0"]
        case "ellipse" | "box" if count == 5:
            return values
        case "ellipse" | "box" if count >= 7 and count % 2 == 1:
            return [*values[:4], *values[-3:]]
    needed = {
        "circle": "3 numbers: x, y, radius",
        "annulus": "4 or more: x, y, radii",
        "polygon": "x, y of 3 corners or more",
        "ellipse": "5 numbers: x, y, two radii, angle",
        "box": "5 numbers: x, y, width, height, angle",
    }
    raise CubeError(f"{where}: {shape} with {count} numbers; it needs {needed[shape]}")


def _parsed(shape: str, values: list[str], frame: str, where: str) -> Any:
    """Let the `regions` package read the coordinates and units of one checked shape."""
    text = f"{'image' if frame == 'physical' else frame}\n{shape}({','.join(values)})"
    reason = "check its units"
    parsed: Sequence[Any] = ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        try:
            parsed = regions.Regions.parse(text, format="ds9")
        except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
            reason = _short(str(error))
    if len(parsed) != 1:
        raise CubeError(
            f"{where}: cannot read {shape}({_short(','.join(values))}) in the {frame} frame: {reason}"
        )
    return parsed[0]


def _on_plane(drawn: Any, wcs: WCS | None, where: str) -> Any:
    """A region on the sky as one in pixels."""
    if wcs is None or not wcs.has_celestial:
        raise CubeError(
            f"{where}: celestial coordinates, but the cube has no celestial WCS; save in image coordinates"
        )
    try:
        with np.errstate(invalid="ignore"):  # off the projection everything is NaN; the caller refuses that
            return drawn.to_pixel(wcs.celestial)
    except (ValueError, NoConvergence) as error:
        raise CubeError(f"{where}: cannot be placed by the cube's WCS: {_short(str(error))}") from error


def _corners(drawn: Any) -> tuple[float, ...]:
    return tuple(float(v) for corner in zip(drawn.vertices.x, drawn.vertices.y, strict=True) for v in corner)


def _parameters(drawn: Any, attributes: Sequence[str]) -> tuple[float, ...]:
    found = [float(drawn.center.x), float(drawn.center.y)]
    for name in attributes:
        value = getattr(drawn, name)
        found.append(float(value.to_value(u.deg)) if name == "angle" else float(value))
    return tuple(found)


def _from_physical(
    parameters: tuple[float, ...], kind: str, header: Mapping[str, Any] | None, where: str
) -> tuple[float, ...]:
    """Physical coordinates (IRAF's: image = LTM * physical + LTV, counted from 1) to pixels from 0."""
    cards = {} if header is None else header
    names = ("LTM1_1", "LTM2_2", "LTV1", "LTV2", "LTM1_2", "LTM2_1")
    try:
        scale, scale_y, *shift, cross, cross_y = (
            float(cards.get(name, default)) for name, default in zip(names, (1, 1, 0, 0, 0, 0), strict=True)
        )
    except (TypeError, ValueError):
        scale, scale_y, shift, cross, cross_y = math.nan, math.nan, [0.0, 0.0], 0.0, 0.0
    if not (scale == scale_y > 0 and cross == cross_y == 0):
        raise CubeError(
            f"{where}: the physical frame of this cube is turned, mirrored or stretched (LTM cards); "
            "save in image coordinates"
        )
    # A position p counted from 0 is p + 1 in the file; lengths only scale, an angle stays.
    positions = len(parameters) if kind == "polygon" else 2
    moved = [scale * (p + 1) + shift[i % 2] - 1 for i, p in enumerate(parameters[:positions])]
    moved += [scale * p for p in parameters[positions:]]
    if Region(kind, parameters).has_angle:
        moved[-1] = parameters[-1]
    return tuple(moved)


def _short(text: str) -> str:
    """Foreign text for a message: printable, on one line, not long."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return shown if len(shown) <= 60 else shown[:57] + "..."

"""Turn planes into small images for a page: a colour scale, a palette, a PNG file as a data URI."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from lucidcube.report.product_file import Plane

LARGEST_SIDE = 360
"""Largest side of an image in pixels; larger planes are averaged."""
SHARP_BELOW = 200
"""Side of an image in pixels below which its pixels are shown as squares."""
LEVELS = 128
MISSING = (128, 128, 128)
MARKED, FAINT, FILLED, OUTLINE = (213, 94, 0), (86, 180, 233), (204, 121, 167), (0, 230, 230)
MISSING_LEVEL, OUTLINE_LEVEL = 255, 254
"""Numbers of the last colours of a palette."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
APART = 20.0
"""Smallest distance between the labels of a scale, in percent of its length."""
STRETCH = 0.08
"""Where the asinh scale turns from linear to logarithmic, as a fraction of its range."""


@dataclass(frozen=True)
class Scale:
    """A colour scale from `bottom` to `top`; `linear` is the fraction where asinh turns logarithmic, or 0."""

    bottom: float
    top: float
    colours: str
    unit: str = ""
    linear: float = 0.0
    levels: int = LEVELS

    def place(self, values: Any) -> Any:
        """Return where values are on the scale, from 0 to 1; NaN stays NaN."""
        part = (np.asarray(values, np.float64) - self.bottom) / (self.top - self.bottom)
        if self.linear:
            part = np.arcsinh(part / self.linear) / math.asinh(1 / self.linear)
        return np.clip(part, 0, 1)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Places on the scale in percent, and their labels."""
        if not self.linear:
            values = MaxNLocator(4, steps=[1, 2, 5, 10]).tick_values(self.bottom, self.top)
        else:
            power = 10.0 ** math.floor(math.log10(self.top - self.bottom))
            values = [0.0, *(power * f for f in (0.01, 0.1, 0.3, 1, 3))]
        chosen: list[tuple[float, str]] = []
        for value in values:
            place = 100 * float(self.place(value))
            inside = self.bottom <= value <= self.top
            if inside and (not chosen or place - chosen[-1][0] > APART):
                chosen.append((round(place, 1), number_text(value)))
        return chosen


class Picture(NamedTuple):
    """An image for a page with its text alternative and its scale, if it has one."""

    title: str
    source: str
    alt: str
    scale: Scale | None
    pixelated: bool
    note: str = ""


def number_text(value: float) -> str:
    """Return a short number for a scale, with powers of ten where that is shorter: ``0.01``, ``3×10⁻⁷``."""
    if not value or 1e-3 <= abs(value) < 1e5:
        return f"{value:.5g}".replace("-", "−")
    digits, _, power = f"{abs(value):.2e}".partition("e")
    digits = digits.rstrip("0").rstrip(".")
    factor = "" if digits == "1" else f"{digits}×"
    return f"{'−' if value < 0 else ''}{factor}10{str(int(power)).translate(SUPERSCRIPTS)}"


def shrink_factor(shape: tuple[int, ...]) -> int:
    """Return by which factor a plane is averaged so that its sides are at most `LARGEST_SIDE`."""
    return -(-max(shape) // LARGEST_SIDE)


def shrunk(plane: Plane) -> Plane:
    """Return a plane averaged so that its sides are at most `LARGEST_SIDE`; NaN counts as missing."""
    factor = shrink_factor(plane.shape)
    if factor == 1:
        return plane
    rows, columns = (n // factor for n in plane.shape)
    parts = plane[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor)
    known = np.isfinite(parts)
    counts = known.sum(axis=(1, 3))
    total = np.where(known, parts, 0).sum(axis=(1, 3), dtype=np.float64)
    mean = np.divide(total, counts, out=np.full(counts.shape, np.nan), where=counts > 0)
    return mean.astype(np.float32)


def flux_scale(planes: Sequence[Plane | None], unit: str) -> Scale:
    """Return one scale for several planes, from the dark end of the sky to the brightest of them."""
    values = np.concatenate([p[np.isfinite(p)] for p in planes if p is not None] or [np.zeros(1)])
    values = values if values.size else np.zeros(1)
    bottom, top = min(0.0, float(np.percentile(values, 1))), float(np.percentile(values, 99.9))
    return Scale(bottom, top if top > bottom else bottom + 1, "inferno", unit, STRETCH)


def symmetric_scale(reach: float, unit: str, levels: int = 41) -> Scale:
    """Return a diverging scale about zero."""
    return Scale(-reach, reach, "RdBu_r", unit, levels=levels)


def positive_scale(plane: Plane, colours: str, unit: str, levels: int = 64) -> Scale:
    """Return a linear scale from zero to the 99.5th percentile of a plane."""
    known = plane[np.isfinite(plane)]
    top = float(np.percentile(known, 99.5)) if known.size else 1.0
    return Scale(0.0, top if top > 0 else 1.0, colours, unit, levels=levels)


def picture(title: str, plane: Plane, scale: Scale, alt: str, note: str = "") -> Picture:
    """Return the image of a plane (y, x), with y upwards; missing pixels are grey."""
    small, factor = shrunk(plane), shrink_factor(plane.shape)
    note = note or (f"mean of {factor} × {factor} pixels" if factor > 1 else "")
    source = png(_levels(small, scale), _palette(scale.colours, scale.levels))
    return Picture(title, source, alt, scale, max(small.shape) < SHARP_BELOW, note)


def outlined(title: str, plane: Plane, inside: Plane, scale: Scale, alt: str) -> Picture:
    """Return the image of a plane with an outline around the pixels where `inside` is positive."""
    small, marked = shrunk(plane), shrunk((inside > 0).astype(np.float32)) > 0
    larger = np.ones((max(2, 240 // max(small.shape)),) * 2, np.uint8)
    levels, marked = np.kron(_levels(small, scale), larger), np.kron(marked, larger) > 0
    edge = marked & ~ndimage.binary_erosion(marked)
    palette = _palette(scale.colours, scale.levels, OUTLINE)
    return Picture(title, png(np.where(edge, OUTLINE_LEVEL, levels), palette), alt, scale, pixelated=True)


def marks(
    title: str, plane: Plane, mask: Plane | None, filled: Plane | None, scale: Scale, alt: str
) -> Picture:
    """Return a grey image of a plane with the marked pixels and the filled holes in colour."""
    small = shrunk(plane)
    levels = _levels(small, replace(scale, levels=LEVELS))
    for values, of_kind, level in ((filled, (2, 3), 252), (mask, (2,), 253), (mask, (1,), 254)):
        if values is not None:
            levels[shrunk(np.isin(values, of_kind).astype(np.float32)) > 0] = level
    palette = _palette("gray", LEVELS, MARKED, FAINT, FILLED)
    return Picture(title, png(levels, palette), alt, None, max(small.shape) < SHARP_BELOW)


def png(levels: NDArray[np.uint8], palette: bytes) -> str:
    """Return an image (y, x) of numbers of colours, with y upwards, as the data URI of a PNG file."""
    image = Image.fromarray(np.ascontiguousarray(levels[::-1]))
    image.putpalette(palette)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=6)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def gradient(colours: str, steps: int = 12) -> str:
    """Return the stops of a CSS gradient of a colour map."""
    table = matplotlib.colormaps[colours](np.linspace(0, 1, steps), bytes=True)
    return ", ".join(f"#{r:02x}{g:02x}{b:02x}" for r, g, b, _ in table)


def _levels(plane: Plane, scale: Scale) -> NDArray[np.uint8]:
    """Return the number of the colour of each pixel; that of missing pixels where there is no data."""
    places = np.rint(scale.place(np.nan_to_num(plane)) * (scale.levels - 1))
    return np.where(np.isfinite(plane), places, MISSING_LEVEL).astype(np.uint8)


@cache
def _palette(colours: str, levels: int, *last: tuple[int, int, int]) -> bytes:
    """Return the RGB values of 256 colours: a map of some levels, then `last` before the one for missing."""
    table = np.zeros((256, 3), np.uint8)
    table[:levels] = matplotlib.colormaps[colours](np.linspace(0, 1, levels), bytes=True)[:, :3]
    for number, colour in enumerate((MISSING, *last)):
        table[255 - number] = colour
    return table.tobytes()

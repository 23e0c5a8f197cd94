"""Draw line charts as inline SVG, which follows the colours of the page and needs no script."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.ticker import LogLocator, MaxNLocator
from numpy.typing import NDArray

from lucidcube.report.pictures import number_text

WIDTH, HEIGHT = 560, 220
LEFT, RIGHT, TOP, BOTTOM = 74, 12, 12, 40
STEPS = [1, 2, 2.5, 5, 10]
FINEST = 0.02
"""Smallest range of an axis, relative to its values."""

Numbers = NDArray[np.floating]


class Line(NamedTuple):
    """A line of a chart: its label, and its values; `style` is ``line``, ``dots`` or ``dashes``."""

    label: str
    x: Numbers
    y: Numbers
    style: str = "line"


class Chart(NamedTuple):
    """What the template of a chart needs."""

    title: str
    alt: str
    x_label: str
    y_label: str
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    curves: list[dict[str, object]]
    levels: list[tuple[float, str]]
    x_range: tuple[float, float]
    by_wavelength: bool


def chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    alt: str,
    log: bool = False,
    levels: Sequence[tuple[float, str]] = (),
    by_wavelength: bool = False,
) -> Chart | None:
    """Return a chart; None if no line has a finite value.

    `levels` are horizontal lines with labels, and `log` makes the vertical axis logarithmic, where values
    that are not positive are left out.
    """
    known = [_cleaned(line, log) for line in lines]
    known = [line for line in known if np.isfinite(line.y).any()]
    if not known:
        return None
    x_low, x_high = _range([line.x for line in known], 0.0)
    heights = [line.y for line in known]
    heights += [np.array([value for value, _ in levels if value > 0 or not log])]
    if log:
        y_low, y_high = _range([np.log10(h) for h in heights], 0.04)
        powers = LogLocator(numticks=6).tick_values(10**y_low, 10**y_high)
        y_ticks = [(math.log10(v), number_text(v)) for v in powers if v > 0]
    else:
        y_low, y_high = _range(heights, 0.06)
        y_ticks = [(v, f"{v:.6g}") for v in MaxNLocator(5, steps=STEPS).tick_values(y_low, y_high)]

    def across(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def up(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    curves = []
    for number, line in enumerate(known):
        y = np.log10(line.y) if log else line.y
        points = [(across(a), up(b)) if math.isfinite(b) else None for a, b in zip(line.x, y, strict=True)]
        dots = [p for p in points if p] if line.style == "dots" or len(points) <= 3 else []
        path = "" if line.style == "dots" else _path(points)
        curves.append(
            {"label": line.label, "number": number + 1, "path": path, "dots": dots, "style": line.style}
        )
    shown = [(math.log10(v) if log else v, text) for v, text in levels if v > 0 or not log]
    return Chart(
        title,
        alt,
        x_label,
        y_label,
        [
            (across(v), f"{v:.6g}")
            for v in MaxNLocator(6, steps=STEPS).tick_values(x_low, x_high)
            if x_low <= v <= x_high
        ],
        [(up(v), text.replace("-", "−")) for v, text in y_ticks if y_low <= v <= y_high],
        curves,
        [(up(v), text) for v, text in shown],
        (LEFT, WIDTH - RIGHT),
        by_wavelength,
    )


def _cleaned(line: Line, log: bool) -> Line:
    """Return a line with NaN where a value cannot be drawn."""
    y = np.asarray(line.y, np.float64)
    good = np.isfinite(y) & (y > 0) if log else np.isfinite(y)
    return line._replace(x=np.asarray(line.x, np.float64), y=np.where(good, y, np.nan))


def _range(values: Sequence[Numbers], margin: float) -> tuple[float, float]:
    """Return the ends of an axis that shows all finite values, but does not exaggerate small differences."""
    known = np.concatenate([v[np.isfinite(v)] for v in values])
    low, high = float(known.min()), float(known.max())
    extra = (high - low) * margin
    if margin and high - low < FINEST * abs(high):
        extra = FINEST * abs(high)
    return (low - extra, high + extra) if high + extra > low - extra else (low - 1, high + 1)


def _path(points: Sequence[tuple[float, float] | None]) -> str:
    """Return the path of a line, which is interrupted where there is no value."""
    pieces, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        pieces.append(f"{pen}{point[0]:g} {point[1]:g}")
        pen = "L"
    return "".join(pieces)

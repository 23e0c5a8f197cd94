"""Draw panels side by side on one sheet."""

import io
import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import AsinhNorm, ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from lucidcube import __version__
from lucidcube.errors import UserError
from lucidcube.plotting.channels import plain
from lucidcube.plotting.figure import GREY, INK, colours, percentile
from lucidcube.plotting.panels import Panel

Scale = Literal["asinh", "linear"]
SIGNATURE = b"Software\0lucidcube"
"""What a PNG file that was made here contains near its beginning."""

SMALLEST = 1e-300
"""Smallest range of values that is drawn; nearly all numbers below are too small to divide by."""
LARGEST = 64
"""Largest number of panels of a sheet."""
PANEL, DPI = 3.4, 110
SIGMAS = 5.0
"""Range of residuals, in standard deviations."""


def draw_sheet(title: str, rows: Sequence[tuple[str, Sequence[Panel]]], scale: Scale = "asinh") -> bytes:
    """Return a PNG file with one row of panels for each description.

    Fluxes are drawn between the percentiles 0.5 and 99.8 of each panel, on an inverse hyperbolic sine scale,
    which shows faint and bright parts, or on a linear one; residuals from -5 to 5 standard deviations. The
    maps can be read by the colour blind; pixels without data are grey. Axes are offsets from the centre in
    arcseconds where the sky coordinates are known, else pixels counted from 0. UserError is raised for
    too many panels.
    """
    columns = max(len(panels) for _, panels in rows)
    if columns * len(rows) > LARGEST:
        raise UserError(f"{columns} HDUs of {len(rows)} planes are too many for a sheet: choose fewer")
    size = (PANEL * 1.3 * columns + 0.3, PANEL * len(rows) * 1.1 + 0.5)
    figure = FigureCanvasAgg(Figure(figsize=size, dpi=DPI, facecolor="white", layout="constrained")).figure
    figure.suptitle(plain(title), fontsize=11, color=INK, x=0.01, ha="left")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (text, panels) in zip(grid, rows, strict=True):
        for place, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
            _draw(figure, ax, panel, scale)
            ax.set_title(
                plain(panel.title if place else f"{panel.title}, {text}"), loc="left", fontsize=9, color=INK
            )
        if panels[0].matrix is not None:
            _compass(axes[0], panels[0].matrix)
    content = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # about letters that the font does not have
        figure.savefig(content, format="png", metadata={"Software": f"lucidcube {__version__}"})
    return content.getvalue()


def _draw(figure: Any, ax: Any, panel: Panel, scale: Scale) -> None:
    ny, nx = panel.values.shape
    side_x, side_y = (1.0, 1.0) if panel.matrix is None else np.hypot(*panel.matrix)
    centred = panel.matrix is not None or panel.style == "psf"
    x, y = ((nx - 1) / 2, (ny - 1) / 2) if centred else (0.0, 0.0)
    extent = ((-0.5 - x) * side_x, (nx - 0.5 - x) * side_x, (-0.5 - y) * side_y, (ny - 0.5 - y) * side_y)
    image = ax.imshow(
        panel.values, origin="lower", interpolation="antialiased", extent=extent, **looks(panel, scale)
    )
    unit = "arcsec" if panel.matrix is not None else "pixel"
    ax.set_xlabel(f"x ({unit})", fontsize=8, color=INK)
    ax.set_ylabel(f"y ({unit})", fontsize=8, color=INK)
    ax.tick_params(labelsize=7, colors=INK)
    bar = figure.colorbar(image, ax=ax, shrink=0.85, pad=0.02)
    bar.set_label(plain(panel.unit), fontsize=7, color=INK)
    bar.ax.tick_params(labelsize=7, colors=INK)
    if panel.style == "flags" and not panel.unit:
        bar.set_ticks([0, 1, 2, 3])
    if isinstance(image.norm, AsinhNorm):
        set_asinh_ticks(image)


def looks(panel: Panel, scale: Scale) -> dict[str, Any]:
    """Return the colour map and the scale of a panel."""
    known = panel.values[np.isfinite(panel.values)]
    if panel.style == "sigma":
        return {"cmap": colours("RdBu_r"), "norm": Normalize(-SIGMAS, SIGMAS)}
    if panel.style == "flags":
        if panel.unit:
            return {"cmap": colours("cividis"), "norm": Normalize(0, 1)}
        steps = ListedColormap(["#F4F4F4", "#D55E00", "#56B4E9", "#0072B2"]).with_extremes(bad=GREY)
        return {"cmap": steps, "norm": Normalize(-0.5, 3.5)}
    top = float(known.max()) if panel.style == "psf" and known.size else percentile(known, 99.8)
    bottom = 0.0 if panel.style == "psf" else min(0.0, percentile(known, 0.5))
    if panel.style == "error":
        bottom = percentile(known, 0.5)
    if not top - bottom > SMALLEST:
        top = bottom + 1.0
    colour = {"psf": "viridis", "error": "cividis"}.get(panel.style, "inferno")
    if scale == "linear" or panel.style == "error":
        return {"cmap": colours(colour), "norm": Normalize(bottom, top)}
    width = (1e-3 if panel.style == "psf" else 0.1) * (top - bottom)
    return {"cmap": colours(colour), "norm": AsinhNorm(linear_width=width, vmin=bottom, vmax=top)}


def set_asinh_ticks(image: Any) -> None:
    """Set ticks at zero and at round numbers of both signs that are not too close to each other."""
    norm = image.norm
    first = math.floor(math.log10(norm.linear_width))
    last = math.ceil(math.log10(max(abs(norm.vmin), abs(norm.vmax))))
    sizes = np.outer(10.0 ** np.arange(first, last + 1), (1, 2, 5)).ravel()
    ticks = [0.0] if norm.vmin <= 0 <= norm.vmax else []
    for tick in (*sizes, *-sizes):
        if norm.vmin <= tick <= norm.vmax and all(abs(norm(tick) - norm(t)) > 0.08 for t in ticks):
            ticks.append(float(tick))
    image.colorbar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    image.colorbar.ax.minorticks_off()


def _compass(ax: Any, matrix: Any) -> None:
    """Draw arrows to the north and to the east in a corner of a panel."""
    if abs(np.linalg.det(matrix)) < 1e-12:
        return
    sides = np.hypot(*matrix)
    start = np.array([0.84, 0.16])
    outline = {"path_effects": [withStroke(linewidth=2.5, foreground="black")]}
    style = {"arrowstyle": "->", "color": "white", "lw": 1.2, "shrinkA": 0, "shrinkB": 0, **outline}
    for name, sky in (("N", (0.0, 1.0)), ("E", (1.0, 0.0))):
        arrow = np.linalg.solve(matrix, sky) * sides
        step = 0.12 * arrow / np.hypot(*arrow)
        ax.annotate("", xy=start + step, xytext=start, xycoords="axes fraction", arrowprops=style)
        where = {"ha": "center", "va": "center", "transform": ax.transAxes}
        ax.text(*(start + 1.35 * step), name, color="white", fontsize=8, **where, **outline)

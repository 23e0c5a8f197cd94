"""The live plot: the deconvolution of one plane is shown in a window or written as PNG frames.

It needs matplotlib, which is optional; this module is imported only if a plot is requested.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from lucidcube.cube import DATA, FILLED, PSF, UNITS, VARIANCE, WAVELENGTH, require
from lucidcube.errors import CubeError, UserError
from lucidcube.kernels.deconvolution.common import IterationState
from lucidcube.lift.planes import nan_for_inf
from lucidcube.plotting.channels import describe_plane, nearest_plane, unit_text
from lucidcube.plotting.figure import AVAILABLE, Picture, ShownPlane
from lucidcube.stages.deconvolve import Deconvolve
from lucidcube.stages.psf_planes import usable_psf

FRAMES = 30
"""Approximate number of frames of a deconvolution that uses all its iterations."""
FOLDER = "lucidcube-plot"
"""Default folder of frames."""
DRAWING_SHARE = 0.2
"""Fraction of the time that may be spent on drawing in a window."""

SIZE, DPI = (13.6, 8.8), 100


def watch_plane(
    cube: xr.Dataset,
    stage: Deconvolve,
    *,
    wavelength: float | str | None = None,
    folder: str | Path | None = None,
) -> list[Path]:
    """Deconvolve one plane and draw the iterations.

    With a display and an interactive backend of matplotlib they are drawn in a window, so often that drawing
    takes at most a fifth of the time; the window stays open until it is closed. Otherwise, or with a
    `folder`, frames ``frame-00001.png``, ... are written and returned: at iterations in geometric
    progression, because most changes happen at the start, and at last of the result.

    The cube has `data` and `psf`, and optionally `variance` and `filled`. Only one plane is computed (a few
    if the middle of the cube has no data): the one nearest to `wavelength`, which is a number in the unit of
    the cube's axis (m, Hz or m/s), or text with a unit, such as ``"0.72um"``; by default the plane with data
    that is nearest to the middle. The folder is created if necessary, and frames of an earlier plot are
    removed from it; it is `FOLDER` where no window can be opened.

    UserError is raised if matplotlib is not installed, there is no such plane or no data in it, or its PSF
    cannot be used.
    """
    if not AVAILABLE:
        raise UserError("the live plot needs matplotlib: pip install 'lucidcube[plot]'")
    plane = _load(cube, stage, wavelength)
    figure = _window() if folder is None else None
    picture = Picture(figure or _page(), plane, stage)
    view = _Frames(picture, folder or FOLDER, stage.n_iter) if figure is None else _Window(picture)
    result = stage.on_pixels_of(cube).deconvolve_plane(
        plane.data, plane.psf, variance=plane.variance, filled=plane.filled, observer=view
    )
    picture.finish(result)
    return view.close()


def _load(cube: xr.Dataset, stage: Deconvolve, wavelength: float | str | None) -> ShownPlane:
    require(cube, stage.requires, "the live plot")
    index = _middle(cube) if wavelength is None else nearest_plane(cube[WAVELENGTH], wavelength)
    chosen = cube.isel({WAVELENGTH: slice(index, index + 1)})
    where = describe_plane(chosen)
    names = [name for name in (DATA, PSF, VARIANCE, FILLED) if name in cube.variables]
    loaded = chosen[names].isel({WAVELENGTH: 0}).compute()
    arrays = {name: nan_for_inf(loaded[name].values) for name in names}
    if np.isnan(arrays[DATA]).all():
        raise CubeError(f"{where} has no data to plot; choose another wavelength")
    if np.isnan(arrays[PSF]).all():
        raise CubeError(f"{where} has no PSF; choose another wavelength")
    unit = unit_text(str(cube[DATA].attrs.get(UNITS, "")))
    psf = usable_psf(arrays[PSF], f"{where}: ")
    return ShownPlane(arrays[DATA], psf, arrays.get(VARIANCE), arrays.get(FILLED), where, unit)


def _middle(cube: xr.Dataset) -> int:
    """Return the index of the plane with data that is nearest to the middle of the cube."""
    count = cube.sizes[WAVELENGTH]
    for index in sorted(range(count), key=lambda i: abs(2 * i - count + 1)):
        if np.isfinite(cube[DATA].isel({WAVELENGTH: index}).to_numpy()).any():
            return index
    raise CubeError("no plane of the cube has data to plot")


class _Frames:
    """An observer that writes a PNG file after some of the `count` iterations, and one of the result."""

    def __init__(self, picture: Picture, folder: str | Path, count: int) -> None:
        self._picture, self._folder = picture, _folder(folder)
        self._iterations = {round(i) for i in np.geomspace(1, max(1, count), FRAMES)}
        self._paths: list[Path] = []

    def __call__(self, state: IterationState) -> None:
        self._picture.note(state)
        if state.iteration in self._iterations:
            self._picture.draw()
            self._write()

    def close(self) -> list[Path]:
        """Write the last frame."""
        self._write()
        return self._paths

    def _write(self) -> None:
        path = self._folder / f"frame-{len(self._paths) + 1:05d}.png"
        self._picture.figure.canvas.print_png(path)
        self._paths.append(path)


class _Window:
    """An observer that draws in a window as often as time allows."""

    def __init__(self, picture: Picture) -> None:
        self._picture, self._canvas = picture, picture.figure.canvas
        self._closed, self._waiting, self._next = False, False, 0.0
        self._canvas.mpl_connect("close_event", self._on_close)
        picture.figure.show()
        # The first drawing loads fonts and is slow; it must not determine how often to draw.
        self._refresh()

    def __call__(self, state: IterationState) -> None:
        self._picture.note(state)
        now = time.perf_counter()
        if now >= self._next and not self._closed:
            self._picture.draw()
            self._refresh()
            self._next = now + (time.perf_counter() - now) / DRAWING_SHARE

    def close(self) -> list[Path]:
        """Show the result until the window is closed."""
        if not self._closed:
            self._refresh()
        if not self._closed:
            self._waiting = True
            self._canvas.start_event_loop()
        return []

    def _refresh(self) -> None:
        self._canvas.draw()
        self._canvas.flush_events()

    def _on_close(self, event: Any) -> None:
        self._closed = True
        if self._waiting:
            self._canvas.stop_event_loop()


def _page() -> Any:
    """Create a figure that pyplot does not manage."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    return FigureCanvasAgg(Figure(figsize=SIZE, dpi=DPI, facecolor="white")).figure


def _window() -> Any | None:
    """Create a figure in a window, or return None if no window can be opened."""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not display:
        return None
    # Importing pyplot may connect to a display, so it is imported only if there seems to be one.
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=SIZE, dpi=DPI, facecolor="white")
    if figure.canvas.required_interactive_framework is None:
        pyplot.close(figure)
        return None
    return figure


def _folder(folder: str | Path) -> Path:
    """Create the folder, and remove the frames of an earlier plot from it."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the frames cannot be written to {path}: {error.strerror}") from error
    for old in path.glob("frame-" + "[0-9]" * 5 + ".png"):
        old.unlink()
    return path

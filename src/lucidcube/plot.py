"""The live plot: watch the deconvolution of one plane, in a window or as PNG frames.

Needs matplotlib, which is optional; nothing else imports this module unless a plot is asked for.
"""

from __future__ import annotations

import math
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from astropy import units
from numpy.typing import NDArray

from lucidcube.cube import CHANNEL, DATA, FILLED, PSF, UNITS, VARIANCE, WAVELENGTH, require
from lucidcube.errors import CubeError, UserError
from lucidcube.kernels.iteration import Deconvolution, IterationState, check_psf
from lucidcube.stages.deconvolve import Deconvolve

try:
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import AsinhNorm, BoundaryNorm, ListedColormap
    from matplotlib.figure import Figure
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True

FRAMES = 30
"""About this many frames are written of a deconvolution that uses all its iterations."""
FOLDER = "lucidcube-plot"
"""Where frames go that were not asked for by a folder."""
DRAWING_SHARE = 0.2
"""Of the time, in a window."""

SIZE, DPI = (13.6, 8.8), 100
BLUE, RED, PALE, GREY, INK = "#0072B2", "#D55E00", "#A6CFE8", "#8C8C8C", "#222222"
TITLE = {"loc": "left", "fontsize": 11, "color": INK}
BINS = 90
SHOWN_UNITS = {"m": ("um", "µm"), "Hz": ("GHz", "GHz"), "m/s": ("km/s", "km/s")}


def watch_plane(
    cube: xr.Dataset,
    stage: Deconvolve,
    *,
    wavelength: float | str | None = None,
    folder: str | Path | None = None,
    every: int | None = None,
) -> list[Path]:
    """Deconvolve one plane and draw what happens.

    On a display with an interactive backend of matplotlib this is a window, drawn as often as it costs
    no more than a fifth of the time; it stays until it is closed. Otherwise, or with a `folder`, frames
    ``frame-00001.png``, ... are written; the last one shows the result.

    Parameters
    ----------
    cube
        With `data` and `psf`, and `variance` and `filled` if there are; NumPy or dask. Only one plane is
        computed (a few, where the middle of the cube is empty).
    stage
        Says how to deconvolve.
    wavelength
        The nearest plane is taken: a number in the unit of the cube's axis (m, Hz or m/s), or text with a
        unit, such as ``"0.72um"``. Default: the plane with data that is nearest to the middle.
    folder
        For the frames; made if need be, and freed of the frames of an earlier plot. Default: a window, or
        `FOLDER` where there can be none.
    every
        Draw every so many iterations. Default: in a window as time allows; frames at iterations in
        geometric progression, because most happens at the start.

    Returns
    -------
    list of Path
        The frames; empty for a window.

    Raises
    ------
    UserError
        If matplotlib is not installed, the wavelength cannot be understood or lies outside the cube,
        the plane has no data, or its PSF is not fit for use.
    """
    if not AVAILABLE:
        raise UserError("the live plot needs matplotlib: pip install 'lucidcube[plot]'")
    if every is not None and every < 1:
        raise UserError(f"the plot can be drawn every 1, 2, ... iterations, not every {every}")
    plane = _load(cube, stage, wavelength)
    figure = _window() if folder is None else None
    picture = _Picture(figure or _page(), plane, stage)
    view: _Window | _Frames
    if figure is not None:
        view = _Window(picture, every)
    else:
        view = _Frames(picture, _folder(folder or FOLDER), _iterations(stage.method.n_iter, every))
    result = stage.method.deconvolve(
        plane.data, plane.psf, variance=plane.variance, filled=plane.filled, observer=view
    )
    picture.finish(result)
    return view.close()


# ---------------------------------------------------------------------------------------- which plane


class _Plane(NamedTuple):
    """One plane of a joined cube, in memory, with what the labels say of it."""

    data: NDArray[np.float32]
    psf: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    filled: NDArray[np.generic] | None
    name: str
    units: str


def _load(cube: xr.Dataset, stage: Deconvolve, wavelength: float | str | None) -> _Plane:
    require(cube, stage.requires, "the live plot")
    index = _middle(cube) if wavelength is None else _nearest(cube[WAVELENGTH], wavelength)
    chosen = cube.isel({WAVELENGTH: slice(index, index + 1)})
    where = _where(chosen)
    names = [name for name in (DATA, PSF, VARIANCE, FILLED) if name in cube.variables]
    loaded = chosen[names].isel({WAVELENGTH: 0}).compute()
    arrays = {name: _finite_or_nan(loaded[name].values) for name in names}
    if np.isnan(arrays[DATA]).all():
        raise CubeError(f"{where} has no data to plot; choose another wavelength")
    try:
        check_psf(arrays[PSF])
    except ValueError as error:
        raise CubeError(f"{where}: {error}") from error
    return _Plane(
        arrays[DATA],
        arrays[PSF],
        arrays.get(VARIANCE),
        arrays.get(FILLED),
        where,
        _pretty_unit(str(cube[DATA].attrs.get(UNITS, ""))),
    )


def _where(chosen: xr.Dataset) -> str:
    """As ``plane 5 at 0.72 µm``; an image may have no wavelength."""
    plane, wavelength = f"plane {chosen[CHANNEL].item()}", chosen[WAVELENGTH].item()
    if math.isnan(wavelength):
        return plane
    return f"{plane} at {_spoken(wavelength, _axis_unit(chosen[WAVELENGTH]), 1)}"


def _middle(cube: xr.Dataset) -> int:
    """The plane with data that is nearest to the middle of the cube."""
    count = cube.sizes[WAVELENGTH]
    for index in sorted(range(count), key=lambda i: abs(2 * i - count + 1)):
        if np.isfinite(cube[DATA].isel({WAVELENGTH: index}).to_numpy()).any():
            return index
    raise CubeError("no plane of the cube has data to plot")


def _nearest(axis: xr.DataArray, wanted: float | str) -> int:
    """The plane nearest to a wavelength that may lie half a channel outside of the cube."""
    unit = _axis_unit(axis)
    value = _in_unit(wanted, unit) if isinstance(wanted, str) else float(wanted)
    positions = axis.to_numpy()
    if np.isnan(positions).any():
        raise UserError(f"wavelength {wanted} cannot be looked up: the planes have no wavelengths")
    half = abs(positions[-1] - positions[0]) / max(1, 2 * (positions.size - 1))
    low, high = float(positions.min()), float(positions.max())
    slack = half + 1e-6 * abs(high)
    if not low - slack <= value <= high + slack:
        asked = wanted if isinstance(wanted, str) else f"{wanted:g} {unit}"
        raise UserError(
            f"wavelength {asked} is outside the cube's range, {_spoken(low, unit)} to {_spoken(high, unit)}"
        )
    return int(np.argmin(np.abs(positions - value)))


def _in_unit(text: str, unit: str) -> float:
    try:
        quantity = units.Quantity(text)
        if quantity.unit == units.dimensionless_unscaled:
            return float(quantity.value)
        return float(quantity.to_value(unit, equivalencies=units.spectral()))
    except (TypeError, ValueError) as error:
        example = _spoken(7.2e-7 if unit == "m" else 1e5, unit).replace(" ", "")
        raise UserError(f"{text!r} is no place on this cube's spectral axis, such as {example!r}") from error


def _axis_unit(axis: xr.DataArray) -> str:
    return str(axis.attrs.get(UNITS, "m"))


def _spoken(value: float, unit: str, style: int = 0) -> str:
    """As ``0.72 um`` (style 0, which can be typed) or ``0.72 µm`` (1)."""
    shown = SHOWN_UNITS.get(unit, (unit, unit))
    return f"{(value * units.Unit(unit)).to_value(shown[0]):.6g} {shown[style]}"


def _pretty_unit(text: str) -> str:
    """``10**(-20)*erg/s/cm**2`` as people write it; what astropy cannot read stays as it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", units.UnitsWarning)
        unit = units.Unit(text, parse_strict="silent")
    return str(unit.to_string("unicode")).removeprefix("1×")


def _finite_or_nan(values: NDArray[Any]) -> NDArray[Any]:
    if values.dtype.kind != "f":
        return values
    return np.where(np.isinf(values), values.dtype.type(np.nan), values)


# -------------------------------------------------------------------------------------------- drawing


class _Picture:
    """The figure: six panels whose artists are made once and then given new data."""

    def __init__(self, figure: Any, plane: _Plane, stage: Deconvolve) -> None:
        self.figure, self._plane, self._stage = figure, plane, stage
        self._missing = np.isnan(plane.data)
        self._valid = ~self._missing if plane.filled is None else ~self._missing & ~plane.filled.astype(bool)
        self._touched = np.zeros(plane.data.shape, bool)
        self._state: IterationState | None = None
        self._make_artists()

    def note(self, state: IterationState) -> None:
        """Keep up with an iteration that need not be drawn."""
        self._touched |= state.selected
        self._state = state._replace(selected=state.selected.copy())

    def draw(self) -> None:
        """Bring the artists up to the last iteration noted."""
        if self._state is not None:
            self._show(self._state)
            most = self._stage.method.n_iter
            self._subtitle.set_text(f"iteration {self._state.iteration} of at most {most}")

    def finish(self, result: Deconvolution) -> None:
        """Show what the kernel returned, which may be an earlier iterate than the last."""
        nothing = np.zeros(self._missing.shape, bool)
        blank = IterationState(
            0, result.components, result.residual, nothing, math.nan, (result.fabs,), (result.rms,)
        )
        state = (self._state or blank)._replace(components=result.components, residual=result.residual)
        self._show(state)
        share = f"{result.flux_out / result.flux_in:.1%}" if result.flux_in else "none"
        self._subtitle.set_text(
            f"result after {result.iterations} iterations: {result.stop_reason.text}. "
            f"The components hold {share} of the flux"
        )

    def _make_artists(self) -> None:
        grid = self.figure.add_gridspec(
            2, 3, left=0.055, right=0.94, bottom=0.07, top=0.865, wspace=0.4, hspace=0.27
        )
        axes = [self.figure.add_subplot(grid[place // 3, place % 3]) for place in range(6)]
        for ax in axes:
            ax.tick_params(labelsize=9, colors=INK, direction="out")
        method = self._stage.method
        changed = {k: v for k, v in method.model_dump().items() if v != type(method).model_fields[k].default}
        settings = ", ".join([method.method, *(f"{k} {_short(v)}" for k, v in changed.items())])
        self.figure.text(0.014, 0.952, f"{self._plane.name}   ·   {settings}", fontsize=14, color=INK)
        self._subtitle = self.figure.text(0.014, 0.92, "", fontsize=11, color=INK)
        self._make_images(axes[:4])
        self._make_histogram(axes[4])
        self._make_statistics(axes[5])

    def _make_images(self, axes: list[Any]) -> None:
        present = self._plane.data[~self._missing]
        bottom, top = min(0.0, _percentile(present, 0.5)), _percentile(present, 99.8)
        top = top if top > bottom else bottom + 1
        bright, nothing = _colours("inferno"), np.full(self._missing.shape, np.nan, np.float32)
        self._flux_top = top
        for ax, title, values in ((axes[0], "input", self._plane.data), (axes[1], "components", nothing)):
            norm = AsinhNorm(linear_width=0.1 * (top - bottom), vmin=bottom, vmax=top)
            image = self._image(ax, title, values, self._plane.units, cmap=bright, norm=norm)
            _set_flux_ticks(image)
        self._components = image
        self._residual = self._image(
            axes[2], "residual", nothing, self._plane.units, cmap=_colours("RdBu_r"), vmin=-1, vmax=1
        )
        steps = ListedColormap(["#F4F4F4", PALE, RED]).with_extremes(bad=GREY)
        self._selected = self._image(
            axes[3], "selected pixels", nothing, "", cmap=steps, norm=BoundaryNorm([0, 1, 2, 3], 3)
        )
        bar = self._selected.colorbar
        bar.set_ticks([0.5, 1.5, 2.5], labels=["never", "before", "now"])
        bar.ax.tick_params(length=0, which="both")

    def _image(self, ax: Any, title: str, values: NDArray[Any], unit: str, **looks: Any) -> Any:
        image = ax.imshow(values, origin="lower", interpolation="antialiased", **looks)
        ax.set_anchor("NW")
        ax.set_title(title, **TITLE)
        ax.set_xlabel("x (pixel)", fontsize=9, color=INK)
        ax.set_ylabel("y (pixel)", fontsize=9, color=INK)
        bar = self.figure.colorbar(image, cax=ax.inset_axes((1.03, 0, 0.045, 1)))
        bar.ax.tick_params(labelsize=8, colors=INK)
        ax.set_title(unit, loc="right", fontsize=8.5, color=INK)
        return image

    def _make_histogram(self, ax: Any) -> None:
        self._histogram = ax
        ax.set(xscale="log", yscale="log")
        edges = np.geomspace(0.1, 1, BINS + 1)
        self._all = ax.stairs(np.ones(BINS), edges, fill=True, color=PALE, label="valid pixels")
        self._now = ax.stairs(np.ones(BINS), edges, fill=True, color=RED, label="selected")
        self._threshold = ax.axvline(1, color=INK, lw=1.4, ls="--", label="threshold")
        _label_curves(ax, "metric", f"|residual|{_in_brackets(self._plane.units)}", "pixels")

    def _make_statistics(self, ax: Any) -> None:
        self._statistics = ax
        ax.set_yscale("log")
        (self._fabs,) = ax.plot([], [], color=RED, lw=1.8, label="fabs (largest)")
        (self._rms,) = ax.plot([], [], color=BLUE, lw=1.8, label="rms")
        self._noise_level = self._noise()
        if self._noise_level > 0:
            ax.axhline(self._noise_level, color=INK, lw=1.2, ls=":", label="noise")
        _label_curves(ax, "statistics", "iteration", f"|residual|{_in_brackets(self._plane.units)}")

    def _noise(self) -> float:
        """Root mean variance of the valid pixels; NaN where it is unknown."""
        if self._plane.variance is None:
            return math.nan
        known = self._plane.variance[self._valid & (self._plane.variance > 0)]
        return float(np.sqrt(known.mean(dtype=np.float64))) if known.size else math.nan

    def _show(self, state: IterationState) -> None:
        residual = np.where(self._missing, np.nan, state.residual)
        self._residual.set_data(residual)
        valid = np.abs(residual[self._valid])
        reach = _percentile(valid, 99.5) or 1.0
        self._residual.set_clim(-reach, reach)
        self._components.set_data(state.components)
        known = state.components[np.isfinite(state.components)]
        self._components.norm.vmax = max(self._flux_top, _percentile(known, 99.8))
        _set_flux_ticks(self._components)
        steps = np.where(state.selected, 2.0, np.where(self._touched, 1.0, 0.0))
        self._selected.set_data(np.where(self._missing, np.nan, steps + 0.5))
        self._selected.axes.set_title(f"selected pixels: {np.count_nonzero(state.selected)}", **TITLE)
        self._show_histogram(state, np.abs(residual))
        self._show_statistics(state)

    def _show_histogram(self, state: IterationState, metric: NDArray[np.float32]) -> None:
        top = max([s for s in state.fabs if s > 0], default=1.0)
        latest = state.rms[-1] if state.rms[-1] > 0 else top
        edges = np.geomspace(min(1e-4 * top, 0.03 * latest), 1.5 * top, BINS + 1)
        everything, _ = np.histogram(metric[self._valid], edges)
        chosen, _ = np.histogram(metric[self._valid & state.selected], edges)
        self._all.set_data(everything, edges)
        self._now.set_data(chosen, edges)
        self._histogram.set_xlim(edges[0], edges[-1])
        self._histogram.set_ylim(0.7, 3 * max(10, everything.max()))
        level = state.threshold
        self._threshold.set_visible(math.isfinite(level) and level > 0)
        if self._threshold.get_visible():
            self._threshold.set_xdata([level, level])

    def _show_statistics(self, state: IterationState) -> None:
        for line, values in ((self._fabs, state.fabs), (self._rms, state.rms)):
            line.set_data(np.arange(len(values)), values)
        self._statistics.set_xlim(0, max(10, 1.03 * state.iteration))
        seen = np.array([*state.fabs, *state.rms, self._noise_level])
        seen = seen[seen > 0]
        if seen.size:
            self._statistics.set_ylim(seen.min() / 1.6, seen.max() * 1.6)


def _label_curves(ax: Any, title: str, x: str, y: str) -> None:
    ax.set_title(title, **TITLE)
    ax.set_xlabel(x, fontsize=9, color=INK)
    ax.set_ylabel(y, fontsize=9, color=INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(
        fontsize=8.5,
        frameon=False,
        labelcolor=INK,
        loc="lower right",
        bbox_to_anchor=(1.02, 0.985),
        ncols=3,
        columnspacing=1.1,
        handlelength=1.4,
        handletextpad=0.5,
        borderaxespad=0,
    )


def _set_flux_ticks(image: Any) -> None:
    """Zero and round numbers, not too close to each other on the stretched scale."""
    low, top = image.norm.linear_width / 10, image.norm.vmax
    if not low < top:
        return
    decades = 10.0 ** np.arange(math.floor(math.log10(low)), math.ceil(math.log10(top)) + 1)
    ticks = [0.0]
    for tick in np.outer(decades, (1, 2, 5)).ravel():
        if tick <= top and image.norm(tick) - image.norm(ticks[-1]) > 0.09:
            ticks.append(float(tick))
    image.colorbar.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    image.colorbar.ax.minorticks_off()


def _in_brackets(unit: str) -> str:
    return f" ({unit})" if unit else ""


def _colours(name: str) -> Any:
    return matplotlib.colormaps[name].with_extremes(bad=GREY)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _percentile(values: NDArray[Any], percent: float) -> float:
    return float(np.percentile(values, percent)) if values.size else 0.0


# --------------------------------------------------------------------------------- where it is drawn


class _Frames:
    """An observer that writes a PNG after some of the iterations, and a last one."""

    def __init__(self, picture: _Picture, folder: Path, iterations: set[int] | range) -> None:
        self._picture, self._folder, self._iterations = picture, folder, iterations
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
    """An observer that draws in a window, as often as time allows or at every so many iterations."""

    def __init__(self, picture: _Picture, every: int | None) -> None:
        self._picture, self._every = picture, every
        self._canvas = picture.figure.canvas
        self._closed, self._waiting, self._next = False, False, 0.0
        self._canvas.mpl_connect("close_event", self._on_close)
        picture.figure.show()
        # The first drawing loads fonts and is slow; it must not count for how often to draw.
        self._refresh()

    def __call__(self, state: IterationState) -> None:
        self._picture.note(state)
        now = time.perf_counter()
        due = now >= self._next if self._every is None else state.iteration % self._every == 0
        if due and not self._closed:
            self._picture.draw()
            self._refresh()
            cost = time.perf_counter() - now
            self._next = now + cost / DRAWING_SHARE

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
    """A figure of our own, unknown to pyplot."""
    figure = Figure(figsize=SIZE, dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _window() -> Any | None:
    """A figure in a window, or None where there can be none."""
    if sys.platform.startswith("linux") and not (
        os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    ):
        return None
    # Importing pyplot may look for a display, so it is left until there should be one.
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=SIZE, dpi=DPI, facecolor="white")
    if figure.canvas.required_interactive_framework is None:
        pyplot.close(figure)
        return None
    return figure


def _folder(folder: str | Path) -> Path:
    """Made, and without the frames of an earlier plot, which would pass for the end of this one."""
    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the frames cannot be written to {path}: {error.strerror}") from error
    for old in path.glob("frame-" + "[0-9]" * 5 + ".png"):
        old.unlink()
    return path


def _iterations(count: int, every: int | None) -> set[int] | range:
    """The iterations after which a frame is written."""
    if every is not None:
        return range(every, count + 1, every)
    return {round(i) for i in np.geomspace(1, max(1, count), FRAMES)}

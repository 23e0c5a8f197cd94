"""The figure of a deconvolution: six panels, drawn with matplotlib, which is optional."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.common import Deconvolution, IterationState
from lucidcube.plotting.channels import plain
from lucidcube.stages.deconvolve import Deconvolve

try:
    import matplotlib
    from matplotlib.colors import AsinhNorm, BoundaryNorm, ListedColormap
except ImportError:
    AVAILABLE = False
else:
    AVAILABLE = True

BLUE, RED, PALE, GREY, INK = "#0072B2", "#D55E00", "#A6CFE8", "#8C8C8C", "#222222"
TITLE = {"loc": "left", "fontsize": 11, "color": INK}
LEGEND = {
    "fontsize": 8.5, "frameon": False, "labelcolor": INK, "loc": "lower right",
    "bbox_to_anchor": (1.02, 0.985), "ncols": 3, "columnspacing": 1.1,
    "handlelength": 1.4, "handletextpad": 0.5, "borderaxespad": 0,
}  # fmt: skip
BINS = 90
"""Number of bins of the histogram."""


class ShownPlane(NamedTuple):
    """One plane of a cube in memory, with the texts of its labels."""

    data: NDArray[np.float32]
    psf: NDArray[np.float32]
    variance: NDArray[np.float32] | None
    filled: NDArray[np.generic] | None
    name: str
    units: str


class Picture:
    """The figure: six panels whose artists are created once and then updated."""

    def __init__(self, figure: Any, plane: ShownPlane, stage: Deconvolve) -> None:
        self.figure, self._plane, self._stage = figure, plane, stage
        self._missing = np.isnan(plane.data)
        self._valid = ~self._missing if plane.filled is None else ~self._missing & ~plane.filled.astype(bool)
        self._metric = f"|residual| ({plane.units})" if plane.units else "|residual|"
        self._touched = np.zeros(plane.data.shape, bool)
        self._state: IterationState | None = None
        self._make_artists()

    def note(self, state: IterationState) -> None:
        """Record an iteration, which need not be drawn."""
        self._touched |= state.selected
        self._state = state._replace(selected=state.selected.copy())

    def draw(self) -> None:
        """Show the last iteration that was recorded."""
        if self._state is not None:
            self._show(self._state)
            most = self._stage.n_iter
            self._subtitle.set_text(f"iteration {self._state.iteration} of at most {most}")

    def finish(self, result: Deconvolution) -> None:
        """Show the result of the kernel, which may be an earlier iterate than the last."""
        found, none = (result.components, result.residual), np.zeros(self._missing.shape, bool)
        blank = IterationState(0, *found, none, math.nan, (result.fabs,), (result.rms,))
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
        stage, fields = self._stage, type(self._stage).model_fields
        changed = {k: v for k, v in stage if k != "method" and v != fields[k].default}
        settings = ", ".join([stage.method, *(f"{k} {_short(v)}" for k, v in changed.items())])
        self.figure.text(0.014, 0.952, f"{self._plane.name}   ·   {settings}", fontsize=14, color=INK)
        self._subtitle = self.figure.text(0.014, 0.92, "", fontsize=11, color=INK)
        self._make_images(axes[:4])
        self._make_histogram(axes[4])
        self._make_statistics(axes[5])

    def _make_images(self, axes: list[Any]) -> None:
        present = self._plane.data[~self._missing]
        bottom, top = min(0.0, percentile(present, 0.5)), percentile(present, 99.8)
        top = top if top > bottom else bottom + 1
        unit, empty = self._plane.units, np.full(self._missing.shape, np.nan, np.float32)
        self._flux_top = top
        for ax, title, values in ((axes[0], "input", self._plane.data), (axes[1], "components", empty)):
            norm = AsinhNorm(linear_width=0.1 * (top - bottom), vmin=bottom, vmax=top)
            image = self._image(ax, title, values, unit, cmap=colours("inferno"), norm=norm)
            set_flux_ticks(image)
        self._components = image
        looks: dict[str, Any] = {"cmap": colours("RdBu_r"), "vmin": -1, "vmax": 1}
        self._residual = self._image(axes[2], "residual", empty, unit, **looks)
        steps = ListedColormap(["#F4F4F4", PALE, RED]).with_extremes(bad=GREY)
        looks = {"cmap": steps, "norm": BoundaryNorm([0, 1, 2, 3], 3)}
        self._selected = self._image(axes[3], "selected pixels", empty, "", **looks)
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
        ax.set_title(plain(unit), loc="right", fontsize=8.5, color=INK)
        return image

    def _make_histogram(self, ax: Any) -> None:
        self._histogram = ax
        ax.set(xscale="log", yscale="log")
        edges = np.geomspace(0.1, 1, BINS + 1)
        self._all = ax.stairs(np.ones(BINS), edges, fill=True, color=PALE, label="valid pixels")
        self._now = ax.stairs(np.ones(BINS), edges, fill=True, color=RED, label="selected")
        self._threshold = ax.axvline(1, color=INK, lw=1.4, ls="--", label="threshold")
        _label_curves(ax, "metric", self._metric, "pixels")

    def _make_statistics(self, ax: Any) -> None:
        self._statistics = ax
        ax.set_yscale("log")
        (self._fabs,) = ax.plot([], [], color=RED, lw=1.8, label="fabs (largest)")
        (self._rms,) = ax.plot([], [], color=BLUE, lw=1.8, label="rms")
        self._noise_level = self._noise()
        if self._noise_level > 0:
            ax.axhline(self._noise_level, color=INK, lw=1.2, ls=":", label="noise")
        _label_curves(ax, "statistics", "iteration", self._metric)

    def _noise(self) -> float:
        """Return the root of the mean variance of the valid pixels, or NaN if it is unknown."""
        if self._plane.variance is None:
            return math.nan
        known = self._plane.variance[self._valid & (self._plane.variance > 0)]
        return float(np.sqrt(known.mean(dtype=np.float64))) if known.size else math.nan

    def _show(self, state: IterationState) -> None:
        residual = np.where(self._missing, np.nan, state.residual)
        self._residual.set_data(residual)
        valid = np.abs(residual[self._valid])
        reach = percentile(valid, 99.5) or 1.0
        self._residual.set_clim(-reach, reach)
        self._components.set_data(state.components)
        known = state.components[np.isfinite(state.components)]
        self._components.norm.vmax = max(self._flux_top, percentile(known, 99.8))
        set_flux_ticks(self._components)
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
    ax.legend(**LEGEND)


def set_flux_ticks(image: Any) -> None:
    """Set ticks at zero and at round numbers that are not too close to each other on the stretched scale."""
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


def colours(name: str) -> Any:
    """Return a colour map with grey for missing data."""
    return matplotlib.colormaps[name].with_extremes(bad=GREY)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def percentile(values: NDArray[Any], percent: float) -> float:
    """Return a percentile; 0 if there are no values."""
    return float(np.percentile(values, percent)) if values.size else 0.0

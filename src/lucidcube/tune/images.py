"""The images of the page: one plane before and after, its artefact score and its residual, as figures."""

import base64
from typing import Any

import numpy as np
from bokeh.layouts import gridplot
from bokeh.models import (
    BasicTicker,
    BoxEditTool,
    ColorBar,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
    PolyDrawTool,
    Range1d,
)
from bokeh.plotting import figure
from contourpy import contour_generator
from numpy.typing import NDArray

Plane = NDArray[np.floating]

OUTLINE, DRAWN, MISSING = "#21d4fd", "#7CFC00", "#808080"
SIZE = 355
"""Longer side of an image on the screen in pixels."""
SOFTENING = 0.02
"""Fraction of the range of a flux below which the stretch is linear."""
BOX, ELLIPSE = '<rect x="3" y="6" width="18" height="12"/>', '<ellipse cx="12" cy="12" rx="9" ry="6"/>'
"""Shapes on the buttons of drawing tools, as SVG."""
SIGMAS, SCORES = 5.0, 10.0
"""Largest residual and largest artefact score of the colour scales, in standard deviations."""


class Images:
    """Four linked figures, and the regions that are drawn on the first."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.shape = shape
        rows, columns = shape
        ranges = {"x_range": Range1d(-0.5, columns - 0.5), "y_range": Range1d(-0.5, rows - 0.5)}
        flux = LinearColorMapper("Inferno256", low=0.0, high=1.0, nan_color=MISSING)
        score = LinearColorMapper("Viridis256", low=0.0, high=SCORES, nan_color=MISSING)
        residual = LinearColorMapper(_diverging(), low=-SIGMAS, high=SIGMAS, nan_color=MISSING)
        self._ticker = FixedTicker(ticks=[])
        self._bars: list[ColorBar] = []
        self.outline = ColumnDataSource({"xs": [], "ys": []}, name="outline")
        self.polygons = ColumnDataSource({"xs": [], "ys": []}, name="polygons")
        empty: dict[str, list[float]] = {"x": [], "y": [], "width": [], "height": []}
        self.ellipses = ColumnDataSource(dict(empty), name="ellipses")
        self.boxes = ColumnDataSource(dict(empty), name="boxes")
        self._sources: dict[str, ColumnDataSource] = {}
        self.figures = {
            name: self._figure(name, title, mapper, ranges)
            for name, title, mapper in (
                ("before", "Before, with marked pixels outlined", flux),
                ("after", "After, on the same colour scale", flux),
                ("score", "Artefact score (σ), with marked pixels outlined", score),
                ("residual", "Residual (σ)", residual),
            )
        }
        for name in ("before", "score"):
            self.figures[name].multi_line("xs", "ys", source=self.outline, color=OUTLINE, line_width=1.5)
        self._add_regions(self.figures["before"])
        rows_of_figures = [
            [self.figures["before"], self.figures["after"]],
            [self.figures["score"], self.figures["residual"]],
        ]
        self.layout = gridplot(rows_of_figures, merge_tools=False, toolbar_location=None)

    def _figure(self, name: str, title: str, mapper: LinearColorMapper, ranges: dict[str, Range1d]) -> Any:
        rows, columns = self.shape
        made = figure(
            title=title,
            tools="pan,wheel_zoom,box_zoom,reset",
            active_scroll="wheel_zoom",
            frame_width=SIZE * columns // max(rows, columns),
            frame_height=SIZE * rows // max(rows, columns),
            **ranges,
        )
        made.grid.visible = False
        made.background_fill_color = MISSING
        made.toolbar.logo = None
        nothing = np.full(self.shape, np.nan, np.float32)
        source = ColumnDataSource({"image": [nothing], "value": [nothing]}, name=f"pixels {name}")
        drawn = made.image("image", x=-0.5, y=-0.5, dw=columns, dh=rows, color_mapper=mapper, source=source)
        made.add_tools(
            HoverTool(renderers=[drawn], tooltips=[("pixel", "$x{0}, $y{0}"), ("value", "@value{0.000 a}")])
        )
        bar = ColorBar(color_mapper=mapper, width=10, ticker=BasicTicker(desired_num_ticks=5))
        if name in ("before", "after"):
            bar.ticker = self._ticker
            self._bars.append(bar)
        made.add_layout(bar, "right")
        self._sources[name] = source
        return made

    def _add_regions(self, on: Any) -> None:
        """Add the tools that draw regions."""
        style = {"fill_color": DRAWN, "fill_alpha": 0.15, "line_color": DRAWN, "line_width": 2}
        polygons = on.patches("xs", "ys", source=self.polygons, **style)
        boxes = on.rect("x", "y", "width", "height", source=self.boxes, **style)
        on.ellipse("x", "y", "width", "height", source=self.ellipses, **style)
        around = on.rect(
            "x",
            "y",
            "width",
            "height",
            source=self.ellipses,
            fill_alpha=0,
            line_color=DRAWN,
            line_dash="dotted",
        )
        on.add_tools(
            BoxEditTool(renderers=[boxes], description="Draw boxes: hold shift and drag", icon=_icon(BOX)),
            BoxEditTool(
                renderers=[around], description="Draw ellipses: hold shift and drag", icon=_icon(ELLIPSE)
            ),
            PolyDrawTool(
                renderers=[polygons],
                description="Draw polygons: a long press at the first and the last corner",
            ),
        )

    def show(self, before: Plane, after: Plane, score: Plane, sigmas: Plane, unit: str) -> None:
        """Show a plane before and after on one colour scale, its score, and its residual in sigma."""
        low, high = _limits(before)
        for name, values in (("before", before), ("after", after)):
            self._set(name, _stretched(values, low, high), values)
        self._set("score", score, score)
        self._set("residual", sigmas, sigmas)
        marks = np.array([low, *(high * np.array([0.01, 0.1, 0.3, 1.0]))])
        places = _stretched(marks, low, high).tolist()
        labels = {place: f"{mark:.3g}" for place, mark in zip(places, marks, strict=True)}
        self._ticker.ticks = places
        for bar in self._bars:
            bar.major_label_overrides, bar.title = labels, unit or None

    def _set(self, name: str, image: Plane, values: Plane) -> None:
        self._sources[name].data = {
            "image": [np.asarray(image, np.float32)],
            "value": [np.asarray(values, np.float32)],
        }

    def show_mask(self, mask: NDArray[np.uint8]) -> None:
        """Outline the marked pixels."""
        framed = np.pad((mask > 0).astype(np.float32), 1)
        lines: Any = contour_generator(z=framed).lines(0.5)
        data = {axis: [line[:, i] - 1 for line in lines] for i, axis in enumerate(("xs", "ys"))}
        self.outline.data = data


def _limits(plane: Plane) -> tuple[float, float]:
    known = plane[np.isfinite(plane)]
    if not known.size:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(known, (1, 99.8)))
    return (low, high) if high > low else (low, low + 1.0)


def _stretched(values: Any, low: float, high: float) -> Any:
    """Return the inverse hyperbolic sine of fluxes, from 0 at `low` to 1 at `high`."""
    scaled = (np.asarray(values, np.float64) - low) / (high - low)
    return np.arcsinh(scaled / SOFTENING) / np.arcsinh(1 / SOFTENING)


def _diverging() -> list[str]:
    """Return blue, white and red colours that can be told apart by colour-blind people."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(c) for c in colormaps["RdBu_r"](np.linspace(0, 1, 256))]


def _icon(shape: str) -> str:
    """Return the picture on the button of a tool."""
    style = 'viewBox="0 0 24 24" fill="none" stroke="#5f5f5f" stroke-width="2"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {style}>{shape}</svg>'
    return f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"

"""The page: sliders and fields on the left, the images of one plane on the right."""

import html
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import panel as pn
import xarray as xr

from lucidcube.config.schema import Config
from lucidcube.config.track import DECONVOLVE
from lucidcube.cube import (
    AMPLITUDE,
    BADNESS,
    DATA,
    MASK,
    RESIDUAL,
    UNITS,
    VARIANCE,
    WAVELENGTH,
    scale_exponent,
)
from lucidcube.errors import UserError, printable
from lucidcube.io.output_path import new_file_problems
from lucidcube.plotting.channels import describe_plane, unit_text
from lucidcube.runner.preview import PreviewedPlanes
from lucidcube.runner.signals import Stop
from lucidcube.stages.base import REGISTRY, by_word
from lucidcube.tune.choices import OFFERED, Choices, stage_of, tuned, usual
from lucidcube.tune.drawn_regions import unused_name, write_regions
from lucidcube.tune.images import Images
from lucidcube.tune.live import LivePlane, replace
from lucidcube.tune.save import ConfigFile

NARROW, FIELD = 300, 130
"""Width of the controls, and of a number, in pixels."""
WORKING = "Computing ..."
STYLE = """
h1 { font-size: 18px; margin: 6px 0 0; overflow-wrap: anywhere; }
h2 { font-size: 15px; margin: 6px 0 0; }
p { margin: 0; overflow-wrap: anywhere; }
p.alert { color: #a40000; font-weight: 600; }
dl { display: flex; flex-wrap: wrap; gap: 4px 22px; margin: 6px 0; }
dl div { display: flex; gap: 6px; } dt { color: #555; } dd { margin: 0; font-weight: 600; }
"""
HINT = (
    "To mark a region, choose a shape beside the first image: hold shift and drag for a box or an ellipse; "
    "for a polygon, press the button half a second at the first corner, click at the others, and press it "
    "as long at the last."
)


class TunePage:
    """The controls and the images of one browser tab."""

    def __init__(
        self, file: ConfigFile, sets: list[str], config: Config, live: LivePlane, *, trust_profile: bool
    ) -> None:
        self._file, self._sets, self._live, self._trust = file, sets, live, trust_profile
        self._choices, self._request = Choices.of(config), Stop()
        self._written: set[Path] = set()  # region files of this page, which it may replace
        self._shown: xr.Dataset | None = None
        self._document: Any = None
        self._images: Images | None = None
        self._figures = pn.Column()
        axis = live.preview.wavelength
        self._axis = axis.coords.to_dataset()
        self._plane = pn.widgets.IntSlider(
            name="Plane", start=0, end=max(axis.size - 1, 1), value=axis.size // 3, disabled=axis.size < 2
        )
        self._where, self._status, self._numbers = (_text() for _ in range(3))
        self._mask = _mask_controls(self._choices.mask)
        self._method = pn.widgets.Select(name="Method", options=[*OFFERED], value=self._choices.method)
        self._parameters = pn.GridBox(ncols=2, width=NARROW)
        self._fields: dict[str, Any] = {}
        self._region_file = pn.widgets.TextInput(name="Region file", value=str(unused_name(file.path)))
        self._save_regions = pn.widgets.Button(name="Save drawn regions and mark them")
        self._save = pn.widgets.Button(name="Write these values into the config", button_type="primary")

    def view(self) -> Any:
        """Return the page, and ask for the first plane."""
        self._document = pn.state.curdoc
        self._offer(self._choices.method, self._choices.deconvolve)
        self._plane.param.watch(lambda _: self._ask(), "value_throttled")
        for widget in self._mask.values():
            widget.param.watch(lambda _: self._mark(), "value")
            widget.param.watch(lambda _: self._ask(), "value_throttled" if _slides(widget) else "value")
        self._method.param.watch(lambda event: self._choose(event.new), "value")
        self._save_regions.on_click(lambda _: self._tell(self._write_regions))
        self._save.on_click(lambda _: self._tell(self._write_config))
        pn.state.onload(self._ask)  # a result must not arrive before the page is connected
        controls = pn.Column(
            _text(f"<h1>Tune {html.escape(self._file.path.name)}</h1>"),
            self._plane,
            self._where,
            _text("<h2>Mask</h2>"),
            *self._mask.values(),
            _text(f"<p>{HINT}</p>"),
            self._region_file,
            self._save_regions,
            _text("<h2>Deconvolution</h2>"),
            self._method,
            self._parameters,
            self._save,
            self._status,
            width=NARROW + 10,
            margin=(0, 15),
        )
        return pn.Row(controls, pn.Column(self._numbers, self._figures))

    def _choose(self, method: str) -> None:
        """Offer the parameters of another method, and ask for its result."""
        before = self._choices
        self._offer(method, before.deconvolve if method == before.method else usual(method))
        self._ask()

    def _offer(self, method: str, values: Mapping[str, Any]) -> None:
        (variant,) = by_word(REGISTRY[DECONVOLVE].variants(), "method")[method]
        self._fields = {name: _field(name, value) for name, value in values.items()}
        for name, field in self._fields.items():
            field.description = variant.model_fields[name].description
            field.param.watch(lambda _: self._ask(), "value")
        self._parameters[:] = [*self._fields.values()]

    def _chosen(self) -> Choices:
        """Return the values of the controls."""
        mask = {**self._choices.mask}
        cut = mask["cut"]
        mask["cut"] = (
            [[channel, self._mask[_cut_at(channel)].value] for channel, _ in cut]
            if isinstance(cut, list)
            else self._mask["cut"].value
        )
        mask["grow"] = self._mask["grow"].value if self._mask["grows"].value else None
        return Choices(mask, self._method.value, {name: f.value for name, f in self._fields.items()})

    def _tuned(self) -> Config:
        return tuned([self._file.path], self._sets, self._chosen(), trust_profile=self._trust)

    def _ask(self) -> None:
        """Ask for the result of the present values."""
        plane = self._plane.value
        self._where.object = html.escape(describe_plane(self._axis.isel({WAVELENGTH: plane})))
        try:
            config = self._tuned()
        except UserError as error:
            self._say(str(error), wrong=True)
            return
        self._say(WORKING)
        document = self._document

        def answer(found: PreviewedPlanes | str) -> None:
            document.add_next_tick_callback(lambda: self._show(found))

        replace(self._request)
        self._request = self._live.request(config, plane, answer)

    def _show(self, found: PreviewedPlanes | str) -> None:
        """Show a result, or the message of an error."""
        if isinstance(found, str):
            self._say(found, wrong=True)
            return
        made = found.result
        before, after = (_in_unit(cube) for cube in (found.before, made))
        if self._images is None:
            self._images = Images(before.shape)
            self._figures[:] = [pn.pane.Bokeh(self._images.layout)]
        with np.errstate(invalid="ignore", divide="ignore"):
            sigmas = made[RESIDUAL].values[0] / np.sqrt(_variance(made))
        unit = unit_text(str(made[DATA].attrs.get(UNITS, "")))
        self._images.show(before, after, made[BADNESS].values[0], sigmas, unit)
        self._shown = made
        self._mark()
        self._numbers.object = _numbers(made)
        self._say("\n".join(["The images are up to date.", *found.warnings]))

    def _mark(self) -> None:
        """Outline what the present values mark, without waiting for the result."""
        if self._shown is None or self._images is None:
            return
        try:
            mask = stage_of(self._tuned(), MASK)
            if mask is not None:
                names = [name for name in (BADNESS, AMPLITUDE) if name in self._shown]
                self._images.show_mask(mask(self._shown[names])[MASK].values[0])
        except UserError as error:
            self._say(str(error), wrong=True)

    def _write_regions(self) -> str:
        if self._images is None:
            raise UserError("there is no image yet")
        path = Path(self._region_file.value).expanduser()
        if not path.name or path.suffix != ".reg":
            raise UserError(f"{path}: give the name of a file that ends with .reg")
        if path not in self._written and (problems := [*new_file_problems(path, {}, False)]):
            raise UserError(*problems)
        drawn = (self._images.polygons, self._images.ellipses, self._images.boxes)
        count = write_regions(path, *(source.data for source in drawn))
        self._written.add(path)
        files = dict.fromkeys([*self._choices.mask["const_regions"], str(path)])
        mask = {**self._choices.mask, "const_regions": [*files]}
        self._choices = Choices(mask, self._choices.method, self._choices.deconvolve)
        self._mark()
        self._ask()
        return f"{count} regions are in {path}"

    def _write_config(self) -> str:
        changes = self._file.save(self._chosen())
        print(*map(printable, changes), sep="\n", flush=True)
        return f"{self._file.path.name} now has {', '.join(changes)}" if changes else "Nothing has changed."

    def _tell(self, action: Callable[[], str]) -> None:
        try:
            self._say(action())
        except UserError as error:
            self._say(str(error), wrong=True)

    def _say(self, text: str, *, wrong: bool = False) -> None:
        kind = "alert" if wrong else "status"
        shown = html.escape(text).replace("\n", "<br>")
        self._status.object = f'<p id="status" role="{kind}" class="{kind}">{shown}</p>'


def _text(content: str = "") -> Any:
    """Return a text in HTML, whose variable parts must be escaped."""
    return pn.pane.HTML(content, stylesheets=[STYLE], margin=(2, 10), sizing_mode="stretch_width")


def _mask_controls(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the controls of the mask; a cut that depends on the channel has one for each that is given."""
    cut = values["cut"]
    cuts = {_cut_at(channel): value for channel, value in cut} if isinstance(cut, list) else {"cut": cut}
    controls: dict[str, Any] = {
        name: pn.widgets.EditableFloatSlider(
            name=f"{name.capitalize()} (standard deviations)", value=float(value),
            start=1.0, end=20.0, step=0.1, fixed_start=0.0, width=NARROW - 20,
        )
        for name, value in cuts.items()
    }  # fmt: skip
    controls["grows"] = pn.widgets.Checkbox(name="Let marks grow", value=values["grow"] is not None)
    controls["grow"] = pn.widgets.EditableFloatSlider(
        name="Grow to amplitude (standard deviations)", start=0.1, end=5.0, step=0.1,
        value=float(values["grow"] or 1.5), fixed_start=0.01, width=NARROW - 20,
    )  # fmt: skip
    return controls


def _cut_at(channel: float) -> str:
    return f"cut at channel {channel:g}"


def _slides(widget: Any) -> bool:
    return "value_throttled" in widget.param


def _field(name: str, value: Any) -> Any:
    """Return the field of a parameter of the deconvolution."""
    label = name.replace("n_iter", "iterations (n_iter)")
    if isinstance(value, int):
        return pn.widgets.IntInput(name=label, value=value, start=0, width=FIELD)
    return pn.widgets.FloatInput(name=label, value=value, step=0.05, width=FIELD)


def _in_unit(cube: xr.Dataset) -> Any:
    """Return the plane of a cube in the unit of its file."""
    return np.ldexp(cube[DATA].values[0].astype(np.float64), -scale_exponent(cube))


def _variance(cube: xr.Dataset) -> Any:
    """Return the variance, or the scatter of the residual where there is none."""
    if VARIANCE in cube:
        return cube[VARIANCE].values[0]
    return float(np.nanvar(cube[RESIDUAL].values))


def _numbers(cube: xr.Dataset) -> str:
    """Return a list of numbers of the deconvolution."""
    marked = float(np.mean(cube[MASK].values > 0))
    rows = {"marked pixels": f"{marked:.2%}", "iterations": f"{cube['iterations'].item()}"}
    for name, label in (
        ("chi2", "χ²"),
        ("chi2_bright", "χ² of bright pixels"),
        ("residual_structure", "structure of the residual"),
    ):
        value = float(cube[name].item())
        rows[label] = f"{value:.3g}" if math.isfinite(value) else "unknown"
    meanings = cube["stop_reason"].attrs.get("meanings", {})
    rows["stopped because"] = str(meanings.get(str(int(cube["stop_reason"].item())), ""))
    cells = "".join(f"<div><dt>{k}</dt><dd>{html.escape(v)}</dd></div>" for k, v in rows.items())
    return f"<dl id='numbers'>{cells}</dl>"

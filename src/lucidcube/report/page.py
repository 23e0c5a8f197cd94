"""Write the page about a run and its numbers beside the product."""

import json
import math
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import xarray as xr
from dask.utils import format_bytes, format_time
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lucidcube.config.schema import Config
from lucidcube.errors import UserError, printable_lines
from lucidcube.io.atomic import write_atomically
from lucidcube.report.citation import bibtex, citation
from lucidcube.report.finished_run import FinishedRun, finished_run
from lucidcube.report.log_charts import log_charts, stop_reasons
from lucidcube.report.numbers import collect
from lucidcube.report.pictures import FAINT, FILLED, MARKED, gradient
from lucidcube.report.planes import read_planes
from lucidcube.report.product_file import ProductFile, unreadable
from lucidcube.report.psf_section import psf_charts, psf_examples

TEMPLATES = Path(__file__).parent / "templates"
COLOURS = ("inferno", "viridis", "cividis", "RdBu_r")


def report_path(product: Path) -> Path:
    """Return the path of the page beside a product."""
    return product.with_suffix(".html")


def numbers_path(product: Path) -> Path:
    """Return the path of the numbers beside a product."""
    return product.with_suffix(".json")


def write_report(
    product: Path,
    *,
    config: Config | None = None,
    origins: Mapping[str, str] | None = None,
    run: Mapping[str, Any] | None = None,
    cubes: Mapping[str, xr.Dataset] | None = None,
) -> Path:
    """Write the page about a product, and its numbers as JSON, beside it; return the path of the page.

    Parameters
    ----------
    product
        FITS file written by `lucidcube run`.
    config
        Config of the run; by default the one in the product.
    origins, run
        Where the values of the config come from, see `lucidcube.config.origins`, and what the run took, see
        `lucidcube.report.numbers.run_record`; by default those of an earlier report of the same product.
    cubes
        The cubes of `FinishedRun`; by default they are read from the checkpoints of the run.

    Raises
    ------
    UserError
        If the file is not a product of `lucidcube run`.
    OSError
        If the page cannot be written.
    """
    page_path, json_path = report_path(product), numbers_path(product)
    check_ours(page_path)
    check_ours(json_path)
    with unreadable(str(product)), ProductFile(product) as opened:
        earlier = _earlier(json_path, opened.identity)
        finished = finished_run(opened, config) if cubes is None else FinishedRun(opened, cubes)
        planes = read_planes(finished)
        numbers = collect(opened, planes, run or earlier.get("run"), origins or earlier.get("origins"))
        page = (
            environment()
            .get_template("report.html")
            .render(
                numbers=numbers,
                title=str(opened.header.get("OBJECT", "") or product.name),
                sentence=_sentence(opened, numbers, finished),
                missing=finished.missing,
                preview=[opened.plane_name(n) for n in range(opened.planes)] if opened.is_preview else [],
                verdicts=verdicts(numbers["summary"]),
                planes=planes.shown,
                psf_examples=psf_examples(finished, planes),
                psf_charts=psf_charts(finished, planes),
                log_charts=log_charts(opened),
                stop_reasons=stop_reasons(opened),
                facts=_facts(opened),
                citation=citation(),
                bibtex=bibtex(),
            )
        )
    write_atomically(page_path, page)
    write_atomically(json_path, json.dumps(numbers, indent=1, allow_nan=False))
    return page_path


def check_ours(path: Path) -> None:
    """Raise UserError if a file exists that is not a page, or the numbers, of an earlier report."""
    if not path.exists():
        return
    start = b""
    if path.is_file():  # a FIFO would wait for a writer
        with open(path, "rb") as file:
            start = file.read(1000)
    if not (b'content="lucidcube' in start or b'"lucidcube report' in start):
        raise UserError(f"{path} exists and was not made by lucidcube; rename it")


def verdicts(summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the numbers that say whether a run worked, each with what is usual and whether it is fine."""
    gain, structure, chi2 = (summary[k] for k in ("sharpness_gain", "residual_structure", "chi2_bright"))
    flux, marked, fwhm = (summary[k] for k in ("flux_ratio", "marked", "psf_fwhm"))
    shown = [
        _verdict("Sharpness", gain, "× {:.2f}", "rms gradient, after relative to before", 1, math.inf),
        _verdict("χ² of bright pixels", chi2, "{:.2f}", "about 1 if the residual is noise", 0.5, 2),
        _verdict("Structure of the residual", structure, "{:.2f}", "0.6 to 1.2 is noise; above 2 the PSF or "
                 "the number of iterations is wrong", 0, 2),
        _verdict("Flux after / before", flux, "{:.3f}", "1 if all light stays in the field", 0.8, 1.25),
        _verdict("FWHM of the PSF", fwhm, "{:.1f} px", "what the deconvolution removed"),
        _verdict("Marked pixels", marked, "{:.2%}", "artefacts that were replaced", 0, 0.15),
    ]  # fmt: skip
    return [v for v in shown if v is not None]


def _verdict(
    label: str, value: float | None, form: str, text: str, low: float = -math.inf, high: float = math.inf
) -> dict[str, str] | None:
    if value is None:
        return None
    judged = math.isfinite(low) or math.isfinite(high)
    state = ("fine" if low <= value <= high else "odd") if judged else "plain"
    return {"label": label, "value": form.format(value), "text": text, "state": state}


def _sentence(product: ProductFile, numbers: Mapping[str, Any], finished: FinishedRun) -> str:
    """Say what was done in one sentence."""
    config, summary = product.config, numbers["summary"]
    target = product.inputs.get("target", {}).get("file", "the target")
    star = product.inputs.get("star", {}).get("file")
    shape = next((finished.plane(n, 0) for n in ("after", "before", "residual")), None)
    size = f" of {shape.shape[1]} × {shape.shape[0]} pixels" if shape is not None else ""
    axis = product.wavelength
    span = (
        f", {axis[0]:.6g} to {axis[-1]:.6g} {product.unit}"
        if len(axis) > 1 and math.isfinite(axis[0])
        else ""
    )
    planes = f"{summary['planes']} plane{'s' * (summary['planes'] > 1)}{size}{span}"
    if "deconvolve" not in config:
        return f"{target} was processed without deconvolution: {planes}."
    psf = f"the PSF of {star}" if star else "a PSF from a formula"
    done = planes if product.is_preview else f"{summary['deconvolved']} of {planes}"
    return f"{target} was deconvolved with {psf} by the method {config['deconvolve']['method']}: {done}."


def _facts(product: ProductFile) -> dict[str, str]:
    """Return cards of the header that say what was observed."""
    cards = ("OBJECT", "TELESCOP", "INSTRUME", "DATE-OBS", "EXPTIME", "OBSERVER", "PROG_ID")
    return {card: str(product.header[card]) for card in cards if card in product.header}


def _earlier(path: Path, identity: str) -> dict[str, Any]:
    """Return the numbers of an earlier report of the same product; nothing if there are none."""
    with suppress(OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        numbers = json.loads(path.read_text())
        if numbers["product"]["datasum"] == identity:
            return {key: numbers.get(key) for key in ("run", "origins")}
    return {}


@cache
def environment() -> Environment:
    """Return the templates; all values are escaped, control characters included."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=lambda value: printable_lines(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"bytes": format_bytes, "time": format_time, "value": _value}
    made.globals |= {
        "gradients": {name: gradient(name) for name in COLOURS},
        "marks": {"marked": MARKED, "faint": FAINT, "filled": FILLED},
    }
    return made


def _value(value: Any) -> str:
    """Return a value of a config as text."""
    if isinstance(value, (list, tuple)):
        return ", ".join(_value(v) for v in value) or "none"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{k}: {_value(v)}" for k, v in value.items()) + "}"
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)

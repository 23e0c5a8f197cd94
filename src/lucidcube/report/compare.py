"""Compare two products on the same grid on one page."""

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import dask
import numpy as np
import xarray as xr

from lucidcube.config.origins import settings
from lucidcube.cube import DATA, WAVELENGTH
from lucidcube.errors import UserError
from lucidcube.io.atomic import write_atomically
from lucidcube.io.reader import open_cube
from lucidcube.plotting.channels import unit_text
from lucidcube.report.finished_run import FinishedRun
from lucidcube.report.measures import difference
from lucidcube.report.numbers import summarise, versions
from lucidcube.report.page import check_ours, environment
from lucidcube.report.pictures import Picture, flux_scale, picture, symmetric_scale
from lucidcube.report.planes import READ, Planes, choose, label_of, measure, wavelength_fraction
from lucidcube.report.product_file import Plane, ProductFile, shown_wavelengths, unreadable

SAME_GRID = 0.01
"""Largest difference between the wavelengths of two cubes, as a fraction of a channel."""
REACH = 99.5
"""Percentile of the absolute differences that is the end of their colour scale."""


class ComparedPlane(NamedTuple):
    """What the page shows of one plane: A and B on one scale, their difference, and the truth if given."""

    number: int
    label: str
    at: float
    a: Picture
    b: Picture
    others: list[Picture]


class Row(NamedTuple):
    """A number of both products, as text."""

    label: str
    a: str
    b: str


def write_comparison(a: Path, b: Path, *, truth: str | None = None, output: Path | None = None) -> Path:
    """Write a page with two products side by side; return its path.

    Parameters
    ----------
    a, b
        FITS files written by `lucidcube run`, with the same pixels and wavelengths.
    truth
        Specifier of a cube on the same grid without blur and noise. The relative error of both products is
        given, over all planes and pixels, after smoothing by a Gaussian of one pixel.
    output
        Page to write; by default it is beside A and named after both.

    Raises
    ------
    UserError
        If a file cannot be read, has no deconvolved or processed image, or if the grids differ.
    """
    path = output or a.with_name(f"{a.stem}-vs-{b.stem}.html")
    check_ours(path)
    with unreadable(f"{a}, {b}"), ExitStack() as stack:
        products = [stack.enter_context(ProductFile(p)) for p in (a, b)]
        runs = [FinishedRun(p) for p in products]
        _check_grid(runs[0], str(b), products[1].wavelength, products[1].unit, _image(runs[1], 0).shape)
        known = None if truth is None else _truth(truth, runs[0])
        shown, _ = choose(products[0])
        page = (
            environment()
            .get_template("compare.html")
            .render(
                numbers={"versions": versions()},
                title=f"{a.name} and {b.name}" if a.name != b.name else f"{a} and {b}",
                names=[str(a), str(b)],
                planes=[_compared(runs, known, number) for number in shown],
                rows=[*_rows(runs, known, shown)],
                differences=[*_settings(products)],
                truth=truth,
            )
        )
    write_atomically(path, page)
    return path


def _check_grid(run: FinishedRun, name: str, wavelength: Any, unit: str, shape: tuple[int, ...]) -> None:
    """Raise UserError if a cube has other pixels or wavelengths than a product."""
    product, here = run.product, _image(run, 0).shape
    if (len(wavelength), *shape) != (product.planes, *here):
        sizes = [" x ".join(map(str, s)) for s in ((product.planes, *here), (len(wavelength), *shape))]
        raise UserError(
            f"{product.path} has {sizes[0]} pixels and {name} {sizes[1]}: they cannot be compared"
        )
    step = abs(float(np.median(np.diff(wavelength)))) if len(wavelength) > 1 else abs(float(wavelength[0]))
    apart = np.abs(wavelength - product.wavelength)
    if unit != product.unit or (np.isfinite(apart).any() and np.nanmax(apart) > SAME_GRID * step):
        raise UserError(
            f"the wavelengths of {product.path} ({product.wavelength[0]:.6g} to {product.wavelength[-1]:.6g} "
            f"{product.unit}) and of {name} ({wavelength[0]:.6g} to {wavelength[-1]:.6g} {unit}) differ: "
            "they cannot be compared"
        )


def _image(run: FinishedRun, number: int) -> Plane:
    image = run.plane("after", number)
    if image is None:
        raise UserError(
            f"{run.product.path} has no image that can be compared: add deconvolved to its products"
        )
    return image


def _truth(specifier: str, run: FinishedRun) -> xr.DataArray:
    """Open the truth, which must be on the grid of a product."""
    cube = open_cube(specifier)
    _check_grid(run, specifier, *shown_wavelengths(cube), cube[DATA].shape[1:])
    return cube[DATA]


def _true_plane(truth: xr.DataArray, number: int) -> Plane:
    with dask.config.set(scheduler=dask.get):
        return np.asarray(truth.isel({WAVELENGTH: number}).values)


def _compared(runs: list[FinishedRun], truth: xr.DataArray | None, number: int) -> ComparedPlane:
    """Return the images of one plane."""
    product = runs[0].product
    a, b = (_image(run, number) for run in runs)
    known = None if truth is None else _true_plane(truth, number)
    label, unit = label_of(product, number), unit_text(product.flux_unit)
    scale = flux_scale([a, b], unit)
    apart = b - a
    finite = np.abs(apart[np.isfinite(apart)])
    reach = float(np.percentile(finite, REACH)) if finite.size else 0.0
    others = [
        picture("B − A", apart, symmetric_scale(reach or 1.0, unit), f"Product B minus product A, {label}")
    ]
    if known is not None:
        others.insert(0, picture("Truth", known, scale, f"The truth, {label}, on the same scale"))
    first, second = (
        picture(name, plane, scale, f"Product {name}, {label}; both have the same colour scale")
        for name, plane in (("A", a), ("B", b))
    )
    return ComparedPlane(number, label, wavelength_fraction(product, number), first, second, others)


def _rows(runs: list[FinishedRun], truth: xr.DataArray | None, shown: list[int]) -> Iterator[Row]:
    """Yield the numbers of both products; some are measured in the planes that are shown."""
    if truth is not None:
        yield Row("relative error against the truth", *(f"{_error(run, truth):.4f}" for run in runs))
    both = [_summary(run, shown) for run in runs]
    labels = {
        "deconvolved": "planes deconvolved",
        "chi2_bright": "χ² of bright pixels",
        "chi2": "χ² of all pixels",
        "residual_structure": "structure of the residual",
        "flux_ratio": "flux after / before",
        "iterations": "iterations",
        "sharpness_after": "rms gradient, relative to the rms",
        "psf_fwhm": "FWHM of the PSF (pixels)",
        "marked": "fraction of marked pixels",
    }
    for key, label in labels.items():
        values = [summary[key] for summary in both]
        if not all(math.isnan(v) for v in values):
            yield Row(label, *("unknown" if math.isnan(v) else f"{v:.4g}" for v in values))
    yield Row("warnings", *(str(len(run.product.warnings)) for run in runs))


def _summary(run: FinishedRun, shown: list[int]) -> Mapping[str, Any]:
    planes = Planes()
    for number in shown:
        measure(planes, number, {name: run.plane(name, number) for name in READ}, run.psf(number))
    return summarise(run.product, planes)


def _error(run: FinishedRun, truth: xr.DataArray) -> float:
    """Return the relative error of a product over all planes, after smoothing by one pixel."""
    sums = np.zeros(2)
    for number in range(run.product.planes):
        sums += difference(_image(run, number), _true_plane(truth, number))
    return math.sqrt(sums[0] / sums[1]) if sums[1] > 0 else math.nan


def _settings(products: list[ProductFile]) -> Iterator[Row]:
    """Yield the values of the configs that differ, without the paths of the products."""
    a, b = (settings(product.config) for product in products)
    for key in dict.fromkeys([*a, *b]):
        if a.get(key) != b.get(key) and not key.startswith(("output.", "checkpoints.", "profile")):
            yield Row(key, *("not set" if key not in c else str(c[key]) for c in (a, b)))

"""Show planes of a run: white light and a few wavelengths, each with images and a power spectrum."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from lucidcube import cube as words
from lucidcube.plotting.channels import unit_text
from lucidcube.report.charts import Chart, Line, chart
from lucidcube.report.finished_run import FinishedRun
from lucidcube.report.measures import Spectrum, power_spectrum, sharpness, width
from lucidcube.report.pictures import (
    Picture,
    Scale,
    flux_scale,
    marks,
    outlined,
    picture,
    positive_scale,
    symmetric_scale,
)
from lucidcube.report.product_file import Plane, ProductFile

SHOWN = 8
"""Number of planes, evenly spaced, that are shown in addition to white light and the worst plane."""
SAMPLED = 24
"""Number of planes of which white light is the mean."""
READ = (
    "before",
    "cleaned",
    "after",
    words.MASK,
    words.FILLED,
    words.BADNESS,
    words.MODEL,
    words.RESIDUAL,
    words.VARIANCE,
    words.ERROR,
    words.POINTS,
)
"""Images that are read of each plane."""
AVERAGED = ("before", "cleaned", "after", words.MODEL, words.RESIDUAL, words.VARIANCE, words.POINTS)
"""Images of which white light has the mean."""
SIGMAS = 5.0
"""Largest residual, in standard deviations, of the colour scale."""


class ShownPlane(NamedTuple):
    """What the page shows of one plane, or of white light, where `number` is None."""

    number: int | None
    label: str
    at: float
    """Place on the axis of wavelengths, from 0 to 1; NaN for white light."""
    pictures: list[Picture]
    spectrum: Chart | None


@dataclass
class Planes:
    """The planes of a page, and the numbers that were measured on the way."""

    shown: list[ShownPlane] = field(default_factory=list)
    measured: dict[str, list[Any]] = field(default_factory=dict)
    """Numbers of the planes that were read, by name; ``plane`` holds their numbers."""
    spectra: dict[str, dict[str, list[float]]] = field(default_factory=dict)


def choose(product: ProductFile) -> tuple[list[int], list[int]]:
    """Return the numbers of the planes to show, and of those to read for white light, in order.

    They are evenly spaced among the planes with light, and the plane with the most structure in its residual
    is shown as well. A preview is shown as a whole.
    """
    if product.is_preview:
        return [*range(product.planes)], [*range(product.planes)]
    log = product.table("DECONVOLUTION LOG")
    flux = np.asarray(log.get("flux_in", np.ones(product.planes)), np.float64)
    good = np.flatnonzero(np.isfinite(flux) & (flux != 0))
    good = good if good.size else np.arange(product.planes)
    # Every second plane at most, because neighbouring channels share noise.
    shown, sampled = _spread(good, SHOWN), _spread(good, min(SAMPLED, -(-good.size // 2)))
    structure = np.asarray(log.get("residual_structure", []), np.float64)
    if np.isfinite(structure).any() and product.planes > SHOWN:
        shown = sorted({*shown, int(np.nanargmax(structure))})
    return shown, sorted({*shown, *sampled})


def read_planes(run: FinishedRun) -> Planes:
    """Read the planes of a page one after the other, and make their images."""
    product, planes = run.product, Planes()
    shown, sampled = choose(product)
    sums: dict[str, Plane] = {}
    counts: dict[str, Plane] = {}
    masked: list[Plane] = []
    for number in sampled:
        wanted = READ if number in shown else (*AVERAGED, words.MASK, words.FILLED)
        images = {name: run.plane(name, number) for name in wanted}
        psf = run.psf(number)
        _add(sums, counts, images)
        if (mask := images[words.MASK]) is not None:
            masked.append(mask)
        planes.shown += [_shown(run, number, images, psf, planes)] if number in shown else []
        measure(planes, number, images, psf)
    if len(sampled) > 1 and not product.is_preview:
        means: dict[str, Any] = {n: sums[n] / np.where(counts[n] > 0, counts[n], np.nan) for n in sums}
        if words.VARIANCE in means and words.RESIDUAL in means:
            means[words.VARIANCE] = means[words.VARIANCE] / np.maximum(counts[words.VARIANCE], 1)
        if masked:
            means["marked"] = np.mean([m > 0 for m in masked], axis=0, dtype=np.float32)
        planes.shown.insert(0, _shown(run, None, means, None, planes, len(sampled)))
    return planes


def _shown(
    run: FinishedRun,
    number: int | None,
    images: Mapping[str, Plane | None],
    psf: Plane | None,
    planes: Planes,
    averaged: int = 0,
) -> ShownPlane:
    """Return what the page shows of the images of a plane."""
    label, at = f"white light (mean of {averaged} planes)", math.nan
    if number is not None:
        label, at = label_of(run.product, number), wavelength_fraction(run.product, number)
    spectra = _spectra(images)
    planes.spectra["white light" if number is None else str(number)] = {
        "frequency": [float(f) for s in list(spectra.values())[:1] for f in s.frequency],
        **{name: s.power.tolist() for name, s in spectra.items()},
    }
    return ShownPlane(
        number,
        label,
        at,
        [*_pictures(run.product, label, images, psf)],
        _spectrum_chart(label, spectra, images),
    )


def label_of(product: ProductFile, number: int) -> str:
    """Describe a plane by its wavelength, or by its number if that is unknown."""
    value = product.wavelength[number]
    name = product.plane_name(number)
    return f"{value:.6g} {product.unit} ({name})" if math.isfinite(value) else name


def _pictures(
    product: ProductFile, label: str, images: Mapping[str, Plane | None], psf: Plane | None
) -> Iterator[Picture]:
    """Yield the images that are available, in the order of the page."""
    unit = unit_text(product.flux_unit)
    before, after = images.get("before"), images.get("after")
    flux = flux_scale([before, after], unit)
    shared = f"{label}; asinh stretch from {flux.bottom:.3g} to {flux.top:.3g} {unit}".rstrip()
    if before is not None:
        yield picture("Before", before, flux, f"The target before artefacts were removed, {shared}")
    if after is not None:
        yield picture("After", after, flux, f"The result, on the same colour scale as before, {shared}")
    if (cleaned := images.get("cleaned")) is not None:
        yield picture(
            "Cleaned", cleaned, flux, f"The target without artefacts, which was deconvolved, {shared}"
        )
    if (points := images.get(words.POINTS)) is not None and np.nanmax(points, initial=0) > 0:
        yield picture("Points", points, flux, f"The part of the result that is points, {shared}")
    if (model := images.get(words.MODEL)) is not None:
        yield picture("Model", model, flux, f"The result convolved with the PSF, {shared}")
    yield from _residual_pictures(label, images, unit)
    yield from _artefact_pictures(label, images, flux)
    if psf is not None:
        yield picture(
            "PSF", psf, psf_scale(psf), f"The point spread function, {label}, logarithmic", _size(psf)
        )


def _residual_pictures(label: str, images: Mapping[str, Plane | None], unit: str) -> Iterator[Picture]:
    residual, variance, error = (images.get(n) for n in (words.RESIDUAL, words.VARIANCE, words.ERROR))
    if residual is not None:
        scale = symmetric_scale(SIGMAS, "σ")
        if variance is None:
            known = np.abs(residual[np.isfinite(residual)])
            scale = symmetric_scale(float(np.percentile(known, 99)) if known.size else 1.0, unit)
        else:
            noise = np.sqrt(np.where(variance > 0, variance, np.nan))
            residual = residual / noise
        alt = f"The residual, {label}, from −{scale.top:.3g} to {scale.top:.3g} {scale.unit}"
        yield picture("Residual", residual, scale, alt)
    if error is not None and np.isfinite(error).any():
        yield picture(
            "Error", error, positive_scale(error, "cividis", unit), f"Standard error of the result, {label}"
        )


def _artefact_pictures(label: str, images: Mapping[str, Plane | None], flux: Scale) -> Iterator[Picture]:
    before, mask, filled, badness = (
        images.get(n) for n in ("before", words.MASK, words.FILLED, words.BADNESS)
    )
    below = before if before is not None else images.get("after")
    if below is not None and (mask is not None or filled is not None):
        found = 0.0 if mask is None else float(np.mean(mask > 0))
        alt = f"Marked pixels ({found:.2%}) over the target, {label}"
        yield marks("Mask", below, mask, filled, flux, alt)
    if badness is not None and np.isfinite(badness).any():
        inside = mask if mask is not None else np.zeros_like(badness)
        scale = Scale(0.0, 10.0, "viridis", "σ", levels=41)
        alt = (
            f"Artefact score, {label}, from 0 to 10 standard deviations, with an outline around marked pixels"
        )
        yield outlined("Badness", badness, inside, scale, alt)
    if (marked := images.get("marked")) is not None:
        scale = Scale(0.0, max(float(marked.max()), 0.1), "viridis", "fraction of planes")
        yield picture("Marked", marked, scale, f"Fraction of planes in which a pixel is marked, {label}")


def psf_scale(psf: Plane) -> Scale:
    """Return a scale that shows the wings of a PSF, which is given relative to its sum."""
    top = float(np.nanmax(psf)) if np.isfinite(psf).any() else 1.0
    return Scale(0.0, top if top > 0 else 1.0, "inferno", "of the light", linear=1e-3)


def _size(psf: Plane) -> str:
    return f"{psf.shape[1]} × {psf.shape[0]} pixels"


def _spectra(images: Mapping[str, Plane | None]) -> dict[str, Spectrum]:
    """Return the power spectra before and after the deconvolution, if possible without artefacts."""
    before = images.get("before") if images.get("cleaned") is None else images["cleaned"]
    pairs = {"before": before, "after": images.get("after")}
    return {name: power_spectrum(p) for name, p in pairs.items() if p is not None}


def _spectrum_chart(
    label: str, spectra: Mapping[str, Spectrum], images: Mapping[str, Plane | None]
) -> Chart | None:
    variance = images.get(words.VARIANCE)
    noise = float(np.nanmean(variance)) if variance is not None and np.isfinite(variance).any() else 0.0
    return chart(
        "Power spectrum",
        [Line(name, s.frequency, s.power) for name, s in spectra.items()],
        x_label="spatial frequency (cycles per pixel)",
        y_label="power",
        alt=f"Azimuthally averaged power spectra before and after, {label}",
        log=True,
        levels=[(noise, "noise of the data")] if noise > 0 else (),
    )


def _add(sums: dict[str, Plane], counts: dict[str, Plane], images: Mapping[str, Plane | None]) -> None:
    """Add a plane of each image to its sum; NaN is left out."""
    for name in AVERAGED:
        if (plane := images.get(name)) is not None:
            known = np.isfinite(plane)
            sums[name] = sums.get(name, 0) + np.where(known, plane, 0)
            counts[name] = counts.get(name, 0) + known.astype(np.float32)


def measure(planes: Planes, number: int, images: Mapping[str, Plane | None], psf: Plane | None) -> None:
    """Record the numbers of a plane that the log does not have."""
    before, after, mask = images["cleaned"], images["after"], images[words.MASK]
    before = images["before"] if before is None else before
    numbers = {
        "plane": number,
        "sharpness_before": math.nan if before is None else sharpness(before),
        "sharpness_after": math.nan if after is None else sharpness(after),
        "psf_fwhm": math.nan if psf is None else width(psf),
        "psf_peak": math.nan
        if psf is None
        else float(np.nanmax(psf, initial=-math.inf)) / float(np.nansum(psf) or math.nan),
        "marked": math.nan if mask is None else float(np.mean(mask > 0)),
    }
    for name, value in numbers.items():
        planes.measured.setdefault(name, []).append(value)


def _spread(numbers: Any, count: int) -> list[int]:
    """Return `count` of some numbers, evenly spaced, or all of them."""
    places = np.linspace(0, len(numbers) - 1, min(count, len(numbers))).round().astype(int)
    return [int(n) for n in numbers[places]]


def wavelength_fraction(product: ProductFile, number: int) -> float:
    """Return the place of a plane on the axis of wavelengths, from 0 to 1; NaN if it is unknown."""
    axis = product.wavelength
    low, high = float(np.min(axis)), float(np.max(axis))
    return float((axis[number] - low) / (high - low)) if high > low else math.nan


def sampled_numbers(planes: Planes, name: str) -> tuple[Sequence[int], Any]:
    """Return the numbers of the planes that were read, and what was measured in them."""
    return planes.measured["plane"], np.asarray(planes.measured[name], np.float64)

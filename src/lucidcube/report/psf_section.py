"""Show the PSF: the star, its model and the difference, radial profiles, width and peak."""

import math
from typing import NamedTuple

import numpy as np

from lucidcube.report.charts import Chart, Line, chart
from lucidcube.report.finished_run import FinishedRun
from lucidcube.report.measures import compare_star, radial_profile
from lucidcube.report.pictures import Picture, picture, symmetric_scale
from lucidcube.report.planes import Planes, label_of, psf_scale, sampled_numbers
from lucidcube.report.product_file import Plane

EXAMPLES = 3
"""Number of planes in which the star is compared with its model."""
HALF = 30
"""Half the largest side of the images of a star, in pixels."""


class PSFExample(NamedTuple):
    """The star, its model and their difference in one plane, and their profiles."""

    label: str
    pictures: list[Picture]
    profile: Chart | None


def psf_examples(run: FinishedRun, planes: Planes) -> list[PSFExample]:
    """Return the PSF in the first, the middle and the last plane that is shown."""
    numbers = [p.number for p in planes.shown if p.number is not None]
    chosen = sorted({numbers[n] for n in (0, len(numbers) // 2, -1)}) if numbers else []
    return [example for n in chosen if (example := _example(run, n)) is not None]


def psf_charts(run: FinishedRun, planes: Planes) -> list[Chart]:
    """Return the width and the peak of the PSF in the planes that were read; nothing for an image."""
    charts = []
    if run.product.planes < 2:
        return []
    for name, label in (("psf_fwhm", "FWHM (pixels)"), ("psf_peak", "light in the brightest pixel")):
        numbers, values = sampled_numbers(planes, name)
        x = np.asarray(run.product.wavelength[numbers])
        where = np.asarray(numbers, float) + 1
        known = np.isfinite(x).all()
        charts.append(
            chart(
                "Width of the PSF" if name == "psf_fwhm" else "Peak of the PSF",
                [Line(label, x if known else where, values)],
                x_label=f"wavelength ({run.product.unit})" if known else "plane",
                y_label=label,
                alt=f"{label} of the PSF against wavelength",
                by_wavelength=len(x) > 1,
            )
        )
    return [c for c in charts if c is not None]


def _example(run: FinishedRun, number: int) -> PSFExample | None:
    psf, star = run.psf(number), run.star(number)
    if psf is None or not np.isfinite(psf).any():
        return None
    label = label_of(run.product, number)
    fit = None if star is None else compare_star(star, psf)
    if fit is None:
        middle = ((psf.shape[0] - 1) / 2, (psf.shape[1] - 1) / 2)
        pictures = [picture("PSF", _cut(psf, middle), psf_scale(psf), f"The PSF, {label}, logarithmic")]
        return PSFExample(label, pictures, _profile_chart(label, [("PSF", psf, middle)]))
    data, model = (_cut(p, fit.centre) for p in (fit.data, fit.model))
    peak = float(np.max(fit.model))
    scale = psf_scale(fit.model)
    percent = ((data - model) / peak * 100).astype(np.float32)
    known = np.abs(percent[np.isfinite(percent)])
    reach = max(float(np.percentile(known, 99.5)) if known.size else 1.0, 0.1)
    pictures = [
        picture("Star", data, scale, f"The star, {label}, relative to its flux, logarithmic"),
        picture("PSF", model, scale, f"The PSF at the position of the star, {label}, same scale as the star"),
        picture(
            "Star minus PSF",
            percent,
            symmetric_scale(reach, "% of the peak"),
            f"The star minus the PSF, {label}, from −{reach:.2g} to {reach:.2g} percent of the peak",
        ),
    ]
    return PSFExample(
        label,
        pictures,
        _profile_chart(label, [("star", fit.data, fit.centre), ("PSF", fit.model, fit.centre)]),
    )


def _profile_chart(label: str, images: list[tuple[str, Plane, tuple[float, float]]]) -> Chart | None:
    profiles = [(name, *radial_profile(plane, centre)) for name, plane, centre in images]
    lines = [Line(n, r[: HALF + 1], v[: HALF + 1], "dots" if n == "star" else "line") for n, r, v in profiles]
    return chart(
        "Radial profile",
        lines,
        x_label="radius (pixels)",
        y_label="of the light, per pixel",
        alt=f"Mean of the star and of the PSF in annuli against radius, {label}",
        log=True,
    )


def _cut(plane: Plane, centre: tuple[float, float]) -> Plane:
    """Return the part of a plane around a centre, with sides of at most 2 * HALF + 1 pixels."""
    parts = []
    for length, middle in zip(plane.shape, centre, strict=True):
        start = max(min(math.floor(middle + 0.5) - HALF, length - 2 * HALF - 1), 0)
        parts.append(slice(start, start + 2 * HALF + 1))
    return plane[tuple(parts)]

"""Compare a result with the truth: error of the image, limb, points, false sources, chi2 and pulls.

Cubes are (wavelength, y, x), and NaN in a result counts as zero. The definition of `relative_error` is the
usual one of this project. Most other figures are measured in the same way in the result and in the truth,
both smoothed by a Gaussian of one pixel, so that the finite resolution cancels out. Needs NumPy and SciPy
only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.signal import fftconvolve

Array = NDArray[Any]
APERTURE, INNER, OUTER = 3.0, 5.0, 8.0
"""Radii in pixels of the aperture of a point source, and of the annulus of its background."""


def smoothed(cube: Array, sigma: float = 1.0) -> Array:
    """Return a cube whose planes are smoothed by a Gaussian of `sigma` pixels; NaN counts as zero."""
    return ndimage.gaussian_filter(np.nan_to_num(cube).astype(float), (0, sigma, sigma), mode="constant")


def relative_error(result: Array, truth: Array, where: Array, sigma: float) -> float:
    """Return the root of the ratio of the sums of squares of error and truth, smoothed, over `where`."""
    one, other = smoothed(result, sigma), smoothed(truth, sigma)
    return float(np.sqrt(np.square(one - other)[where].sum() / np.square(other)[where].sum()))


def elliptical_radius(shape: tuple[int, int], disc: Mapping[str, float]) -> Array:
    """Return the distance (y, x) from the centre of a disc, divided by its radius in that direction."""
    y, x = np.indices(shape)
    y, x = y - disc["y"], x - disc["x"]
    across = x * np.cos(disc["pole"]) + y * np.sin(disc["pole"])
    along = (y * np.cos(disc["pole"]) - x * np.sin(disc["pole"])) / (1 - disc["flattening"])
    return np.hypot(across, along) / disc["radius"]


def limb(image: Array, disc: Mapping[str, float]) -> float:
    """Return the radius of the limb in pixels: where the mean profile falls to half of its value inside.

    The profile is the mean over bins of a quarter of a pixel of the elliptical radius; the value inside is
    the mean between 3 and 5 pixels (or a third of the radius) within the known limb.
    """
    radius = disc["radius"]
    distance = elliptical_radius(image.shape, disc) * radius
    inside = (distance > radius - min(5, radius / 3)) & (distance < radius - min(3, radius / 5))
    level = image[inside].mean() / 2
    edges = np.arange(max(1, radius - 4), radius + 5, 0.5)
    near = (distance > edges[0]) & (distance < edges[-1])
    order = np.argsort(distance[near])
    at, value = distance[near][order], image[near][order]
    profile = np.array([value[np.abs(at - e) < 0.75].mean() for e in edges])
    below = np.flatnonzero((profile[1:] < level) & (profile[:-1] >= level))
    if not below.size:
        return np.nan
    k = int(below[np.argmin(np.abs(edges[below] - radius))])
    return float(edges[k] + 0.5 * (profile[k] - level) / (profile[k] - profile[k + 1]))


def minnaert(image: Array, disc: Mapping[str, float]) -> float:
    """Return Minnaert's k, from a fit of log I = log I0 + (2 k - 1) log mu where 0.3 < mu < 0.98."""
    rho = elliptical_radius(image.shape, disc)
    mu = np.sqrt(np.clip(1 - rho**2, 0, 1))
    where = (mu > 0.3) & (mu < 0.98) & (image > 0) & (rho * disc["radius"] < disc["radius"] - 1.0)
    if where.sum() < 10:
        return np.nan
    # Medians in bins, so that clouds do not count.
    bins = np.digitize(mu, np.linspace(0.3, 0.98, 9))
    pairs = [
        (np.log(mu[k]).mean(), np.log(np.median(image[k])))
        for b in range(1, 9)
        if (k := where & (bins == b)).sum() > 4
    ]
    if len(pairs) < 3:
        return np.nan
    return float((np.polyfit(*np.transpose(pairs), 1)[0] + 1) / 2)


def photometry(image: Array, y: float, x: float) -> tuple[float, float, float]:
    """Return the flux of a point source in an aperture, and its centroid, above the median of an annulus."""
    rows, columns = np.indices(image.shape)
    distance = np.hypot(rows - y, columns - x)
    background = np.median(image[(distance > INNER) & (distance < OUTER)])
    near = distance <= APERTURE
    light = np.where(near, image - background, 0)
    flux, positive = light.sum(), np.maximum(light, 0)
    total = max(positive.sum(), 1e-30)
    return float(flux), float((positive * rows).sum() / total), float((positive * columns).sum() / total)


def point_figures(result: Array, truth: Array, points: Mapping[str, list[float]]) -> dict[str, float]:
    """Return the median ratio of fluxes, and the median error of positions in pixels.

    Each source is measured in the mean plane.
    """
    here, there = smoothed(result).mean(axis=0), smoothed(truth).mean(axis=0)
    ratios, offsets = [], []
    for y, x in zip(points["y"], points["x"], strict=True):
        (flux, row, column), (true, true_row, true_column) = photometry(here, y, x), photometry(there, y, x)
        ratios.append(flux / true)
        offsets.append(np.hypot(row - true_row, column - true_column))
    return {"moon_flux": float(np.median(ratios)), "moon_offset": float(np.median(offsets))}


def disc_figures(result: Array, truth: Array, disc: Mapping[str, float]) -> dict[str, float]:
    """Return the bias of the position of the limb in pixels, and that of k, as medians over planes."""
    here, there = smoothed(result), smoothed(truth)
    shifts = [limb(a, disc) - limb(b, disc) for a, b in zip(here, there, strict=True)]
    slopes = [minnaert(a, disc) - minnaert(b, disc) for a, b in zip(here, there, strict=True)]
    return {"limb": float(np.median(shifts)), "minnaert": float(np.median(slopes))}


def false_sources(result: Array, sky: Array, psf: Array, variance: Array, limit: float) -> float:
    """Return the number of peaks in the empty sky, per plane, that look like sources above `limit` sigma.

    The flux of a peak is that within 2 pixels, above the median of a box of 11 pixels; sigma is the smallest
    standard deviation that any unbiased estimate of the flux of a point source can have in the observation,
    so it is the same for all methods.
    """
    y, x = np.indices((5, 5)) - 2
    disc = (np.hypot(y, x) < 2.3).astype(float)
    count = 0
    for image, kernel, spread in zip(np.nan_to_num(result).astype(float), psf, variance, strict=True):
        sigma = np.sqrt(np.nanmedian(spread[sky]) / np.square(kernel).sum())
        above = image - ndimage.median_filter(image, 11)
        flux = ndimage.convolve(above, disc, mode="constant")
        peak = (flux == ndimage.maximum_filter(flux, 5)) & sky & (flux > limit * sigma)
        # A single pixel has the same flux in all apertures that contain it, and is one peak.
        count += int(ndimage.label(peak, structure=np.ones((3, 3)))[1])
    return count / len(result)


def chi2(result: Array, data: Array, variance: Array, psf: Array, where: Array) -> float:
    """Return the mean of (data - result convolved with the PSF)^2 / variance over pixels `where`."""
    model = np.stack(
        [fftconvolve(r, p, mode="same") for r, p in zip(np.nan_to_num(result), psf, strict=True)]
    )
    return float(np.mean(np.square(data - model)[where] / variance[where]))


def pulls(result: Array, error: Array, truth: Array, where: Array) -> dict[str, float]:
    """Return the standard deviation of (result - truth) / error, and the fraction that is within 2.

    Result and truth are smoothed by one pixel, which is the resolution for which the error is given.
    """
    known = where & np.isfinite(error) & (error > 0)
    if not known.any():
        return {"pull_std": np.nan, "pull_2sigma": np.nan}
    pull = (smoothed(result) - smoothed(truth))[known] / error[known]
    return {"pull_std": float(pull.std()), "pull_2sigma": float((np.abs(pull) < 2).mean())}


def pulls_by_region(result: Array, error: Array, truth: Array, facts: Mapping[str, Any]) -> dict[str, float]:
    """Return the root mean square of (result - truth) / error in each region, see `regions`.

    Result and truth are smoothed by one pixel. Regions of which nothing is known are left out.
    """
    known = np.isfinite(error) & (error > 0)
    pull = np.divide(smoothed(result) - smoothed(truth), error, out=np.zeros(truth.shape), where=known)
    return {
        f"pull_{name}": float(np.sqrt(np.mean(pull[known & where] ** 2)))
        for name, where in regions(truth.shape[1:], facts).items()
        if (known & where).any()
    }


def regions(shape: tuple[int, int], facts: Mapping[str, Any]) -> dict[str, Array]:
    """Return where (y, x) the disc is, its limb, the sky beside it, and points, which are in no other."""
    found, near = {}, np.zeros(shape, bool)
    if "points" in facts:
        y, x = np.indices(shape)
        for row, column in zip(facts["points"]["y"], facts["points"]["x"], strict=True):
            near |= np.hypot(y - row, x - column) < 2
        found["points"] = near
    if "disc" in facts:
        outside = (elliptical_radius(shape, facts["disc"]) - 1) * facts["disc"]["radius"]
        parts = {"disc": outside < -2.5, "limb": abs(outside) <= 1.5, "beside": (outside > 3) & (outside < 7)}
        found |= {name: part & ~near for name, part in parts.items()}
    return found

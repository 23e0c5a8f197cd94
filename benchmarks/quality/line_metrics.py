"""Compare the emission lines of a result with those of the truth: ratio of two lines, velocity field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .metrics import smoothed

Array = NDArray[Any]
REACH, STEP = 3.5, 0.1
"""Largest shift of the lines, and the step of the search, in channels."""
BRIGHT = 0.1
"""The figures are for pixels whose first line is brighter than this fraction of the brightest."""


class Lines(NamedTuple):
    """The lines of each pixel, arrays (pixel,): strengths in units of the data, the shift in channels."""

    first: Array
    second: Array
    shift: Array


def fit_lines(spectra: Array, lines: Mapping[str, float]) -> Lines:
    """Fit two Gaussian lines of known separation and width and a constant to spectra (wavelength, pixel)."""
    channel = np.arange(len(spectra))[:, None]
    shifts = np.arange(-REACH, REACH + STEP / 2, STEP)
    best = np.full(spectra.shape[1], np.inf)
    costs = np.empty((shifts.size, spectra.shape[1]))
    answer = np.zeros((2, spectra.shape[1]))
    for number, shift in enumerate(shifts):
        at = lines["first"] + shift + np.array([0, lines["separation"]])
        design = np.hstack([np.exp(-0.5 * ((channel - at) / lines["width"]) ** 2), np.ones_like(channel)])
        found = np.linalg.lstsq(design, spectra, rcond=None)[0]
        costs[number] = np.square(spectra - design @ found).sum(axis=0)
        better = (costs[number] < best) & (found[0] > 0)
        best[better] = costs[number][better]
        answer[:, better] = found[:2, better]
    middle = np.clip(costs.argmin(axis=0), 1, shifts.size - 2)
    low, at, high = (np.take_along_axis(costs, middle[None] + d, axis=0)[0] for d in (-1, 0, 1))
    bend = low - 2 * at + high
    with np.errstate(invalid="ignore", divide="ignore"):
        vertex = np.where(bend > 0, 0.5 * (low - high) / bend, 0)
    return Lines(*answer, shifts[middle] + STEP * np.clip(vertex, -1, 1))


def line_figures(result: Array, truth: Array, where: Array, lines: Mapping[str, float]) -> dict[str, float]:
    """Return the figures of the lines over the bright pixels of the map `where`.

    "line_ratio" is the median relative error of the ratio of the second to the first line. The figures of the
    velocity are in km/s: the median error, 1.48 times the median absolute deviation from it, and (without
    unit) the error of the amplitude of the rotation, from a linear fit of the velocity against the true one.
    """
    known = fit_lines(smoothed(truth)[:, where], lines)
    bright = known.first > BRIGHT * known.first.max()
    found = fit_lines(smoothed(result)[:, where][:, bright], lines)
    known = Lines(*(a[bright] for a in known))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = (found.second / found.first) / (known.second / known.first)
    error = lines["speed"] * (found.shift - known.shift)
    return {
        "line_ratio": float(np.nanmedian(ratio) - 1),
        "velocity_bias": float(np.median(error)),
        "velocity_scatter": float(1.4826 * np.median(np.abs(error - np.median(error)))),
        "rotation": float(np.polyfit(known.shift, found.shift, 1)[0] - 1),
    }

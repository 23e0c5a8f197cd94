"""Warnings of the stage `deconvolve`: why its result may not be trusted."""

from collections.abc import Iterator

import numpy as np
import xarray as xr

from lucidcube.cube import DATA, NOISE_FACTOR, WAVELENGTH
from lucidcube.kernels.deconvolution.common import StopReason
from lucidcube.kernels.deconvolution.diagnostics import light_at_edge

BRIGHT_EDGE = 0.1
"""Fraction of the edge of the field where light is worth a warning."""
STRUCTURED, CHI2_FACTOR = 2.0, 2.0
"""Structure of the residual, relative to noise, and deviation of chi2 that are worth a warning."""


def input_warnings(cube: xr.Dataset) -> Iterator[str]:
    """Yield warnings about the cube that will be deconvolved; one plane is read."""
    share = light_at_edge(cube[DATA].isel({WAVELENGTH: cube.sizes[WAVELENGTH] // 2}).values)
    if share > BRIGHT_EDGE:
        yield (
            f"the object is bright at {share:.0%} of the edge of the field: as far as the PSF reaches from "
            "there, the result depends on light that was not observed"
        )


def result_warnings(cube: xr.Dataset) -> Iterator[str]:
    """Yield warnings about a cube that was deconvolved, from the numbers in its log."""
    planes = cube.sizes[WAVELENGTH]
    if without := np.count_nonzero(cube["stop_reason"].values == StopReason.NO_PSF):
        yield f"{without} of {planes} planes were not deconvolved, because they have no PSF"
    structure, chi2 = (_median(cube[name].values) for name in ("residual_structure", "chi2_bright"))
    if structure > STRUCTURED:
        yield (
            f"the residual has structure, {structure:.1f} times as strong as noise in half of the planes: "
            "the PSF is too wide for the target or has another shape, for instance because the seeing was "
            "worse for the star, or the iteration stopped too early"
        )
    elif not (1 / CHI2_FACTOR <= chi2 <= CHI2_FACTOR or np.isnan(chi2)):
        side = "small" if chi2 > 1 else "large"
        advice = "" if NOISE_FACTOR in cube else ", which the stage noise can correct"
        yield (
            f"chi2 is {chi2:.2g} in half of the planes, and should be about 1: the variance is probably too "
            f"{side}{advice}"
        )


def _median(values: np.ndarray) -> float:
    """Return the median of the numbers; NaN if there are none."""
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")

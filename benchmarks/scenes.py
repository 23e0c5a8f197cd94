"""The planes and cubes of the benchmarks: simulated with a fixed seed, once for each size."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lucidcube.cube import from_arrays
from lucidcube.kernels.fill_linear import fill_linear
from lucidcube.kernels.mask import bad_pixel_mask
from lucidcube.kernels.psf.fit import fit_radial_psf
from lucidcube.kernels.psf.models import MODELS
from lucidcube.kernels.psf.normalise import normalise_psf
from lucidcube.kernels.ssa.artefact_score import badness
from lucidcube.simulate import Scene
from lucidcube.stages.deconvolution_methods import CleanModified, LucyRichardson
from lucidcube.stages.normalise_psf import NormalisePSF

WAVELENGTH = 720e-9
SSA: Any = {"window": 10, "start": -0.25, "stop": -0.75, "region": "class"}

CLEAN, LUCY = (
    {name: field.default for name, field in model.model_fields.items() if name not in model.stage_only}
    for model in (CleanModified, LucyRichardson)
)
"""The default parameters of the deconvolutions, which the kernels do not have themselves."""


class Planes(NamedTuple):
    """One wavelength at each stage of the pipeline."""

    observed: NDArray[np.float32]
    badness: NDArray[np.float32]
    bad: NDArray[np.bool_]
    filled: NDArray[np.float32]
    psf: NDArray[np.float32]
    star: NDArray[np.float32]
    prepared: NDArray[np.float32]


def scene(side: int, planes: int = 2) -> Scene:
    """Make a scene of square planes that are one nanometre apart."""
    return Scene(shape=(planes, side, side), first_wavelength=WAVELENGTH, wavelength_step=1e-9, seed=1)


def normalised(star: NDArray[np.float32]) -> NDArray[np.float32]:
    """Normalise a plane of the star with the defaults of the stage."""
    return normalise_psf(star, None, **NormalisePSF().model_dump()).image


def radial_psf(prepared: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fit a radial profile to a normalised plane with the defaults of the stage."""
    return fit_radial_psf(prepared, None, parameters=MODELS["radial"].parameters, nbins=50).image


@cache
def planes(side: int) -> Planes:
    """Return the first wavelength of a scene after each stage."""
    made = scene(side)
    target, star = made.plane(0), made.star_plane(0).observed
    badness_map = badness(target.observed, **SSA)
    bad = bad_pixel_mask(badness_map, 3.0, max_dilation=3).astype(bool) | np.isnan(target.observed)
    filled = fill_linear(target.observed, bad)
    return Planes(target.observed, badness_map, bad, filled, target.psf, star, normalised(star))


@cache
def cube(side: int, count: int) -> xr.Dataset:
    """Return a cube of `count` equal planes with variance, in memory."""
    plane = scene(side).plane(0)
    stack = (np.repeat(image[None], count, axis=0) for image in (plane.observed, plane.variance))
    data, variance = stack
    return from_arrays(data, WAVELENGTH + 1e-9 * np.arange(count), variance=variance, units="")

"""Images of PSFs that are given by a formula: Gaussian and Moffat functions, integrated over pixels."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

from lucidcube.kernels.psf import Doubles, Reals
from lucidcube.kernels.psf.models import muse_ao_star
from lucidcube.kernels.psf.optical_psf import Grid, Optics
from lucidcube.kernels.psf.star_position import SIGMA_TO_FWHM

Model = Literal["gaussian", "moffat", "muse_ao"]

_CORE, _CORE_NODES, _NODES = 3.0, 12, 2  # the core ends at this number of FWHMs; nodes per pixel and axis


def model_psf(values: Doubles, wavelength: float, *, model: Model, side: int, optics: Optics) -> Reals:
    """Return a PSF (side, side) float32 of unit sum about the central pixel; `side` is odd.

    `values` are the full width at half maximum in pixels for `gaussian`; this and the exponent beta (> 1) for
    `moffat`; the shape parameters of `muse_ao_star` for `muse_ao`, which alone uses the wavelength in metres
    and the optics. The width is that of the light that reaches the detector; the image is wider, because it
    is integrated over pixels.
    """
    image = light_in_pixels(values, wavelength, model=model, side=side, optics=optics)
    return (image / image.sum()).astype(np.float32)


def light_in_pixels(
    values: Doubles, wavelength: float, *, model: Model, side: int, optics: Optics
) -> Doubles:
    """Return the fraction of the light that each pixel receives (side, side); for the arguments see above."""
    if model == "gaussian":
        return _gaussian(float(values[0]), side)
    if model == "moffat":
        return _moffat(float(values[0]), float(values[1]), side)
    centre = (side - 1) / 2
    return muse_ao_star(values, wavelength, optics, Grid((side, side), centre, centre)).image


def radius_of_light(values: Doubles, model: Model, missing: float) -> float:
    """Return the radius in pixels outside of which this fraction of the light lies; infinite for `muse_ao`.

    The halo of `muse_ao` reaches far beyond any field.
    """
    if model == "gaussian":
        return float(values[0] / SIGMA_TO_FWHM * np.sqrt(-2.0 * np.log(missing)))
    if model == "moffat":
        return float(_moffat_core(values[0], values[1]) * np.sqrt(missing ** (1.0 / (1.0 - values[1])) - 1.0))
    return float(np.inf)


def _gaussian(fwhm: float, side: int) -> Doubles:
    """Integrate a round Gaussian over pixels."""
    edge = np.arange(side + 1) - 0.5 * side
    along = 0.5 * np.diff(erf(edge * SIGMA_TO_FWHM / fwhm / np.sqrt(2.0)))
    return np.asarray(along[:, None] * along)


def _moffat_core(fwhm: float, beta: float) -> float:
    """Return the radius at which the base of the power law is 2."""
    return float(0.5 * fwhm / np.sqrt(2.0 ** (1.0 / beta) - 1.0))


def _moffat(fwhm: float, beta: float, side: int) -> Doubles:
    """Integrate a Moffat function (Moffat 1969, A&A 3, 455) over pixels by Gauss-Legendre quadrature.

    Only the quadrant from the central pixel on is computed; the core needs more nodes than the wing.
    """
    half = side // 2
    quadrant = _integrals(np.arange(half + 1), fwhm, beta, _NODES)
    core = min(half, int(_CORE * fwhm) + 2)
    quadrant[: core + 1, : core + 1] = _integrals(np.arange(core + 1), fwhm, beta, _CORE_NODES)
    mirrored = np.abs(np.arange(side) - half)
    return np.asarray(quadrant[np.ix_(mirrored, mirrored)])


def _integrals(pixels: NDArray[np.integer], fwhm: float, beta: float, n_nodes: int) -> Doubles:
    """Return the flux of a Moffat function of unit flux in the pixels (y, x) at these distances."""
    node, weight = np.polynomial.legendre.leggauss(n_nodes)
    alpha = _moffat_core(fwhm, beta)
    squared = ((pixels[:, None] + 0.5 * node) / alpha) ** 2
    flux = np.zeros((pixels.size, pixels.size))
    for y, weight_y in enumerate(0.5 * weight):
        for x, weight_x in enumerate(0.5 * weight):
            flux += weight_y * weight_x * (1.0 + squared[:, y, None] + squared[:, x]) ** -beta
    return flux * (beta - 1.0) / (np.pi * alpha**2)

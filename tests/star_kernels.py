"""The kernels of the star's stages with the defaults of these stages, and simulated stars."""

import numpy as np

from lucidcube.kernels.psf.fit import FitResult, fit_parametric_psf, fit_radial_psf
from lucidcube.kernels.psf.models import MODELS
from lucidcube.kernels.psf.normalise import NormalisedPSF, normalise_psf
from lucidcube.kernels.psf.optical_psf import Grid, Optics
from lucidcube.stages.fit_psf import FitPSF
from lucidcube.stages.normalise_psf import NormalisePSF

WAVELENGTH = 700e-9
FWHM = 2.0 * np.sqrt(2.0 * np.log(2.0))  # of a Gaussian, in units of its sigma
MUSE = Optics(telescope_diameter=8.0, central_obscuration=0.14, pixel_scale=0.025)
SHAPES = {
    "gaussian": [2.1],
    "turbulence": [WAVELENGTH, 0.3, 3.0, 10.0],
    "muse_ao": [0.13, 10.0, 0.08, 1.8, 1.5, 3e-3, 2.06],
}


def normalise(plane, variance=None, **settings) -> NormalisedPSF:
    """Normalise a plane with the parameters of the stage `normalise_psf`."""
    return normalise_psf(plane, variance, **NormalisePSF(**settings).model_dump())


def fit(plane, model="radial", *, variance=None, wavelength=WAVELENGTH, seed=0, **settings) -> FitResult:
    """Fit a plane with the parameters of the stage `fit_psf`."""
    stage = FitPSF(model=model, **settings)
    parameters = stage.parameters()
    if model == "radial":
        return fit_radial_psf(plane, variance, parameters=parameters, nbins=stage.nbins)
    return fit_parametric_psf(
        plane,
        variance,
        star=MODELS[model].star,
        parameters=parameters,
        wavelength=wavelength,
        optics=MUSE,
        solver=stage.solver(seed),
    )


def star(model, shape, centre_y, centre_x, values=None, optics=MUSE, wavelength=WAVELENGTH):
    """Return the star of a model, with its derivatives."""
    values = np.array(SHAPES[model] if values is None else values)
    return MODELS[model].star(values, wavelength, optics, Grid(shape, float(centre_y), float(centre_x)))


def simulate(model, flux, seed, size=51, x=0.3, y=-0.4, sky_noise=2.0):
    """Return a noisy star of unit flux and its variance, both float32, and the parameters in order."""
    centre = (size - 1) / 2
    counts = flux * star(model, (size, size), centre + y, centre + x).image
    variance = counts + sky_noise**2
    noisy = counts + np.random.default_rng(seed).normal(size=counts.shape) * np.sqrt(variance)
    truth = np.array([x, y, *SHAPES[model], 1.0, 0.0])
    return (noisy / flux).astype(np.float32), (variance / flux**2).astype(np.float32), truth


def relative_l2(image, truth):
    """Return the relative difference of two images in the L2 norm."""
    return np.sqrt(((image - truth) ** 2).sum() / (truth**2).sum())


def gaussian(shape, centre, fwhm, flux=1.0):
    """Return a round Gaussian sampled at the pixel centres, float64."""
    y, x = np.indices(shape)
    sigma = fwhm / FWHM
    squared = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    return flux / (2.0 * np.pi * sigma**2) * np.exp(-0.5 * squared / sigma**2)


def halo_star(shape, centre, peak=1e5):
    """Return a star with a sharp core and an extended halo, float64."""
    y, x = np.indices(shape)
    squared = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    return peak * (0.8 * (1.0 + squared / 4.0) ** -2.5 + 0.2 * (1.0 + squared / 60.0) ** -1.9)

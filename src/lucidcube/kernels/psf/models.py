"""Models of a star and the list of their parameters."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np

from lucidcube.kernels.psf import Doubles
from lucidcube.kernels.psf.optical_psf import Grid, Optics, StarImage, long_exposure
from lucidcube.kernels.psf.turbulence import in_band_structure, von_karman_coefficient, von_karman_structure

R0_WAVELENGTH = 500e-9  # metres; Fried parameters, like the seeing, are quoted at this wavelength
_KOLMOGOROV_INDEX = 11.0 / 3.0

StarFunction = Callable[[Doubles, float, Optics, Grid], StarImage]
"""Star of unit flux for given shape parameters of a model, wavelength in metres, telescope and grid."""


class Parameter(NamedTuple):
    """Parameter of a model."""

    name: str
    start: float | None
    """Start value, or the value if fixed; None if it is derived from the plane as the description says."""
    lower: float
    upper: float
    unit: str
    description: str
    free: bool = True
    """Whether the parameter is fitted; otherwise it is held at `start`."""


class ModelSpec(NamedTuple):
    """Model of a star."""

    name: str
    description: str
    parameters: tuple[Parameter, ...]
    """Position (x, y), then for parametric models the shape parameters, factor and const."""
    star: StarFunction | None
    """Star for given shape parameters; None for `radial`, which is not a formula."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in order."""
        return tuple(parameter.name for parameter in self.parameters)


def gaussian_star(shape_parameters: Doubles, wavelength: float, optics: Optics, grid: Grid) -> StarImage:
    """Return a round Gaussian of unit flux, sampled at the pixel centres.

    The only shape parameter is sigma in pixels, that of the star as recorded, including the pixel.
    """
    sigma = float(shape_parameters[0])
    dy = (np.arange(grid.shape[0], dtype=np.float64) - grid.centre_y) / sigma
    dx = (np.arange(grid.shape[1], dtype=np.float64) - grid.centre_x) / sigma
    along_y, along_x = np.exp(-0.5 * dy**2), np.exp(-0.5 * dx**2) / (2.0 * np.pi * sigma**2)
    image = along_y[:, None] * along_x
    return StarImage(image, image * (dy / sigma)[:, None], image * (dx / sigma))


def turbulence_star(shape_parameters: Doubles, wavelength: float, optics: Optics, grid: Grid) -> StarImage:
    """Return a long-exposure star seen through von Karman turbulence without adaptive optics.

    The power spectrum of the phase is ``c (f**2 + 1/L0**2)**(-(ndim + 2/3)/2)``, which belongs to a field
    in `ndim` dimensions whose energy falls as k**(-5/3); 3 is Kolmogorov turbulence. For any `ndim` the
    structure function at r0 is 6.88 when L0 is infinite, and r0 grows with the wavelength to the power
    2/(ndim - 4/3), which is 6/5 for 3 dimensions.

    The shape parameters are the wavelength (m), which is used instead of the argument, r0 (m at 500 nm),
    ndim and L0 (m).
    """
    used_wavelength, r0, n_dimensions, outer_scale = shape_parameters.tolist()
    index = n_dimensions + 2.0 / 3.0
    r0_there = r0 * (used_wavelength / R0_WAVELENGTH) ** (2.0 / (index - 2.0))
    structure = partial(von_karman_structure, r0=r0_there, outer_scale=outer_scale, index=index)
    return long_exposure(structure, used_wavelength, optics, grid)


def muse_ao_star(shape_parameters: Doubles, wavelength: float, optics: Optics, grid: Grid) -> StarImage:
    """Return a long-exposure star behind adaptive optics (Fetick et al. 2019, A&A 628, A99; round core).

    Below the cut-off frequency the power spectrum of the phase is a Moffat function, whose integral there is
    `amplitude`, plus a constant `background`; above it, the spectrum is that of von Karman turbulence.

    The shape parameters are r0 (m at 500 nm), L0 (m), alpha (1/m), beta, amplitude (rad**2), background
    (rad**2 m**2), both at `wavelength`, and the cut-off frequency (1/m).
    """
    r0, outer_scale, alpha, beta, amplitude, background, cutoff = shape_parameters.tolist()
    r0_there = r0 * (wavelength / R0_WAVELENGTH) ** 1.2
    coefficient = von_karman_coefficient(r0_there, _KOLMOGOROV_INDEX)
    inside = 1.0 - (1.0 + (cutoff / alpha) ** 2) ** (1.0 - beta)
    peak = amplitude * (beta - 1.0) / (np.pi * alpha**2 * inside)

    def excess(frequency: Doubles) -> Doubles:
        turbulence = coefficient * (frequency**2 + outer_scale**-2.0) ** (-0.5 * _KOLMOGOROV_INDEX)
        return np.asarray(peak * (1.0 + (frequency / alpha) ** 2) ** -beta + background - turbulence)

    def structure(separation: Doubles) -> Doubles:
        uncorrected = von_karman_structure(separation, r0_there, outer_scale, _KOLMOGOROV_INDEX)
        return uncorrected + in_band_structure(separation, excess, cutoff)

    return long_exposure(structure, wavelength, optics, grid)


_POSITION = (
    Parameter("x", 0.0, -5.0, 5.0, "pixel", "offset of the star along x from the central pixel"),
    Parameter("y", 0.0, -5.0, 5.0, "pixel", "offset of the star along y from the central pixel"),
)
_SCALING = (
    Parameter("factor", None, 0.0, np.inf, "flux of the plane", "flux of the star; starts at the best fit"),
    Parameter("const", None, -np.inf, np.inf, "plane", "constant added to the star; starts at the best fit"),
)
_SIGMA = Parameter("sigma", None, 0.2, 100.0, "pixel", "width; starts from the area above half the maximum")
_WAVELENGTH = Parameter("wavelength", None, 1e-7, 1e-4, "m", "wavelength; starts at that of the plane", False)
_R0 = Parameter(
    "r0",
    None,
    0.01,
    1.0,
    "m",
    "Fried parameter at 500 nm; starts from the width of the star or where it fits best",
)
_N_DIMENSIONS = Parameter(
    "turbulence_ndim", 3.0, 1.5, 3.3, "1", "dimensions of the turbulence; 3 is Kolmogorov turbulence", False
)
_OUTER_SCALE = Parameter("L0", 10.0, 1.0, 200.0, "m", "outer scale of the turbulence", False)
_ADAPTIVE_OPTICS = (
    Parameter("alpha", 0.1, 5e-3, 2.0, "1/m", "width of the Moffat core of the power spectrum"),
    Parameter("beta", 1.6, 1.05, 5.0, "1", "slope of the Moffat core of the power spectrum"),
    Parameter(
        "amplitude", None, 0.0, 100.0, "rad^2", "phase variance of the Moffat core; starts where it fits best"
    ),
    Parameter("background", 5e-3, 0.0, 1.0, "rad^2 m^2", "constant floor of the corrected power spectrum"),
    Parameter("cutoff", 2.06, 0.1, 20.0, "1/m", "highest spatial frequency that is corrected", False),
)

MODELS: dict[str, ModelSpec] = {
    model.name: model
    for model in (
        ModelSpec("radial", "means in annuli about a fitted centre", _POSITION, None),
        ModelSpec("gaussian", "round Gaussian", (*_POSITION, _SIGMA, *_SCALING), gaussian_star),
        ModelSpec(
            "turbulence",
            "telescope behind von Karman turbulence, without adaptive optics",
            (*_POSITION, _WAVELENGTH, _R0, _N_DIMENSIONS, _OUTER_SCALE, *_SCALING),
            turbulence_star,
        ),
        ModelSpec(
            "muse_ao",
            "adaptive optics: Moffat core inside the cut-off, von Karman halo outside (Fetick et al. 2019)",
            (*_POSITION, _R0, _OUTER_SCALE, *_ADAPTIVE_OPTICS, *_SCALING),
            muse_ao_star,
        ),
    )
}
"""The models by name. Every parameter has a finite start value, or None where the plane determines it."""

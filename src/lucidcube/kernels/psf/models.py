"""Parametric models of a star and the one list of their parameters."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.psf.optical_psf import Optics, StarImage, radial_profile, star_image
from lucidcube.kernels.psf.turbulence import in_band_structure, von_karman_coefficient, von_karman_structure

R0_WAVELENGTH = 500e-9  # metres; Fried parameters are quoted there, as seeing is
_KOLMOGOROV_INDEX = 11.0 / 3.0

StarFunction = Callable[[NDArray[np.float64], float, Optics, tuple[int, int], float, float], StarImage]
"""(shape parameters, wavelength in m, optics, (y, x) shape, centre y, centre x) -> star of unit flux."""


class ParameterSpec(NamedTuple):
    """A parameter of a model."""

    name: str
    start: float | None
    """Start value, or the value if fixed; None: taken from the plane (the description says how)."""
    lower: float
    upper: float
    free: bool
    """Fitted; otherwise held at `start`."""
    unit: str
    description: str


class ParameterOverride(NamedTuple):
    """What a user changes about a parameter; None keeps the model's value."""

    start: float | None = None
    lower: float | None = None
    upper: float | None = None
    free: bool | None = None


class ModelSpec(NamedTuple):
    """A model of a star."""

    name: str
    description: str
    parameters: tuple[ParameterSpec, ...]
    """Position (x, y) first, then the shape parameters, then for parametric models factor and const."""
    star: StarFunction | None
    """The star for given shape parameters; None for the model that is no formula, `radial`."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in order."""
        return tuple(parameter.name for parameter in self.parameters)


def resolve_parameters(
    model: ModelSpec, overrides: Mapping[str, ParameterOverride] | None = None
) -> tuple[ParameterSpec, ...]:
    """Apply a user's changes to the parameters of a model.

    Parameters
    ----------
    model
        One of `MODELS`.
    overrides
        By parameter name.

    Returns
    -------
    tuple of ParameterSpec

    Raises
    ------
    ValueError
        For a name that the model does not have, an empty domain, a start outside its domain.
    """
    overrides = {} if overrides is None else overrides
    for name in overrides:
        if name not in model.names:
            raise ValueError(f"model {model.name} has no parameter {name}; it has {', '.join(model.names)}")
    resolved = []
    for parameter in model.parameters:
        changes = overrides.get(parameter.name, ParameterOverride())._asdict()
        new = parameter._replace(**{key: value for key, value in changes.items() if value is not None})
        if not new.lower < new.upper:
            raise ValueError(f"parameter {new.name}: the domain {new.lower}..{new.upper} is empty")
        if new.start is not None and not new.lower <= new.start <= new.upper:
            raise ValueError(f"parameter {new.name}: start {new.start} is not in {new.lower}..{new.upper}")
        resolved.append(new)
    return tuple(resolved)


def gaussian_star(
    shape_parameters: NDArray[np.float64],
    wavelength: float,
    optics: Optics,
    shape: tuple[int, int],
    centre_y: float,
    centre_x: float,
) -> StarImage:
    """Return a round Gaussian of unit flux, sampled at the pixel centres.

    Parameters
    ----------
    shape_parameters
        (sigma in pixels,): of the star as recorded, pixel included.
    wavelength, optics
        Do not matter.
    shape, centre_y, centre_x
        Grid, and centre in pixel indices.

    Returns
    -------
    StarImage
        float64.
    """
    sigma = float(shape_parameters[0])
    dy = (np.arange(shape[0], dtype=np.float64) - centre_y) / sigma
    dx = (np.arange(shape[1], dtype=np.float64) - centre_x) / sigma
    along_y, along_x = np.exp(-0.5 * dy**2), np.exp(-0.5 * dx**2) / (2.0 * np.pi * sigma**2)
    image = along_y[:, None] * along_x
    return StarImage(image, image * (dy / sigma)[:, None], image * (dx / sigma))


def turbulence_star(
    shape_parameters: NDArray[np.float64],
    wavelength: float,
    optics: Optics,
    shape: tuple[int, int],
    centre_y: float,
    centre_x: float,
) -> StarImage:
    """Return a long-exposure star behind von Karman turbulence, seen by a telescope without correction.

    The power spectrum of the phase is ``c (f**2 + 1/L0**2)**(-(ndim + 2/3)/2)``: the spectrum of a field
    whose energy falls as k**(-5/3), in `ndim` dimensions; 3 is Kolmogorov's. At any `ndim` the structure
    function at r0 is 6.88 when L0 is infinite, and r0 grows with the wavelength to the power
    2/(ndim - 4/3), that is 6/5 for 3.

    Parameters
    ----------
    shape_parameters
        (wavelength, r0, turbulence_ndim, L0): m, m at 500 nm, number, m.
    wavelength
        Does not matter: it is among the parameters.
    optics, shape, centre_y, centre_x
        Telescope; grid, and centre in pixel indices.

    Returns
    -------
    StarImage
        float64, integrated over pixels.
    """
    used_wavelength, r0, n_dimensions, outer_scale = map(float, shape_parameters)
    index = n_dimensions + 2.0 / 3.0
    r0_there = r0 * (used_wavelength / R0_WAVELENGTH) ** (2.0 / (index - 2.0))

    def structure(separation: NDArray[np.float64]) -> NDArray[np.float64]:
        return von_karman_structure(separation, r0_there, outer_scale, index)

    profile = radial_profile(structure, used_wavelength, optics, _largest_radius(shape, centre_y, centre_x))
    return star_image(profile, shape, centre_y, centre_x)


def muse_ao_star(
    shape_parameters: NDArray[np.float64],
    wavelength: float,
    optics: Optics,
    shape: tuple[int, int],
    centre_y: float,
    centre_x: float,
) -> StarImage:
    """Return a long-exposure star behind adaptive optics: Fetick et al. 2019, A&A 628, A99, round core.

    Below the cut-off frequency the power spectrum of the phase is a Moffat function whose integral there is
    `amplitude`, plus a constant `background`; above it, von Karman turbulence.

    Parameters
    ----------
    shape_parameters
        (r0, L0, alpha, beta, amplitude, background, cutoff): m at 500 nm, m, 1/m, number, rad**2 and
        rad**2 m**2 at `wavelength`, 1/m.
    wavelength
        Metres.
    optics, shape, centre_y, centre_x
        Telescope; grid, and centre in pixel indices.

    Returns
    -------
    StarImage
        float64, integrated over pixels.
    """
    r0, outer_scale, alpha, beta, amplitude, background, cutoff = map(float, shape_parameters)
    r0_there = r0 * (wavelength / R0_WAVELENGTH) ** 1.2
    coefficient = von_karman_coefficient(r0_there, _KOLMOGOROV_INDEX)
    inside = 1.0 - (1.0 + (cutoff / alpha) ** 2) ** (1.0 - beta)
    peak = amplitude * (beta - 1.0) / (np.pi * alpha**2 * inside)

    def excess(frequency: NDArray[np.float64]) -> NDArray[np.float64]:
        turbulence = coefficient * (frequency**2 + outer_scale**-2.0) ** (-0.5 * _KOLMOGOROV_INDEX)
        return np.asarray(peak * (1.0 + (frequency / alpha) ** 2) ** -beta + background - turbulence)

    def structure(separation: NDArray[np.float64]) -> NDArray[np.float64]:
        free = von_karman_structure(separation, r0_there, outer_scale, _KOLMOGOROV_INDEX)
        return free + in_band_structure(separation, excess, cutoff)

    profile = radial_profile(structure, wavelength, optics, _largest_radius(shape, centre_y, centre_x))
    return star_image(profile, shape, centre_y, centre_x)


def _largest_radius(shape: tuple[int, int], centre_y: float, centre_x: float) -> float:
    """Return the distance from the centre to the furthest corner, in pixels."""
    far_y = max(abs(centre_y), abs(shape[0] - 1 - centre_y))
    return float(np.hypot(far_y, max(abs(centre_x), abs(shape[1] - 1 - centre_x))))


_X = ParameterSpec("x", 0.0, -5.0, 5.0, True, "pixel", "offset of the star along x from the central pixel")
_Y = ParameterSpec("y", 0.0, -5.0, 5.0, True, "pixel", "offset of the star along y from the central pixel")
_R0 = ParameterSpec("r0", 0.15, 0.01, 1.0, True, "m", "Fried parameter at 500 nm")
_OUTER_SCALE = ParameterSpec("L0", 10.0, 1.0, 200.0, False, "m", "outer scale of the turbulence")
_FACTOR = ParameterSpec(
    "factor",
    None,
    0.0,
    np.inf,
    True,
    "flux of the plane",
    "flux of the star; starts at the best one for the shape",
)
_CONST = ParameterSpec(
    "const", None, -np.inf, np.inf, True, "plane", "constant added; starts at the best one for the shape"
)

MODELS: dict[str, ModelSpec] = {
    model.name: model
    for model in (
        ModelSpec("radial", "means in annuli about a fitted centre", (_X, _Y), None),
        ModelSpec(
            "gaussian",
            "round Gaussian",
            (
                _X,
                _Y,
                ParameterSpec(
                    "sigma",
                    None,
                    0.2,
                    100.0,
                    True,
                    "pixel",
                    "width; starts from the area above half the maximum",
                ),
                _FACTOR,
                _CONST,
            ),
            gaussian_star,
        ),
        ModelSpec(
            "turbulence",
            "telescope behind von Karman turbulence, no adaptive optics",
            (
                _X,
                _Y,
                ParameterSpec(
                    "wavelength", None, 1e-7, 1e-4, False, "m", "wavelength; starts at that of the plane"
                ),
                _R0,
                ParameterSpec(
                    "turbulence_ndim",
                    3.0,
                    1.5,
                    3.3,
                    False,
                    "1",
                    "dimensions of the turbulence; 3 is Kolmogorov's",
                ),
                _OUTER_SCALE,
                _FACTOR,
                _CONST,
            ),
            turbulence_star,
        ),
        ModelSpec(
            "muse_ao",
            "adaptive optics: Moffat core inside the cut-off, von Karman halo outside (Fetick et al. 2019)",
            (
                _X,
                _Y,
                _R0,
                _OUTER_SCALE,
                ParameterSpec(
                    "alpha", 0.1, 5e-3, 2.0, True, "1/m", "width of the Moffat core of the spectrum"
                ),
                ParameterSpec("beta", 1.6, 1.05, 5.0, True, "1", "slope of the Moffat core"),
                ParameterSpec(
                    "amplitude", 2.0, 0.0, 100.0, True, "rad^2", "phase variance of the Moffat core"
                ),
                ParameterSpec(
                    "background", 5e-3, 0.0, 1.0, True, "rad^2 m^2", "floor of the corrected spectrum"
                ),
                ParameterSpec("cutoff", 2.06, 0.1, 20.0, False, "1/m", "highest frequency corrected"),
                _FACTOR,
                _CONST,
            ),
            muse_ao_star,
        ),
    )
}
"""The models by name. All parameters have finite start values, or None where the plane decides."""

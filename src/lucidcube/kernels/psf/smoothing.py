"""Smoothing along wavelength by local polynomials."""

import numpy as np

from lucidcube.kernels.psf import Doubles

_DECIMALS = 6
WIDEST = 0.05
"""Largest distance over which planes are smoothed, as a fraction of the wavelength: PSFs change with
wavelength."""


def spectral_positions(wavelength: Doubles) -> tuple[Doubles, float]:
    """Return the positions of planes along the spectral axis, and the distance over which they may be
    smoothed.

    Both are in units of the median step. The positions follow the wavelengths if these are finite, positive
    and monotonic. Otherwise they are the numbers of the planes, and the distance is infinite. They are
    rounded, so that the rounding of a wavelength in a file makes no difference.
    """
    steps = np.diff(wavelength)
    monotonic = (steps > 0.0).all() or (steps < 0.0).all()
    if not (steps.size and np.isfinite(wavelength).all() and (wavelength > 0.0).all() and monotonic):
        return np.arange(wavelength.size, dtype=np.float64), float("inf")
    step = float(np.median(steps))
    position = np.round((wavelength - wavelength[0]) / step, _DECIMALS)
    return position, round(abs(WIDEST * float(np.median(wavelength)) / step), _DECIMALS)


def local_polynomials(position: Doubles, weight: Doubles, *, half_width: float, degree: int) -> Doubles:
    """Return the matrix that replaces values along an axis by local polynomial fits (Cleveland 1979, LOESS).

    Parameters
    ----------
    position
        Strictly monotonic positions (n,) of the values.
    weight
        Weights (n,) >= 0 of the values, to be multiplied by the tricube of the distance; 0 for missing
        values.
    half_width
        Distance where the weight becomes 0.
    degree
        Degree of the polynomials; lower where fewer values have weight.

    Returns
    -------
    (n, n) array
        The smoothed values are the product of this matrix and the values. A row is 0 where no value has
        weight.
    """
    matrix = np.zeros((position.size, position.size))
    for i, row in enumerate(matrix):
        distance = (position - position[i]) / half_width
        tricube = (1.0 - np.minimum(np.abs(distance), 1.0) ** 3) ** 3 * weight
        used = np.flatnonzero(tricube > 0.0)
        if used.size:
            powers = np.vander(distance[used], min(degree, used.size - 1) + 1, increasing=True)
            weighted = powers * tricube[used, None]
            row[used] = np.linalg.lstsq(weighted.T @ powers, weighted.T, rcond=None)[0][0]
    return matrix

"""What blurs a star: the pupil of the telescope, and the phase that turbulence leaves over it."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import gamma, j0, kv

_N_PSD_NODES = 160
_N_SERIES = 12
_KOLMOGOROV = 2.0 * (4.8 * float(gamma(1.2))) ** (5.0 / 6.0)  # 6.88: D(r0) of Kolmogorov turbulence


def telescope_transfer(separation: NDArray[np.float64], obscuration: float) -> NDArray[np.float64]:
    """Return the transfer function of an annular pupil.

    Parameters
    ----------
    separation
        Displacement of the pupil in units of its diameter, >= 0; the function is zero from 1 on.
    obscuration
        Inner over outer diameter, 0 <= obscuration < 1.

    Returns
    -------
    ndarray
        1 at zero. O'Neill 1956, J. Opt. Soc. Am. 46, 285.
    """
    outer = _overlap(separation, 0.5, 0.5)
    if obscuration == 0.0:
        return outer / (0.25 * np.pi)
    inner = 0.5 * obscuration
    area = outer + _overlap(separation, inner, inner) - 2.0 * _overlap(separation, 0.5, inner)
    return np.asarray(area / (0.25 * np.pi * (1.0 - obscuration**2)))


def von_karman_coefficient(r0: float, index: float) -> float:
    """Return c of the phase power spectrum ``c (f**2 + 1/L0**2)**(-index/2)`` in rad**2 m**2.

    Parameters
    ----------
    r0
        Fried parameter in metres: for an infinite outer scale the structure function at r0 is 6.88.
    index
        Logarithmic slope, 2 < index < 4; 11/3 for Kolmogorov turbulence, where c = 0.0229 r0**(-5/3).

    Returns
    -------
    float
    """
    numerator = _KOLMOGOROV * gamma(index / 2.0) * 2.0 ** (index - 1.0)
    denominator = -4.0 * np.pi * (2.0 * np.pi) ** (index - 2.0) * gamma(1.0 - index / 2.0)
    return float(numerator / denominator * r0 ** (2.0 - index))


def von_karman_structure(
    separation: NDArray[np.float64], r0: float, outer_scale: float, index: float
) -> NDArray[np.float64]:
    """Return the structure function (rad**2) of von Karman turbulence in closed form.

    Parameters
    ----------
    separation
        Metres, >= 0.
    r0, outer_scale
        Metres, > 0.
    index
        Logarithmic slope of the power spectrum, 2 < index < 4.

    Returns
    -------
    ndarray
        Gradshteyn & Ryzhik 6.565.4 applied to the power spectrum.
    """
    order = index / 2.0 - 1.0
    variance = 2.0 * np.pi * von_karman_coefficient(r0, index) * outer_scale ** (2.0 * order)
    argument = np.pi * separation / outer_scale
    large = np.maximum(argument, 0.5)
    difference = 0.5 * gamma(order) - large**order * kv(order, 2.0 * large)
    # Near the origin that is a small difference of large numbers: the power series of the Bessel function.
    small = np.minimum(argument, 0.5)
    series = np.zeros_like(small)
    for k in range(_N_SERIES):
        series += small ** (2.0 * (k + order)) / (gamma(k + 1.0) * gamma(k + 1.0 + order))
        series -= small ** (2.0 * k + 2.0) / (gamma(k + 2.0) * gamma(k + 2.0 - order))
    series *= 0.5 * np.pi / np.sin(order * np.pi)
    chosen = np.where(argument < 0.5, series, difference)
    return np.asarray(2.0 * variance / gamma(order + 1.0) * chosen)


def in_band_structure(
    separation: NDArray[np.float64],
    power: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    cutoff: float,
) -> NDArray[np.float64]:
    """Return the structure function (rad**2) of the phase whose power spectrum ends at `cutoff`.

    Parameters
    ----------
    separation
        Metres, one-dimensional.
    power
        Power spectrum (rad**2 m**2) of the spatial frequency (1/m).
    cutoff
        Highest frequency, 1/m, > 0.

    Returns
    -------
    ndarray
        ``4 pi int_0^cutoff power(f) (1 - J0(2 pi f separation)) f df``.
    """
    node, weight = unit_nodes(_N_PSD_NODES)
    frequency = cutoff * node**3  # dense at the origin, where a Moffat core is narrow
    measure = 4.0 * np.pi * weight * 3.0 * cutoff * node**2 * frequency * power(frequency)
    kernel = 1.0 - j0(2.0 * np.pi * separation[:, None] * frequency)
    return np.asarray(kernel @ measure)


@lru_cache(maxsize=4)
def unit_nodes(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return Gauss-Legendre nodes and weights on 0..1."""
    node, weight = np.polynomial.legendre.leggauss(n)
    node, weight = 0.5 * (node + 1.0), 0.5 * weight
    node.flags.writeable = weight.flags.writeable = False
    return node, weight


def _overlap(separation: NDArray[np.float64], radius_1: float, radius_2: float) -> NDArray[np.float64]:
    """Return the common area of two circles (radius_1 >= radius_2) at the given separations."""
    low, high = radius_1 - radius_2, radius_1 + radius_2
    between = (separation > low) & (separation < high)
    d = np.where(between, separation, 0.5 * (low + high) if low + high > 0.0 else 1.0)
    angle_1 = np.arccos((d**2 + radius_1**2 - radius_2**2) / (2.0 * d * radius_1))
    angle_2 = np.arccos((d**2 + radius_2**2 - radius_1**2) / (2.0 * d * radius_2))
    lens = radius_1**2 * (angle_1 - 0.5 * np.sin(2.0 * angle_1))
    lens += radius_2**2 * (angle_2 - 0.5 * np.sin(2.0 * angle_2))
    return np.asarray(np.where(between, lens, np.where(separation <= low, np.pi * radius_2**2, 0.0)))

"""Structure functions of the phase that turbulence leaves over the pupil of a telescope."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
from scipy.special import gamma, j0, kv

from lucidcube.kernels.psf import Doubles

_N_PSD_NODES = 160
_N_SERIES = 12
_KOLMOGOROV = 2.0 * (4.8 * float(gamma(1.2))) ** (5.0 / 6.0)  # 6.88: D(r0) of Kolmogorov turbulence


def von_karman_coefficient(r0: float, index: float) -> float:
    """Return c of the phase power spectrum ``c (f**2 + 1/L0**2)**(-index/2)`` in rad**2 m**2.

    `r0` is the Fried parameter in metres: for an infinite outer scale the structure function at r0 is 6.88.
    `index` is between 2 and 4; it is 11/3 for Kolmogorov turbulence, where c = 0.0229 r0**(-5/3).
    """
    numerator = _KOLMOGOROV * gamma(index / 2.0) * 2.0 ** (index - 1.0)
    denominator = -4.0 * np.pi * (2.0 * np.pi) ** (index - 2.0) * gamma(1.0 - index / 2.0)
    return float(numerator / denominator * r0 ** (2.0 - index))


def von_karman_structure(separation: Doubles, r0: float, outer_scale: float, index: float) -> Doubles:
    """Return the structure function (rad**2) of von Karman turbulence; all lengths are in metres.

    The closed form is Gradshteyn & Ryzhik 6.565.4 applied to the power spectrum of `von_karman_coefficient`.
    """
    order = index / 2.0 - 1.0
    variance = 2.0 * np.pi * von_karman_coefficient(r0, index) * outer_scale ** (2.0 * order)
    argument = np.pi * separation / outer_scale
    large = np.maximum(argument, 0.5)
    difference = 0.5 * gamma(order) - large**order * kv(order, 2.0 * large)
    # Near the origin this is a small difference of large numbers; use the power series of the function.
    small = np.minimum(argument, 0.5)
    series = np.zeros_like(small)
    for k in range(_N_SERIES):
        series += small ** (2.0 * (k + order)) / (gamma(k + 1.0) * gamma(k + 1.0 + order))
        series -= small ** (2.0 * k + 2.0) / (gamma(k + 2.0) * gamma(k + 2.0 - order))
    series *= 0.5 * np.pi / np.sin(order * np.pi)
    chosen = np.where(argument < 0.5, series, difference)
    return np.asarray(2.0 * variance / gamma(order + 1.0) * chosen)


def in_band_structure(separation: Doubles, power: Callable[[Doubles], Doubles], cutoff: float) -> Doubles:
    """Return the structure function (rad**2) of a phase whose power spectrum ends at `cutoff`.

    This is ``4 pi int_0^cutoff power(f) (1 - J0(2 pi f separation)) f df``, with one-dimensional separations
    in metres, frequencies in 1/m and the power spectrum in rad**2 m**2.
    """
    node, weight = unit_nodes(_N_PSD_NODES)
    frequency = cutoff * node**3  # dense near the origin, where a Moffat core is narrow
    measure = 4.0 * np.pi * weight * 3.0 * cutoff * node**2 * frequency * power(frequency)
    kernel = 1.0 - j0(2.0 * np.pi * separation[:, None] * frequency)
    return np.asarray(kernel @ measure)


@lru_cache(maxsize=4)
def unit_nodes(n: int) -> tuple[Doubles, Doubles]:
    """Return `n` Gauss-Legendre nodes and weights on the interval 0 to 1 (cached, read-only)."""
    node, weight = np.polynomial.legendre.leggauss(n)
    node, weight = 0.5 * (node + 1.0), 0.5 * weight
    node.flags.writeable = weight.flags.writeable = False
    return node, weight

"""Level of the sky behind an isolated star, from the pixels that the star does not dominate."""

from typing import Literal, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import gammaln

from lucidcube.kernels.psf.median import median, median_inplace

BackgroundModel = Literal["gennorm", "norm", "none"]

_N_BINS = 2000  # the binning error of the location is far below its statistical error
_HISTOGRAM_HALF_WIDTH = 12.0  # robust standard deviations; what lies beyond is no noise
_SOFTENING = 0.01  # robust standard deviations; for shapes below 1 every sample is a cusp of the likelihood
_MAD_TO_SIGMA = 1.4826
_WING_SLOPES = np.arange(2.0, 6.05, 0.1)
_WING_CORES = np.linspace(0.0, 1.0, 16)
_WING_SIGNIFICANCE = 16.0
_ANNULI = 40
_MIN_ANNULI = 8
_MIN_PER_ANNULUS = 5
_CLIP = 3.5  # robust standard deviations


class GennormFit(NamedTuple):
    """Maximum likelihood generalised normal distribution: exp(-(|x - location| / scale)**shape)."""

    shape: float
    """Exponent: 2 is the normal, 1 the Laplace distribution."""
    location: float
    scale: float


def robust_sigma(values: NDArray[np.floating]) -> float:
    """Return 1.4826 times the median absolute deviation of finite `values`; 0 for an empty array."""
    if values.size == 0:
        return 0.0
    return _MAD_TO_SIGMA * median(np.abs(values - values.dtype.type(median(values))))


def fit_gennorm(values: NDArray[np.floating]) -> GennormFit:
    """Fit a generalised normal distribution to a sample by maximum likelihood.

    The likelihood is taken from a fine histogram (bin means, not bin centres) out to 12 robust
    standard deviations from the median, so the cost hardly depends on the size of the sample, and the
    scale is eliminated analytically.

    Parameters
    ----------
    values
        Finite numbers, any shape, at least one.

    Returns
    -------
    GennormFit
        A sample without spread gives (2, its median, 0).

    Notes
    -----
    Nadarajah, S. 2005, J. Appl. Stat. 32, 685 gives the density. For a given shape b and location m the
    likelihood is largest at scale**b = b mean(|x - m|**b).
    """
    sample = np.asarray(values, dtype=np.float64).ravel()
    centre = median(sample)
    sigma = _MAD_TO_SIGMA * median(np.abs(sample - centre))
    if not sigma > 0.0:
        return GennormFit(2.0, centre, 0.0)
    # Float64 in units of sigma about the median: powers of raw counts would overflow.
    scaled = (sample - centre) / sigma
    scaled = scaled[np.abs(scaled) < _HISTOGRAM_HALF_WIDTH]
    width = 2.0 * _HISTOGRAM_HALF_WIDTH / _N_BINS
    index = ((scaled + _HISTOGRAM_HALF_WIDTH) / width).astype(np.intp)
    counts = np.bincount(index, minlength=_N_BINS + 1)
    used = counts > 0
    means = np.bincount(index, weights=scaled, minlength=_N_BINS + 1)[used] / counts[used]
    weights = counts[used] / scaled.size

    def log_scale(location: float, shape: float) -> float:
        distance = np.hypot(means - location, _SOFTENING)
        return float(np.log(shape * (weights @ distance**shape)) / shape)

    def cost(parameters: NDArray[np.float64]) -> float:
        location, shape = parameters[0], np.exp(parameters[1])
        constant = np.log(2.0 / shape) + gammaln(1.0 / shape)
        return float(constant + log_scale(location, shape) + 1.0 / shape)

    limits = [(-3.0, 3.0), (np.log(0.3), np.log(20.0))]
    start = np.array([[0.0, np.log(2.0)], [0.1, np.log(2.0)], [0.0, np.log(1.5)]])
    options = {"xatol": 1e-4, "fatol": 1e-9, "initial_simplex": start, "maxiter": 300}
    best = minimize(cost, start[0], method="Nelder-Mead", bounds=limits, options=options).x
    location, shape = float(best[0]), float(np.exp(best[1]))
    scale = float(np.exp(log_scale(location, shape)))
    return GennormFit(shape, centre + sigma * location, sigma * scale)


def star_wing(values: NDArray[np.floating], radius: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the light of the star's far wing in pixels that serve to measure the sky.

    The wing is A (r**2 + a**2)**(-g/2), fitted together with a constant to clipped means in annuli;
    g in 2..6 and a up to the smallest radius. An adaptive-optics halo falls as r**(-11/3) and so fills
    the whole field of view: without this term the sky would be overestimated by the mean of the wing.

    Parameters
    ----------
    values, radius
        One-dimensional, finite: counts, and distance from the star (pixels, > 0).

    Returns
    -------
    ndarray
        Of the length of `values`; all zeros where no wing is significant (4 sigma) or where there are
        too few pixels to tell.
    """
    none = np.zeros(values.shape, dtype=np.float64)
    annuli = _annulus_means(values, radius)
    if annuli is None:
        return none
    mean, squared_radius, weight = annuli
    inner = float(squared_radius.min())
    core, slope = np.meshgrid(_WING_CORES**2 * inner, _WING_SLOPES, indexing="ij")
    shape = ((squared_radius + core[..., None]) / (inner + core[..., None])) ** (-0.5 * slope[..., None])
    total = weight.sum()
    mean_level = (weight @ mean) / total
    shape_deviation = shape - (shape @ weight / total)[..., None]
    covariance = (shape_deviation * weight) @ (mean - mean_level)
    amplitude = np.maximum(covariance / ((shape_deviation**2) @ weight), 0.0)
    gain = amplitude * covariance  # how much chi^2 falls by adding the wing to the constant
    best = np.unravel_index(int(np.argmax(gain)), gain.shape)
    if gain[best] < _WING_SIGNIFICANCE:
        return none
    profile = ((np.square(radius, dtype=np.float64) + core[best]) / (inner + core[best])) ** (
        -0.5 * slope[best]
    )
    return np.asarray(amplitude[best] * profile, dtype=np.float64)


def background_level(
    values: NDArray[np.floating], radius: NDArray[np.floating], model: BackgroundModel
) -> float:
    """Return the sky level from background pixels: the location of the noise model, star wing removed.

    Parameters
    ----------
    values, radius
        One-dimensional, finite: counts, and distance from the star (pixels, > 0).
    model
        `gennorm`: location of a generalised normal distribution; `norm`: mean after clipping at 5 robust
        standard deviations; `none`: 0.

    Returns
    -------
    float
        0 where there is no pixel.
    """
    if model == "none" or values.size == 0:
        return 0.0
    sky = np.asarray(values, dtype=np.float64) - star_wing(values, radius)
    if model == "gennorm":
        return fit_gennorm(sky).location
    distance = np.abs(sky - median(sky))
    return float(sky[distance <= 5.0 * robust_sigma(sky)].mean())


def _annulus_means(
    values: NDArray[np.floating], radius: NDArray[np.floating]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]] | None:
    """Return clipped means, mean squared radii and inverse variances in annuli; None if too few."""
    if values.size < _MIN_ANNULI * _MIN_PER_ANNULUS or not radius.max() > radius.min():
        return None
    edges = np.geomspace(max(float(radius.min()), 0.5), float(radius.max()), _ANNULI)
    index = np.searchsorted(edges, radius).clip(max=_ANNULI - 1)
    table = _clipped_annuli(
        np.asarray(values, dtype=np.float64), np.square(radius, dtype=np.float64), index, _ANNULI
    )
    table = table[table[:, 2] > 0.0]
    if len(table) < _MIN_ANNULI:
        return None
    return table[:, 0], table[:, 1], table[:, 2]


@njit(cache=True, nogil=True)
def _clipped_annuli(
    values: NDArray[np.float64], squares: NDArray[np.float64], index: NDArray[np.int64], n_annuli: int
) -> NDArray[np.float64]:
    """Return rows of mean value, mean square of the radius, inverse variance of the mean (0: too few)."""
    first = np.zeros(n_annuli + 1, dtype=np.int64)
    for k in range(index.size):
        first[index[k] + 1] += 1
    for a in range(n_annuli):
        first[a + 1] += first[a]
    place = first[:-1].copy()
    sorted_values, sorted_squares = np.empty_like(values), np.empty_like(squares)
    for k in range(index.size):
        sorted_values[place[index[k]]] = values[k]
        sorted_squares[place[index[k]]] = squares[k]
        place[index[k]] += 1
    table = np.zeros((n_annuli, 3))
    for a in range(n_annuli):
        annulus = sorted_values[first[a] : first[a + 1]]
        if annulus.size < _MIN_PER_ANNULUS:
            continue
        distance = np.abs(annulus - median_inplace(annulus.copy()))
        kept = distance <= _CLIP * _MAD_TO_SIGMA * median_inplace(distance.copy())
        chosen = annulus[kept]
        variance = chosen.var()
        if variance > 0.0:
            table[a, 0] = chosen.mean()
            table[a, 1] = sorted_squares[first[a] : first[a + 1]][kept].mean()
            table[a, 2] = chosen.size / variance
    return table

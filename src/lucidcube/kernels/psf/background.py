"""Sky level behind an isolated star, measured from the pixels that the star does not dominate."""

from typing import Literal, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import gammaln

from lucidcube.kernels.noise import MAD_TO_SIGMA
from lucidcube.kernels.psf import Doubles, Reals

BackgroundModel = Literal["gennorm", "norm", "none"]

_N_BINS = 2000  # the error that binning adds to the location is far below the statistical error
_HISTOGRAM_HALF_WIDTH = 12.0  # robust standard deviations; values beyond this are not noise
_SOFTENING = 0.01  # robust standard deviations; below shape 1 the likelihood has a cusp at every sample
_WING_SLOPES = np.arange(2.0, 6.05, 0.1)
_WING_CORES = np.linspace(0.0, 1.0, 16)
_WING_SIGNIFICANCE = 16.0
_ANNULI = 40
_MIN_ANNULI = 8
_MIN_PER_ANNULUS = 5
_LOWEST = 0.01  # quantile
_CLIP = 3.5  # robust standard deviations


class GennormFit(NamedTuple):
    """Generalised normal distribution: density proportional to exp(-(|x - location| / scale)**shape)."""

    shape: float
    location: float
    scale: float


def median(values: Reals) -> float:
    """Return the median of finite `values` by one selection, where `numpy.median` makes three."""
    middle = values.size // 2
    ordered = np.partition(values, middle, axis=None)
    upper = float(ordered[middle])
    return upper if values.size % 2 else 0.5 * (float(ordered[:middle].max()) + upper)


def robust_sigma(values: Reals) -> float:
    """Return 1.4826 times the median absolute deviation of finite `values`; 0 for an empty array."""
    if values.size == 0:
        return 0.0
    return MAD_TO_SIGMA * median(np.abs(values - values.dtype.type(median(values))))


def fit_gennorm(values: Reals) -> GennormFit:
    """Fit a generalised normal distribution to finite `values` (at least one) by maximum likelihood.

    The likelihood is computed from a fine histogram (from bin means, not bin centres) that covers 12
    robust standard deviations on either side of the median, so the cost hardly depends on the sample
    size. The scale is eliminated analytically: for a given shape b and location m the likelihood is
    largest at scale**b = b mean(|x - m|**b). A sample without spread gives shape 2, its median and scale 0.
    The density is given by Nadarajah (2005, J. Appl. Stat. 32, 685).
    """
    sample = np.asarray(values, dtype=np.float64).ravel()
    centre = median(sample)
    sigma = MAD_TO_SIGMA * median(np.abs(sample - centre))
    if not sigma > 0.0:
        return GennormFit(2.0, centre, 0.0)
    # Use float64 in units of sigma about the median: powers of raw counts would overflow.
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

    def cost(parameters: Doubles) -> float:
        location, shape = parameters[0], np.exp(parameters[1])
        constant = np.log(2.0 / shape) + gammaln(1.0 / shape)
        return float(constant + log_scale(location, shape) + 1.0 / shape)

    limits = [(-3.0, 3.0), (np.log(0.3), np.log(20.0))]
    start = np.array([[0.0, np.log(2.0)], [0.1, np.log(2.0)], [0.0, np.log(1.5)]])
    options = {"xatol": 1e-4, "fatol": 1e-9, "initial_simplex": start, "maxiter": 300}
    best = minimize(cost, start[0], method="Nelder-Mead", bounds=limits, options=options).x
    location, shape = float(best[0]), float(np.exp(best[1]))
    return GennormFit(shape, centre + sigma * location, sigma * float(np.exp(log_scale(location, shape))))


def star_wing(values: Reals, radius: Reals) -> Doubles:
    """Return the flux of the far wing of the star in the pixels that are used to measure the sky.

    The wing A (r**2 + a**2)**(-g/2) is fitted together with a constant to clipped means in annuli, with
    g between 2 and 6 and a up to the smallest radius. The halo of adaptive optics decreases as r**(-11/3) and
    fills the whole field of view, so that without this term its mean would be part of the sky level.

    `values` are counts and `radius` distances from the star (pixels, > 0), both one-dimensional and finite.
    The result is zero if no wing is significant (4 sigma) or there are too few pixels.
    """
    annuli = _annulus_means(values, radius)
    if annuli is None:
        return np.zeros(values.shape, dtype=np.float64)
    mean, squared_radius, weight = annuli
    inner = float(squared_radius.min())
    core, slope = np.meshgrid(_WING_CORES**2 * inner, _WING_SLOPES, indexing="ij")
    shape = ((squared_radius + core[..., None]) / (inner + core[..., None])) ** (-0.5 * slope[..., None])
    total = weight.sum()
    mean_level = (weight @ mean) / total
    shape_deviation = shape - (shape @ weight / total)[..., None]
    covariance = (shape_deviation * weight) @ (mean - mean_level)
    amplitude = np.maximum(covariance / ((shape_deviation**2) @ weight), 0.0)
    gain = amplitude * covariance  # decrease of chi^2 when the wing is added to the constant
    best = np.unravel_index(int(np.argmax(gain)), gain.shape)
    if gain[best] < _WING_SIGNIFICANCE:
        return np.zeros(values.shape, dtype=np.float64)
    squares = np.square(radius, dtype=np.float64)
    profile = ((squares + core[best]) / (inner + core[best])) ** (-0.5 * slope[best])
    return np.asarray(amplitude[best] * profile, dtype=np.float64)


def background_level(values: Reals, radius: Reals, model: BackgroundModel) -> float:
    """Return the sky level: the location of the noise distribution after the star's wing is subtracted.

    The model `gennorm` gives the location of a generalised normal distribution, `norm` the mean after
    clipping at 5 robust standard deviations, `none` 0; the level is also 0 if there are no pixels. It is
    between the quantiles 1 % and 99 % of the pixels, unless these become fainter outwards: then it may be
    lower by as much.
    `values` and `radius` are those of `star_wing`.
    """
    if model == "none" or values.size == 0:
        return 0.0
    sky = np.asarray(values, dtype=np.float64) - star_wing(values, radius)
    if model == "gennorm":
        level = fit_gennorm(sky).location
    else:
        level = float(sky[np.abs(sky - median(sky)) <= 5.0 * robust_sigma(sky)].mean())
    return float(np.clip(level, *_plausible_levels(values, radius)))


def _plausible_levels(values: Reals, radius: Reals) -> tuple[float, float]:
    """Return the lowest and the highest level that the sky may have.

    The wing that is fitted to noise in a small range of radii can be any constant.
    """
    low, high = np.quantile(values, (_LOWEST, 1.0 - _LOWEST))
    inner, outer = np.quantile(radius, (1.0 / 3.0, 2.0 / 3.0))
    decline = median(values[radius <= inner]) - median(values[radius >= outer])
    decline -= 3.0 * robust_sigma(values) / np.sqrt(values.size / 3.0)  # which noise explains
    return float(low) - max(decline, 0.0), float(high)


def _annulus_means(values: Reals, radius: Reals) -> tuple[Doubles, Doubles, Doubles] | None:
    """Return clipped means, mean squared radii and inverse variances in annuli; None if too few."""
    if values.size < _MIN_ANNULI * _MIN_PER_ANNULUS or not radius.max() > radius.min():
        return None
    edges = np.geomspace(max(float(radius.min()), 0.5), float(radius.max()), _ANNULI)
    index = np.searchsorted(edges, radius).clip(max=_ANNULI - 1)
    order = np.argsort(index.astype(np.uint8), kind="stable")
    table = _clipped_means(
        values[order].astype(np.float64),
        np.square(radius[order], dtype=np.float64),
        np.cumsum(np.bincount(index + 1, minlength=_ANNULI + 1)),
    )
    table = table[table[:, 2] > 0.0]
    if len(table) < _MIN_ANNULI:
        return None
    return table[:, 0], table[:, 1], table[:, 2]


@njit(cache=True, nogil=True)
def _clipped_means(values: Doubles, squared_radii: Doubles, first: NDArray[np.int64]) -> Doubles:
    """Return rows of mean value, mean squared radius and inverse variance of the mean (0 if too few).

    The pixels are sorted by annulus; annulus a consists of ``first[a] : first[a + 1]``.
    """
    table = np.zeros((first.size - 1, 3))
    for a in range(first.size - 1):
        annulus = values[first[a] : first[a + 1]]
        if annulus.size < _MIN_PER_ANNULUS:
            continue
        distance = np.abs(annulus - np.median(annulus))
        kept = distance <= _CLIP * MAD_TO_SIGMA * np.median(distance)
        chosen = annulus[kept]
        variance = chosen.var()
        if variance > 0.0:
            table[a, 0] = chosen.mean()
            table[a, 1] = squared_radii[first[a] : first[a + 1]][kept].mean()
            table[a, 2] = chosen.size / variance
    return table

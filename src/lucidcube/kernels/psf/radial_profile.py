"""Non-parametric model of a star: a radial profile from means in annuli about a fitted centre."""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from lucidcube.kernels.psf.median import median_inplace

_INNERMOST = 0.5  # pixels; the first annulus is the disc inside
_CLOSEST = 0.1  # pixels between the mean radii of two annuli
_MIN_TO_CLIP = 8  # pixels in an annulus
_CLIP = 5.0  # robust standard deviations
_CORE_LEVEL = 0.02  # of the peak: what lies above fixes the centre
_COARSEST = 0.5  # pixels; annuli for the centre are no narrower, lest each hold a pixel and fit anything
_MIN_CORE, _MAX_CORE = 3.0, 30.0  # pixels
_MAX_ITERATIONS = 40
_CENTRED = 1e-4  # pixels


class RadialFit(NamedTuple):
    """A star described by a centre and a radial profile."""

    image: NDArray[np.float32]
    """Profile on the grid, about the central pixel; finite, not negative, unit sum. NaN without data."""
    radius: NDArray[np.float64]
    """Radii (pixels) of the annuli that hold pixels: means over their pixels."""
    profile: NDArray[np.float64]
    """The profile there, in the units of the plane."""
    centre: tuple[float, float]
    """Offset (y, x) of the star from the central pixel."""
    errors: tuple[float, float]
    """One standard deviation of `centre`; NaN where fixed or unknown."""
    converged: bool
    used: NDArray[np.bool_]
    """Pixels that entered the means: finite and not clipped."""


class _Annuli(NamedTuple):
    """Clipped means; only annuli with pixels."""

    radius: NDArray[np.float64]
    mean: NDArray[np.float64]
    kept: NDArray[np.bool_]


def fit_radial(
    plane: NDArray[np.floating],
    *,
    weight: NDArray[np.float64] | None,
    n_annuli: int,
    start: tuple[float, float] = (0.0, 0.0),
    lower: tuple[float, float] = (-5.0, -5.0),
    upper: tuple[float, float] = (5.0, 5.0),
    free: tuple[bool, bool] = (True, True),
) -> RadialFit:
    """Fit a centre and a radial profile to a star.

    The profile is the mean in annuli with logarithmic edges from half a pixel on (pixels beyond 5 robust
    standard deviations of their annulus left out), joined by a monotone cubic so that it has no steps;
    the mean of the joined profile over the pixels of each annulus is that of the data. The centre is the
    one about which the residual from the profile is least, by Gauss-Newton steps on the core. Beyond
    the last annulus with data the profile goes on as a power law.

    Parameters
    ----------
    plane
        Star (y, x), odd; NaN = missing. At least one finite pixel.
    weight
        Inverse variances for the fit of the centre (0 = no weight), or None for equal ones. The means are not
        weighted: weights from photon noise are correlated with the values.
    n_annuli
        Number of annuli out to the corner, >= 3.
    start, lower, upper, free
        Start value, domain and freedom of the centre: offsets (y, x) from the central pixel.

    Returns
    -------
    RadialFit
    """
    height, width = plane.shape
    y = np.arange(height, dtype=np.float64) - (height - 1) / 2
    x = np.arange(width, dtype=np.float64) - (width - 1) / 2
    edges = np.geomspace(_INNERMOST, np.hypot(y[-1], x[-1]) + 1.0, n_annuli)
    finite = np.isfinite(plane)
    centre, errors, converged = _fit_centre(plane, finite, weight, _widened(edges), start, lower, upper, free)

    radius = np.hypot(y[:, None] - centre[0], x - centre[1])
    annuli = _annulus_means(plane[finite], radius[finite], edges)
    used = finite.copy()
    used[finite] = annuli.kept
    # One quadrant holds every radius that occurs about the central pixel.
    quadrant = np.hypot(y[height // 2 :, None], x[width // 2 :])
    quarter = _evaluate(annuli, quadrant)
    half = np.concatenate([quarter[:0:-1], quarter])
    image = np.maximum(np.concatenate([half[:, :0:-1], half], axis=1), 0.0)
    total = float(image.sum())
    image = image / total if total > 0.0 else np.full(plane.shape, np.nan)
    return RadialFit(image.astype(np.float32), annuli.radius, annuli.mean, centre, errors, converged, used)


def radial_model(fit: RadialFit, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the profile on the grid (y, x) about the fitted centre, in the units of the plane."""
    y = np.arange(shape[0], dtype=np.float64) - (shape[0] - 1) / 2 - fit.centre[0]
    x = np.arange(shape[1], dtype=np.float64) - (shape[1] - 1) / 2 - fit.centre[1]
    return _evaluate(_Annuli(fit.radius, fit.profile, fit.used), np.hypot(y[:, None], x))


def _fit_centre(
    plane: NDArray[np.floating],
    finite: NDArray[np.bool_],
    weight: NDArray[np.float64] | None,
    edges: NDArray[np.float64],
    start: tuple[float, float],
    lower: tuple[float, float],
    upper: tuple[float, float],
    free: tuple[bool, bool],
) -> tuple[tuple[float, float], tuple[float, float], bool]:
    """Return the centre (y, x) as an offset from the central pixel, its errors, and whether it settled."""
    unknown = (float("nan"), float("nan"))
    if not any(free):
        return start, unknown, True
    height, width = plane.shape
    reach = int(_MAX_CORE + max(np.abs(lower).max(), np.abs(upper).max()))
    rows = slice(max(height // 2 - reach, 0), height // 2 + reach + 1)
    columns = slice(max(width // 2 - reach, 0), width // 2 + reach + 1)
    near = finite[rows, columns]
    y, x = np.nonzero(near)
    y, x = y + rows.start - height // 2, x + columns.start - width // 2
    values = plane[rows, columns][near].astype(np.float64)
    weights = np.ones(values.size) if weight is None else weight[rows, columns][near]
    centre = np.array(start, dtype=np.float64)
    moving = np.array(free)
    normal = np.zeros((2, 2))
    noise, converged = 1.0, False
    # Pixels change annulus as the centre moves, so full steps can go to and fro for ever: halve them then.
    previous, damping = np.zeros(2), 1.0
    for _ in range(_MAX_ITERATIONS):
        dy, dx = y - centre[0], x - centre[1]
        radius = np.hypot(dy, dx)
        annuli = _annulus_means(values, radius, edges)
        if annuli.radius.size < 3:
            return start, unknown, False
        profile = _interpolator(annuli)
        core = annuli.kept & (radius < _core_radius(annuli)) & (radius > 0.0)
        slope = profile(radius[core], 1) / radius[core]
        gradient = -np.stack([slope * dy[core], slope * dx[core]])[moving]
        residual = values[core] - profile(radius[core])
        normal = (gradient * weights[core]) @ gradient.T
        if not np.linalg.cond(normal) < 1e10:
            return start, unknown, False
        noise = 1.0 if weight is not None else float(np.mean(residual**2))
        step = np.zeros(2)
        step[moving] = np.linalg.solve(normal, (gradient * weights[core]) @ residual)
        if step @ previous < 0.0:
            damping *= 0.5
        previous = step
        target = np.clip(centre + damping * np.clip(step, -1.0, 1.0), lower, upper)
        moved = float(np.abs(target - centre).max())
        centre = target
        if moved < _CENTRED:
            converged = True
            break
    errors = np.full(2, np.nan)
    errors[moving] = np.sqrt(noise * np.diag(np.linalg.inv(normal)))
    return (float(centre[0]), float(centre[1])), (float(errors[0]), float(errors[1])), converged


def _widened(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return edges with the same growth, but no annulus narrower than half a pixel."""
    growth = edges[1] / edges[0]
    widened = [float(edges[0])]
    while widened[-1] < edges[-1]:
        widened.append(max(widened[-1] * growth, widened[-1] + _COARSEST))
    return np.array(widened)


def _core_radius(annuli: _Annuli) -> float:
    """Return the radius at which the profile first falls below a small fraction of its peak."""
    below = np.flatnonzero(annuli.mean < _CORE_LEVEL * annuli.mean.max())
    radius = annuli.radius[below[0]] if below.size else annuli.radius[-1]
    return float(np.clip(radius, _MIN_CORE, _MAX_CORE))


def _annulus_means(
    values: NDArray[np.floating], radius: NDArray[np.float64], edges: NDArray[np.float64]
) -> _Annuli:
    """Return clipped means such that the joined profile has the same means."""
    n_annuli = edges.size
    index = np.searchsorted(edges, radius, side="right").clip(max=n_annuli - 1)
    values = np.asarray(values, dtype=np.float64)
    kept = _clip_annuli(values, radius, index, n_annuli)
    counts = _totals(np.ones(values.size), index, kept, n_annuli)
    number = _merged(counts, _totals(radius, index, kept, n_annuli))
    index = number[index]
    n_annuli = number.max() + 1
    counts = np.bincount(number, weights=counts, minlength=n_annuli)
    mean_radius = _totals(radius, index, kept, n_annuli) / counts
    mean = _totals(values, index, kept, n_annuli) / counts
    annuli = _Annuli(mean_radius, mean, kept)
    if mean.size < 3:
        return annuli
    joined = _joined(_interpolator(annuli), radius)
    correction = _totals(joined, index, kept, n_annuli) / counts - mean
    return _Annuli(mean_radius, mean - correction, kept)


def _merged(counts: NDArray[np.float64], radii: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return new numbers of annuli, without gaps: those of almost the same radius are made one.

    Two pixels on either side of an edge would make two annuli whose difference is noise over next to nothing.
    `counts` and `radii` are the number of pixels in each annulus, and the sum of their radii.
    """
    number = np.zeros(counts.size, dtype=np.intp)
    current, begun = -1, -np.inf
    for annulus in np.flatnonzero(counts):
        if radii[annulus] / counts[annulus] - begun >= _CLOSEST:
            current, begun = current + 1, radii[annulus] / counts[annulus]
        number[annulus] = current
    return number


def _interpolator(annuli: _Annuli) -> PchipInterpolator:
    """Return the monotone cubic through the means, flat at the centre; at least two annuli."""
    radius, mean = annuli.radius, annuli.mean
    if radius[0] == 0.0:
        return PchipInterpolator(radius, mean)
    other = min(int(np.searchsorted(radius, radius[0] + 0.25)), radius.size - 1)
    curvature = (mean[other] - mean[0]) / (radius[other] ** 2 - radius[0] ** 2)
    centre = mean[0] - curvature * radius[0] ** 2
    return PchipInterpolator(np.r_[0.0, radius], np.r_[centre, mean])


def _joined(profile: PchipInterpolator, radius: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values of a profile; the bits are those of ``profile(radius)``, in a third of the time."""
    return _cubic(profile.x, profile.c, radius.reshape(-1)).reshape(radius.shape)


def _evaluate(annuli: _Annuli, radius: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the profile at any radius: power law beyond the last annulus, constant if there is one only."""
    if annuli.radius.size < 2:
        return np.full(radius.shape, annuli.mean[0])
    last, end = annuli.radius[-1], annuli.mean[-1]
    values = _joined(_interpolator(annuli), np.minimum(radius, last))
    middle, before = (
        annuli.radius[-(annuli.radius.size // 4 + 2)],
        annuli.mean[-(annuli.radius.size // 4 + 2)],
    )
    beyond = radius > last
    if end > 0.0 and before > end and middle > 0.0:
        slope = np.log(before / end) / np.log(last / middle)
        values[beyond] *= (radius[beyond] / last) ** -slope
    else:
        values[beyond] = min(end, 0.0)
    return values


@njit(cache=True, nogil=True)
def _clip_annuli(
    values: NDArray[np.float64], radius: NDArray[np.float64], index: NDArray[np.int64], n_annuli: int
) -> NDArray[np.bool_]:
    """Return which pixels lie within 5 robust standard deviations of the line through their annulus.

    The line has the slope between the medians of the neighbouring annuli: in a steep profile the spread
    within an annulus is no noise.
    """
    n = values.size
    first = np.zeros(n_annuli + 1, dtype=np.int64)
    for k in range(n):
        first[index[k] + 1] += 1
    for a in range(n_annuli):
        first[a + 1] += first[a]
    order = np.empty(n, dtype=np.int64)
    place = first[:-1].copy()
    for k in range(n):
        order[place[index[k]]] = k
        place[index[k]] += 1
    median, mid_radius = np.full(n_annuli, np.nan), np.full(n_annuli, np.nan)
    for a in range(n_annuli):
        members = order[first[a] : first[a + 1]]
        if members.size > 0:
            median[a] = median_inplace(values[members])
            mid_radius[a] = radius[members].mean()
    kept = np.ones(n, dtype=np.bool_)
    for a in range(n_annuli):
        members = order[first[a] : first[a + 1]]
        if members.size < _MIN_TO_CLIP:
            continue
        inner, outer = max(a - 1, 0), min(a + 1, n_annuli - 1)
        slope = (median[outer] - median[inner]) / (mid_radius[outer] - mid_radius[inner])
        if not np.isfinite(slope):
            slope = 0.0
        residual = values[members] - slope * (radius[members] - mid_radius[a])
        residual -= median_inplace(residual.copy())
        limit = _CLIP * 1.4826 * median_inplace(np.abs(residual))
        for k in range(members.size):
            kept[members[k]] = abs(residual[k]) <= limit
    return kept


@njit(cache=True, nogil=True)
def _totals(
    values: NDArray[np.float64], index: NDArray[np.int64], kept: NDArray[np.bool_], n_annuli: int
) -> NDArray[np.float64]:
    """Return the sum of the values that are kept, annulus by annulus."""
    total = np.zeros(n_annuli)
    for k in range(values.size):
        if kept[k]:
            total[index[k]] += values[k]
    return total


@njit(cache=True, nogil=True)
def _cubic(
    knots: NDArray[np.float64], coefficients: NDArray[np.float64], places: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the values of a piecewise cubic; beyond the last knot its last piece goes on."""
    values = np.empty(places.size)
    piece = 0
    for k in range(places.size):
        place = places[k]
        if not knots[piece] <= place < knots[piece + 1]:
            piece = min(max(np.searchsorted(knots, place, side="right") - 1, 0), knots.size - 2)
        step = place - knots[piece]
        total, power = coefficients[3, piece], step
        for degree in range(2, -1, -1):
            total += coefficients[degree, piece] * power
            power *= step
        values[k] = total
    return values

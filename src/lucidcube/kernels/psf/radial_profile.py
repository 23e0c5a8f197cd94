"""Non-parametric model of a star: a radial profile of means in annuli about a fitted centre."""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from lucidcube.kernels.psf import Doubles, Floats, Mask, Reals
from lucidcube.kernels.psf.models import Parameter

_INNERMOST = 0.5  # pixels; radius of the disc that is the first annulus
_CLOSEST = 0.1  # pixels between the mean radii of two annuli
_MIN_TO_CLIP = 8  # pixels in an annulus
_CLIP = 5.0  # robust standard deviations
_CORE_LEVEL = 0.02  # of the peak; the pixels above this determine the centre
_COARSEST = 0.5  # pixels; in narrower annuli for the centre, each could hold one pixel and fit anything
_MIN_CORE, _MAX_CORE = 3.0, 30.0  # pixels
_MAX_ITERATIONS = 40
_CENTRED = 1e-4  # pixels


class RadialFit(NamedTuple):
    """Star described by a centre and a radial profile.

    `image` is the profile about the central pixel: finite, not negative, and of unit sum; NaN without data.
    `profile` is in the units of the plane, at the mean `radius` (pixels) of the pixels of each annulus that
    has any. `centre` is the offset (y, x) from the central pixel with its standard deviations `errors`, NaN
    where fixed or unknown. `used` marks the pixels that entered the means: finite and not clipped.
    """

    image: Floats
    radius: Doubles
    profile: Doubles
    centre: tuple[float, float]
    errors: tuple[float, float]
    converged: bool
    used: Mask


class _Annuli(NamedTuple):
    """Clipped means of the annuli that contain pixels."""

    radius: Doubles
    mean: Doubles
    kept: Mask


def fit_radial_profile(
    plane: Reals, weight: Doubles | None, *, x: Parameter, y: Parameter, n_annuli: int
) -> RadialFit:
    """Fit a centre and a radial profile to a star.

    The profile is the mean in annuli with logarithmic edges from half a pixel outwards, without the pixels
    beyond 5 robust standard deviations of their annulus. A monotone cubic is drawn through the means, which
    are adjusted so that the curve has the means of the data. The centre minimises the residual of the core
    by Gauss-Newton steps. Beyond the last annulus with data the profile continues as a power law.

    The plane (y, x) is odd, and at least one pixel must not be NaN. The weights, inverse variances or 0, are
    used to fit the centre only; those of photon noise are correlated with the values and would bias means.
    The parameters x and y are offsets of the centre from the central pixel. There are `n_annuli` >= 3 annuli
    out to the corner.
    """
    height, width = plane.shape
    rows = np.arange(height, dtype=np.float64) - (height - 1) / 2
    columns = np.arange(width, dtype=np.float64) - (width - 1) / 2
    edges = np.geomspace(_INNERMOST, np.hypot(rows[-1], columns[-1]) + 1.0, n_annuli)
    finite = np.isfinite(plane)
    centre, errors, converged = _fit_centre(plane, finite, weight, _widened(edges), (y, x))

    radius = np.hypot(rows[:, None] - centre[0], columns - centre[1])
    annuli = _annulus_means(plane[finite], radius[finite], edges)
    used = finite.copy()
    used[finite] = annuli.kept
    # One quadrant contains every radius that occurs about the central pixel.
    quarter = _evaluate(annuli, np.hypot(rows[height // 2 :, None], columns[width // 2 :]))
    half = np.concatenate([quarter[:0:-1], quarter])
    image = np.maximum(np.concatenate([half[:, :0:-1], half], axis=1), 0.0)
    total = float(image.sum())
    image = image / total if total > 0.0 else np.full(plane.shape, np.nan)
    return RadialFit(image.astype(np.float32), annuli.radius, annuli.mean, centre, errors, converged, used)


def radial_model(fit: RadialFit, shape: tuple[int, ...]) -> Doubles:
    """Return the profile on the grid (y, x) about the fitted centre, in the units of the plane."""
    y = np.arange(shape[0], dtype=np.float64) - (shape[0] - 1) / 2 - fit.centre[0]
    x = np.arange(shape[1], dtype=np.float64) - (shape[1] - 1) / 2 - fit.centre[1]
    return _evaluate(_Annuli(fit.radius, fit.profile, fit.used), np.hypot(y[:, None], x))


def _fit_centre(
    plane: Reals,
    finite: Mask,
    weight: Doubles | None,
    edges: Doubles,
    parameters: tuple[Parameter, Parameter],
) -> tuple[tuple[float, float], tuple[float, float], bool]:
    """Return the centre (y, x) as an offset from the central pixel, its errors, and whether it converged."""
    start = (parameters[0].start or 0.0, parameters[1].start or 0.0)
    lower, upper = [p.lower for p in parameters], [p.upper for p in parameters]
    free = np.array([p.free for p in parameters])
    unknown = (float("nan"), float("nan"))
    if not free.any():
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
    centre = np.array(start)
    normal, noise, converged = np.zeros((2, 2)), 1.0, False
    # Pixels change annulus as the centre moves, so full steps can oscillate: halve the steps when they do.
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
        gradient = -np.stack([slope * dy[core], slope * dx[core]])[free]
        residual = values[core] - profile(radius[core])
        normal = (gradient * weights[core]) @ gradient.T
        if not np.linalg.cond(normal) < 1e10:
            return start, unknown, False
        noise = 1.0 if weight is not None else float(np.mean(residual**2))
        step = np.zeros(2)
        step[free] = np.linalg.solve(normal, (gradient * weights[core]) @ residual)
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
    errors[free] = np.sqrt(noise * np.diag(np.linalg.inv(normal)))
    return (float(centre[0]), float(centre[1])), (float(errors[0]), float(errors[1])), converged


def _widened(edges: Doubles) -> Doubles:
    """Return edges with the same growth but no annulus narrower than half a pixel."""
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


def _annulus_means(values: Reals, radius: Doubles, edges: Doubles) -> _Annuli:
    """Return clipped means, adjusted so that the joined profile has the means of the data."""
    index = np.searchsorted(edges, radius, side="right").clip(max=edges.size - 1)
    kept = _unclipped(values.astype(np.float64), radius, index, edges.size)
    index, values, radius = index[kept], values[kept], radius[kept]
    number = _merged(np.bincount(index), np.bincount(index, radius))
    index = number[index]
    counts = np.bincount(index)
    mean_radius, mean = np.bincount(index, radius) / counts, np.bincount(index, values) / counts
    annuli = _Annuli(mean_radius, mean, kept)
    if mean.size < 3:
        return annuli
    joined = _interpolator(annuli)(radius)
    return annuli._replace(mean=mean - (np.bincount(index, joined) / counts - mean))


def _merged(counts: NDArray[Any], radii: NDArray[Any]) -> NDArray[np.intp]:
    """Return new consecutive numbers of annuli, where those of almost equal mean radius are merged.

    The slope between such annuli would be noise divided by almost zero. `counts` and `radii` are the number
    of pixels in each annulus and the sum of their radii.
    """
    number = np.zeros(counts.size, dtype=np.intp)
    current, begun = -1, -np.inf
    for annulus in np.flatnonzero(counts):
        if radii[annulus] / counts[annulus] - begun >= _CLOSEST:
            current, begun = current + 1, radii[annulus] / counts[annulus]
        number[annulus] = current
    return number


def _interpolator(annuli: _Annuli) -> PchipInterpolator:
    """Return the monotone cubic through the means, flat at the centre; needs at least two annuli."""
    radius, mean = annuli.radius, annuli.mean
    if radius[0] == 0.0:
        return PchipInterpolator(radius, mean)
    other = min(int(np.searchsorted(radius, radius[0] + 0.25)), radius.size - 1)
    curvature = (mean[other] - mean[0]) / (radius[other] ** 2 - radius[0] ** 2)
    centre = mean[0] - curvature * radius[0] ** 2
    return PchipInterpolator(np.r_[0.0, radius], np.r_[centre, mean])


def _evaluate(annuli: _Annuli, radius: Doubles) -> Doubles:
    """Evaluate the profile at any radius: a power law beyond the last annulus; constant if there is one."""
    if annuli.radius.size < 2:
        return np.full(radius.shape, annuli.mean[0])
    last, end = annuli.radius[-1], annuli.mean[-1]
    values = _interpolator(annuli)(np.minimum(radius, last))
    inner = -(annuli.radius.size // 4 + 2)
    middle, before = annuli.radius[inner], annuli.mean[inner]
    beyond = radius > last
    if end > 0.0 and before > end and middle > 0.0:
        slope = np.log(before / end) / np.log(last / middle)
        values[beyond] *= (radius[beyond] / last) ** -slope
    else:
        values[beyond] = min(end, 0.0)
    return values


def _unclipped(values: Doubles, radius: Doubles, index: NDArray[np.intp], n_annuli: int) -> Mask:
    """Return which pixels lie within 5 robust standard deviations of the line through their annulus."""
    order = np.argsort(index.astype(np.min_scalar_type(n_annuli)), kind="stable")  # small integers sort fast
    first = np.cumsum(np.bincount(index + 1, minlength=n_annuli + 1))
    kept = np.empty(values.size, dtype=np.bool_)
    kept[order] = _unclipped_sorted(values[order], radius[order], first)
    return kept


@njit(cache=True, nogil=True)
def _unclipped_sorted(values: Doubles, radius: Doubles, first: NDArray[np.int64]) -> Mask:
    """Return `_unclipped` for pixels sorted by annulus; annulus a consists of ``first[a] : first[a + 1]``.

    The slope of the line is that between the medians of the neighbouring annuli, because in a steep profile
    the spread within an annulus is not noise.
    """
    n_annuli = first.size - 1
    median, mean_radius = np.full(n_annuli, np.nan), np.full(n_annuli, np.nan)
    for a in range(n_annuli):
        members = slice(first[a], first[a + 1])
        if first[a] < first[a + 1]:
            median[a], mean_radius[a] = np.median(values[members]), radius[members].mean()
    kept = np.ones(values.size, dtype=np.bool_)
    for a in range(n_annuli):
        members = slice(first[a], first[a + 1])
        if first[a + 1] - first[a] < _MIN_TO_CLIP:
            continue
        inner, outer = max(a - 1, 0), min(a + 1, n_annuli - 1)
        slope = (median[outer] - median[inner]) / (mean_radius[outer] - mean_radius[inner])
        if not np.isfinite(slope):
            slope = 0.0
        residual = values[members] - slope * (radius[members] - mean_radius[a])
        distance = np.abs(residual - np.median(residual))
        kept[members] = distance <= _CLIP * 1.4826 * np.median(distance)
    return kept

"""Preparation of a star as a point spread function: outliers, sky, centring, unit sum."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.psf import Floats, Mask, Reals
from lucidcube.kernels.psf.background import (
    BackgroundModel,
    background_level,
    median,
    star_wing,
)
from lucidcube.kernels.psf.star_position import DETECTED, pixel_noise
from lucidcube.kernels.psf.subpixel_shift import Shift, fit_core, move_whole_pixels

_N_CENTRINGS = 3
_CENTRED = 2e-3  # pixels


class NormalisedPSF(NamedTuple):
    """One prepared plane of the star; all images (y, x), with odd sides, are on the output grid.

    `image` is the star without sky, of unit sum, with its centre of mass at the central pixel. NaN is
    missing, and all is NaN if there is no star. `variance` is that of the image without the noise of the sky
    level, if a variance was given. The masks are 1 where a pixel is missing because of an outlier, where the
    sky was measured (moved by whole pixels), and in the region of interest.

    The star was moved by the offsets in pixels, towards larger y and x where they are positive, the sky level
    `background` was subtracted, and the trimmed plane was divided by its sum `total`. Offsets and total are
    NaN without a star.
    """

    image: Floats
    variance: Floats | None
    outlier_mask: NDArray[np.uint8]
    background_mask: NDArray[np.uint8]
    region_mask: NDArray[np.uint8]
    offset_y: float
    offset_x: float
    background: float
    total: float


class _Star(NamedTuple):
    """Star found in a plane, still on the input grid."""

    image: Floats
    outliers: Mask
    background_pixels: Mask
    level: float
    noise: float


def normalise_psf(
    plane: Reals,
    variance: Reals | None,
    *,
    n_sigma: float,
    background_threshold: float,
    background_noise_model: BackgroundModel,
    n_largest_regions: int,
    threshold: float,
    trim_to_shape: tuple[int, int] | None,
) -> NormalisedPSF:
    """Prepare one plane (y, x) of an isolated star as a point spread function; NaN is missing.

    The last row or column is dropped where a side is even. Pixels further than `n_sigma` standard deviations
    from the mean become missing, except for their largest connected group, which is the star. The sky level
    is measured outside the star and subtracted. The star is moved so that the centre of mass of the region of
    interest is the central pixel. Then the frame is trimmed, and the plane is divided by its sum. The stage
    `NormalisePSF` explains the options.

    The image is NaN if there is no star: the plane is constant or pure noise, fewer than three pixels are
    above `threshold`, or the sum is not positive. A `trim_to_shape` that is not odd and positive, or a
    variance of another shape than the plane, raises ValueError.
    """
    if trim_to_shape is not None and any(n < 1 or n % 2 == 0 for n in trim_to_shape):
        raise ValueError(f"trim_to_shape must be odd along y and x, not {trim_to_shape}")
    if variance is not None and variance.shape != plane.shape:
        raise ValueError(f"the variance has shape {variance.shape}, the plane {plane.shape}")
    plane = np.ascontiguousarray(plane, dtype=np.float32)  # sums depend on the order in memory
    odd = tuple(slice(0, n - 1 + n % 2) for n in plane.shape)
    cut = _trim(tuple(n - 1 + n % 2 for n in plane.shape), trim_to_shape)
    star = _find_star(plane[odd], n_sigma, background_threshold, background_noise_model)
    centred = _centre(star, threshold, n_largest_regions)
    if centred is None:
        return _no_star(star, cut, variance is not None)
    image, region, shift, offset_y, offset_x = centred
    image = image[cut]
    total = float(np.nansum(image, dtype=np.float64))
    if not total > 0.0:
        return _no_star(star, cut, variance is not None)
    if variance is not None:
        known = np.where(np.isnan(star.image), np.nan, variance[odd])
        variance = shift.variance(known, offset_y, offset_x)[cut] / np.float32(total) ** 2
    outliers = star.outliers
    if outliers.any():
        outliers = ndimage.shift(outliers.astype(np.float32), (offset_y, offset_x), order=1) > 1e-3
    sky = move_whole_pixels(star.background_pixels, round(offset_y), round(offset_x), outside=False)
    return NormalisedPSF(
        image=np.asarray(image / np.float32(total), dtype=np.float32),
        variance=variance,
        outlier_mask=(outliers[cut] & np.isnan(image)).astype(np.uint8),
        background_mask=(sky[cut] & np.isfinite(image)).astype(np.uint8),
        region_mask=region[cut].astype(np.uint8),
        offset_y=offset_y,
        offset_x=offset_x,
        background=star.level,
        total=total,
    )


def outlier_pixels(plane: Reals, n_sigma: float) -> Mask:
    """Return the pixels further than `n_sigma` standard deviations from the mean, except their largest group.

    The mean and standard deviation are those of all finite pixels (y, x); NaN is not an outlier.
    """
    finite = plane[np.isfinite(plane)].astype(np.float64)
    if finite.size == 0:
        return np.zeros(plane.shape, dtype=np.bool_)
    limit = n_sigma * float(finite.std())
    far = np.abs(plane - finite.mean()) > limit
    return np.asarray(far & ~_largest_groups(far, 1))


def _find_star(plane: Reals, n_sigma: float, background_threshold: float, model: BackgroundModel) -> _Star:
    """Find the star, and remove outliers and the sky."""
    outliers = outlier_pixels(plane, n_sigma)
    image = np.where(outliers, np.nan, plane).astype(np.float32)
    finite = np.isfinite(image)
    if not finite.any():
        return _Star(image, outliers, np.zeros(plane.shape, dtype=np.bool_), 0.0, 0.0)
    # Fractions of the maximum are meaningless above a bright sky: the first pass subtracts the median, the
    # second the level found by the first.
    level = median(image[finite])
    y, x = np.ogrid[: plane.shape[0], : plane.shape[1]]
    y, x = y.astype(np.float32), x.astype(np.float32)
    background_pixels = finite
    for final in (False, True):
        above_sky = image - np.float32(level)
        star = _largest_regions(above_sky, background_threshold, 1)
        background_pixels = finite & ~star
        if not star.any() or not background_pixels.any():
            break
        centre_y, centre_x = ndimage.center_of_mass(np.where(star, above_sky, 0.0))
        radius = np.maximum(np.hypot(y - centre_y, x - centre_x)[background_pixels], np.float32(0.5))
        values = image[background_pixels]
        if final:
            level = background_level(values, radius, model)
        else:
            level = median(values - star_wing(values, radius))
    if model == "none":
        level = 0.0
    return _Star(image - np.float32(level), outliers, background_pixels, level, pixel_noise(image))


def _centre(star: _Star, threshold: float, n_regions: int) -> tuple[Floats, Mask, Shift, float, float] | None:
    """Return the star at the central pixel, its region of interest and the shift; None without a star."""
    region = _largest_regions(star.image, threshold, n_regions)
    if not _is_star(star, region):
        return None
    offset_y, offset_x = _centring_offset(region, star.image)
    shift = Shift(star.image, fit_core(star.image))
    image = shift.image(offset_y, offset_x)
    for _ in range(_N_CENTRINGS):
        region = _largest_regions(image, threshold, n_regions)
        if not region.any():
            return None
        step_y, step_x = _centring_offset(region, image)
        if max(abs(step_y), abs(step_x)) < _CENTRED:
            break
        offset_y, offset_x = offset_y + step_y, offset_x + step_x
        image = shift.image(offset_y, offset_x)
    return image, region, shift, offset_y, offset_x


def _is_star(star: _Star, region: Mask) -> bool:
    """Return whether the region is more than a hot pixel or a fluctuation of the noise."""
    if np.count_nonzero(region) < 3:
        return False
    smooth = ndimage.uniform_filter(np.where(region, star.image, 0.0), 3, mode="constant")
    return float(smooth.max()) > DETECTED * star.noise / 3.0


def _no_star(star: _Star, cut: tuple[slice, ...], with_variance: bool) -> NormalisedPSF:
    """Return the result for a plane without a star."""
    empty = np.full(star.image.shape, np.nan, dtype=np.float32)[cut]
    return NormalisedPSF(
        image=empty,
        variance=empty.copy() if with_variance else None,
        outlier_mask=star.outliers[cut].astype(np.uint8),
        background_mask=star.background_pixels[cut].astype(np.uint8),
        region_mask=np.zeros(empty.shape, dtype=np.uint8),
        offset_y=float("nan"),
        offset_x=float("nan"),
        background=star.level,
        total=float("nan"),
    )


def _trim(shape: tuple[int, ...], trim_to_shape: tuple[int, int] | None) -> tuple[slice, ...]:
    """Return the slices that cut an odd shape about its centre."""
    sizes = shape if trim_to_shape is None else tuple(map(min, shape, trim_to_shape))
    return tuple(slice((n - m) // 2, (n + m) // 2) for n, m in zip(shape, sizes, strict=True))


def _largest_groups(mask: Mask, n_groups: int) -> Mask:
    """Return the `n_groups` largest 4-connected groups; of equal sizes the first in memory order."""
    labels, n_found = ndimage.label(mask)
    if n_found <= n_groups:
        return mask
    sizes = np.bincount(labels.ravel())[1:]
    keep = np.zeros(n_found + 1, dtype=np.bool_)
    keep[1 + np.argsort(-sizes, kind="stable")[:n_groups]] = True
    return np.asarray(keep[labels])


def _largest_regions(image: Floats, threshold: float, n_regions: int) -> Mask:
    """Return the largest groups of pixels above `threshold` times the maximum (none if that is <= 0)."""
    maximum = float(np.nanmax(image)) if np.isfinite(image).any() else 0.0
    if not maximum > 0.0:
        return np.zeros(image.shape, dtype=np.bool_)
    return _largest_groups(image > threshold * maximum, n_regions)


def _centring_offset(region: Mask, image: Floats) -> tuple[float, float]:
    """Return the shift that brings the centre of mass of the region to the central pixel."""
    weights = np.where(region, image, 0.0).astype(np.float64)
    centre_y, centre_x = ndimage.center_of_mass(weights)
    return (image.shape[0] - 1) / 2 - float(centre_y), (image.shape[1] - 1) / 2 - float(centre_x)

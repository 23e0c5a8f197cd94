"""What a deconvolution lost of the object, from the power of its residual and of those of repeats.

Repeats deconvolve simulated data of the result, which is smoother than the object: what the method has lost
is not in these data, and cannot be lost again. Yet it remains in the residual of the plane, blurred. There it
is too weak to be seen, but adds to the mean power (a posterior predictive check; Gelman, Meng & Stern 1996,
Statistica Sinica 6, 733). If H is the transfer function of the PSF, then for a linear method in a band of
spatial frequencies

    power of the residual - that of the repeats = |H|^2 (squared deviation - squared bias of the repeats),

and the mean residual of the repeats, which is that of their bias, has the power |H|^2 (squared bias).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.moments import Doubles, Mask, Moments
from lucidcube.kernels.noise import MAD_TO_SIGMA

BANDS = ((0.0, 1.0), (1.0, 2.0), (2.0, 4.0))
"""Widths of the Gaussians whose difference is a band, in units of that of the resolution."""
STEEP = 1.5
"""Factor of the excess power of a band. Lost structure has higher frequencies within a band than the bias of
the repeats, and the PSF passes less of these. Measured on simulated planets."""
REGION = 5.0
"""Width in pixels of the Gaussian over which local power is averaged."""
TYPICAL, SIGNIFICANT = 1.5, 2.0
"""Scatter of the local excess to which it is limited in the mean over the object, and by which that of a
region must be above the mean."""
ARTEFACT = 6.0
"""Squared deviation where the excess of a region is significant, over what structure of the object would
have: an artefact that was missed is in the result, rather than lost from it. Measured on ghosts."""
LARGEST = 5.0
"""Standard deviations to which a residual is limited: a single artefact is no structure."""
LEAST = 0.02
"""Smallest power of the mean residual, as a fraction of that with noise, that is believed."""
FEWEST = 30
"""Number of pixels below which nothing is measured."""


class Repeat(NamedTuple):
    """One repeat (y, x), in standard deviations of the noise of a pixel."""

    residual: Plane
    """Zero where there are no data."""
    deviation: Plane
    """Of the components from their object, at the resolution."""


def lost_structure(
    residual: Plane,
    repeats: Sequence[Repeat],
    part: Mask,
    *,
    smoothing: float,
    squared: Doubles,
    counted: Doubles,
) -> Doubles:
    """Return the squared deviation (y, x) of a result that repeats lack, in units of the variance of a pixel.

    It is the same everywhere, because where structure is lost is not known, except in regions with much more
    power than the rest, which hold artefacts that were missed.

    Parameters
    ----------
    residual
        (y, x) residual of the plane, as those of the repeats.
    repeats
        At least two.
    part
        (y, x), true where there is an object, and was measured. The result is zero elsewhere.
    smoothing
        Standard deviation, in pixels, of the Gaussian of the resolution.
    squared, counted
        (y, x) squared bias of the repeats, and what of the deviation is already counted.
    """
    bias = float(squared[part].mean()) if np.count_nonzero(part) >= FEWEST else 0.0
    if not bias > 0:
        return np.zeros(part.shape)
    bands = [_Band.of(residual, repeats, part, smoothing, *widths) for widths in BANDS]
    total_bias = sum(band.bias for band in bands)
    if not total_bias > 0:
        return np.zeros(part.shape)
    already_counted = max(float(counted[part].mean()) / bias - 1, 0.0)
    lost = STEEP * sum(band.typical * band.factor for band in bands) / total_bias
    finest, finest_share = bands[0], bands[0].factor / total_bias
    expected = max(finest.typical, already_counted / finest_share if finest_share > 0 else 0.0)
    local_excess = finest_share * np.maximum(finest.excess - expected - SIGNIFICANT * finest.scatter, 0)
    return np.where(part, bias * (max(lost - already_counted, 0.0) + ARTEFACT * local_excess), 0)


class _Band(NamedTuple):
    """What a band of spatial frequencies says."""

    bias: float
    """Mean squared bias of the repeats."""
    factor: float
    """`bias` divided by the power of the mean residual, an estimate of 1 / |H|^2."""
    excess: Doubles
    """Power (y, x) of the residual above that of the repeats, averaged over regions."""
    scatter: Doubles
    """Standard deviation (y, x) of the excess by chance."""
    typical: float
    """Mean of the excess, to which single regions add little."""

    @classmethod
    def of(
        cls,
        residual: Plane,
        repeats: Sequence[Repeat],
        part: Mask,
        smoothing: float,
        low: float,
        high: float,
    ) -> "_Band":
        """Measure a band; for the arguments see `lost_structure` and `BANDS`."""
        width = max(smoothing, 1.0)
        surroundings = np.maximum(_smoothed(part, REGION), 1e-6)

        def band(deviation: Doubles | Plane) -> Doubles:
            narrow, wide = (_smoothed(deviation, factor * width) for factor in (low, high))
            return narrow - wide

        def of_residual(plane: Plane) -> Doubles:
            return band(_smoothed(np.clip(plane, -LARGEST, LARGEST), smoothing))

        def power(plane: Doubles) -> Doubles:
            return _smoothed(np.where(part, plane, 0) ** 2, REGION) / surroundings

        residuals, deviations, powers = (Moments(part.shape) for _ in range(3))
        for repeat in repeats:
            deviations.add(band(repeat.deviation))
            simulated = of_residual(repeat.residual)
            residuals.add(simulated)
            powers.add(power(simulated))
        bias, noiseless = (max(float(m.square[part].mean()), 0.0) for m in (deviations, residuals))
        noisy = float((residuals.square + residuals.variance)[part].mean())
        visible = max(noiseless, LEAST * noisy)
        excess = power(of_residual(residual)) - powers.mean
        inside = excess[part]
        middle = np.median(inside)
        limit = middle + TYPICAL * MAD_TO_SIGMA * np.median(np.abs(inside - middle))
        return cls(
            bias,
            bias / visible if visible > 0 else 0.0,
            excess,
            np.sqrt(powers.variance * (1 + 1 / powers.number)),
            float(np.minimum(inside, limit).mean()),
        )


def _smoothed(plane: Plane | Doubles | Mask, width: float) -> Doubles:
    """Return a plane smoothed by a Gaussian, which is zero beyond the frame."""
    return np.asarray(ndimage.gaussian_filter(plane.astype(np.float64), width, mode="constant"))

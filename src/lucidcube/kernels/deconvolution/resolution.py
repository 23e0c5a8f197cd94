"""A deconvolved plane at a stated resolution: what an instrument with a Gaussian PSF would have seen."""

import math

import numpy as np

from lucidcube.kernels.deconvolution.common import Deconvolution
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.fourier.convolver import Convolver

FWHM = 2 * math.sqrt(2 * math.log(2))
"""Full width at half maximum of a Gaussian over its standard deviation."""
REACH = 6.0
"""Half the width of the array of a Gaussian in standard deviations; what is beyond is lost in float32."""


def gaussian(sigma: float) -> Plane:
    """Return a round Gaussian of unit sum, sampled at the centres of pixels, in an odd, square array."""
    half = math.ceil(REACH * sigma)
    profile = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    profile /= profile.sum()
    return np.outer(profile, profile).astype(np.float32)


def at_resolution(result: Deconvolution, sigma: float) -> Deconvolution:
    """Return the result with the components, and the "points" if there are any, convolved with a Gaussian.

    The standard deviation `sigma` is in pixels. The light of components beyond the frame, if the method finds
    any, reaches into it; the light of components at its edge leaves it, as in an observation. NaN remain
    where they are. The residual is unchanged. `flux_out` is the sum of the new components.
    """
    outside = np.isnan(result.components)
    whole = np.nan_to_num(result.components) if result.whole is None else result.whole
    blur = Convolver(gaussian(sigma), whole.shape)
    margins = [(wide - side) // 2 for wide, side in zip(whole.shape, outside.shape, strict=True)]
    frame = tuple(slice(m, m + side) for m, side in zip(margins, outside.shape, strict=True))
    components = np.where(outside, np.float32(np.nan), blur.convolve(whole)[frame])
    extras = dict(result.extras)
    if "points" in extras:
        inner = Convolver(gaussian(sigma), outside.shape)
        points = inner.convolve(np.nan_to_num(extras["points"]))
        extras["points"] = np.where(outside, np.float32(np.nan), points)
    flux_out = float(np.nansum(components, dtype=np.float64))
    return result._replace(components=components, extras=extras, flux_out=flux_out)

"""A deconvolved plane at a stated resolution: what an instrument with a Gaussian PSF would have seen.

The components, convolved with a Gaussian G, lack what the method has left in the residual: light of points
that lie between pixels, that a penalty keeps, or that would need more iterations. So the residual r is added
at the same resolution, by a Wiener filter: in Fourier space

    product = G x + W r,   W = G h* S / (|h|^2 S + N),   S = RESIDUAL_POWER |x|^2,

where h is the PSF and N the power of the noise. Where the data tell, the sum is free of the bias of the
method; where they do not, the components remain as they are. In radio astronomy the residual is added as it
is, with the resolution of the data (Högbom 1974); for the filter see Wiener (1949), and for deconvolution to
a finite resolution Magain, Courbin & Sohy (1998, ApJ 494, 472).
"""

import math

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.common import Deconvolution, Pixels, Variance
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.fourier.convolver import Convolver, trim_psf
from lucidcube.kernels.noise import known_variance

FWHM = 2 * math.sqrt(2 * math.log(2))
"""Full width at half maximum of a Gaussian over its standard deviation."""
REACH = 6.0
"""Half the width of the array of a Gaussian in standard deviations; what is beyond is lost in float32."""
RESIDUAL_POWER = 0.3
"""Power of the object that may be left in the residual, as a fraction of that of the components."""


def gaussian(sigma: float) -> Plane:
    """Return a round Gaussian of unit sum, sampled at the centres of pixels, in an odd, square array."""
    half = math.ceil(REACH * sigma)
    profile = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    profile /= profile.sum()
    return np.outer(profile, profile).astype(np.float32)


def at_resolution(
    result: Deconvolution,
    plane: Plane,
    psf: NDArray[np.floating],
    sigma: float,
    *,
    variance: Variance = None,
    filled: NDArray[np.generic] | None = None,
    add_residual: bool = True,
) -> Deconvolution:
    """Return the result with components as an instrument with a Gaussian PSF would have seen them.

    Parameters
    ----------
    result : Deconvolution
        The result for the plane (y, x); its residual does not change.
    plane, psf, variance, filled
        What was deconvolved, as for `clean.clean_modified`. If the variance is not given, it is estimated.
    sigma : float
        Standard deviation of the Gaussian in pixels.
    add_residual : bool
        Whether the filtered residual is added. Pixels that are missing or were filled have none.

    Returns
    -------
    Deconvolution
        Light of components beyond the frame, if the method finds any, reaches into it, and light at its edge
        leaves it, as in an observation: the Gaussian is not normalised at the edge. NaN remain where they
        are. The "points", if there are any, are convolved likewise, without residual. `flux_out` is the sum
        of the new components.
    """
    outside = np.isnan(result.components)
    if outside.all():
        return result
    whole = np.nan_to_num(result.components) if result.whole is None else result.whole
    margins = [(wide - side) // 2 for wide, side in zip(whole.shape, plane.shape, strict=True)]
    frame = tuple(slice(m, m + side) for m, side in zip(margins, plane.shape, strict=True))
    beam = Convolver(gaussian(sigma), whole.shape)
    product = beam.convolve(whole)[frame]
    valid = Pixels.of(plane, psf, filled).valid
    if add_residual and valid.any():
        model = Convolver(psf, whole.shape).convolve(whole)[frame]
        spread = known_variance(plane, variance, ~valid)[valid]
        noise = float(np.mean(spread[np.isfinite(spread) & (spread > 0)], dtype=np.float64))
        product = product + filtered_residual(np.where(valid, plane - model, 0), whole, psf, sigma, noise)
    extras = dict(result.extras)
    if "points" in extras:
        points = np.zeros_like(whole)
        points[frame] = np.nan_to_num(extras["points"])
        extras["points"] = np.where(outside, np.float32(np.nan), beam.convolve(points)[frame])
    components = np.where(outside, np.float32(np.nan), product)
    flux_out = float(np.nansum(components, dtype=np.float64))
    return result._replace(components=components, sharp=result.components, extras=extras, flux_out=flux_out)


def filtered_residual(
    residual: Plane, components: Plane, psf: NDArray[np.floating], sigma: float, noise: float
) -> Plane:
    """Return the residual (y, x) at the resolution of the Gaussian, given components on a wider grid.

    `noise` is the variance of a pixel.
    """
    stamp, beam = (trim_psf(array, components.shape) for array in (psf, gaussian(sigma)))
    size = tuple(
        scipy.fft.next_fast_len(wide + max(a, b) // 2, real=True)
        for wide, a, b in zip(components.shape, stamp.shape, beam.shape, strict=True)
    )
    blur = _transfer(stamp, size)
    object_power = RESIDUAL_POWER * _ring_means(np.square(np.abs(_transform(components, size)), dtype=float))
    noise_power = noise * residual.size
    weight = object_power / (np.square(np.abs(blur)) * object_power + noise_power)
    spectrum = _transform(residual, size) * (_transfer(beam, size) * np.conj(blur) * weight)
    filtered: Plane = scipy.fft.irfft2(spectrum.astype(np.complex64), size, workers=1)
    return filtered[: residual.shape[0], : residual.shape[1]]


def _transform(plane: Plane, size: tuple[int, ...]) -> NDArray[np.complex64]:
    """Return the Fourier transform of a plane with zeros beyond it."""
    spectrum: NDArray[np.complex64] = scipy.fft.rfft2(np.asarray(plane, np.float32), size, workers=1)
    return spectrum


def _transfer(stamp: Plane, size: tuple[int, ...]) -> NDArray[np.complex64]:
    """Return the Fourier transform of a stamp whose central pixel is the origin."""
    about_origin = np.zeros(size, np.float32)
    about_origin[: stamp.shape[0], : stamp.shape[1]] = stamp
    return _transform(np.roll(about_origin, [-(side // 2) for side in stamp.shape], (0, 1)), size)


def _ring_means(power: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over all directions of a power spectrum, half of a plane as of `rfft2`."""
    height, width = power.shape
    y, x = scipy.fft.fftfreq(height), np.linspace(0, 0.5, width)
    ring = np.rint(np.hypot(y[:, None], x) * min(height, 2 * width)).astype(np.intp)
    mean: NDArray[np.float64] = np.bincount(ring.ravel(), power.ravel()) / np.bincount(ring.ravel())
    return mean[ring]

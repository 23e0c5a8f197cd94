"""Simulated data of a plane, for objects that are similar to its result."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lucidcube.kernels.deconvolution.common import Deconvolution, Pixels, Variance, of_nearest
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.map import noise_by_pixel
from lucidcube.kernels.deconvolution.moments import Doubles
from lucidcube.kernels.deconvolution.psf_broadening import width_mode
from lucidcube.kernels.deconvolution.resolution import filtered_residual
from lucidcube.kernels.fourier.convolver import Convolver
from lucidcube.kernels.noise import noise_width


class Simulation:
    """Simulates data of a plane (y, x) for objects that are similar to its components."""

    def __init__(
        self,
        found: Deconvolution,
        plane: Plane,
        psf: NDArray[np.floating],
        variance: Variance,
        pixels: Pixels,
        modes: NDArray[np.floating] | None,
        psf_width: float,
        *,
        number: int,
        seed: int,
    ) -> None:
        self.components = finite(found.components)
        self._model, self._present = finite(found.model), pixels.present
        modes = _with_width(modes, psf, psf_width)
        self._modes, self._amplitudes = finite(modes), None
        self._convolver, self._psf, self._valid = Convolver(psf, plane.shape), psf, pixels.valid
        self._rng = np.random.default_rng(seed)
        if modes is not None:
            self._amplitudes = iter(_unit_variance(self._rng.standard_normal((number, len(modes)))))
        sigma = noise_by_pixel(plane, variance, pixels)
        self._width = noise_width(plane, np.square(sigma), ~pixels.valid)
        known = np.isfinite(sigma)
        if known.any() and not known.all():
            sigma[~known] = of_nearest(sigma, known, ~known)
        self._sigma = np.nan_to_num(sigma)
        self.noise = np.where(self._sigma > 0, self._sigma, 1.0)
        """Standard deviation (y, x) of the noise; 1 where nothing is known."""

    def draw(self) -> Plane:
        """Return the deviation of random data from the model of the components: noise, and another PSF."""
        white = self._rng.standard_normal(self._sigma.shape)
        if self._width:
            white = ndimage.gaussian_filter(white, self._width, mode="wrap")
            white /= white.std()
        deviation = self._sigma * white
        if self._amplitudes is not None:
            change = np.tensordot(next(self._amplitudes), self._modes, 1)
            deviation += Convolver(change, deviation.shape).convolve(self.components)
        return deviation.astype(np.float32)

    def data(self, reference: Doubles, draw: Plane | None = None) -> Plane:
        """Return random data (y, x) of an object, NaN where the plane is."""
        light = self._convolver.convolve(reference - self.components)
        data = self._model + light + (self.draw() if draw is None else draw)
        return np.where(self._present, data, np.float32(np.nan)).astype(np.float32)

    def left(self, components: Doubles, data: Plane) -> Doubles:
        """Return what components leave of data (y, x); zero without data."""
        model = self._model + self._convolver.convolve(components - self.components)
        return np.where(self._valid, data - model, 0)

    def residual(self, components: Doubles, data: Plane, smoothing: float) -> Plane:
        """Return what components leave of data (y, x), at the resolution."""
        left = self.left(components, data).astype(np.float32)
        noise = float(np.mean(np.square(self._sigma[self._valid])))
        return filtered_residual(left, components.astype(np.float32), self._psf, smoothing, noise)


def _with_width(
    modes: NDArray[np.floating] | None, psf: NDArray[np.floating], width: float
) -> NDArray[np.floating] | None:
    """Return the modes (mode, y, x) of the PSF with that of its width, if there are any."""
    if width == 0:
        return modes
    mode = width_mode(psf, width)[None]
    return mode if modes is None else np.concatenate([mode, finite(modes)])


def _unit_variance(amplitudes: Doubles) -> Doubles:
    """Return random amplitudes (draw, mode) with a mean of zero and a variance of one over few draws."""
    deviations = amplitudes - amplitudes.mean(axis=0)
    return np.asarray(deviations / deviations.std(axis=0, ddof=1))


def finite(plane: NDArray[np.floating] | None) -> Doubles:
    """Return a plane in double precision, with zero for NaN."""
    return np.nan_to_num(np.asarray(plane, np.float64))

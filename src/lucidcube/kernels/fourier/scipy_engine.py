"""Transforms by scipy.fft, or by the backend that is chosen there (see `scipy.fft.set_backend`)."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from lucidcube.kernels.fourier.direct_sums import Floats
from lucidcube.kernels.fourier.engines import Engine


class ScipyEngine(Engine):
    """See `Engine`."""

    name = "scipy"
    direct_cost = 0.02

    @staticmethod
    def good_length(least: int) -> int:
        return int(scipy.fft.next_fast_len(least, real=True))

    def transfer(self, psf: Floats) -> tuple[tuple[int, int], NDArray[np.complex64]]:
        size = (psf.shape[0], psf.shape[1])
        return size, _spectrum(psf, size)

    def filter(self, plane: Floats, transfer: Any, conjugate: bool) -> Floats:
        size, factors = transfer
        factors = factors.conj() if conjugate else factors
        return _inverse(_spectrum(plane, size) * factors, size, plane.shape)

    @staticmethod
    def autocorrelation_filter(plane: Floats, window: tuple[int, int]) -> Callable[[Floats], Floats]:
        size = ScipyEngine.good_length(plane.shape[0]), ScipyEngine.good_length(plane.shape[1])
        given = _spectrum(plane, size) / np.float32(window[0] * window[1])

        def filtered(vector: Floats) -> Floats:
            transform = _spectrum(vector, size)
            return _inverse(given * (transform.real**2 + transform.imag**2), size, plane.shape)

        return filtered


def _spectrum(plane: Floats, size: tuple[int, int]) -> NDArray[np.complex64]:
    return scipy.fft.rfft2(plane, size, workers=1)


def _inverse(spectrum: NDArray[np.complex64], size: tuple[int, int], shape: tuple[int, ...]) -> Floats:
    """Transform back, which may overwrite the spectrum, and cut the result to a shape."""
    plane = scipy.fft.irfft2(spectrum, size, overwrite_x=True, workers=1)
    return np.ascontiguousarray(plane[: shape[0], : shape[1]], np.float32)

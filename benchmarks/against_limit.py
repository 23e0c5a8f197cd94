"""Comparisons of an iteration with the Fourier transforms that it cannot avoid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import scipy.fft

from lucidcube.kernels.deconvolution.clean import clean_modified
from lucidcube.kernels.deconvolution.common import edge_margin
from lucidcube.kernels.deconvolution.lucy_richardson import lucy_richardson
from lucidcube.kernels.fourier.convolver import Convolver

from .comparison import Comparison, cpu_of
from .scenes import CLEAN, LUCY

NEVER = {"min_frac_stat_delta": 0.0, "rms_frac_threshold": 0.0, "fabs_frac_threshold": 0.0}
"""Thresholds of CLEAN with which only the number of iterations ends it."""


class Method(NamedTuple):
    """A deconvolution, and the number of pairs of transforms that an iteration needs."""

    pairs: int
    function: Callable[..., object]
    settings: dict[str, Any]


METHODS = {
    "clean 0.3, iteration / FFT pair": Method(1, clean_modified, CLEAN | NEVER),
    "clean -1, iteration / FFT pair": Method(1, clean_modified, CLEAN | NEVER | {"threshold": -1}),
    "lucy_richardson, iteration / its four FFTs": Method(2, lucy_richardson, LUCY),
}


def transform_pairs(plane: np.ndarray, psf: np.ndarray) -> dict[str, Callable[[], object]]:
    """Return a forward and inverse transform of the smallest size without aliasing, by ours and by SciPy."""
    margin = edge_margin(psf, plane.shape)
    shape = plane.shape[0] + 2 * margin[0], plane.shape[1] + 2 * margin[1]
    convolver = Convolver(psf, shape)
    sides = [n + reach for n, reach in zip(shape, convolver.reach, strict=True)]
    # A PSF of one pixel, on planes that fill the transform: nothing is left out.
    unfiltered = Convolver(np.ones((1, 1)), convolver.size)
    noise = np.random.default_rng(0).normal(size=convolver.size).astype(np.float32)
    whole = unfiltered.pad(noise)
    fast = scipy.fft.next_fast_len(sides[0], real=True), scipy.fft.next_fast_len(sides[1], real=True)
    return {
        "ours": lambda: unfiltered.convolve_padded(whole),
        "scipy's": lambda: scipy.fft.irfft2(scipy.fft.rfft2(noise[: fast[0], : fast[1]]), s=fast),
    }


def compare_limit(plane: np.ndarray, psf: np.ndarray, rounds: int) -> Iterator[Comparison]:
    """Compare an iteration of each method with the transforms that it needs."""
    pairs = transform_pairs(plane, psf)
    for name, method in METHODS.items():

        def cpu(iterations: int, method: Method = method) -> float:
            settings = method.settings | {"n_iter": iterations}
            return cpu_of(lambda: method.function(plane, psf, **settings))

        comparisons = {whose: Comparison(f"{name}, {whose}", 1.3, at_most=True) for whose in pairs}
        cpu(10)
        for _ in range(rounds):
            spent = (cpu(120) - cpu(20)) / 100
            for whose, pair in pairs.items():
                comparisons[whose].add(method.pairs * cpu_of(pair), spent)
        yield from comparisons.values()

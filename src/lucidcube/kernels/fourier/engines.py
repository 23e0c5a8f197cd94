"""The engines for Fourier transforms, our own vectorised one and scipy.fft, and the choice of one."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.fourier.direct_sums import Floats, Support, subtract

EngineName = Literal["auto", "simd", "scipy"]
VARIABLE = "LUCIDCUBE_FFT"
"""Environment variable that names the engine for which "auto" stands."""


class Engine(ABC):
    """Fourier transforms of planes of one shape, of sizes up to the largest; an object is for one thread.

    Its planes are padded: C-contiguous rows of `padded_width`, zero beyond the width of the plane. There,
    results hold finite and meaningless numbers.
    """

    name: ClassVar[Literal["simd", "scipy"]]
    direct_cost: ClassVar[float]
    """Cost of adding one pixel of the PSF, as a fraction of that of one point of a pair of transforms."""

    def __init__(self, shape: tuple[int, int], largest: tuple[int, int]) -> None:
        self.padded_width = shape[1]

    def pad(self, plane: NDArray[np.generic]) -> Floats:
        """Return a padded copy of a plane."""
        return np.array(plane, np.float32, order="C")

    @staticmethod
    @abstractmethod
    def good_length(least: int) -> int:
        """Return the length of transform, at least `least`, that is fastest."""

    @abstractmethod
    def transfer(self, psf: Floats) -> Any:
        """Return the transform of a PSF about the pixel (0, 0) of a plane of the size of the transform."""

    @abstractmethod
    def filter(self, plane: Floats, transfer: Any, conjugate: bool) -> Floats:
        """Return the plane convolved with the PSF, or correlated with it if `conjugate`, as a new array."""

    def subtract_filtered(
        self, plane: Floats, support: Support, transfer: Any, residual: Floats, valid: Floats
    ) -> tuple[float, float, float]:
        """Subtract the convolved plane from the residual; return the statistics of `direct_sums.subtract`."""
        return subtract(self.filter(plane, transfer, conjugate=False), residual, valid)

    @staticmethod
    @abstractmethod
    def autocorrelation_filter(plane: Floats, window: tuple[int, int]) -> Callable[[Floats], Floats]:
        """See `convolver.autocorrelation_filter`."""


_chosen: ContextVar[str] = ContextVar("lucidcube_fft", default="auto")


@contextmanager
def use_engine(name: EngineName) -> Iterator[None]:
    """Choose the engine for the convolvers and filters that the current thread makes in this context.

    "auto" is the engine that the environment variable LUCIDCUBE_FFT names, otherwise "simd" where it can run,
    otherwise "scipy". ValueError is raised if the name is unknown, or "simd" is chosen and cannot run here.
    """
    _engine(name)
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def current_engine() -> type[Engine]:
    """Return the engine of this context; raise ValueError as `use_engine` does."""
    return _engine(_chosen.get())


def _engine(name: str) -> type[Engine]:
    setting = f"fft: {name}"
    if name == "auto":
        name = os.environ.get(VARIABLE, "auto")
        setting = f"{VARIABLE}={name}"
    if name not in ("auto", "simd", "scipy"):
        raise ValueError(f"{setting} names no engine for Fourier transforms: choose auto, simd or scipy")
    if name != "scipy":
        from lucidcube.kernels.fourier.simd import why_unavailable

        if (obstacle := why_unavailable()) is None:
            try:  # it uses internals of numba, which may change
                from lucidcube.kernels.fourier.simd.engine import SimdEngine

                return SimdEngine
            except ImportError as error:
                obstacle = f"it does not work with the installed numba ({error})"
        if name == "simd":
            raise ValueError(f"{setting} cannot be used here because {obstacle}: choose auto or scipy")
    from lucidcube.kernels.fourier.scipy_engine import ScipyEngine

    return ScipyEngine

"""Time and memory of each kernel for one plane of three sizes."""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import scipy.fft

from lucidcube.kernels.deconvolution.clean import clean_modified
from lucidcube.kernels.deconvolution.lucy_richardson import lucy_richardson
from lucidcube.kernels.fill_linear import fill_linear
from lucidcube.kernels.fourier.convolver import Convolver
from lucidcube.kernels.mask import bad_pixel_mask
from lucidcube.kernels.psf.fit import fit_parametric_psf
from lucidcube.kernels.psf.least_squares import solve_least_squares
from lucidcube.kernels.psf.models import MODELS
from lucidcube.kernels.psf.optical_psf import Optics
from lucidcube.kernels.rebin import bins, rebin_block, weights
from lucidcube.kernels.ssa.artefact_score import badness

from .scenes import CLEAN, LUCY, SSA, WAVELENGTH, Planes, normalised, planes, radial_psf

SIDES = [101, 341, 1023]


class Plane:
    """Base class: planes of each size, and everything compiled before the measurement."""

    params = SIDES
    param_names = ("side",)
    timeout = 300.0
    timer = time.process_time
    given: Planes

    def setup(self, side: int) -> None:
        self.given = planes(side)
        self.work()

    def work(self) -> object:
        """Call the kernel with `given`."""
        raise NotImplementedError

    def time_plane(self, side: int) -> None:
        self.work()

    def peakmem_plane(self, side: int) -> None:
        self.work()


class Artefacts(Plane):
    def work(self) -> object:
        return badness(self.given.observed, **SSA)


class Mask(Plane):
    def work(self) -> object:
        return bad_pixel_mask(self.given.badness, 3.0, max_dilation=None)


class Interpolate(Plane):
    def work(self) -> object:
        return fill_linear(self.given.observed, self.given.bad)


class NormalisePSF(Plane):
    def work(self) -> object:
        return normalised(self.given.star)


class FitRadial(Plane):
    def work(self) -> object:
        return radial_psf(self.given.prepared)


class FitGaussian(Plane):
    def work(self) -> object:
        return fit_parametric_psf(
            self.given.prepared,
            None,
            star=MODELS["gaussian"].star,
            parameters=MODELS["gaussian"].parameters,
            wavelength=WAVELENGTH,
            optics=Optics(8.0, 0.14, 0.025),
            solver=partial(solve_least_squares, max_evaluations=200),
        )


class Clean(Plane):
    """Twenty iterations, including the set-up for a field of view."""

    threshold = 0.3

    def work(self) -> object:
        options = CLEAN | {"n_iter": 20, "threshold": self.threshold}
        return clean_modified(self.given.filled, self.given.psf, filled=self.given.bad, **options)


class CleanOtsu(Clean):
    threshold = -1.0


class LucyRichardson(Plane):
    """Twenty iterations."""

    def work(self) -> object:
        options = LUCY | {"n_iter": 20}
        return lucy_richardson(self.given.filled, self.given.psf, filled=self.given.bad, **options)


class Convolve(Plane):
    """One convolution, to be compared with `TransformPair`."""

    def setup(self, side: int) -> None:
        self.given = planes(side)
        self.convolver = Convolver(self.given.psf, (side, side))
        self.padded = self.convolver.pad(self.given.filled)

    def work(self) -> object:
        return self.convolver.convolve_padded(self.padded)


class TransformPair(Plane):
    """One forward and one inverse transform by SciPy, of the size that a convolution needs."""

    def setup(self, side: int) -> None:
        size = scipy.fft.next_fast_len(side + planes(side).psf.shape[0] // 2, real=True)
        self.padded = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)

    def work(self) -> object:
        return scipy.fft.irfft2(scipy.fft.rfft2(self.padded), s=self.padded.shape)


class Rebin(Plane):
    """Rebinning of nine channels to two."""

    def setup(self, side: int) -> None:
        axis = WAVELENGTH + 0.125e-9 * np.arange(9)
        grid = bins(axis, 1e-9, 2e-9, "triangle")
        self.table = weights(axis, grid.centre, 2e-9, "triangle")
        self.slab = np.repeat(planes(side).observed[None], 9, axis=0)
        self.work()

    def work(self) -> object:
        return rebin_block(self.table, self.slab, operation="mean")

"""Stage `rebin`: combine channels on a coarser spectral grid."""

from collections.abc import Iterator
from functools import partial
from typing import ClassVar, Literal

import numpy as np
import xarray as xr

from lucidcube.cube import CHANNEL, DATA, DIMS, UNITS, VARIANCE, WAVELENGTH, X, Y, block_sizes
from lucidcube.errors import CubeError
from lucidcube.kernels import rebin as kernel
from lucidcube.kernels.artefacts.despike import AT_ONCE, REACH, Despiked
from lucidcube.lift.blocks import planes_per_block
from lucidcube.lift.lazy_arrays import source_of
from lucidcube.lift.spectral_bins import over_bins
from lucidcube.stages.base import SpectralWidth, Stage, parameter

SPEX = (1e-9, 2e-9)
"""The step and the width of the preset `spex`, in metres."""


class Rebin(Stage):
    """Combine neighbouring channels into broader ones, which increases the signal-to-noise ratio.

    Channels are treated as point samples at their centres. Each output channel is a weighted combination of
    the input channels under a triangle or a rectangle around its centre; the first output channel is
    centred on the first input channel. NaN inputs are left out and the weights are renormalised; an output
    without any valid input is NaN. On a non-uniform axis each channel is weighted by its width. The variance
    becomes sum(w^2 v)/sum(w)^2, which assumes that the noise of the channels is independent. With `despike`,
    cosmic rays are left out as well: channels in which a pixel is far above its running median of 17
    channels.
    """

    name: ClassVar[str] = "rebin"
    optional: ClassVar[tuple[str, ...]] = (VARIANCE,)
    produces: ClassVar[tuple[str, ...]] = (DATA, VARIANCE)
    copies: ClassVar[float] = 4.5
    scratch: ClassVar[float] = 6
    tag: ClassVar[str] = "_rebin"

    preset: Literal["spex", "auto"] = parameter(
        "spex",
        "",
        "named bins; spex is a bin_step of 1 nm and a bin_width of 2 nm; auto is the same for cubes in "
        "wavelength with channels finer than 1 nm, and passes other cubes on unchanged",
    )
    bin_step: SpectralWidth | None = parameter(
        None, "m", "step between output channels; a number in SI units or text such as '1 nm'", gt=0
    )
    bin_width: SpectralWidth | None = parameter(
        None, "m", "full width at half maximum of an output channel; twice bin_step if not given", gt=0
    )
    response: Literal["triangle", "rectangle"] = parameter(
        "triangle", "", "shape of an output channel; the triangle reaches zero at +-bin_width"
    )
    operation: Literal["mean", "sum", "mean_err"] = parameter(
        "mean", "", "mean for densities (counts per nm), sum for counts, mean_err for standard deviations"
    )

    despike: float | None = parameter(
        None,
        "standard deviations",
        "leave out channels in which a pixel exceeds its own spectrum by more than this, which are cosmic "
        "rays; 7 is a good value. Do not use it for objects with emission lines narrower than about 10 "
        "channels, which it removes; null turns it off",
        gt=0,
    )

    def bins(self) -> tuple[float, float]:
        """Return the step and the width in SI units."""
        step, width = SPEX
        if self.bin_step is not None:
            step, width = self.bin_step, 2 * self.bin_step
        return step, width if self.bin_width is None else self.bin_width

    def working_bytes(self, before: xr.Dataset, after: xr.Dataset) -> int:
        """Return the bytes of memory for a block; more if the input is not read from a file piecewise."""
        usual = super().working_bytes(before, after)
        if self.despike is not None:
            tested = min(AT_ONCE + 2 * REACH, before.sizes[WAVELENGTH])
            usual += int(3 * tested * before.sizes[Y] * before.sizes[X] * 4)
        if source_of(before[DATA].variable) is not None:
            return usual
        planes = max(block_sizes(after)) * (before.sizes[WAVELENGTH] / after.sizes[WAVELENGTH] + 1)
        variables = 2 if VARIANCE in before else 1
        return usual + int(2 * variables * planes * before.sizes[Y] * before.sizes[X] * 4)

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        axis = cube[WAVELENGTH].values
        if axis.size == 1 or self._leaves(cube):
            return cube.copy()
        step, width = self.bins()
        self._check(axis, step, str(cube[WAVELENGTH].attrs.get(UNITS, "")))
        grid = kernel.bins(axis, step, width, self.response)
        sizes = kernel.channel_widths(axis)

        def table(first: int, last: int, lo: int, hi: int) -> np.ndarray:
            return sizes[lo:hi] * kernel.weights(axis[lo:hi], grid.centre[first:last], width, self.response)

        names = [DATA, VARIANCE] if VARIANCE in cube else [DATA]
        reach = REACH if self.despike is not None else 0
        low, high = np.maximum(grid.lo - reach, 0), np.minimum(grid.hi + reach, axis.size)
        made = over_bins(
            cube,
            self.name,
            partial(_rebin, operation=self.operation, despike=self.despike),
            names,
            list(zip(low.tolist(), high.tolist(), strict=True)),
            table,
            block=planes_per_block(grid.centre.size, cube.sizes[Y] * cube.sizes[X]),
        )
        return xr.Dataset(
            {name: (DIMS, array, cube[name].attrs) for name, array in made.items()},
            coords={
                WAVELENGTH: (WAVELENGTH, grid.centre, cube[WAVELENGTH].attrs),
                CHANNEL: (WAVELENGTH, np.arange(grid.centre.size)),
            },
            attrs=dict(cube.attrs),
        )

    def warnings(self, cube: xr.Dataset) -> Iterator[str]:
        wishes = self.model_dump(exclude={"preset"}, exclude_defaults=True)
        if wishes and self._leaves(cube):
            yield (
                "preset auto passes this cube on, because it is not in wavelength or its channels are broad: "
                f"{', '.join(wishes)} has no effect; give bin_step"
            )

    def _leaves(self, cube: xr.Dataset) -> bool:
        """Return whether a cube is passed on unchanged because its channels are as broad as the bins."""
        if self.preset != "auto" or self.bin_step is not None:
            return False
        steps = np.diff(cube[WAVELENGTH].values)
        one_way = bool((steps > 0).all() or (steps < 0).all())
        return cube[WAVELENGTH].attrs.get(UNITS) != "m" or not one_way or abs(np.median(steps)) >= SPEX[0]

    def _check(self, axis: np.ndarray, step: float, unit: str) -> None:
        if not np.isfinite(axis).all():
            raise CubeError(
                "rebin needs the wavelength of every plane, which this cube does not have: give "
                "wave_start and wave_step with the input, or leave out rebin"
            )
        steps = np.diff(axis)
        if (steps > 0).any() and (steps <= 0).any():
            raise CubeError("rebin: the wavelengths of the cube neither increase nor decrease monotonically")
        if unit == "m" and max(step, self.bins()[1]) > np.max(axis):
            name, value = ("bin_step", step) if step > np.max(axis) else ("bin_width", self.bins()[1])
            raise CubeError(
                f"rebin: {name} = {value:.6g} m is longer than the longest wavelength of the cube, "
                f"{np.max(axis):.6g} m: numbers without a unit are in metres; {value:.6g} nm? type "
                f"{name}: {value:.6g} nm"
            )
        if step < abs(np.median(steps)) * (1 - kernel.EDGE):
            raise CubeError(
                f"rebin: bin_step {step:.6g} {unit} is smaller than the step of the input, "
                f"{abs(np.median(steps)):.6g} {unit}: give a larger bin_step, or leave out rebin"
            )


def _rebin(
    table: np.ndarray,
    data: kernel.Planes,
    variance: kernel.Planes | None = None,
    *,
    operation: kernel.Operation,
    despike: float | None,
) -> tuple[np.ndarray, ...]:
    """Combine the planes of a block, without the spikes if there is a limit for them."""
    if despike is None:
        return kernel.rebin_block(table, data, variance, operation=operation)
    clean = Despiked(data, variance, despike)
    return kernel.rebin_block(table, clean, variance, operation=operation, at_once=AT_ONCE)

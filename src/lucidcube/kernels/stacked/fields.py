"""Fields of several planes that iterate together, as those of CLEAN and Lucy-Richardson do."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.common import StopReason
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.deconvolution.field import Field
from lucidcube.kernels.deconvolution.stopping import LARGEST, NoiseStop
from lucidcube.kernels.stacked.arrays import Arrays
from lucidcube.kernels.stacked.convolver import StackConvolver
from lucidcube.kernels.stacked.stacks import Iterating, Mask, Rows, stack, total

Found = tuple[Plane, int, StopReason]
"""Components (field y, padded_width), number of iterations, and reason to stop."""


class FieldIteration(Iterating[Found], ABC):
    """The fields of a stack that still iterate, and the results of those that do not.

    Arrays of the library are (plane, y, x). The fields lie at their pixel (0, 0), with zeros beyond them,
    which stay zero. Statistics are NumPy arrays (plane,).

    Parameters
    ----------
    arrays
        The array library.
    fields, noises, psf
        The field, the test for noise and the PSF (y, x) of each plane.
    options
        Those of the kernel of single planes.
    """

    def __init__(
        self,
        arrays: Arrays,
        fields: Sequence[Field],
        noises: Sequence[NoiseStop],
        psf: Sequence[NDArray[np.floating]],
        options: dict[str, Any],
    ) -> None:
        super().__init__(arrays, len(fields))
        self._fields, self._options = fields, options
        self._data = self._put([field.data for field in fields])
        self._valid = self._put([field.valid for field in fields])
        self._inverse = self._put([noise.inverse_noise for noise in noises])
        self._counted = np.array([np.count_nonzero(noise.inverse_noise) for noise in noises])
        self._targets = np.array([np.nan if noise.target is None else noise.target for noise in noises])
        self._convolver = StackConvolver(arrays, np.stack(psf), self._data.shape[1:])

    def run(self) -> list[Found]:
        """Return what is found for each plane."""
        done, n_iter = 0, self._options["n_iter"]
        while done < n_iter and not self._ended.all():
            self._remove_ended()
            self._iterate(done)
            done += 1
        self._stop(np.ones_like(self._ended), self._latest_components(), done, StopReason.N_ITER)
        return self.results()

    @abstractmethod
    def _iterate(self, done: int) -> None:
        """Do an iteration after `done` others."""

    @abstractmethod
    def _latest_components(self) -> Any:
        """Return the components of the planes whose iteration is not stopped."""

    def _put(self, planes: Sequence[Plane]) -> Any:
        """Return planes (field y, padded_width) as one array on the device, without the padding."""
        widths = (field.convolver.shape[1] for field in self._fields)
        return self._arrays.put(stack([plane[:, :w] for plane, w in zip(planes, widths, strict=True)]))

    def _field(self, row: int) -> Field:
        return self._fields[int(self._places[row])]

    @property
    def _has_targets(self) -> bool:
        """Whether any plane stops by the noise."""
        return not np.isnan(self._targets).all()

    def _noise_is_reached(self, residual: Any) -> Mask:
        """Return which planes (plane,) have residuals that are noise; see `stopping.NoiseStop`."""
        if not self._has_targets:
            return np.zeros(self._ended.size, bool)
        squares = self._xp.clip((residual * self._inverse) ** 2, max=LARGEST)
        return total(self._arrays, squares) <= self._targets * self._counted

    def _stop(self, where: Mask, components: Any, iterations: int, reason: StopReason) -> None:
        """Keep the components of planes that stop here."""

        def found(row: int, plane: Plane) -> Found:
            convolver = self._field(row).convolver
            height, width = convolver.shape
            return convolver.pad(plane[:height, :width]), iterations, reason

        self._end(where, components, found)

    def _keep(self, rows: Rows) -> None:
        super()._keep(rows)
        self._convolver = self._convolver.part(rows)

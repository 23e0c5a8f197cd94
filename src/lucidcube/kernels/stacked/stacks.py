"""Planes that iterate together until each of them stops."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from lucidcube.kernels.deconvolution.common import Deconvolution, Variance
from lucidcube.kernels.deconvolution.continuation import Plane
from lucidcube.kernels.stacked.arrays import Arrays

FULL = 0.75
"""Fraction of the planes of a stack that still iterate below which the others are removed."""

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.intp]
T = TypeVar("T")


class PlaneInput(NamedTuple):
    """What the kernels take of one plane; see `deconvolution.clean.clean_modified`."""

    plane: Plane
    psf: NDArray[np.floating]
    variance: Variance
    filled: NDArray[np.generic] | None


class PlanesKernel(Protocol):
    """Function that deconvolves planes of one shape together, with the options of the kernel of a plane."""

    def __call__(
        self, planes: Sequence[PlaneInput], arrays: Arrays, **options: Any
    ) -> list[Deconvolution]: ...


def in_stacks(planes: Sequence[T], most: int) -> Iterator[Sequence[T]]:
    """Yield the planes in stacks of about equal size, which is `most` at most."""
    number = -(-len(planes) // most)
    ends = np.linspace(0, len(planes), number + 1).astype(int).tolist()
    yield from (planes[first:last] for first, last in pairwise(ends))


def stack(planes: Sequence[NDArray[np.floating]]) -> NDArray[np.float32]:
    """Return planes (y, x) as one array, with zeros beyond the ends of those that are smaller."""
    shape = np.max([plane.shape for plane in planes], axis=0)
    stacked = np.zeros((len(planes), *shape), np.float32)
    for one, plane in zip(stacked, planes, strict=True):
        one[: plane.shape[0], : plane.shape[1]] = plane
    return stacked


def column(arrays: Arrays, numbers: NDArray[np.generic] | Sequence[float]) -> Any:
    """Return numbers (plane,) as an array (plane, 1, 1) of float32, or of bool, on the device."""
    array = np.asarray(numbers)
    array = array if array.dtype == bool else array.astype(np.float32)
    return arrays.put(array.reshape(-1, 1, 1))


def total(arrays: Arrays, planes: Any) -> Numbers:
    """Return the sums (plane,) of planes (plane, y, x), in float64."""
    return arrays.get(arrays.xp.sum(planes, axis=(1, 2), dtype=arrays.xp.float64))


def replace(arrays: Arrays, planes: Any, rows: Rows, others: Any) -> Any:
    """Return planes with those at some indices replaced."""
    order = np.arange(planes.shape[0])
    order[rows] = planes.shape[0] + np.arange(rows.size)
    return arrays.xp.take(arrays.xp.concat([planes, others]), arrays.put(order), axis=0)


class Iterating(Generic[T]):
    """The planes of a stack that still iterate, and the results of those that have ended.

    Attributes that are arrays whose first dimension is the plane are named in `_on_device` if they are of the
    library, and in `_on_host` if they are of NumPy.
    """

    _on_device: ClassVar[tuple[str, ...]]
    _on_host: ClassVar[tuple[str, ...]]

    def __init__(self, arrays: Arrays, planes: int) -> None:
        self._arrays, self._xp = arrays, arrays.xp
        self._places, self._ended = np.arange(planes), np.zeros(planes, bool)
        self._results: dict[int, T] = {}

    def results(self) -> list[T]:
        """Return the results in the order of the planes, all of which have ended."""
        return [self._results[place] for place in range(len(self._results))]

    def _end(self, where: Mask, planes: Any, result: Callable[[int, NDArray[np.float32]], T]) -> None:
        """Keep ``result(row, plane)`` of planes (plane, y, x) that end here; others have ended before."""
        rows = np.flatnonzero(where & ~self._ended)
        if rows.size:
            found = self._arrays.get(self._xp.take(planes, self._arrays.put(rows), axis=0))
            for row, plane in zip(rows.tolist(), found, strict=True):
                self._results[int(self._places[row])] = result(row, plane)
            self._ended[rows] = True

    def _remove_ended(self) -> None:
        """Remove the planes that have ended, if they are many."""
        if self._ended.mean() > 1 - FULL:
            self._keep(np.flatnonzero(~self._ended))

    def _keep(self, rows: Rows) -> None:
        """Keep some planes."""
        keep_rows(self, self._arrays, self._on_device, (*self._on_host, "_places", "_ended"), rows)


def keep_rows(
    owner: object, arrays: Arrays, on_device: Sequence[str], on_host: Sequence[str], rows: Rows
) -> None:
    """Keep some planes of the named attributes, arrays whose first dimension is the plane."""
    index = arrays.put(rows)
    for name in on_device:
        setattr(owner, name, arrays.xp.take(getattr(owner, name), index, axis=0))
    for name in on_host:
        setattr(owner, name, getattr(owner, name)[rows])


def largest_grid(planes: Sequence[PlaneInput]) -> int:
    """Return the number of points of the transforms of these planes with the widest margin."""
    plane, psf = planes[0].plane, planes[0].psf
    height, width = (2 * side + reach for side, reach in zip(plane.shape, psf.shape, strict=True))
    return int(height * width)

"""Mean and variance of planes that come one by one."""

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Moments:
    """Number, mean and variance (y, x) of planes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.number, self._sum, self._squares = np.zeros((3, *shape))

    def add(self, plane: Doubles) -> None:
        """Count a plane."""
        self.number += 1
        self._sum += plane
        self._squares += plane**2

    def restrict(self, where: Mask) -> None:
        """Forget the planes elsewhere."""
        for array in (self.number, self._sum, self._squares):
            array[~where] = 0

    @property
    def mean(self) -> Doubles:
        """Mean of the planes."""
        return self._sum / self.number

    @property
    def variance(self) -> Doubles:
        """Unbiased variance of the planes."""
        return np.maximum(self._squares - self.number * self.mean**2, 0) / (self.number - 1)

    @property
    def square(self) -> Doubles:
        """Unbiased square of the mean that infinitely many planes would have."""
        return self.mean**2 - self.variance / self.number

"""Remember recent results of functions of arrays, which several blocks have in common.

Blocks of fewer planes than a group share a window of planes, and so do the blocks of later stages that read
the planes of a window without a checkpoint in between.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any, Generic, TypeVar

import numpy as np

Result = TypeVar("Result")
RECENT = 16
"""Number of results that are kept."""


class Remembered(Generic[Result]):
    """A function of arrays whose recent results are kept, in this process, by a digest of its arguments.

    The arguments are arrays or None. The results are shared, and must not be modified.
    """

    def __init__(self, function: Callable[..., Result]) -> None:
        self._function = function
        self._results: OrderedDict[bytes, Result] = OrderedDict()
        self._lock = Lock()

    def __call__(self, *arrays: np.ndarray | None) -> Result:
        """Return the result for these arrays."""
        key = _digest(arrays)
        with self._lock:
            if key in self._results:
                self._results.move_to_end(key)
                return self._results[key]
        result = self._function(*arrays)
        with self._lock:
            self._results[key] = result
            while len(self._results) > RECENT:
                self._results.popitem(last=False)
        return result


def _digest(arrays: tuple[Any, ...]) -> bytes:
    """Return a digest of arrays, their shapes and their types."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(b"none" if array is None else f"{array.shape} {array.dtype}".encode())
        if array is not None:
            digest.update(np.ascontiguousarray(array).view(np.uint8).data)
    return digest.digest()

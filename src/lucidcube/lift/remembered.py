"""Remember recent results of functions of arrays, which several blocks have in common.

Blocks of fewer planes than a group share a window of planes, and so do the blocks of later stages that read
the planes of a window without a checkpoint in between.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from itertools import islice
from threading import Lock, Thread, current_thread
from typing import Any, Generic, TypeVar
from weakref import WeakSet

import numpy as np

Result = TypeVar("Result")
RECENT = 16
"""Number of results that are kept by default."""


class Remembered(Generic[Result]):
    """A function of arrays whose recent results are kept, in this process, by a digest of its arguments.

    The arguments are arrays, words or None. The results are shared, and must not be modified. A thread that
    asks for what another one computes waits for its result. `recent` is the number of results that are kept,
    or one for each thread that has called the function and lives, if these are more; what is being computed
    is kept.
    """

    def __init__(self, function: Callable[..., Result], recent: int = RECENT) -> None:
        self._function, self._recent = function, recent
        self._results: OrderedDict[bytes, Future[Result]] = OrderedDict()
        self._threads: WeakSet[Thread] = WeakSet()
        self._lock = Lock()

    def __call__(self, *arguments: np.ndarray | str | None) -> Result:
        """Return the result for these arguments."""
        key = _digest(arguments)
        with self._lock:
            self._threads.add(current_thread())
            known = self._results.get(key)
            if known is not None:
                self._results.move_to_end(key)
            else:
                own = self._results[key] = Future()
                self._forget()
        if known is not None:
            return known.result()
        try:
            own.set_result(self._function(*arguments))
        except BaseException as error:
            own.set_exception(error)
            with self._lock:
                self._results.pop(key, None)
            raise
        return own.result()

    def _forget(self) -> None:
        """Remove the oldest results that are finished and too many."""
        surplus = len(self._results) - max(self._recent, len(self._threads))
        finished = (key for key, result in self._results.items() if result.done())
        for key in [*islice(finished, max(0, surplus))]:
            del self._results[key]


def _digest(arguments: tuple[Any, ...]) -> bytes:
    """Return a digest of arrays, their shapes and their types, or of words."""
    digest = hashlib.blake2b(digest_size=16)
    for argument in arguments:
        if isinstance(argument, np.ndarray):
            digest.update(f"{argument.shape} {argument.dtype}".encode())
            digest.update(np.ascontiguousarray(argument).view(np.uint8).data)
        else:
            digest.update(repr(argument).encode())
    return digest.digest()

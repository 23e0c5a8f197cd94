"""What surrounds the call of a kernel for a plane: infinities, and the names of planes in errors."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import numpy as np

from lucidcube.cube import describe_planes
from lucidcube.errors import CubeError, StageError, UserError

Given = TypeVar("Given")
Made = TypeVar("Made")


@contextmanager
def naming_planes(stage: str, channel: np.ndarray, wavelength: np.ndarray, units: str) -> Iterator[None]:
    """Convert exceptions to `CubeError` or `StageError` with the name of the stage and of the planes."""
    try:
        yield
    except Exception as error:
        planes = describe_planes(channel, wavelength, units)
        if isinstance(error, UserError):
            raise CubeError(*(f"{stage}, {planes}: {p}" for p in error.problems)) from None
        raise StageError(stage, planes, f"{type(error).__name__}: {error}") from error


def nan_for_inf(value: Any) -> Any:
    """Return an array with infinities replaced by NaN; return anything else as it is."""
    if getattr(value, "ndim", 0) and value.dtype.kind == "f":
        infinite = np.isinf(value)
        if infinite.any():
            return np.where(infinite, value.dtype.type(np.nan), value)
    return value


def jointly(
    compute: Callable[[Sequence[Given]], Sequence[Made] | None],
    parts: Sequence[Given],
    naming: Callable[[Sequence[Given]], AbstractContextManager[None]],
) -> Sequence[Made] | None:
    """Compute parts in one call; if that fails, compute them one by one, so that an error names the part.

    If no part fails on its own, as when the memory suffices for one of them only, these results count.
    ``naming(parts)`` is a context that names parts in errors, see `naming_planes`.
    """
    try:
        return compute(parts)
    except Exception as error:
        made: list[Made] = []
        for part in parts if len(parts) > 1 else ():
            with naming([part]):
                made += compute([part]) or ()
        if made:
            return made
        with naming(parts):
            raise error

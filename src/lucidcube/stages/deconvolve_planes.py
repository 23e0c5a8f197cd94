"""What the stage `deconvolve` does with each plane of a block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from lucidcube.cube import DECONVOLUTION_LOG
from lucidcube.kernels.deconvolution.common import Deconvolution, StopReason
from lucidcube.kernels.deconvolution.diagnostics import residual_structure
from lucidcube.kernels.holes import Filled
from lucidcube.kernels.stacked.arrays import current_arrays
from lucidcube.kernels.stacked.stacks import PlaneInput
from lucidcube.stages.psf_planes import usable_psf

if TYPE_CHECKING:
    from lucidcube.stages.deconvolve import Deconvolve


class Row(NamedTuple):
    """The variables of one plane: arrays (y, x), and (mode, y, x) for the modes, or None."""

    plane: np.ndarray
    psf: np.ndarray
    channel: int
    variance: np.ndarray | None
    filled: np.ndarray | None
    modes: np.ndarray | None = None


def deconvolved(
    plane: np.ndarray,
    psf: np.ndarray,
    channel: int,
    variance: np.ndarray | None,
    filled: np.ndarray | None,
    modes: np.ndarray | None = None,
    *,
    stage: Deconvolve,
    smoothing: float,
    found: Deconvolution | None = None,
) -> tuple[Any, ...]:
    """Return the outputs for a plane, which is deconvolved unless the result is given as `found`."""
    given: dict[str, Any] = {"variance": variance, "filled": filled}
    if np.isfinite(psf).any():
        psf = usable_psf(psf)
        found = found or stage.deconvolve_plane(plane, psf, **given)
        options: dict[str, Any] = {"modes": modes, "smoothing": smoothing, "seed": int(channel)}
        errors = stage.errors_of(found, plane, psf, **options, **given)
    else:
        found = _without_psf(plane, filled, stage.extras)
        errors = {name: np.full_like(plane, np.nan) for name in stage.measured_errors}
    structure = residual_structure(plane, found.residual, variance, filled)
    found = found._replace(residual_structure=structure)
    planes = {**found.extras, **errors}
    numbers = (getattr(found, name) for name in DECONVOLUTION_LOG)
    names = *stage.extras, *stage.measured_errors
    return (found.components, found.residual, *(planes[name] for name in names), *numbers)


def deconvolved_together(
    *columns: Sequence[Any] | None, stage: Deconvolve
) -> Sequence[Deconvolution | None] | None:
    """Return what `deconvolved` takes as `found` for each plane, given lists of what else it takes.

    None is returned if the planes are to be deconvolved one by one, because the context has no array library,
    or the method cannot use it.
    """
    arrays, kernel, planes = current_arrays(), stage.planes_kernel, columns[0]
    if arrays is None or kernel is None or not stage.computes_together or not planes:
        return None
    rows = [Row(*row) for row in zip(*(column or [None] * len(planes) for column in columns), strict=True)]
    usable = [i for i, row in enumerate(rows) if np.isfinite(row.psf).any()]
    inputs = [
        PlaneInput(r.plane, usable_psf(r.psf), r.variance, r.filled) for r in map(rows.__getitem__, usable)
    ]
    if not inputs:
        return None
    found = dict(zip(usable, stage.deconvolve_planes(inputs, arrays, kernel), strict=True))
    return [found.get(i) for i in range(len(rows))]


def _without_psf(plane: np.ndarray, filled: np.ndarray | None, extras: Sequence[str]) -> Deconvolution:
    """Return the result for a plane without a PSF: all of it is residual."""
    known = np.isfinite(plane) if filled is None else np.isfinite(plane) & (filled != Filled.HOLE)
    residual, empty = np.where(known, plane, np.float32(np.nan)), np.full_like(plane, np.nan)
    return Deconvolution.of(
        plane, empty, residual, known, 0, StopReason.NO_PSF, extras=dict.fromkeys(extras, empty)
    )

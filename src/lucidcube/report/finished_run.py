"""Gather the images of a run: from its product, and from the checkpoints where they still exist."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import dask
import numpy as np
import xarray as xr

from lucidcube import cube as words
from lucidcube.config.load import from_plain, of_product
from lucidcube.config.schema import Config
from lucidcube.errors import BlocksFailed, UserError
from lucidcube.report.product_file import Plane, ProductFile
from lucidcube.runner.products import VARIANCE_NAME
from lucidcube.runner.reopen import reopen
from lucidcube.runner.segments import Segment

AFTER = ("DECONVOLVED", "DATA")
CLEANING = ("noise", "artefacts", "mask", "interpolate", "model_psf", "deconvolve")
"""Stages of the target after which, or instead of which, its grid does not change any more."""


@dataclass(frozen=True)
class FinishedRun:
    """The images of a run, plane by plane; `missing` says why some of them are not available."""

    product: ProductFile
    cubes: Mapping[str, xr.Dataset] = field(default_factory=dict)
    """Lazy cubes: the target ``before`` artefacts are removed and ``cleaned`` of them, its ``result``, and
    the ``star``."""
    missing: str = ""

    def plane(self, name: str, number: int) -> Plane | None:
        """Return a plane (y, x) of an image in the unit of the product; None if it is not available.

        The names are those of the variables of a cube, and ``before``, ``cleaned`` and ``after``.
        """
        labels = AFTER if name == "after" else (VARIANCE_NAME,) if name == words.VARIANCE else (name.upper(),)
        for label in labels:
            if label in self.product:
                return self.product.plane(label, number)
        cube = self.cubes.get(name if name in ("before", "cleaned") else "result")
        return _plane(cube, words.DATA if name in ("before", "cleaned", "after") else name, number)

    def star(self, number: int) -> Plane | None:
        """Return a plane (y, x) of the star before it is modelled; None if it is not available."""
        cube = self.cubes.get("star")
        one = cube is not None and cube.sizes[words.WAVELENGTH] == 1
        return _plane(cube, words.DATA, 0 if one else number)

    def psf(self, number: int) -> Plane | None:
        """Return a plane of the PSF (psf_y, psf_x); None if it is not available."""
        if "PSF" not in self.product:
            return _plane(self.cubes.get("result"), words.PSF, number)
        return self.product.plane("PSF", number)


def finished_run(product: ProductFile, config: Config | None = None) -> FinishedRun:
    """Return the images of the run that made a product.

    `config` is that of the run; by default it is taken from the product. If the inputs or the checkpoints are
    gone, or the product is a preview, the result has the images of the product only.
    """
    if product.is_preview:
        return FinishedRun(product, missing="This is the report of a preview, made again.")
    try:
        tracks = reopen(config or from_plain(of_product(product.config)))
    except (UserError, BlocksFailed, OSError) as error:
        reason = str(error).splitlines()[0]
        return FinishedRun(product, missing=f"The inputs of the run could not be opened ({reason}).")
    cubes: dict[str, xr.Dataset] = {}
    if (before := _before(tracks["target"], CLEANING)) is not None:
        cubes["before"] = before
    if (cleaned := _before(tracks["target"], ("deconvolve",), complete=True)) is not None:
        cubes["cleaned"] = cleaned
    last, complete = tracks["target"][-1] if tracks["target"] else (None, False)
    if last is not None and complete:
        cubes["result"] = last.cube
    if (star := _before(tracks.get("star", []), ("fit_psf",))) is not None:
        cubes["star"] = star
    there = all(complete for _, complete in tracks["target"])
    return FinishedRun(product, cubes, "" if there else "Some checkpoints of the run do not exist any more.")


def _before(
    track: list[tuple[Segment, bool]], names: tuple[str, ...], *, complete: bool = False
) -> xr.Dataset | None:
    """Return the cube to which the first of the named stages is applied; None if it must be computed.

    Within a segment the cube may be computed from the checkpoint before, unless it must be `complete`; that
    is quick for a few planes where the stages between are rebin or noise.
    """
    for segment, there in track:
        for place, (stage, cube) in enumerate(zip(segment.stages, segment.cubes, strict=False)):
            if stage.name in names:
                return None if complete and place else cube
        if not there:
            return None
    return None


def _plane(cube: xr.Dataset | None, name: str, number: int) -> Plane | None:
    if cube is None or name not in cube.variables or number >= cube.sizes[words.WAVELENGTH]:
        return None
    with dask.config.set(scheduler=dask.get):
        values = cube[name].isel({words.WAVELENGTH: number}).values
    exponent = words.scale_exponent(cube, name)
    # Fluxes near 1e-20 are multiplied by a power of two in memory, and their variance is beyond float32.
    return np.ldexp(values.astype(np.float64), -exponent) if exponent else np.asarray(values, np.float32)

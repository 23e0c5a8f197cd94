"""The recommended stages on cubes of a Python session."""

from typing import Any

import xarray as xr

from lucidcube.config.load import from_plain
from lucidcube.cube import PSF, PSF_MODES
from lucidcube.errors import CubeError
from lucidcube.stages.psf_argument import StageWithPSF


def sharpen(
    cube: xr.Dataset, star: xr.Dataset | None = None, *, psf: xr.Dataset | None = None, **deconvolve: Any
) -> xr.Dataset:
    """Apply the recommended stages to a cube and to its star, lazily; the same as `run` with two inputs.

    There are no checkpoints and no limits of memory here. For cubes that do not fit into memory use
    `lucidcube.run`, which also writes a report and gives warnings about the result.

    Parameters
    ----------
    cube
        The target, as it was observed. A PSF that it has is replaced.
    star
        The star, as it was observed, on the same pixels or with a header that states its own.
    psf
        The PSF, in place of a star: from a file, a formula or the stages of a star.
    deconvolve
        Parameters of the stage `deconvolve`, such as ``method="map"``.

    Returns
    -------
    xarray.Dataset
        The cube after `deconvolve`. Nothing is computed if the data are dask arrays.

    Raises
    ------
    UserError
        If there is neither a star nor a PSF, if a parameter is invalid, or if the inputs do not suit.

    Examples
    --------
    >>> import lucidcube as lc
    >>> target, star = (lc.open_cube(f"example_data/{name}.fits") for name in ("target", "star"))
    >>> sharp = lc.sharpen(target, star)
    >>> sorted({"mask", "residual", "psf"} & {*sharp.data_vars})
    ['mask', 'psf', 'residual']
    """
    if (star is None) == (psf is None):
        raise CubeError("sharpen needs a star or a PSF: sharpen(cube, star), or sharpen(cube, psf=psf)")
    inputs: dict[str, Any] = {"target": "target", "star": {"input": "star"}}
    if psf is not None:
        inputs["star"]["stages"] = []
    config = from_plain({**inputs, "deconvolve": deconvolve}, "sharpen")
    if star is not None:
        psf = star
        for stage in config.stages("star"):
            psf = stage(psf)
    cube = cube.drop_vars([PSF, PSF_MODES], errors="ignore")
    for stage in config.stages("target"):
        if isinstance(stage, StageWithPSF) and PSF in stage.requires and PSF not in cube:
            cube = stage(cube, psf)
        else:
            cube = stage(cube)
    return cube

"""Write the planes of a preview to a FITS file of their own."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import xarray as xr

from lucidcube.config.schema import Config, Product
from lucidcube.cube import PSF, TRACK
from lucidcube.io.output_path import may_replace
from lucidcube.io.tables import preview_table
from lucidcube.runner.compute import BlockComputer
from lucidcube.runner.one_stage import SUFFIX
from lucidcube.runner.preview import PreviewedPlanes
from lucidcube.runner.products import run_product
from lucidcube.runner.write_product import write


def preview_config(config: Config) -> Config:
    """Return a config with ``NAME-preview.fits`` beside the product as its own product."""
    path = Path(config.output.path)
    name = f"{SUFFIX.sub('', path.name) or path.name}-preview.fits"
    output = config.output.model_copy(
        update={"path": str(path.with_name(name)), "products": get_args(Product)}
    )
    return config.model_copy(update={"output": output})


def write_preview(
    made: PreviewedPlanes, config: Config, inputs: dict[str, dict[str, Any]], computer: BlockComputer
) -> Path:
    """Write the planes with all that the stages made of them, and a table of their numbers; return the path.

    `config` is that of `preview_config`, and `inputs` identify its inputs.
    """
    path = Path(config.output.path)
    product = run_product(
        _with_own_psf(made.result), made.star, config.output.products, config.plain(), inputs, made.warnings
    )
    tables = [*product.tables, preview_table(made.planes, made.total)]
    overwrite = may_replace(path, config.output.overwrite)
    write(path, replace(product, tables=tables), overwrite=overwrite, compute=computer.compute)
    return path


def _with_own_psf(cube: xr.Dataset) -> xr.Dataset:
    """Return a cube whose PSF is written from its own planes, and not from those of the star's track."""
    if PSF not in cube:
        return cube
    psf = cube[PSF].variable
    attrs = {key: value for key, value in psf.attrs.items() if key != TRACK}
    return cube.assign({PSF: xr.Variable(psf.dims, psf.data, attrs)})

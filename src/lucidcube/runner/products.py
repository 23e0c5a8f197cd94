"""Say which HDUs a product has: images of the variables of a cube, and tables."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import xarray as xr
from astropy.io import fits

from lucidcube import cube as words
from lucidcube.io.headers import (
    cube_header,
    spectral_axis,
)
from lucidcube.io.spectral_cards import wavelength_table
from lucidcube.io.tables import plane_table, provenance_table
from lucidcube.stages.base import Stage

VARIANCE_NAME = "STAT"
"""Name of the variance at ESO; `ERR` could also mean standard deviations."""

TABLES = {
    "DECONVOLUTION LOG": words.DECONVOLUTION_LOG,
    "FITTED MODEL PARAMS": words.FIT_RESULTS,
    "NORMALISATION": words.STAR_NUMBERS,
    "CUT BY CHANNEL": ("cut",),
    "NOISE": (words.NOISE_FACTOR, words.NOISE_WIDTH),
    "PSF BROADENING": (words.BROADENING,),
}
PRODUCT_TABLES = {
    "log": ("DECONVOLUTION LOG", "NOISE"),
    "fit": ("FITTED MODEL PARAMS", "NORMALISATION"),
    "psf": ("PSF BROADENING",),
    "mask": ("CUT BY CHANNEL",),
}
"""The tables of each product that a user can request."""

PRODUCT_VARIABLES: Mapping[str, tuple[str, ...]] = {
    "deconvolved": (words.DATA,),
    "restored": (words.RESTORED,),
    "points": (words.POINTS,),
    "model": (words.MODEL,),
    "error": (words.ERROR,),
    "bias": (words.BIAS,),
    "residual": (words.RESIDUAL,),
    "psf": (words.BROADENING,),
    "log": (*words.DECONVOLUTION_LOG, words.NOISE_FACTOR, words.NOISE_WIDTH),
    "fit": (*words.FIT_RESULTS, *words.STAR_NUMBERS),
    "filled": (words.FILLED,),
    "mask": (words.MASK, "cut"),
    "badness": (words.BADNESS, words.AMPLITUDE),
    "variance": (words.VARIANCE,),
    "provenance": (),
}
"""The variables of each product that a user can request."""

ALWAYS = ("error", "provenance")
"""Products that are written even if the config does not list them: errors exist only where a config asks for
them, and without its provenance a product cannot be repeated or reported on."""


class Image(NamedTuple):
    """An image HDU, called `label`, of one variable of a cube; the pixels of a PSF have no sky positions."""

    cube: xr.Dataset
    variable: str
    label: str
    is_psf: bool = False


@dataclass(frozen=True)
class Product:
    """A FITS file to be written: the images, of which the first becomes the primary HDU, then the tables.

    The provenance is the final cube of each track, the identity of each input, the config, and the warnings.
    """

    images: Sequence[Image]
    tables: Sequence[fits.BinTableHDU]
    cubes: Mapping[str, xr.Dataset | None]
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    warnings: Sequence[str] = ()


def run_product(
    cube: xr.Dataset,
    star: xr.Dataset | None,
    products: Sequence[str],
    config: Mapping[str, Any],
    inputs: Mapping[str, Mapping[str, Any]],
    warnings: Sequence[str] = (),
) -> Product:
    """Return the product of a run, from the target and the star after their last stages.

    `products` are names in `PRODUCT_VARIABLES`; those whose variables do not exist are left out, and those in
    `ALWAYS` are added. The data of the star are the PSF, unless stages of the target made another. `config`
    and `inputs` are plain data from which the run can be repeated. `warnings` say why the result may not be
    trusted.
    """
    images: list[Image] = []
    tables: list[fits.BinTableHDU] = []
    for product in dict.fromkeys([*products, *ALWAYS]):
        made_here = words.PSF in cube and words.TRACK not in cube[words.PSF].attrs
        with_psf, name = (cube, words.PSF) if made_here else (star, words.DATA)
        if product == "psf" and with_psf is not None:
            images.append(Image(with_psf, name, "PSF", is_psf=True))
            if words.PSF_MODES in with_psf:
                images.append(Image(with_psf, words.PSF_MODES, words.PSF_MODES.upper(), is_psf=True))
        images += [
            Image(cube, v, _label(cube, v))
            for v in PRODUCT_VARIABLES[product]
            if v in cube and words.VARIABLES[v].dims == words.DIMS
        ]
        source = star if product == "fit" else cube
        tables += _tables(source, PRODUCT_TABLES.get(product, ())) if source is not None else []
    tables += [provenance_table(config, inputs), *_grid(cube)]
    return Product(images, tables, {"target": cube, "star": star}, inputs, config, warnings)


def stage_product(
    stage: Stage,
    cube: xr.Dataset,
    config: Mapping[str, Any],
    inputs: Mapping[str, Mapping[str, Any]],
    warnings: Sequence[str] = (),
) -> Product:
    """Return the product of a single stage: its output variables, the variance and the filled pixels."""
    made = [v for v in stage.produces if v in cube]
    if words.VARIANCE in made and words.DATA not in made:
        made = [words.DATA, *made]  # a variance belongs to the data in the same file
    beside = [v for v in (words.VARIANCE, words.FILLED) if v in cube and words.DATA in made]
    names = [v for v in dict.fromkeys([*made, *beside]) if words.VARIABLES[v].dims == words.DIMS]
    images = [Image(cube, v, _label(cube, v)) for v in names]
    if words.PSF in made or (words.PSF in stage.requires and words.DECONVOLUTION_LOG[0] in made):
        images.append(Image(cube, words.PSF, "PSF", is_psf=True))
    if words.PSF_MODES in made:
        images.append(Image(cube, words.PSF_MODES, words.PSF_MODES.upper(), is_psf=True))
    tables = [*_tables(cube[made], TABLES), provenance_table(config, inputs)]
    return Product(images, [*tables, *_grid(cube)], {"target": cube}, inputs, config, warnings)


def cube_product(cube: xr.Dataset) -> Product:
    """Return a file with every variable of a cube that has a meaning, the data first.

    The data of a star after its stages are the PSF, whose pixels have no sky positions.
    """
    is_psf = words.is_psf(cube)
    planes = [v for v, known in words.VARIABLES.items() if v in cube and known.dims == words.DIMS]
    images = [Image(cube, v, _label(cube, v), is_psf) for v in planes]
    if is_psf:
        images[0] = images[0]._replace(label="PSF")
    images += [Image(cube, v, v.upper(), is_psf=True) for v in (words.PSF, words.PSF_MODES) if v in cube]
    return Product(images, [*_tables(cube, TABLES), *_grid(cube)], {"target": cube})


def _tables(cube: xr.Dataset, names: Iterable[str]) -> Iterator[fits.BinTableHDU]:
    """Yield the named tables for which the cube has a variable."""
    for name in names:
        present = [v for v in TABLES[name] if v in cube]
        if present:
            yield plane_table(name, cube, present)


def _label(cube: xr.Dataset, variable: str) -> str:
    """Return the value of EXTNAME for a variable."""
    if variable == words.DATA:
        return "DECONVOLVED" if "deconvolve" in words.stages_applied(cube) else "DATA"
    if variable == words.VARIANCE:
        return VARIANCE_NAME
    return variable.upper()


def _grid(cube: xr.Dataset) -> Iterator[fits.BinTableHDU]:
    """Yield the table of wavelengths that a header with a -TAB axis refers to."""
    axis = spectral_axis(cube)
    table = wavelength_table(cube_header(cube), cube[words.WAVELENGTH].values, axis=axis) if axis else None
    if table is not None:
        yield table

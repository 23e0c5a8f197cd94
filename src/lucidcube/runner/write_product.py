"""Write the HDUs of a product block by block."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from lucidcube import cube as words
from lucidcube.io.hdu_bytes import ImagePlan, stored_dtype
from lucidcube.io.header_cards import shape_of
from lucidcube.io.headers import cube_header, provenance_cards, psf_header, with_primary, with_resolution
from lucidcube.io.wcs import pixel_side, with_pixel_side
from lucidcube.io.writer import Layout, abandon, finish, reserve, write_planes
from lucidcube.lift.blocks import over_blocks
from lucidcube.runner.products import VARIANCE_NAME, Image, Product

Compute = Callable[[str, Any, Sequence[int]], Iterator[tuple[int, Any]]]
"""Function that computes blocks of a lazy array; see `lucidcube.runner.compute.BlockComputer.compute`."""


def write(
    path: Path,
    product: Product,
    *,
    overwrite: bool,
    compute: Compute,
    gather: bool = False,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Write a product block by block; the file gets its name only when it is complete.

    Each block is written where `compute` computes it, or with `gather` by this process only, as needed on
    file systems on which several machines must not write to the same file (NFS). The caller has locked the
    path. The folder is created if it does not exist. A file that exists already, without `overwrite`, or
    cannot be written raises UserError. `check` is called when all blocks are written; there is no product if
    it raises an exception.
    """
    plans = [_plan(image, product.cubes["target"]) for image in product.images]
    first = with_primary(plans[0].header, product.images[0].cube)
    first.update(provenance_cards(product.cubes, product.inputs, product.warnings))
    plans[0] = replace(plans[0], header=first)
    layout = reserve(path, [*plans, *product.tables], overwrite=overwrite)
    try:
        sums = _write_images(product.images, layout, compute, gather)
        check()
        finish(layout, sums)
    except BaseException:
        abandon(layout)
        raise


def _write_images(images: Sequence[Image], layout: Layout, compute: Compute, gather: bool) -> dict[int, int]:
    """Write the planes of all images; return the sum of the bytes of each HDU."""
    sums = dict.fromkeys(range(len(images)), 0)
    for cube in {id(i.cube): i.cube for i in images}.values():
        here = [n for n, image in enumerate(images) if image.cube is cube]
        names = [images[n].variable for n in here]
        put = _Write(layout, tuple(here))
        work = over_blocks(_in_blocks(cube, names), _send if gather else put, names, "object")
        for _, parts in compute("product", work, range(work.shape[0])):
            for number, part in zip(here, put(*parts)[0] if gather else parts, strict=True):
                sums[number] += int(part)
    return sums


@dataclass(frozen=True)
class _Write:
    """Write one block of each variable to the file, and return its contributions to the checksums."""

    layout: Layout
    hdus: tuple[int, ...]

    def __call__(self, position: np.ndarray, *arrays: np.ndarray) -> np.ndarray:
        sums = np.empty(1, object)
        sums[0] = tuple(
            # The modes of a PSF are several planes for each wavelength.
            write_planes(
                self.layout,
                hdu,
                int(position[0]) * math.prod(array.shape[1:-2]),
                array.reshape(-1, *array.shape[-2:]),
            )
            for hdu, array in zip(self.hdus, arrays, strict=True)
        )
        return sums


def _send(*block: np.ndarray) -> np.ndarray:
    """Return the positions and planes of a block unchanged, so that another process can write them."""
    sent = np.empty(1, object)
    sent[0] = block
    return sent


def _in_blocks(cube: xr.Dataset, names: Sequence[str]) -> xr.Dataset:
    wanted = cube[list(dict.fromkeys(names))]
    lazy = any(v.chunks for v in wanted.variables.values())
    return wanted if lazy else wanted.chunk({words.WAVELENGTH: -1})


def _plan(image: Image, target: xr.Dataset | None) -> ImagePlan:
    """Return the header, shape and type of an image; a PSF has the pixels of the target."""
    cube, variable = image.cube, image.variable
    header = psf_header(cube, cube[variable].shape) if image.is_psf else cube_header(cube)
    if image.is_psf and target is not None:
        header = with_pixel_side(header, pixel_side(cube_header(target)))
    if "ERRDATA" in header:
        header["ERRDATA"] = VARIANCE_NAME
    smoothing = cube[variable].attrs.get(words.SMOOTHING)
    if smoothing is not None:
        header["SMOOTHED"] = (float(smoothing), "[pixel] sigma of the Gaussian of its resolution")
    resolution = cube[variable].attrs.get(words.RESOLUTION)
    if resolution is not None:
        header = with_resolution(header, float(resolution))
    unit = str(cube[variable].attrs.get(words.UNITS, ""))
    if unit:
        header["BUNIT"] = unit
    else:
        header.remove("BUNIT", ignore_missing=True)
    shape = cube[variable].shape if image.is_psf else _shape(header, cube[variable].shape)
    exponent = words.scale_exponent(cube, variable)
    whole = cube[variable].dtype.kind != "f"
    dtype = str(cube[variable].dtype) if whole else stored_dtype(int(cube.attrs.get(words.BITPIX, -32)))
    if exponent and variable == words.VARIANCE:
        dtype = "float64"  # the variance of fluxes near 1e-20 is beyond float32
    return ImagePlan(image.label, header, shape, dtype, exponent)


def _shape(header: fits.Header, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape to write, which includes the axes of length one of the input."""
    there = shape_of(header)
    return there if math.prod(there) == math.prod(shape) and len(there) >= 2 else shape

"""Write FITS files plane by plane, from any number of threads or processes.

`reserve` makes a temporary file of the final size with all headers in the folder of the product;
`write_planes` writes planes to their positions; `finish` adds the checksums and renames the file, and
`abandon` removes it.
"""

import errno
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from dask.utils import format_bytes
from numpy.typing import NDArray

from lucidcube.errors import CubeError
from lucidcube.io.atomic import part_path, sync_folder
from lucidcube.io.hdu_bytes import BLOCK, ImagePlan, checksum, encode, fold, serialised

_BUFFER = 4 << 20


class Extent(NamedTuple):
    """Position of an HDU in a file: offsets of its header, of its data, and of the next HDU.

    `shape` holds the number of planes and the shape of one, and `dtype` the stored type; both are empty for
    an HDU that is already written.
    """

    header: int
    data: int
    end: int
    shape: tuple[int, ...] = ()
    dtype: str = ""
    scale_exponent: int = 0


@dataclass(frozen=True)
class Layout:
    """A reserved file, small and picklable: its path, its temporary file, and one extent for each HDU."""

    path: str
    part: str
    extents: tuple[Extent, ...]
    overwrite: bool


def reserve(
    path: str | Path,
    hdus: Sequence[ImagePlan | fits.BinTableHDU | fits.ImageHDU],
    *,
    overwrite: bool = False,
    when: str = "",
) -> Layout:
    """Create the temporary file with all headers, all tables and small images, and space for the planes.

    The first HDU becomes the primary one and must be an `ImagePlan`. The folder is created if it does not
    exist. With `overwrite`, `finish` may replace an existing product. `when` is a date for the comments of
    CHECKSUM and DATASUM; there is none by default, so that the same planes give the same file.

    A product that exists, or a full disk, raises CubeError, and no temporary file remains. A dtype that
    cannot be stored, or a table as first HDU, raises ValueError.
    """
    target = Path(path).expanduser().absolute()
    _check_free(target, overwrite)
    if not hdus or not isinstance(hdus[0], ImagePlan):
        raise ValueError("the first HDU must be an ImagePlan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)  # invalid cards are kept unchanged
        parts = [serialised(hdu, when, primary=i == 0, alone=len(hdus) == 1) for i, hdu in enumerate(hdus)]
    extents: list[Extent] = []
    for (header, _, size), plan in zip(parts, hdus, strict=True):
        start = extents[-1].end if extents else 0
        data = start + len(header)
        extent = Extent(start, data, data + -(-size // BLOCK) * BLOCK)
        if isinstance(plan, ImagePlan) and size:
            shape, dtype = (math.prod(plan.shape[:-2]), *plan.shape[-2:]), np.dtype(plan.dtype)
            stored = dtype.newbyteorder(">").str
            extent = extent._replace(shape=shape, dtype=stored, scale_exponent=plan.scale_exponent)
        extents.append(extent)
    layout = Layout(str(target), str(part_path(target, digits=12)), tuple(extents), overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(layout.part, "x+b", buffering=0) as file:
            _allocate(file.fileno(), extents[-1].end)
            for extent, (header, content, _) in zip(extents, parts, strict=True):
                _put(file.fileno(), header, extent.header)
                _put(file.fileno(), content, extent.data)
    except OSError as error:
        abandon(layout)
        raise _not_written(error, layout, extents[-1].end) from None
    return layout


def write_planes(layout: Layout, hdu: int, first_plane: int, planes: NDArray[Any]) -> int:
    """Write consecutive planes to their positions.

    `planes` (n, y, x) or (y, x) of any real type are converted to the stored type in big-endian order; what
    that type cannot hold becomes infinite or 0. The result is the contribution of these bytes to DATASUM, for
    `finish`. Planes that do not fit raise ValueError; a disk that is full or fails raises CubeError, and then
    `abandon` must be called.
    """
    extent = layout.extents[hdu]
    block = planes[None] if planes.ndim == 2 else planes
    count, *plane = extent.shape or (0,)
    if block.ndim != 3 or list(block.shape[1:]) != plane or not 0 <= first_plane <= count - len(block):
        raise ValueError(
            f"planes of shape {planes.shape} from {first_plane} on do not fit HDU {hdu} of {extent.shape}"
        )
    stored = np.dtype(extent.dtype)
    with np.errstate(over="ignore", under="ignore"):
        if extent.scale_exponent:
            block = np.ldexp(block.astype(stored.newbyteorder("=")), -extent.scale_exponent)
        data = np.ascontiguousarray(block, stored).reshape(-1).view(np.uint8).data
    offset = first_plane * math.prod(plane) * stored.itemsize
    try:
        with open(layout.part, "r+b", buffering=0) as file:
            _put(file.fileno(), data, extent.data + offset)
    except OSError as error:
        raise _not_written(error, layout, len(data)) from None
    return checksum(data, offset)


def finish(layout: Layout, sums: Mapping[int, int]) -> Path:
    """Add the checksums, flush the file to disk, and rename it to the product.

    All planes must have been written. `sums` holds the sum of the values that `write_planes` returned for
    each HDU; the bytes of other HDUs are read back. If the file cannot be written, or the product was created
    meanwhile, CubeError is raised and no temporary file remains. CubeError is also raised if the complete
    product has its name and the folder cannot be flushed.
    """
    target = Path(layout.path)
    try:
        with open(layout.part, "r+b", buffering=0) as file:
            for i, extent in enumerate(layout.extents):
                _add_checksums(file.fileno(), extent, sums.get(i))
            os.fsync(file.fileno())
        _check_free(target, layout.overwrite)
        os.replace(layout.part, target)
    except (OSError, CubeError) as error:
        abandon(layout)
        raise _not_written(error, layout, 0) if isinstance(error, OSError) else error from None
    try:
        sync_folder(target)
    except OSError as error:
        raise CubeError(
            f"{target} is complete, but its folder could not be flushed to disk ({error.strerror or error}): "
            "the file may be lost if the machine stops now"
        ) from None
    return target


def abandon(layout: Layout) -> None:
    """Remove the temporary file, if it exists."""
    Path(layout.part).unlink(missing_ok=True)


def _check_free(target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise CubeError(f"{target} is a folder; give the name of a file")
    if target.exists() and not target.is_file():
        raise CubeError(f"{target} is not a regular file; give another name")
    if target.exists() and not overwrite:
        raise CubeError(f"{target} exists already; choose another name, or allow to overwrite it (overwrite)")


def _add_checksums(descriptor: int, extent: Extent, total: int | None) -> None:
    """Set CHECKSUM and DATASUM of an HDU; all other bytes of its header are unchanged."""
    if total is None:
        places = range(extent.data, extent.end, _BUFFER)
        total = sum(checksum(os.pread(descriptor, min(_BUFFER, extent.end - p), p)) for p in places)
    header = bytearray(os.pread(descriptor, extent.data - extent.header, extent.header))
    datasum = fold(total)
    _fill_in(header, "DATASUM", str(datasum))
    _fill_in(header, "CHECKSUM", encode(fold(checksum(header) + datasum)))
    _put(descriptor, header, extent.header)


def _fill_in(header: bytearray, keyword: str, value: str) -> None:
    start = next(i for i in range(0, len(header), 80) if header[i : i + 9] == f"{keyword:<8}=".encode())
    comment = fits.Card.fromstring(bytes(header[start : start + 80])).comment
    header[start : start + 80] = str(fits.Card(keyword, value, comment)).encode("ascii")


def _allocate(descriptor: int, size: int) -> None:
    """Fill a new file with zeros, so that a full disk is noticed now where the file system allows it."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(descriptor, size)


def _put(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], offset + done)


def _not_written(error: OSError, layout: Layout, size: int) -> CubeError:
    needed = f" (it takes {format_bytes(size)})" if size > 1e6 else ""
    reason = f"{error.strerror or error}; nothing was left behind"
    return CubeError(f"{layout.path} cannot be written{needed}: {reason}")

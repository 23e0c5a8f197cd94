"""Writing FITS files plane by plane, from any number of threads or processes, without half products.

`reserve` makes a temporary file of the final size next to the product, with all headers; `write_planes` puts
planes where they belong; `finish` adds the checksums and gives the file its name, `abandon` removes it.
"""

from __future__ import annotations

import errno
import math
import os
import uuid
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from lucidcube.errors import CubeError
from lucidcube.io.checksum import checksum, encode, fold
from lucidcube.io.image_plan import BLOCK, ImagePlan, serialised, stored_dtype

__all__ = ["Extent", "ImagePlan", "Layout", "abandon", "finish", "reserve", "stored_dtype", "write_planes"]

_BUFFER = 4 << 20


class Extent(NamedTuple):
    """Where an HDU lies in the file.

    Attributes
    ----------
    header, data, end
        Offsets in bytes: of the header, of the data, and of the HDU after it.
    size
        Of the data without padding, in bytes.
    shape
        Number of planes, and the shape of one; empty for an HDU that is already written.
    dtype
        Of the stored numbers, with byte order.
    scale_exponent
        See `ImagePlan`.
    """

    header: int
    data: int
    end: int
    size: int
    shape: tuple[int, ...]
    dtype: str
    scale_exponent: int


@dataclass(frozen=True)
class Layout:
    """A reserved file: small and picklable.

    Attributes
    ----------
    path
        The product.
    part
        The temporary file in the same folder.
    extents
        One for each HDU.
    overwrite
        Whether an existing product may be replaced.
    """

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
    """Make the temporary file: all headers, all tables, and room for the planes.

    Parameters
    ----------
    path
        Of the product; its folder is made if need be.
    hdus
        The first becomes the primary HDU and must be an `ImagePlan`. Tables and small images are written at
        once.
    overwrite
        Allow an existing product to be replaced (when it is finished).
    when
        Date for the comments of CHECKSUM and DATASUM; none by default, so that the same planes give the same
        file.

    Returns
    -------
    Layout

    Raises
    ------
    CubeError
        If the product exists, or there is no room; nothing is left behind.
    ValueError
        If a dtype is not one of those above, or the first HDU is a table.
    """
    target = Path(path).expanduser()
    _check_free(target, overwrite)
    if not hdus or not isinstance(hdus[0], ImagePlan):
        raise ValueError("the first HDU must be an ImagePlan")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", fits.verify.VerifyWarning)  # what cannot be mended is kept as it is
        blocks = [serialised(hdu, when, primary=i == 0, alone=len(hdus) == 1) for i, hdu in enumerate(hdus)]
    extents, place = [], 0
    for (header, _, size), plan in zip(blocks, hdus, strict=True):
        data = place + len(header)
        end = data + _padded(size)
        planned = isinstance(plan, ImagePlan) and size
        extents.append(
            Extent(
                place,
                data,
                end,
                size,
                (math.prod(plan.shape[:-2]), *plan.shape[-2:]) if planned else (),
                np.dtype(plan.dtype).newbyteorder(">").str if planned else "",
                plan.scale_exponent if planned else 0,
            )
        )
        place = end
    part = target.with_name(f".{target.name[:200]}.{uuid.uuid4().hex[:12]}.part")
    layout = Layout(str(target.absolute()), str(part.absolute()), tuple(extents), overwrite)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _allocate(part, place)
        with open(part, "r+b", buffering=0) as file:
            for extent, (header, content, _) in zip(extents, blocks, strict=True):
                _put(file.fileno(), header, extent.header)
                _put(file.fileno(), content, extent.data)
    except OSError as error:
        abandon(layout)
        raise _no_room(error, layout, place) from None
    return layout


def write_planes(layout: Layout, hdu: int, first_plane: int, planes: NDArray[Any]) -> int:
    """Write a run of planes at its place.

    Parameters
    ----------
    layout
        From `reserve`.
    hdu
        Number of the HDU in the file.
    first_plane
        Number of the first plane.
    planes
        (n, y, x) or (y, x), any real type; converted to the stored type in big-endian order.

    Returns
    -------
    int
        Contribution of these bytes to DATASUM, for `finish`.

    Raises
    ------
    CubeError
        If the disk is full or fails; call `abandon`.
    ValueError
        If the planes do not fit.
    """
    extent = layout.extents[hdu]
    block = planes[None] if planes.ndim == 2 else planes
    count, *plane = extent.shape or (0,)
    if block.ndim != 3 or list(block.shape[1:]) != plane or not 0 <= first_plane <= count - len(block):
        raise ValueError(
            f"planes {first_plane} and on, of shape {planes.shape}, do not fit {extent.shape} of HDU {hdu}"
        )
    stored = np.dtype(extent.dtype)
    with np.errstate(over="ignore", under="ignore"):  # what the stored type cannot hold becomes inf or 0
        if extent.scale_exponent:
            block = np.ldexp(block.astype(stored.newbyteorder("=")), -extent.scale_exponent)
        data = np.ascontiguousarray(block, stored).reshape(-1).view(np.uint8).data
    offset = first_plane * math.prod(plane) * stored.itemsize
    try:
        with open(layout.part, "r+b", buffering=0) as file:
            _put(file.fileno(), data, extent.data + offset)
    except OSError as error:
        raise _no_room(error, layout, len(data)) from None
    return checksum(data, offset)


def finish(layout: Layout, sums: Mapping[int, int]) -> Path:
    """Add the checksums, make the file durable, and give it its name.

    Parameters
    ----------
    layout
        From `reserve`; all planes of it must have been written.
    sums
        For each HDU written by planes the sum of what `write_planes` returned, in any order. The bytes of an
        HDU that is not here are read back.

    Returns
    -------
    Path
        The product.

    Raises
    ------
    CubeError
        If the disk fails, or another product has taken the name; then nothing is left behind.
    """
    target, part = Path(layout.path), Path(layout.part)
    try:
        with open(part, "r+b", buffering=0) as file:
            for i, extent in enumerate(layout.extents):
                _seal(file.fileno(), extent, sums.get(i))
            os.fsync(file.fileno())
        _check_free(target, layout.overwrite)
        os.replace(part, target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        abandon(layout)
        raise _no_room(error, layout, 0) from None
    except CubeError:
        abandon(layout)
        raise
    return target


def abandon(layout: Layout) -> None:
    """Remove the temporary file, if it is there."""
    Path(layout.part).unlink(missing_ok=True)


def _check_free(target: Path, overwrite: bool) -> None:
    if target.is_dir():
        raise CubeError(f"{target} is a folder; give the name of a file")
    if target.exists() and not overwrite:
        raise CubeError(
            f"{target} exists already; choose another name, or allow it to be overwritten (overwrite)"
        )


def _seal(descriptor: int, extent: Extent, total: int | None) -> None:
    """Fill CHECKSUM and DATASUM of an HDU in."""
    if total is None:
        total = sum(
            checksum(_get(descriptor, place, min(_BUFFER, extent.end - place)))
            for place in range(extent.data, extent.end, _BUFFER)
        )
    header = bytearray(_get(descriptor, extent.header, extent.data - extent.header))
    datasum = fold(total)
    _fill_in(header, "DATASUM", str(datasum))
    _fill_in(header, "CHECKSUM", encode(fold(checksum(header) + datasum)))
    _put(descriptor, bytes(header), extent.header)


def _fill_in(header: bytearray, keyword: str, value: str) -> None:
    """Change the value of a card in place: all the other bytes of the header stay."""
    start = next(i for i in range(0, len(header), 80) if header[i : i + 9] == f"{keyword:<8}=".encode())
    comment = fits.Card.fromstring(bytes(header[start : start + 80])).comment
    header[start : start + 80] = str(fits.Card(keyword, value, comment)).encode("ascii")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _allocate(part: Path, size: int) -> None:
    """A new file of zeros; a full disk is noticed now, where the file system can."""
    descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
            raise
        os.ftruncate(descriptor, size)
    finally:
        os.close(descriptor)


def _put(descriptor: int, data: bytes | memoryview, offset: int) -> None:
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], offset + done)


def _get(descriptor: int, offset: int, size: int) -> bytes:
    parts = []
    while size:
        part = os.pread(descriptor, size, offset)
        if not part:
            raise OSError("the temporary file ends too early")
        parts.append(part)
        offset, size = offset + len(part), size - len(part)
    return b"".join(parts)


def _no_room(error: OSError, layout: Layout, size: int) -> CubeError:
    needed = f" (it takes {size / 1e6:.0f} MB)" if size > 1e6 else ""
    return CubeError(
        f"{layout.path} cannot be written{needed}: {error.strerror or error}; nothing was left behind"
    )

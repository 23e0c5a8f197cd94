"""Rewrite arrays that cannot be read plane by plane, once and in bounded memory."""

import atexit
import bz2
import gzip
import hashlib
import lzma
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from astropy.io import fits
from dask.utils import format_bytes
from numpy.typing import NDArray

from lucidcube.errors import CubeError
from lucidcube.io.atomic import atomic_file
from lucidcube.io.header_cards import MALFORMED
from lucidcube.io.limits import MOST_DECOMPRESSED, most_decompressed, open_regular
from lucidcube.io.plane_reader import fill
from lucidcube.io.structure import check_structure
from lucidcube.io.tiles import check_tiles
from lucidcube.io.work_files import DAMAGE, own_folder, read_checked, remove, write_checked

_Triple = tuple[int, int, int]

SLAB = 64 << 20
"""Number of bytes in memory at a time."""

_OPENERS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}


class ScratchFolder:
    """The folder for rewritten arrays, created when it is first needed.

    Each method raises CubeError if the input is damaged or the folder is full. Files that an earlier call
    made from the same, unchanged input are reused if their sizes and checksums are those that were recorded
    in a file beside each.

    `given` is None for a temporary folder that is removed at exit; `message` is called with a sentence before
    slow operations.
    """

    def __init__(self, given: str | Path | None, message: Callable[[str], None]) -> None:
        self._given = given
        self._message = message

    @property
    def path(self) -> Path:
        """Path of the folder, which is created if it does not exist."""
        if self._given is None:
            self._given = tempfile.mkdtemp(prefix="lucidcube-")
            atexit.register(shutil.rmtree, self._given, ignore_errors=True)
        folder = Path(self._given).expanduser()
        try:
            if not folder.parent.exists():  # the work folder of a run
                own_folder(folder.parent)
            own_folder(folder)
        except OSError as error:
            raise CubeError(f"the scratch folder {folder} cannot be used: {error.strerror}") from None
        return folder

    def decompressed(self, path: Path, name: str) -> Path:
        """Return the file, decompressed if it is compressed as a whole (gzip, bzip2, xz)."""
        try:
            with open(path, "rb") as file:
                start = file.read(6)
        except OSError as error:
            raise CubeError(f"{name} cannot be read: {error.strerror}") from None
        opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
        if opener is None:
            return path
        target = self.path / f"{_key(path)}.fits"
        if not _is_as_recorded(target):
            self._message(f"{name} is compressed: decompressing it once")
            errors = self._errors(f"{name} cannot be decompressed")
            with errors, opener(path) as source, _recorded_file(target) as file:
                _copy(source, file, most_decompressed(path.stat().st_size), name)
                file.flush()
                check_structure(Path(file.name), name)
        return target

    def untiled(self, path: Path, hdu: int, name: str) -> tuple[Path, str]:
        """Write the physical numbers of a tile-compressed image to a raw file in the same order.

        Return the path and the dtype with byte order.
        """
        targets = {dtype: self.path / f"{_key(path)}-{hdu}{dtype[1:]}.raw" for dtype in (">f4", ">f8")}
        for dtype, target in targets.items():
            if _is_as_recorded(target):
                return target, dtype
        with self._errors(f"{name} cannot be decompressed"):
            check_tiles(path, hdu, name)
        self._message(f"{name} is tile-compressed: decompressing it once")
        with (
            self._errors(f"{name} cannot be decompressed"),
            warnings.catch_warnings(action="ignore"),  # the warnings were logged when the headers were read
            open(path, "rb") as raw,
            fits.open(raw, mode="readonly", memmap=False) as file,
        ):
            image = file[hdu]
            probe = _section(image, (slice(0, 1),) * len(image.shape))
            integers = probe.dtype.kind in "iu"
            dtype = ">f8" if integers or probe.dtype.itemsize > 4 else ">f4"
            blank = image.header.get("BLANK", image.header.get("ZBLANK")) if integers else None
            with _recorded_file(targets[dtype]) as out:
                for part in _parts(image.shape):
                    values = _section(image, part)
                    floats = values.astype(dtype)
                    if blank is not None:
                        floats[values == blank] = np.nan
                    out.write(floats.tobytes())
        return targets[dtype], dtype

    def transposed(
        self, path: Path, offset: int, dtype: str, shape: _Triple, strides: _Triple, name: str
    ) -> Path:
        """Write an array whose planes are not contiguous to a raw file, plane by plane.

        `shape` and `strides` (in bytes) are those of the wavelength, the slow and the fast spatial axis; the
        slow axis has the largest stride. The stored type is kept.
        """
        layout = hashlib.sha256(repr((offset, dtype, shape, strides)).encode()).hexdigest()[:16]
        target = self.path / f"{_key(path)}-{layout}.raw"
        if _is_as_recorded(target):
            return target
        self._message(f"{name}: its planes are scattered over the file: transposing it once")
        planes, slow, fast = shape
        item = np.dtype(dtype).itemsize
        rows = max(1, min(slow, SLAB // strides[1]))
        extent = (planes - 1) * strides[0] + (fast - 1) * strides[2] + item
        with (
            self._errors(f"{name} cannot be transposed"),
            open(path, "rb") as source,
            _recorded_file(target) as file,
        ):
            file.truncate(planes * slow * fast * item)
            for first in range(0, slow, rows):
                count = min(rows, slow - first)
                raw = np.empty((count - 1) * strides[1] + extent, np.uint8)
                fill(source, raw, offset + first * strides[1])
                slab = np.ndarray((planes, count, fast), dtype, raw.data, strides=strides)
                for plane in range(planes):
                    file.seek((plane * slow + first) * fast * item)
                    file.write(slab[plane].tobytes())
        return target

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (*MALFORMED, EOFError, RuntimeError, MemoryError, lzma.LZMAError, zlib.error) as error:
            raise CubeError(f"{what} into {self.path}: {error}") from None


@contextmanager
def _recorded_file(target: Path) -> Iterator[BinaryIO]:
    """Open a new file that gets its name when it is complete, and record its size and checksum beside it."""
    for path in (target, _record(target)):
        if path.is_dir():  # which cannot be replaced
            remove(path)
    with atomic_file(target) as file:
        yield file
        found = _size_and_sum(file)
    write_checked(_record(target), found)


def _is_as_recorded(target: Path) -> bool:
    """Return whether there is a file with the recorded size and checksum."""
    try:
        with open_regular(target, follow=False) as file:
            return read_checked(_record(target)) == _size_and_sum(file)
    except DAMAGE:
        return False


def _size_and_sum(file: BinaryIO) -> dict[str, int]:
    total = google_crc32c.Checksum()
    file.seek(0)
    while block := file.read(1 << 20):
        total.update(block)
    return {"size": file.tell(), "sum": int.from_bytes(total.digest(), "big")}


def _record(target: Path) -> Path:
    return target.with_name(f"{target.name}.json")


def _copy(source: BinaryIO, target: BinaryIO, most: int, name: str) -> None:
    """Copy a FITS file of at most that many bytes."""
    total = 0
    while piece := source.read(1 << 20):
        if total == 0 and not piece.startswith(b"SIMPLE  ="):
            raise CubeError(f"{name} is not a FITS file: after decompression it does not begin with SIMPLE")
        total += len(piece)
        if total > most:
            raise CubeError(
                f"{name} has more than {format_bytes(most)} after decompression; "
                f"{MOST_DECOMPRESSED} in the environment sets this limit"
            )
        target.write(piece)


def _section(image: fits.CompImageHDU, part: tuple[int | slice, ...]) -> NDArray[Any]:
    try:
        return np.asarray(image.section[part])
    except Exception as error:  # the exceptions of the codecs have no public name
        raise ValueError(str(error).strip() or type(error).__name__) from None


def _parts(shape: tuple[int, ...]) -> Iterator[tuple[int | slice, ...]]:
    """Yield parts of an array in order, each of about `SLAB` bytes as float64."""
    below = 8
    for axis in range(len(shape) - 1, -1, -1):
        if axis == 0 or below * shape[axis] > SLAB:
            count = max(1, SLAB // below)
            for outer in np.ndindex(*shape[:axis]):
                for first in range(0, shape[axis], count):
                    yield (*outer, slice(first, min(first + count, shape[axis])))
            return
        below *= shape[axis]


def _key(path: Path) -> str:
    """Return a name for a file made from another one; it changes when that file changes."""
    stat = path.stat()
    identity = repr((str(path.resolve()), stat.st_size, stat.st_mtime_ns))
    return hashlib.sha256(identity.encode()).hexdigest()[:24]

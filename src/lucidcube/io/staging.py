"""Arrays that cannot be read plane by plane where they lie are rewritten once, in bounded memory."""

from __future__ import annotations

import atexit
import bz2
import gzip
import hashlib
import lzma
import os
import shutil
import tempfile
import uuid
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from lucidcube.errors import CubeError
from lucidcube.io.plane_reader import fill

SLAB = 64 << 20
"""Bytes held at a time."""


def is_compressed(path: Path) -> bool:
    """Whether a file as a whole is compressed, by its first bytes."""
    return _opener(path) is not None


class ScratchFolder:
    """Where arrays are rewritten; made when it is first needed.

    Parameters
    ----------
    given
        The folder; None for a temporary one that goes when the program does.
    message
        Told, in a sentence, what takes long.
    """

    def __init__(self, given: str | Path | None, message: Callable[[str], None]) -> None:
        self._given = given
        self._message = message

    @property
    def path(self) -> Path:
        """The folder, which exists."""
        if self._given is None:
            self._given = tempfile.mkdtemp(prefix="lucidcube-")
            atexit.register(shutil.rmtree, self._given, ignore_errors=True)
        folder = Path(self._given).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CubeError(f"the scratch folder {folder} cannot be made: {error.strerror}") from None
        return folder

    def decompressed(self, path: Path, name: str) -> Path:
        """Decompress a file (gzip, bzip2, xz) into a folder, unless that was done before.

        Raises
        ------
        CubeError
            If the file is damaged or the folder full.
        """
        target = self.path / f"{_key(path)}.fits"
        opener = _opener(path)
        if opener is None or target.exists():
            return target
        self._message(f"{name} is compressed: decompressing it once")
        try:
            with opener(path) as source, _written(target) as file:
                shutil.copyfileobj(source, file, 1 << 20)
        except (EOFError, gzip.BadGzipFile, lzma.LZMAError, zlib.error, ValueError, OSError) as error:
            raise CubeError(f"{name} cannot be decompressed into {self.path}: {error}") from None
        return target

    def untiled(self, path: Path, hdu: int, name: str) -> tuple[Path, str]:
        """Write the physical numbers of a tile-compressed image into a raw file, unless that was done before.

        Returns
        -------
        tuple
            The file, in the order of the image, and its dtype (with byte order).

        Raises
        ------
        CubeError
            If the image is damaged or the folder full.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # they were logged when the headers were read
                with open(path, "rb") as raw, fits.open(raw, mode="readonly", memmap=False) as file:
                    image = file[hdu]
                    probe = _section(image, (slice(0, 1),) * len(image.shape))
                    dtype = ">f8" if probe.dtype.itemsize > 4 or probe.dtype.kind in "iu" else ">f4"
                    target = self.path / f"{_key(path)}-{hdu}{dtype[1:]}.raw"
                    if not target.exists():
                        self._message(f"{name} is tile-compressed: decompressing it once")
                        blank = (
                            None
                            if probe.dtype.kind == "f"
                            else image.header.get("BLANK", image.header.get("ZBLANK"))
                        )
                        with _written(target) as out:
                            for part in _parts(image.shape):
                                values = _section(image, part)
                                floats = values.astype(dtype)
                                if blank is not None:
                                    floats[values == blank] = np.nan
                                out.write(floats.tobytes())
        except (
            OSError,
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            RuntimeError,
            OverflowError,
            fits.VerifyError,
        ) as error:
            raise CubeError(f"{name} cannot be decompressed into {self.path}: {error}") from None
        return target, dtype

    def transposed(
        self,
        path: Path,
        offset: int,
        dtype: str,
        shape: tuple[int, int, int],
        strides: tuple[int, int, int],
        name: str,
    ) -> Path:
        """Write an array whose planes are scattered over a file plane by plane into a raw file, once.

        Parameters
        ----------
        path, offset
            Where the array lies.
        dtype
            As stored; kept.
        shape
            Wavelength, slow and fast spatial axis.
        strides
            Bytes from one element to the next along each of them; that of the slow axis is the largest.
        name
            How the user calls the file.

        Returns
        -------
        Path
            The file: an array (wavelength, slow, fast) and nothing else.

        Raises
        ------
        CubeError
            If a file cannot be read or written.
        """
        layout = hashlib.sha256(repr((offset, dtype, shape, strides)).encode()).hexdigest()[:16]
        target = self.path / f"{_key(path)}-{layout}.raw"
        if target.exists():
            return target
        self._message(f"{name}: its planes are scattered over the file: transposing it once")
        planes, slow, fast = shape
        item = np.dtype(dtype).itemsize
        rows = max(1, min(slow, SLAB // strides[1]))
        extent = (planes - 1) * strides[0] + (fast - 1) * strides[2] + item
        try:
            with open(path, "rb", buffering=0) as source, _written(target) as file:
                file.truncate(planes * slow * fast * item)
                for first in range(0, slow, rows):
                    count = min(rows, slow - first)
                    raw = np.empty((count - 1) * strides[1] + extent, np.uint8)
                    fill(source.fileno(), raw, offset + first * strides[1])
                    slab = np.ndarray((planes, count, fast), dtype, raw.data, strides=strides)
                    for plane in range(planes):
                        file.seek((plane * slow + first) * fast * item)
                        file.write(slab[plane].tobytes())
        except OSError as error:
            raise CubeError(f"{name} cannot be transposed into {self.path}: {error}") from None
        return target


def _section(image: fits.CompImageHDU, part: tuple[int | slice, ...]) -> NDArray[Any]:
    try:
        return np.asarray(image.section[part])
    except Exception as error:  # what the codecs raise has no public name
        raise ValueError(str(error).strip() or type(error).__name__) from None


def _parts(shape: tuple[int, ...]) -> Iterator[tuple[int | slice, ...]]:
    """Parts of an array, in order, of about `SLAB` bytes of float64."""
    below = 8
    for axis in range(len(shape) - 1, -1, -1):
        if axis == 0 or below * shape[axis] > SLAB:
            count = max(1, SLAB // below)
            for outer in np.ndindex(*shape[:axis]):
                for first in range(0, shape[axis], count):
                    yield (*outer, slice(first, min(first + count, shape[axis])))
            return
        below *= shape[axis]


def _opener(path: Path) -> Callable[[Path], Any] | None:
    with open(path, "rb") as file:
        start = file.read(6)
    known: dict[bytes, Callable[[Path], Any]] = {
        b"\x1f\x8b": gzip.open,
        b"BZh": bz2.open,
        b"\xfd7zXZ": lzma.open,
    }
    return next((opener for magic, opener in known.items() if start.startswith(magic)), None)


def _key(path: Path) -> str:
    """Name for what is made from a file, as long as nobody changes that."""
    stat = path.stat()
    return hashlib.sha256(repr((str(path.resolve()), stat.st_size, stat.st_mtime_ns)).encode()).hexdigest()[
        :24
    ]


@contextmanager
def _written(target: Path) -> Iterator[IO[Any]]:
    """A file that appears under its name only when it is complete."""
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
    try:
        with open(part, "wb") as file:
            yield file
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)

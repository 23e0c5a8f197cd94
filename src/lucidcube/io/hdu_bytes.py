"""Serialise the header of an HDU before its planes are known, and compute its checksums."""

import io
import math
import re
from dataclasses import dataclass

import numpy as np
from astropy.io import fits

BLOCK = 2880
"""Number of bytes of a FITS block; headers and data are padded to a multiple of it."""

_DTYPES = {"float32", "float64", "uint8", "int16", "int32", "int64"}
_STRUCTURAL = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|GROUPS|TFIELDS|THEAP|BSCALE|BZERO|BLANK"
)


@dataclass(frozen=True)
class ImagePlan:
    """An image extension that will be written plane by plane; `name` is its EXTNAME.

    The cards of `header` are kept, in order, except for the structural ones and BSCALE, BZERO, BLANK. `shape`
    is in NumPy order, a plane being the last two axes, and empty for an HDU without data. `dtype` is the name
    of the type to store: float32, float64, uint8, int16, int32 or int64. The planes are divided by
    2**scale_exponent as they are written, which is exact.
    """

    name: str
    header: fits.Header
    shape: tuple[int, ...]
    dtype: str
    scale_exponent: int = 0


def stored_dtype(bitpix: int) -> str:
    """Return the stored type of the products of a cube with this BITPIX: float64 if -64, else float32."""
    return "float64" if bitpix == -64 else "float32"


def serialised(
    plan: ImagePlan | fits.BinTableHDU | fits.ImageHDU, when: str, *, primary: bool, alone: bool
) -> tuple[bytes, bytes, int]:
    """Return the padded header with checksums of zero, the padded data of a table or image, and their size.

    `when` is the date in the comments of the checksums, or empty. `primary` is true for the first HDU of a
    file, and `alone` for an only one. A type or a shape that cannot be stored raises ValueError.
    """
    if isinstance(plan, ImagePlan):
        header, content = _image_header(plan, primary=primary, alone=alone), b""
        size = math.prod(plan.shape) * np.dtype(plan.dtype).itemsize if plan.shape else 0
    else:
        buffer = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), plan]).writeto(buffer, output_verify="silentfix+ignore")
        whole = buffer.getvalue()
        header = fits.Header.fromstring(whole[BLOCK:])
        content = whole[BLOCK + len(header.tostring()) :]
        size = len(content)
    updated = f" updated {when}" if when else ""
    for keyword, zero, what in (("CHECKSUM", "0" * 16, "HDU"), ("DATASUM", "0", "data unit")):
        if keyword not in header:
            header.append(keyword, end=True)
        header[keyword] = zero, f"{what} checksum{updated}"
    return header.tostring().encode("ascii"), content, size


def _image_header(plan: ImagePlan, *, primary: bool, alone: bool) -> fits.Header:
    """Return the structural cards of an image of this shape, followed by all other cards unchanged."""
    if plan.shape and (plan.dtype not in _DTYPES or len(plan.shape) < 2 or not all(plan.shape)):
        raise ValueError(f"cannot store {plan.dtype} of shape {plan.shape}")
    data = np.broadcast_to(np.zeros((), plan.dtype), plan.shape) if plan.shape else None  # takes no memory
    header = (fits.PrimaryHDU if primary else fits.ImageHDU)(data, fits.Header()).header.copy()
    if primary and not alone:
        header.append(("EXTEND", True), end=True)
    for card in plan.header.cards:
        if card.keyword == "EXTNAME" and plan.name:
            header.append(("EXTNAME", plan.name, card.comment), end=True)
        elif card.keyword != "EXTNAME" and not _STRUCTURAL.fullmatch(card.keyword):
            header.append(card, end=True)
    if plan.name and "EXTNAME" not in header:
        header.append(("EXTNAME", plan.name, "extension name"), end=True)
    return header


def checksum(data: bytes | bytearray | memoryview, offset: int = 0) -> int:
    """Return the 32-bit ones' complement sum of bytes that begin at `offset` in an HDU.

    The sum of the whole HDU is `fold` of the sum of its parts, in any order. See appendix J of the FITS
    standard 4.0.
    """
    lead = offset % 4
    raw = np.frombuffer(data, np.uint8)
    head = min(-lead % 4, len(raw))
    tail = (len(raw) - head) // 4 * 4 + head
    total = int(raw[head:tail].view(">u4").sum(dtype=np.uint64))
    total += int.from_bytes((b"\0" * lead + raw[:head].tobytes()).ljust(4, b"\0"), "big")
    total += int.from_bytes(raw[tail:].tobytes().ljust(4, b"\0"), "big")
    return fold(total)


def fold(total: int) -> int:
    """Reduce a sum of unsigned words to 32 bits with end-around carry."""
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def encode(total: int) -> str:
    """Return the 16 characters of CHECKSUM that make the HDU sum to minus zero (FITS standard 4.0, J.3)."""
    columns = []
    for byte in (~total & 0xFFFFFFFF).to_bytes(4, "big"):
        letters = [byte // 4 + 48] * 4
        letters[0] += byte % 4
        for i in (0, 2):
            while any(not chr(letter).isalnum() for letter in letters[i : i + 2]):
                letters[i] += 1
                letters[i + 1] -= 1
        columns.append(letters)
    text = "".join(chr(columns[byte][i]) for i in range(4) for byte in range(4))
    return text[-1] + text[:-1]

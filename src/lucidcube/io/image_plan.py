"""What will be in a FITS file: the headers of its HDUs before their planes are known."""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass

import numpy as np
from astropy.io import fits

BLOCK = 2880
"""FITS files consist of blocks of so many bytes."""

_KINDS = {"float32", "float64", "uint8", "int16", "int32", "int64"}
_STRUCTURAL = re.compile(
    r"SIMPLE|XTENSION|BITPIX|NAXIS\d*|EXTEND|PCOUNT|GCOUNT|GROUPS|TFIELDS|THEAP|BSCALE|BZERO|BLANK"
)


@dataclass(frozen=True)
class ImagePlan:
    """An image extension that will be written plane by plane.

    Attributes
    ----------
    name
        EXTNAME.
    header
        Its cards are kept, in order, but for the structural ones and BSCALE, BZERO, BLANK.
    shape
        In numpy order; a plane is the last two axes. Empty for an HDU without data.
    dtype
        Name of the NumPy type to store: float32, float64, uint8, int16, int32 or int64.
    scale_exponent
        The planes are divided by 2**scale_exponent as they are written (exact).
    """

    name: str
    header: fits.Header
    shape: tuple[int, ...]
    dtype: str
    scale_exponent: int = 0


def stored_dtype(bitpix: int) -> str:
    """Type in which to store products of a cube with this BITPIX: floats keep it, integers become float32."""
    return "float64" if bitpix == -64 else "float32"


def serialised(
    plan: ImagePlan | fits.BinTableHDU | fits.ImageHDU, when: str, *, primary: bool, alone: bool
) -> tuple[bytes, bytes, int]:
    """Lay an HDU out.

    Parameters
    ----------
    plan
        An image whose planes come later, or an HDU with its data.
    when
        Date for the comments of CHECKSUM and DATASUM; may be empty.
    primary, alone
        Whether it is the first of the file, and the only one.

    Returns
    -------
    tuple
        The padded header, its checksums still zero; the padded data, empty if they come later; their size.

    Raises
    ------
    ValueError
        If the dtype or the shape cannot be stored.
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
    for keyword, value, comment in (
        ("CHECKSUM", "0" * 16, f"HDU checksum updated {when}" if when else "HDU checksum"),
        ("DATASUM", "0", f"data unit checksum updated {when}" if when else "data unit checksum"),
    ):
        if keyword in header:
            header[keyword] = (value, comment)
        else:
            header.append((keyword, value, comment), end=True)
    return header.tostring().encode("ascii"), content, size


def _image_header(plan: ImagePlan, *, primary: bool, alone: bool) -> fits.Header:
    """The structural cards of an image of this shape, then all the others as they stand."""
    if plan.shape and (plan.dtype not in _KINDS or len(plan.shape) < 2 or not all(plan.shape)):
        raise ValueError(f"cannot store {plan.dtype} of shape {plan.shape}")
    data = np.broadcast_to(np.zeros((), plan.dtype), plan.shape) if plan.shape else None  # takes no memory
    header = (fits.PrimaryHDU if primary else fits.ImageHDU)(data, fits.Header()).header.copy()
    if primary and not alone:
        header.append(("EXTEND", True), end=True)
    for card in plan.header.cards:
        if _STRUCTURAL.fullmatch(card.keyword):
            continue
        if card.keyword != "EXTNAME":
            header.append(card, end=True)
        elif plan.name:
            header.append(("EXTNAME", plan.name, card.comment), end=True)
    if plan.name and "EXTNAME" not in header:
        header.append(("EXTNAME", plan.name, "extension name"), end=True)
    return header

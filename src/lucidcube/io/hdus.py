"""List the HDUs of a FITS file, and choose the arrays of the data and of their variance."""

import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from astropy.io import fits

from lucidcube.errors import CubeError, closest
from lucidcube.io.header_cards import MALFORMED, number, shape_of, text
from lucidcube.io.limits import open_regular
from lucidcube.io.plane_reader import Encoding, Meaning
from lucidcube.io.structure import check_structure

_log = logging.getLogger(__name__)

DEFAULT_NAMES = ("SCI", "DATA", "FLUX")
_VARIANCE_NAMES: dict[str, Meaning] = {
    "STAT": "variance",
    "VARIANCE": "variance",
    "VAR": "variance",
    "ERR": "error",
    "ERRS": "error",
    "ERROR": "error",
    "NOISE": "error",
    "SIGMA": "error",
    "STDDEV": "error",
    "UNCERT": "error",
    "IVAR": "weight",
}
_CARDS: dict[str, dict[str, Meaning]] = {
    "HDUCLAS3": {"MSE": "variance", "RMSE": "error", "INVMSE": "weight"},  # of ESO
    "UTYPE": {  # of astropy.nddata
        "VARIANCEUNCERTAINTY": "variance",
        "STDDEVUNCERTAINTY": "error",
        "INVERSEVARIANCE": "weight",
    },
}
MOST_PIXELS = 1 << 50
"""Number of pixels above which a size is an error, also where tiles are to be decompressed."""
_DTYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}


class Hdu(NamedTuple):
    """One HDU of a file: place, EXTNAME (``PRIMARY`` for the first where there is none) and EXTVER.

    `kind` is ``image`` for an array that can be read by position, and ``tiled`` for a compressed one, whose
    `header` is that of the image. `shape` is in NumPy order, and empty without an array; `offset` is the
    number of bytes before the data.
    """

    number: int
    name: str
    version: int
    kind: Literal["image", "tiled", "other"]
    header: fits.Header
    shape: tuple[int, ...]
    offset: int

    @property
    def bitpix(self) -> int:
        """BITPIX of the array."""
        return int(number(self.header, "BITPIX", 0))

    @property
    def encoding(self) -> Encoding:
        """Encoding of the numbers; a BLANK card is ignored for floats, as the FITS standard requires."""
        blank = self.bitpix > 0 and text(self.header, "BLANK")
        return Encoding(
            _DTYPES[self.bitpix],
            number(self.header, "BSCALE", 1.0),
            number(self.header, "BZERO", 0.0),
            int(number(self.header, "BLANK", 0)) if blank else None,
        )

    def describe(self) -> str:
        """Return the name and the shape as text for messages."""
        shape = " x ".join(map(str, self.shape)) if self.shape else "no array"
        return f"{self.name or self.number} ({shape})"


def list_hdus(path: Path, name: str) -> list[Hdu]:
    """Read the headers of an uncompressed file, but no data; `name` is the name of the file for messages.

    A file that is not a FITS file, or is truncated, raises CubeError.
    """
    with open_regular(path) as start:
        if not start.read(9).startswith(b"SIMPLE  ="):
            raise CubeError(f"{name} is not a FITS file: it does not begin with SIMPLE")
    check_structure(path, name)
    try:
        with warnings.catch_warnings(record=True) as caught, open(path, "rb") as raw:
            warnings.simplefilter("always")
            with fits.open(raw, mode="readonly", memmap=False, lazy_load_hdus=False) as file:
                hdus = [_hdu(i, hdu, caught) for i, hdu in enumerate(file)]
                last = file[-1].fileinfo()
    except MALFORMED as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise CubeError(f"{name} cannot be read as FITS: {reason[0]}") from None
    for warning in caught:
        _log.info("%s: %s", name, str(warning.message).splitlines()[0])
    there = path.stat().st_size
    for hdu in (h for h in hdus if h.kind == "image" and h.shape):
        needed = hdu.offset + math.prod(hdu.shape) * abs(hdu.bitpix) // 8
        if there < needed:
            raise CubeError(
                f"{name} is cut short: extension {hdu.describe()} ends at byte {needed}, the file at {there}"
            )
    with open(path, "rb") as rest:
        rest.seek(int(last["datLoc"]) + int(last["datSpan"]))
        if rest.read(8) == b"XTENSION":  # astropy omits a truncated last HDU
            raise CubeError(f"{name}: the header of extension {len(hdus)} is cut short or damaged")
    return hdus


def choose(hdus: Sequence[Hdu], ext: str | int | None, name: str) -> Hdu:
    """Return the HDU that the user names, or the default one.

    `ext` is a name (case-insensitive; ``SCI,2`` for a version) or a number. The default is the first HDU with
    one of `DEFAULT_NAMES`, or else the first HDU with an image. If the HDU does not exist or has no array, a
    CubeError lists the HDUs of the file `name`.
    """
    there = ", ".join(hdu.describe() for hdu in hdus)
    images = [hdu for hdu in hdus if hdu.kind != "other" and len(hdu.shape) > 1]
    if ext is None:
        named = [hdu for wanted in DEFAULT_NAMES for hdu in images if hdu.name == wanted]
        if not named and not images:
            raise CubeError(f"{name} holds no image: it has {there or 'no HDU'}")
        return (named or images)[0]
    if isinstance(ext, int):
        found = [hdu for hdu in hdus if hdu.number == ext]
    else:
        label, _, version = ext.upper().partition(",")
        found = [h for h in hdus if h.name == label.strip() and version.strip() in ("", str(h.version))]
    if not found:
        near = closest(str(ext), (hdu.name for hdu in hdus))
        hint = f"; did you mean {name}{{{near}}}?" if near else ""
        raise CubeError(f"{name} has no extension {ext}: it has {there}{hint}")
    if found[0].kind == "other" or not found[0].shape:
        advice = f"; type for example {name}{{{images[0].name or images[0].number}}}" if images else ""
        raise CubeError(f"{name}{{{ext}}} is no image: the file has {there}{advice}")
    return found[0]


class Companion(NamedTuple):
    """The HDU from which the variance is read, the meaning of its numbers, and the reason for the choice."""

    hdu: Hdu
    meaning: Meaning
    why: str


def variance_of(hdus: Sequence[Hdu], data: Hdu) -> Companion | None:
    """Return the HDU with the variance: the one that the ERRDATA card of the data names, else by its name.

    The meaning of its numbers is given by its card HDUCLAS3 or UTYPE, else by its name. The name is used for
    the default array of a file only; otherwise the errors may be those of another array.
    """
    fitting = [h for h in hdus if h.kind != "other" and h.shape == data.shape and h.number != data.number]
    named = text(data.header, "ERRDATA").upper()
    for hdu in fitting:
        meaning, why = meaning_of(hdu)
        if named and hdu.name == named and meaning is not None:
            return Companion(hdu, meaning, f"named by the card ERRDATA of the data; {why}")
    if choose(hdus, None, "") != data:
        return None
    family = data.name.rpartition(".")[0]  # KMOS: IFU.1.DATA and IFU.1.NOISE
    for hdu in sorted(fitting, key=lambda h: meaning_of(h)[0] != "variance"):  # STAT of a product, not ERROR
        meaning, why = meaning_of(hdu)
        alike = hdu.version == data.version and hdu.name.rpartition(".")[0] == family
        if meaning is not None and alike and hdu.name.rpartition(".")[2] in _VARIANCE_NAMES:
            return Companion(hdu, meaning, f"{why}; same shape as the data")
    return None


def meaning_of(hdu: Hdu) -> tuple[Meaning | None, str]:
    """Return what the numbers of an HDU say about the errors of another one, and why; None for nothing."""
    for keyword, meanings in _CARDS.items():
        value = text(hdu.header, keyword)
        if value.upper() in meanings:
            return meanings[value.upper()], f"{keyword} = {value}"
    name = hdu.name.rpartition(".")[2]
    return _VARIANCE_NAMES.get(name), f"its name is {hdu.name}" if name in _VARIANCE_NAMES else ""


def wavelength_column(path: Path, hdus: Sequence[Hdu], name: str, version: int, column: str) -> np.ndarray:
    """Return the vector in the first row of a binary table, or an entire column of scalars.

    A column that cannot be read raises CubeError.
    """
    numbers = [hdu.number for hdu in hdus if (hdu.name, hdu.version) == (name.upper(), version)]
    try:
        with open(path, "rb") as raw, fits.open(raw, mode="readonly", memmap=False) as file:
            values = np.asarray(file[numbers[0]].data[column], np.float64)
    except MALFORMED:
        raise CubeError(f"the axis is column {column!r} of table {name!r}, which cannot be read") from None
    return values[0].ravel() if values.ndim > 1 else values


def _hdu(i: int, hdu: Any, caught: Sequence[warnings.WarningMessage]) -> Hdu:
    header = _legible(hdu.header, caught)
    image = isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU) and not isinstance(hdu, fits.GroupsHDU)
    tiled = isinstance(hdu, fits.CompImageHDU)
    shape = shape_of(header) if tiled or image else ()
    image = image and (number(header, "GCOUNT", 1), number(header, "PCOUNT", 0)) == (1, 0)
    if (tiled or image) and int(number(header, "BITPIX", 0)) not in _DTYPES:
        raise CubeError(f"BITPIX is {text(header, 'BITPIX')}")
    kind: Literal["image", "tiled", "other"] = "tiled" if tiled else "image" if image else "other"
    shape = () if any(n < 1 for n in shape) else shape
    if math.prod(shape) > MOST_PIXELS:
        raise CubeError(f"the image of extension {i} has {' x '.join(map(str, shape))} pixels")
    return Hdu(i, str(hdu.name).upper(), int(hdu.ver), kind, header, shape, int(hdu.fileinfo()["datLoc"]))


def _legible(header: fits.Header, caught: Sequence[warnings.WarningMessage]) -> fits.Header:
    """Return a header that can be written: astropy corrects cards where it can, others become comments.

    `caught` collects the warnings. The values of cards that cause a warning are accessed twice.
    """
    result = fits.Header()
    for card in header.cards:
        before = len(caught)
        try:
            image = str(card)
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                again = fits.Card.fromstring(image)
                if again.keyword and len(caught) > before:  # access to an invalid keyword warns
                    str(again.value)
                    str(again)
                    card = again
        except (ValueError, fits.VerifyError, Warning):
            card = fits.Card("COMMENT", "an unreadable card was here")
        result.append(card, end=True)
    return result

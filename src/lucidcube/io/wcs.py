"""Read the sky coordinates of a header, and update its WCS cards for slicing and reordering of axes."""

import re
import string
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from lucidcube.errors import CubeError
from lucidcube.io.axes import find_axes
from lucidcube.io.header_cards import MALFORMED, move_axis, number, shape_of, text

if TYPE_CHECKING:
    from astropy.wcs import WCS

_SINGLE = re.compile(r"(NAXIS|CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CNAME|CRDER|CSYER|CROTA)(\d+)([A-Z]?)")
_MATRIX = re.compile(r"(CD|PC)(\d+)_(\d+)([A-Z]?)")
_PARAMETER = re.compile(r"(PV|PS)(\d+)(_\d+[A-Z]?)")
_CELESTIAL = re.compile(
    r"(CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CROTA)[12]|(CD|PC)[12]_[12]|PV[12]_\d+"
    r"|RADESYS|RADECSYS|EQUINOX|EPOCH|LONPOLE|LATPOLE|DATE-OBS|MJD-OBS|DATE-AVG|MJD-AVG"
    r"|DSUN_OBS|HGLN_OBS|HGLT_OBS|CRLN_OBS|CRLT_OBS|RSUN_REF|[AB]P?_(ORDER|\d_\d)"
)
SQUARE = 0.01
"""Largest relative difference between the sides of pixels that count as square, and of right angles."""
SCALE_CARDS = ("PIXELSCL", "PIXSCALE", "SECPIX")
"""Cards with the side of a pixel in arcseconds, in files without sky coordinates such as those of STPSF."""
_DEGREES = {"degree": "deg", "degrees": "deg", "degs": "deg", "arcseconds": "arcsec", "arcsecs": "arcsec"}


def celestial_wcs(header: fits.Header) -> "WCS":
    """Return the sky coordinates (x, y) of the planes of a cube.

    Only the cards of the two celestial axes are read, so odd spectral units or missing distortion tables do
    no harm. SIP polynomials are used, distortion tables are not. A header without sky coordinates raises
    CubeError.
    """
    from astropy.wcs import WCS, WcsError  # imported here because it imports all of astropy.coordinates

    try:
        cards = celestial_cards(header)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # corrections of dates and units by wcslib
            wcs = WCS(cards, naxis=2)
            sky = bool(wcs.has_celestial) and wcs.pixel_n_dim == 2
            sky = sky and bool(np.isfinite(wcs.wcs_pix2world([[1.0, 1.0]], 1)).all() or wcs.wcs.lng >= 0)
    except (WcsError, *MALFORMED) as error:
        reason = (str(error).strip().splitlines() or [repr(error)])[-1]
        raise CubeError(f"the header's sky coordinates cannot be used: {reason}") from None
    if not sky:
        found = " and ".join(repr(text(cards, f"CTYPE{n}")) for n in (1, 2))
        raise CubeError(f"the header holds no sky coordinates (CTYPE {found}): use image coordinates")
    return wcs


def sky_matrix(header: fits.Header) -> NDArray[np.float64]:
    """Return the derivatives (2, 2) of the sky coordinates by those of the pixels, at the reference pixel.

    The rows are the offsets to the east and to the north in arcseconds, the columns are x and y. Distortions
    are left out. A header without sky coordinates raises CubeError.
    """
    wcs = celestial_wcs(header) if header else None
    if wcs is None or not wcs.has_celestial:
        raise CubeError("the header holds no sky coordinates")
    rows = np.asarray(wcs.pixel_scale_matrix, np.float64) * 3600.0
    return rows if wcs.wcs.lng == 0 else rows[::-1]


def square_pixel(header: fits.Header) -> float:
    """Return the side of a pixel in arcseconds, at the reference pixel of the sky coordinates.

    CubeError is raised if the header has no sky coordinates, or if its pixels are not square.
    """
    try:
        matrix = sky_matrix(header)
    except CubeError:  # whose advice is for files of which the axes are not known
        raise CubeError("the header holds no sky coordinates") from None
    x, y = np.hypot(*matrix)
    area = abs(np.linalg.det(matrix))
    if not (abs(x / y - 1) < SQUARE and area > (1 - SQUARE) * x * y):
        raise CubeError(f"the pixels are not square ({x:.4g} x {y:.4g} arcsec)")
    return float(np.sqrt(area))


def pixel_of(header: fits.Header, longitude: str, latitude: str) -> tuple[float, float]:
    """Return the position (x, y) of a point of the sky in pixels, counted from 0.

    The coordinates are angles with units, as ``5h34m`` or ``83.6deg``, in the frame ICRS. A header without
    sky coordinates, and a point that is not on the projection, raise CubeError.
    """
    from astropy.coordinates import SkyCoord

    x, y = celestial_wcs(header).world_to_pixel(SkyCoord(longitude, latitude))
    if not np.isfinite([x, y]).all():
        raise CubeError(f"{longitude}, {latitude} is not on the projection of the header")
    return float(x), float(y)


def part_header(header: fits.Header, rows: range, columns: range) -> fits.Header:
    """Return the header of some rows and columns; the same one if its axes cannot be told apart."""
    shape = shape_of(header)
    try:
        axes = find_axes(header, shape)
    except CubeError:
        return header
    result = slice_cards(header, len(shape) - axes.y, rows)
    return slice_cards(result, len(shape) - axes.x, columns)


def centred_header(header: fits.Header, rows: int, columns: int, side: float | None) -> fits.Header:
    """Return a header whose sky axes became offsets in pixels from the centre, as in the file of a PSF.

    `rows` and `columns` are the new numbers of pixels, and `side` is the side of a pixel in arcseconds, if it
    is known.
    """
    result, shape = header.copy(), shape_of(header)
    axes = find_axes(header, shape)
    for n, length in ((len(shape) - axes.x, columns), (len(shape) - axes.y, rows)):
        for keyword in header:
            pair, single = _MATRIX.fullmatch(keyword), _SINGLE.fullmatch(keyword)
            if (pair and str(n) in (pair[2], pair[3])) or (single and int(single[2]) == n):
                result.remove(keyword, ignore_missing=True)
        result[f"NAXIS{n}"], result[f"CTYPE{n}"], result[f"CUNIT{n}"] = length, "LINEAR", "pixel"
        result[f"CRVAL{n}"], result[f"CRPIX{n}"], result[f"CDELT{n}"] = 0.0, (length + 1) / 2, 1.0
    return with_pixel_side(result, side)


def with_pixel_side(header: fits.Header, side: float | None) -> fits.Header:
    """Return the header of a PSF with the side of a pixel in arcseconds, if it is known."""
    result = header.copy()
    for keyword in SCALE_CARDS:
        result.remove(keyword, ignore_missing=True)
    if side is not None:
        result[SCALE_CARDS[0]] = (side, "[arcsec] side of a pixel")
    return result


def pixel_side(*headers: fits.Header) -> float | None:
    """Return the side of a pixel in arcseconds that the first of these headers states; None if none does.

    It is that of the sky coordinates, if their pixels are square, or a card such as PIXELSCL.
    """
    for header in headers:
        try:
            return square_pixel(header)
        except CubeError:
            stated = (number(header, keyword, 0.0) for keyword in SCALE_CARDS if text(header, keyword))
            if (side := next((value for value in stated if value > 0), None)) is not None:
                return side
    return None


def celestial_cards(header: fits.Header) -> fits.Header:
    """Return a header of two axes, x and y, with the cards of their sky coordinates only."""
    shape = shape_of(header)
    axes = find_axes(header, shape)
    first = [len(shape) - axes.x, len(shape) - axes.y]
    others = [n for n in range(1, len(shape) + 1) if n not in first]
    turned, cards = reorder_axes(header, [*first, *others]), fits.Header()
    for keyword in turned:
        if not _CELESTIAL.fullmatch(keyword) or not text(turned, keyword):
            continue
        if keyword.startswith("CUNIT"):
            cunit = text(turned, keyword).lower()
            cards[keyword] = _DEGREES.get(cunit, cunit)
        elif keyword.startswith(("CR", "CD", "PC", "PV")):
            cards[keyword] = number(turned, keyword, 0.0)
        else:
            cards[keyword] = turned[keyword]
    return cards


def slice_cards(header: fits.Header, n: int, kept: range) -> fits.Header:
    """Describe a slice of FITS axis `n`, the pixels `kept` counted from 0, in a copy of a header.

    CRPIX is shifted, and a step other than 1 scales the column of the axis. An axis without WCS cards and a
    slice that keeps everything change no card.
    """
    result = header.copy()
    if f"NAXIS{n}" in header and kept != range(int(number(header, f"NAXIS{n}", 0))):
        result[f"NAXIS{n}"] = len(kept)
        for alternate in ("", *string.ascii_uppercase):
            move_axis(result, n, alternate, kept.start, kept.step)
    return result


def reorder_axes(header: fits.Header, order: Sequence[int]) -> fits.Header:
    """Renumber the FITS axes of a header: new axis 1, 2, ... had the number in `order`.

    The result has the same cards in the same order, with other axis numbers; NAXISn keep their positions.
    """
    if list(order) == list(range(1, len(order) + 1)):
        return header.copy()
    new = {old: place for place, old in enumerate(order, start=1)}
    result = fits.Header()
    for card in header.cards:
        keyword = _renumbered(card.keyword, new)
        if keyword == card.keyword:
            result.append(card, end=True)
        elif keyword.startswith("NAXIS"):
            old = order[int(card.keyword.removeprefix("NAXIS")) - 1]
            result.append((card.keyword, header[f"NAXIS{old}"], card.comment), end=True)
        else:
            value = card.value
            table = re.fullmatch(r"PV(\d+)_3", card.keyword)
            if table and text(header, f"CTYPE{table[1]}").endswith("-TAB"):
                value = new.get(int(value), value)
            result.append((keyword, value, card.comment), end=True)
    return result


def _renumbered(keyword: str, new: dict[int, int]) -> str:
    single, pair = _SINGLE.fullmatch(keyword) or _PARAMETER.fullmatch(keyword), _MATRIX.fullmatch(keyword)
    if single and int(single[2]) in new:
        return f"{single[1]}{new[int(single[2])]}{single[3]}"
    if pair and int(pair[2]) in new and int(pair[3]) in new:
        return f"{pair[1]}{new[int(pair[2])]}_{new[int(pair[3])]}{pair[4]}"
    return keyword

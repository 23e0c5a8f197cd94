"""The WCS of a header: what slicing and reordering do to it."""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from astropy.io import fits

from lucidcube.io.axes import Axes, find_axes
from lucidcube.io.header_cards import move_axis, number, shape_of
from lucidcube.io.spectral_cards import override_cards, spectral_cards, wavelength_table

__all__ = [
    "Axes",
    "find_axes",
    "override_cards",
    "reorder_axes",
    "shape_of",
    "slice_cards",
    "spectral_cards",
    "wavelength_table",
]

_SINGLE = re.compile(r"(NAXIS|CTYPE|CUNIT|CRVAL|CRPIX|CDELT|CNAME|CRDER|CSYER|CROTA)(\d+)([A-Z]?)")
_MATRIX = re.compile(r"(CD|PC)(\d+)_(\d+)([A-Z]?)")
_PARAMETER = re.compile(r"(PV|PS)(\d+)_(\d+)([A-Z]?)")


def slice_cards(header: fits.Header, n: int, kept: range) -> fits.Header:
    """Describe a slice of FITS axis `n`: CRPIX moves, a step other than 1 scales the column of the axis.

    Parameters
    ----------
    header
        Not modified. An axis without any WCS card gets none.
    n
        FITS number of the axis.
    kept
        Pixels that are kept, from 0; any step.

    Returns
    -------
    astropy.io.fits.Header
        The same card for card (but a copy) if everything is kept.
    """
    result = header.copy()
    if f"NAXIS{n}" in header and kept != range(int(number(header, f"NAXIS{n}", 0))):
        result[f"NAXIS{n}"] = len(kept)
        for alternate in ("", *string.ascii_uppercase):
            move_axis(result, n, alternate, kept.start, kept.step)
    return result


def reorder_axes(header: fits.Header, order: Sequence[int]) -> fits.Header:
    """Renumber the FITS axes of a header.

    Parameters
    ----------
    header
        Not modified.
    order
        For each new axis 1, 2, ... the number that it had.

    Returns
    -------
    astropy.io.fits.Header
        The same cards in the same order, with other numbers; NAXISn keep their places.
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
            if re.fullmatch(r"PV\d+_3", card.keyword):
                value = new.get(int(value), value)
            result.append((keyword, value, card.comment), end=True)
    return result


def _renumbered(keyword: str, new: dict[int, int]) -> str:
    single, pair, parameter = (p.fullmatch(keyword) for p in (_SINGLE, _MATRIX, _PARAMETER))
    if single and int(single[2]) in new:
        return f"{single[1]}{new[int(single[2])]}{single[3]}"
    if pair and int(pair[2]) in new and int(pair[3]) in new:
        return f"{pair[1]}{new[int(pair[2])]}_{new[int(pair[3])]}{pair[4]}"
    if parameter and int(parameter[2]) in new:
        return f"{parameter[1]}{new[int(parameter[2])]}_{parameter[3]}{parameter[4]}"
    return keyword

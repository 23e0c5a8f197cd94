"""What takes wcslib: sky coordinates, and non-linear spectral axes.

Imported only when one of these is wanted: astropy.wcs brings the whole of astropy.coordinates with it.
"""

from __future__ import annotations

import re
import warnings

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS, WcsError
from numpy.typing import NDArray

from lucidcube.errors import CubeError
from lucidcube.io.axes import Axes, find_axes
from lucidcube.io.header_cards import number, shape_of, text

_SKY = re.compile(
    r"RADESYS|RADECSYS|EQUINOX|EPOCH|LONPOLE|LATPOLE|DATE-OBS|MJD-OBS|DATE-AVG|MJD-AVG"
    r"|DSUN_OBS|HGLN_OBS|HGLT_OBS|CRLN_OBS|CRLT_OBS|RSUN_REF|[AB]P?_(ORDER|\d_\d)"
)
_DEGREES = {"degree": "deg", "degrees": "deg", "degs": "deg", "arcseconds": "arcsec", "arcsecs": "arcsec"}


def celestial_wcs(header: fits.Header, axes: Axes | None = None) -> WCS:
    """The sky coordinates of the planes of a cube.

    Only what concerns the two celestial axes is read, so odd spectral units or missing distortion tables
    do no harm. SIP polynomials are used, distortion tables are not.

    Parameters
    ----------
    header
        Of the cube.
    axes
        Numpy numbers of its axes; None to find them.

    Returns
    -------
    astropy.wcs.WCS
        Two axes: x, y.

    Raises
    ------
    CubeError
        If the header holds no sky coordinates.
    """
    shape = shape_of(header)
    axes = find_axes(header, shape) if axes is None else axes
    numbers = (len(shape) - axes.x, len(shape) - axes.y)
    cards = fits.Header()
    for new, old in enumerate(numbers, start=1):
        for name in ("CTYPE", "CUNIT", "CRVAL", "CRPIX", "CDELT", "CROTA"):
            _copy(header, f"{name}{old}", cards, f"{name}{new}")
        for other, column in enumerate(numbers, start=1):
            for name in ("CD", "PC"):
                _copy(header, f"{name}{old}_{column}", cards, f"{name}{new}_{other}")
        for m in range(40):
            _copy(header, f"PV{old}_{m}", cards, f"PV{new}_{m}")
        cunit = text(cards, f"CUNIT{new}").lower()
        if cunit:
            cards[f"CUNIT{new}"] = _DEGREES.get(cunit, cunit)
    for name in [k for k in header if _SKY.fullmatch(k)]:
        _copy(header, name, cards, name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what wcslib mends in dates and units
            wcs = WCS(cards, naxis=2)
            sky = bool(wcs.has_celestial) and wcs.pixel_n_dim == 2
            sky = sky and bool(np.isfinite(wcs.wcs_pix2world([[1.0, 1.0]], 1)).all() or wcs.wcs.lng >= 0)
    except (WcsError, ValueError, KeyError, TypeError) as error:
        reason = str(error).strip().splitlines()
        raise CubeError(
            f"the header's sky coordinates cannot be used: {reason[-1] if reason else error!r}"
        ) from None
    if not sky:
        found = " and ".join(repr(text(cards, f"CTYPE{n}")) for n in (1, 2))
        raise CubeError(f"the header holds no sky coordinates (CTYPE {found}): use image coordinates")
    return wcs


def nonlinear_positions(
    header: fits.Header, n: int, offset: NDArray[np.floating], start: float, step: float, unit: str
) -> NDArray[np.floating]:
    """Positions of the channels of an axis with a non-linear algorithm.

    Parameters
    ----------
    header
        Of the cube.
    n
        FITS number of the spectral axis.
    offset
        Pixels from the reference pixel.
    start, step
        Value there, and per pixel, in `unit`.
    unit
        SI: m, Hz or m/s.

    Raises
    ------
    CubeError
        If wcslib cannot compute them.
    """
    cards = fits.Header()
    cards["CTYPE1"], cards["CUNIT1"] = text(header, f"CTYPE{n}").upper(), unit
    cards["CRVAL1"], cards["CDELT1"], cards["CRPIX1"] = start, step, 0.0
    for keyword in ("RESTFRQ", "RESTFREQ", "RESTWAV"):
        if keyword in header:
            cards[keyword] = number(header, keyword, 0.0)
    for m in range(8):
        if f"PV{n}_{m}" in header:
            cards[f"PV1_{m}"] = number(header, f"PV{n}_{m}", 0.0)
    try:
        return np.asarray(WCS(cards, naxis=1).wcs_pix2world(offset, 1)[0], float)
    except (WcsError, ValueError):
        raise CubeError(
            f"CTYPE{n} = {cards['CTYPE1']} cannot be computed (is RESTFRQ or RESTWAV missing?); "
            "give wave_start, wave_step and wave_unit"
        ) from None


def _copy(source: fits.Header, old: str, target: fits.Header, new: str) -> None:
    if old in source and text(source, old):
        value = source[old]
        target[new] = number(source, old, 0.0) if old.startswith(("CR", "CD", "PC", "PV")) else value

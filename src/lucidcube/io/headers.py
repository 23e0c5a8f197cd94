"""Make the headers of products from those of the input, with only the changes that the stages require."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from astropy.io import fits

from lucidcube import __version__
from lucidcube.cube import DIMS, HEADER, HISTORY, PRIMARY_HEADER, UNITS, WAVELENGTH
from lucidcube.errors import CubeError
from lucidcube.io.header_cards import MALFORMED, ascii_text, set_shape
from lucidcube.io.spectral import TYPE_OF_SI
from lucidcube.io.spectral_cards import spectral_cards
from lucidcube.io.wcs import square_pixel

VERSION_CARD = "LUCIDCUBE VERSION"
WARNING_CARD = "LCWARN"
RESOLUTION_CARD = "LUCIDCUBE RESOLUTION"
_STRUCTURAL = ("SIMPLE", "BITPIX", "NAXIS", "EXTEND", "CHECKSUM", "DATASUM", "EXTNAME", "XTENSION")


def spectral_axis(cube: xr.Dataset) -> int:
    """Return the FITS number of the spectral axis in the header of the input, or 0 if there is none."""
    return int(cube[WAVELENGTH].attrs.get("axis", 0))


def plain_header(shape: Sequence[int], unit: str, ctype: str = "") -> fits.Header:
    """Return a header for an array (wavelength, y, x) of another origin: its shape and its spectral axis.

    `unit` is that of the wavelengths, from which the type of the axis follows if it is not given.
    """
    header = fits.Header()
    set_shape(header, shape)
    if unit in TYPE_OF_SI:
        header["CTYPE3"], header["CUNIT3"] = ctype or TYPE_OF_SI[unit], unit
    return header


def described(cube: xr.Dataset) -> xr.Dataset:
    """Return a cube with a header: its own, or for one from arrays `plain_header`."""
    if cube.attrs.get(HEADER):
        return cube
    wavelength = cube[WAVELENGTH]
    known = bool(np.isfinite(wavelength.values).all())
    unit, ctype = str(wavelength.attrs.get(UNITS, "m")), str(wavelength.attrs.get("ctype", ""))
    header = plain_header([cube.sizes[d] for d in DIMS], unit if known else "", ctype)
    spectral = {"ctype": header.get("CTYPE3", ""), "axis": 3 if "CTYPE3" in header else 0}
    cube = cube.assign_coords({WAVELENGTH: wavelength.assign_attrs(spectral)})
    return cube.assign_attrs({HEADER: cards_text(header)})


def cards_text(header: fits.Header) -> str:
    """Return the cards of a header as cubes have them: one in each line."""
    return str(header.tostring(sep="\n", endcard=False, padding=False))


def cube_header(cube: xr.Dataset) -> fits.Header:
    """Return the header of the input on the wavelengths of the cube; empty if the cube has no header."""
    text = cube.attrs.get(HEADER)
    if not text:
        return fits.Header()
    header = fits.Header.fromstring(text, sep="\n")
    axis = spectral_axis(cube)
    return spectral_cards(header, cube[WAVELENGTH].values, axis=axis) if axis else header


def psf_header(star: xr.Dataset, shape: tuple[int, ...]) -> fits.Header:
    """Make a header for a PSF of this shape (..., y, x): wavelengths of the star, pixels from the centre.

    The wavelengths are along the first axis; the second of four is for the modes of the PSF.
    """
    header, whole, axis = fits.Header(), cube_header(star), spectral_axis(star)
    for number, length in ((1, shape[-1]), (2, shape[-2])):
        header[f"CTYPE{number}"], header[f"CUNIT{number}"] = "LINEAR", "pixel"
        header[f"CRVAL{number}"], header[f"CRPIX{number}"] = 0.0, (length + 1) / 2
        header[f"CDELT{number}"] = 1.0
    last = len(shape)
    cards = {f"{key}{axis}": f"{key}{last}" for key in ("CTYPE", "CUNIT", "CRVAL", "CRPIX", "CDELT")}
    for old, new in {**cards, f"CD{axis}_{axis}": f"CDELT{last}"}.items():
        if axis and old in whole:
            header[new] = (whole[old], whole.comments[old])
    return header


def with_resolution(header: fits.Header, fwhm: float) -> fits.Header:
    """Return a header with the resolution of its image: that of a round Gaussian with this width in pixels.

    BMAJ, BMIN and BPA are as in images of radio telescopes; without the size of a pixel on the sky there are
    none.
    """
    header = header.copy()
    for keyword in ("BMAJ", "BMIN", "BPA"):
        header.remove(keyword, ignore_missing=True)
    header[f"HIERARCH {RESOLUTION_CARD}"] = (fwhm, "[pixel] FWHM of the Gaussian PSF")
    try:
        side = square_pixel(header)
    except CubeError:
        return header
    header["BMAJ"] = (fwhm * side / 3600, "[deg] FWHM of the Gaussian PSF")
    header["BMIN"] = (fwhm * side / 3600, "[deg] FWHM of the Gaussian PSF")
    header["BPA"] = (0.0, "[deg] the Gaussian is round")
    return header


def with_primary(header: fits.Header, cube: xr.Dataset) -> fits.Header:
    """Add the cards that are in the primary header of the input only (observation, instrument)."""
    text = cube.attrs.get(PRIMARY_HEADER)
    header = header.copy()
    for card in fits.Header.fromstring(text, sep="\n").cards if text else ():
        if not card.keyword.startswith(_STRUCTURAL) and not (card.keyword and card.keyword in header):
            header.append(card, end=True)
    return header


def provenance_cards(
    cubes: Mapping[str, xr.Dataset | None],
    inputs: Mapping[str, Mapping[str, Any]],
    warnings: Sequence[str] = (),
) -> Iterator[tuple[str, Any, str]]:
    """Yield HIERARCH cards: version, names and checksums of the inputs, and the stages of each track.

    Warnings are in the cards LCWARN1, LCWARN2, ..., whose text may be long, unlike that of HIERARCH cards.
    """
    yield f"HIERARCH {VERSION_CARD}", __version__, "program that made this"
    for track, identity in inputs.items():
        yield f"HIERARCH LUCIDCUBE {track.upper()} FILE", ascii_text(str(identity["file"])), ""
        # A card holds the first digits of a checksum; the PROVENANCE table has all of them.
        yield f"HIERARCH LUCIDCUBE {track.upper()} SHA256", str(identity["sha256"])[:32], ""
    for track, cube in cubes.items():
        stages = [h["stage"] for h in cube.attrs.get(HISTORY, [])] if cube is not None else []
        if stages:
            yield f"HIERARCH LUCIDCUBE {track.upper()} STAGES", " ".join(stages), ""
    if warnings:
        yield "LONGSTRN", "OGIP 1.0", "long strings are continued in CONTINUE cards"
    for number, text in enumerate(warnings, 1):
        yield f"{WARNING_CARD}{number}", ascii_text(text), ""


def is_product(path: Path) -> bool:
    """Return whether a file is a product of lucidcube, by the provenance cards in its primary header."""
    try:
        return path.is_file() and VERSION_CARD in fits.getheader(path)
    except MALFORMED:
        return False

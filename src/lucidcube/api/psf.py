"""Make PSFs from formulas, as cubes."""

from typing import Any

import xarray as xr

from lucidcube.config.load import stage_of
from lucidcube.cube import BITPIX, DATA, DIMS, HEADER, HISTORY, PSF, UNITS, WAVELENGTH
from lucidcube.io.header_cards import set_shape
from lucidcube.io.headers import cards_text, cube_header, described, psf_header
from lucidcube.io.wcs import pixel_side, with_pixel_side


def moffat_psf(
    cube: xr.Dataset, fwhm: Any, beta: Any = 2.5, *, pixel_scale: float | None = None
) -> xr.Dataset:
    """Make a Moffat function (Moffat 1969, A&A 3, 455) as the PSF of a cube.

    Parameters
    ----------
    cube
        The cube for which the PSF is made: its wavelengths, its pixels and the size of its field.
    fwhm
        Full width at half maximum: a number of pixels, an angle such as ``"0.08arcsec"``, or a mapping of
        wavelengths to them, such as ``{"480nm": "0.09arcsec", "930nm": "0.06arcsec"}``: linear between these
        wavelengths, and constant beyond.
    beta
        Exponent, a number or a mapping of wavelengths to numbers; the larger it is, the fainter the wings.
    pixel_scale
        Side of a pixel in arcseconds; by default it is taken from the header. It is needed for angles only.

    Returns
    -------
    xarray.Dataset
        A cube whose data are the PSF: integrated over pixels, centred, with odd sides and a sum of one. It is
        lazy if the data of `cube` are. The stages take it as their second argument.

    Raises
    ------
    UserError
        If a parameter is invalid, or if an angle is given and the size of the pixels is not known.

    Examples
    --------
    >>> import lucidcube as lc
    >>> cube = lc.open_cube("example_data/target.fits[:4]")
    >>> psf = lc.moffat_psf(cube, fwhm={"700nm": 3.0, "750nm": 2.5})
    >>> sharp = lc.Deconvolve(method="lucy_richardson")(cube, psf)
    """
    return _psf(cube, model="moffat", fwhm=fwhm, beta=beta, pixel_scale=pixel_scale)


def gaussian_psf(cube: xr.Dataset, fwhm: Any, *, pixel_scale: float | None = None) -> xr.Dataset:
    """Make a round Gaussian as the PSF of a cube; see `moffat_psf` for the parameters and the result.

    Examples
    --------
    >>> import lucidcube as lc
    >>> cube = lc.open_cube("example_data/target.fits[:4]")
    >>> dict(lc.gaussian_psf(cube, fwhm=3).sizes)
    {'wavelength': 4, 'y': 11, 'x': 11}
    """
    return _psf(cube, model="gaussian", fwhm=fwhm, pixel_scale=pixel_scale)


def muse_ao_psf(cube: xr.Dataset, **parameters: Any) -> xr.Dataset:
    """Make the PSF of adaptive optics (Fetick et al. 2019, A&A 628, A99) as the PSF of a cube.

    `parameters` are those of the stage `model_psf` with the model ``muse_ao``, which ``lucidcube stages
    model_psf`` explains: `r0` and `amplitude` must be given, and `alpha`, `beta`, `background`,
    `telescope_diameter`, `central_obscuration` and `pixel_scale` may be. For the result, and for parameters
    that depend on the wavelength, see `moffat_psf`. UserError is raised if a parameter is missing or invalid,
    and if the wavelengths or the size of the pixels are not known.

    Examples
    --------
    >>> import lucidcube as lc
    >>> cube = lc.open_cube("example_data/target.fits[:4]")
    >>> psf = lc.muse_ao_psf(cube, r0=0.15, amplitude=3.0, pixel_scale=0.025)
    >>> round(float(psf["data"][0].sum()), 4)
    1.0
    """
    return _psf(cube, model="muse_ao", **parameters)


def _psf(cube: xr.Dataset, **parameters: Any) -> xr.Dataset:
    """Return the PSF that the stage `model_psf` makes, as a cube of its own."""
    made = stage_of("model_psf", parameters)(cube)
    cube, psf = described(cube), made[PSF]
    header = psf_header(cube, psf.shape)
    set_shape(header, psf.shape)
    # From the header alone, because it is compared with those of other cubes.
    header = with_pixel_side(header, pixel_side(cube_header(cube)))
    axis = psf.ndim if f"CTYPE{psf.ndim}" in header else 0
    coords = {**cube.coords, WAVELENGTH: cube[WAVELENGTH].assign_attrs(axis=axis)}
    attrs = {HEADER: cards_text(header), BITPIX: -32, HISTORY: made.attrs[HISTORY][-1:]}
    return xr.Dataset({DATA: (DIMS, psf.data, {UNITS: ""})}, coords, attrs)

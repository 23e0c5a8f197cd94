"""The resolution of a product: numbers of pixels and angles on the sky."""

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from pydantic import ValidationError

from lucidcube.cube import HEADER, from_arrays
from lucidcube.errors import CubeError
from lucidcube.stages.deconvolve import Deconvolve

FWHM = 2.3548200450309493


def cube(*, cdelt: tuple[float, float] = (0.025, 0.025), angle: float = 0.0, sky: bool = True) -> xr.Dataset:
    """Return a cube of one plane whose pixels have these sides along x and y, in arcseconds."""
    header = fits.Header({"SIMPLE": True, "BITPIX": -32, "NAXIS": 2, "NAXIS1": 9, "NAXIS2": 9})
    if sky:
        turn = np.deg2rad(angle)
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag(
            [-cdelt[0] / 3600, cdelt[1] / 3600]
        )
        for axis, kind, value in ((1, "RA---TAN", 150.0), (2, "DEC--TAN", 60.0)):
            header[f"CTYPE{axis}"], header[f"CRVAL{axis}"], header[f"CUNIT{axis}"] = kind, value, "deg"
            header[f"CRPIX{axis}"] = 5.0
            for other in (1, 2):
                header[f"CD{axis}_{other}"] = matrix[axis - 1, other - 1]
    return from_arrays(np.zeros((9, 9)), 1e-6, attrs={HEADER: header.tostring(sep="\n")})


def sigma(resolution: object, given: xr.Dataset) -> float | None:
    return Deconvolve(method="map", resolution=resolution).sigma_pixels(given)


class TestWidth:
    @pytest.mark.parametrize("given", [4, 4.0, "4", "4 pix"])
    def test_of_pixels(self, given: object) -> None:
        assert sigma(given, cube(sky=False)) == pytest.approx(4 / FWHM)

    @pytest.mark.parametrize("angle", [0, 30, 200])
    @pytest.mark.parametrize("given", ["0.1arcsec", "100 mas", "2.7777777777777776e-05 deg"])
    def test_of_angles_also_in_a_rotated_field(self, given: str, angle: float) -> None:
        assert sigma(given, cube(angle=angle)) == pytest.approx(4 / FWHM, rel=1e-6)

    def test_is_none_by_default(self) -> None:
        assert Deconvolve(method="map").sigma_pixels(cube()) is None

    @pytest.mark.parametrize("given", [1.9, 0, -4, "1", "nan", "1nm", "sharp", "-1arcsec", True, [3]])
    def test_that_is_meaningless_is_refused(self, given: object) -> None:
        with pytest.raises(ValidationError, match="resolution"):
            sigma(given, cube())

    @pytest.mark.parametrize("given", [cube(sky=False), cube(cdelt=(0.025, 0.05))], ids=["no sky", "oblong"])
    def test_of_an_angle_needs_square_pixels_on_the_sky(self, given: xr.Dataset) -> None:
        with pytest.raises(CubeError, match=r"deconvolve: resolution 0.1arcsec is an angle.*in pixels"):
            sigma("0.1arcsec", given)

    def test_of_an_angle_below_two_pixels_is_refused_with_the_least_angle(self) -> None:
        with pytest.raises(CubeError, match=r"0.04arcsec is 1.6 pixels.*at least 0.05arcsec"):
            sigma("0.04arcsec", cube())

"""The resolution of a product: numbers of pixels and angles on the sky."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits

from lucidcube.cli.app import main
from lucidcube.config.load import from_plain
from lucidcube.cube import HEADER, PSF, PSF_PLANE, VARIANCE, WAVELENGTH, from_arrays
from lucidcube.errors import ConfigError, CubeError
from lucidcube.runner.pipeline import run
from lucidcube.stages.deconvolve import Deconvolve
from resolution_scenes import STARS, psf, stars

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
        with pytest.raises(ConfigError, match="resolution"):
            sigma(given, cube())

    @pytest.mark.parametrize("given", [cube(sky=False), cube(cdelt=(0.025, 0.05))], ids=["no sky", "oblong"])
    def test_of_an_angle_needs_square_pixels_on_the_sky(self, given: xr.Dataset) -> None:
        with pytest.raises(CubeError, match=r"deconvolve: resolution 0.1arcsec is an angle.*in pixels"):
            sigma("0.1arcsec", given)

    def test_of_an_angle_below_two_pixels_is_refused_with_the_least_angle(self) -> None:
        with pytest.raises(CubeError, match=r"0.04arcsec is 1.6 pixels.*at least 0.05arcsec"):
            sigma("0.04arcsec", cube())


def observed(widths: list[float], peak: float, attrs: dict[str, str] | None = None) -> xr.Dataset:
    """Return a cube of stars whose PSF has these widths, in pixels, from plane to plane."""
    planes = np.stack([stars(width, peak)[0] for width in widths])
    wavelength = 7e-7 + 1e-9 * np.arange(len(widths))
    made = from_arrays(planes, wavelength, variance=np.ones_like(planes), attrs=attrs)
    return made.assign({PSF: ((WAVELENGTH, *PSF_PLANE), np.stack([psf(width) for width in widths]))})


class TestSupport:
    def test_no_warning_where_all_planes_support_it(self) -> None:
        assert warnings(4, observed([2.0, 4.0, 5.0], 100)) == []

    def test_a_warning_names_the_plane_and_a_resolution(self) -> None:
        (text,) = warnings(3, observed([2.0, 4.0, 2.5], 60))
        assert "at plane 1 (7.01e-07 m) the data tell 9" in text
        assert "give resolution: 3" in text

    def test_it_is_refused_where_one_plane_is_too_wide(self) -> None:
        with pytest.raises(
            CubeError, match=r"deconvolve: at plane 2 \(7.02e-07 m\) .* which is too little"
        ) as e:
            warnings(3, observed([2.0, 4.0, 8.0], 20))
        supported = float(str(e.value).split("give resolution: ")[1].split()[0])
        assert 6 < supported < 8
        assert warnings(supported, observed([2.0, 4.0, 8.0], 20)) == []

    def test_an_angle_is_answered_by_an_angle(self) -> None:
        attrs = {HEADER: cube().attrs[HEADER]}
        with pytest.raises(CubeError, match=r"give resolution: 0\.1\d*arcsec or coarser"):
            warnings("0.06arcsec", observed([8.0], 20, attrs))

    def test_planes_without_data_or_stars_do_not_count(self) -> None:
        given = observed([2.0, 8.0, 8.0], 100)
        given["data"][1] = np.nan
        given["data"][2] = given["data"][2] / 1e4
        assert warnings(3, given) == []

    def test_the_noise_is_estimated_without_a_variance(self) -> None:
        with pytest.raises(CubeError, match="too little"):
            warnings(2.5, observed([8.0], 20).drop_vars(VARIANCE))


def warnings(resolution: object, given: xr.Dataset) -> list[str]:
    """Return the warnings about the resolution."""
    stage = Deconvolve(method="map", resolution=resolution)
    return [text for text in stage.warnings(given) if "resolution" in text]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Write stars with a PSF of 3.2 pixels, on pixels of 0.025 arcsec, and the PSF."""
    plane, _ = stars(3.2, 100)
    header = fits.Header.fromstring(cube().attrs[HEADER], sep="\n")
    header["BMAJ"] = 7.0  # of the telescope, but not of the product
    hdus = [
        fits.ImageHDU(plane, header, name="DATA"),
        fits.ImageHDU(np.ones_like(plane), header, name="STAT"),
    ]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "target.fits")
    fits.PrimaryHDU(psf(3.2)).writeto(tmp_path / "psf.fits")
    return tmp_path / "target.fits", tmp_path / "psf.fits"


class TestFiles:
    def test_the_header_says_the_resolution(self, files: tuple[Path, Path], tmp_path: Path) -> None:
        run(
            from_plain(
                {
                    "target": {"input": f"{files[0]}{{DATA}}", "stages": []},
                    "star": {"input": str(files[1]), "stages": []},
                    "deconvolve": {"resolution": "0.1arcsec", "errors": {"draws": 2}, "n_iter": 20},
                    "output": {"path": str(tmp_path / "out.fits")},
                    "profile": "synchronous",
                }
            )
        )
        with fits.open(tmp_path / "out.fits") as hdus:
            for name in ("DECONVOLVED", "POINTS", "ERROR", "BIAS"):
                header = hdus[name].header
                assert header["LUCIDCUBE RESOLUTION"] == pytest.approx(4)
                assert header.comments["LUCIDCUBE RESOLUTION"].startswith("[pixel] FWHM")
                assert (header["BMAJ"], header["BMIN"]) == pytest.approx((0.1 / 3600, 0.1 / 3600))
                assert header["BPA"] == 0
                assert header.comments["BMAJ"].startswith("[deg] FWHM")
            assert "LUCIDCUBE RESOLUTION" not in hdus["RESIDUAL"].header
            assert hdus["RESIDUAL"].header["BMAJ"] == 7
            assert hdus["ERROR"].header["SMOOTHED"] == pytest.approx(4 / FWHM)
            assert any(
                "resolution" in str(row) and "0.1arcsec" in str(row) for row in hdus["PROVENANCE"].data
            )
            y, x = STARS[1]  # on a pixel
            peak = stars(3.2, 100)[1] / (2 * np.pi * (4 / FWHM) ** 2)
            assert hdus["DECONVOLVED"].data[int(y), int(x)] == pytest.approx(peak, rel=0.03)

    @pytest.mark.slow
    def test_the_residual_is_added_unless_it_is_not_wanted(
        self, files: tuple[Path, Path], tmp_path: Path
    ) -> None:
        """Components are not negative, so that only the residual can make the sky negative."""
        settings = {"resolution": 4, "n_iter": 20}
        found = []
        for wanted in (True, False):
            paths = tmp_path / f"run-{wanted}.fits", tmp_path / f"command-{wanted}.fits"
            values = {
                "target": {"input": f"{files[0]}{{DATA}}", "stages": []},
                "star": {"input": str(files[1]), "stages": []},
                "deconvolve": {**settings, "add_residual": wanted},
                "output": {"path": str(paths[0])},
                "profile": "synchronous",
            }
            run(from_plain(values))
            options = ["--resolution", "4", "--n-iter", "20", "--add-residual", str(wanted).lower()]
            main(["deconvolve", f"{files[0]}{{DATA}}", str(files[1]), *options, "--output", str(paths[1])])
            made = [fits.getdata(path, 0) for path in paths]
            np.testing.assert_array_equal(*made)
            found.append(made[0])
        assert (found[0] < -0.05).any()
        assert found[1].min() > -1e-4

    def test_pixels_that_are_no_angles_are_said_in_pixels_only(
        self, files: tuple[Path, Path], tmp_path: Path
    ) -> None:
        with fits.open(files[0], mode="update") as hdus:
            for hdu in hdus[1:]:
                del hdu.header["CTYPE*"]
        product = str(tmp_path / "out.fits")
        options = ["--resolution", "4", "--n-iter", "5", "--output", product]
        main(["deconvolve", f"{files[0]}{{DATA}}", str(files[1]), *options])
        header = fits.getheader(product)
        assert header["LUCIDCUBE RESOLUTION"] == 4
        assert "BMAJ" not in header

    @pytest.mark.parametrize(
        ("given", "said"),
        [("0.03arcsec", "0.03arcsec is 1.2 pixels"), ("sharp", "nor an angle such as"), ("1", "below 2")],
    )
    def test_a_resolution_without_meaning_is_one_line(
        self, files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], given: str, said: str
    ) -> None:
        with pytest.raises(SystemExit, match="2"):
            main(["deconvolve", f"{files[0]}{{DATA}}", str(files[1]), "--resolution", given])
        lines = capsys.readouterr().err.strip().splitlines()
        assert said in " ".join(lines)
        assert not any("Traceback" in line for line in lines)

    def test_one_that_is_too_fine_is_refused_before_the_run(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        plane, _ = stars(8.0, 20)
        fits.PrimaryHDU(plane).writeto(tmp_path / "wide.fits")
        fits.PrimaryHDU(psf(8.0)).writeto(tmp_path / "psf.fits")
        paths = [str(tmp_path / name) for name in ("wide.fits", "psf.fits")]
        with pytest.raises(SystemExit, match="2"):
            main(["deconvolve", *paths, "--resolution", "3"])
        assert "which is too little: give resolution: " in " ".join(capsys.readouterr().err.split())

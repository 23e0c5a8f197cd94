"""The accessor of cubes: coordinates, spectra, files and figures."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import regions
import xarray as xr
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

import lucidcube as lc
from locations import ROOT
from lucidcube.errors import CubeError, UserError

matplotlib.use("Agg")
EXAMPLE = ROOT / "example_data" / "target.fits"


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    return lc.open_cube(EXAMPLE)


def arrays(wavelength: np.ndarray | None = None, **more: object) -> xr.Dataset:
    data = np.random.default_rng(3).normal(5, 1, (4, 20, 24)).astype(np.float32)
    wave = np.linspace(5e-7, 6e-7, 4) if wavelength is None else wavelength
    return lc.from_arrays(data, wave, variance=np.full_like(data, 2.0), units="Jy", **more)


@pytest.mark.slow
def test_the_accessor_is_there_in_any_order_of_imports() -> None:
    for first in ("import xarray, lucidcube", "import lucidcube; lucidcube.open_cube; import xarray"):
        program = f"{first}; print(xarray.Dataset().lucid.__class__.__name__)"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout == "LucidAccessor\n"


def test_coordinates_are_those_of_astropy(cube: xr.Dataset) -> None:
    header = fits.getheader(EXAMPLE, "DATA")
    expected = WCS(header).pixel_to_world_values(10, 20, 30)
    np.testing.assert_allclose(cube.lucid.wcs.pixel_to_world_values(10, 20, 30), expected, rtol=1e-12)
    assert cube.lucid.wcs.array_shape == (64, 61, 61)


@pytest.mark.parametrize("grid", [
    np.linspace(5e-7, 6e-7, 4), 5e-7 * 1.01 ** np.arange(4), np.array([5e-7, 5.1e-7, 5.4e-7, 6e-7]),
])  # fmt: skip
def test_any_grid_of_wavelengths_has_coordinates(grid: np.ndarray) -> None:
    wcs = arrays(grid).lucid.wcs
    np.testing.assert_allclose(wcs.pixel_to_world_values(0, 0, np.arange(4))[2], grid, rtol=1e-6)


def test_an_image_has_two_axes() -> None:
    image = lc.from_arrays(np.ones((20, 24), np.float32), [np.nan])
    assert image.lucid.wcs.pixel_n_dim == 2
    assert image.lucid.wcs.array_shape == (20, 24)


def test_cut_planes_have_no_coordinates(cube: xr.Dataset, tmp_path: Path) -> None:
    part = cube.isel(x=slice(10, 30))
    with pytest.raises(
        CubeError, match=r"20 x 61 pixels, but the header describes 61 x 61.*open a part of the file"
    ):
        _ = part.lucid.wcs
    with pytest.raises(CubeError, match="the header describes"):
        part.lucid.to_fits(tmp_path / "part.fits")
    cut = lc.open_cube(f"{EXAMPLE}[:,5:25,10:30]").lucid.wcs
    there = cube.lucid.wcs
    np.testing.assert_allclose(cut.pixel_to_world_values(0, 0, 0), there.pixel_to_world_values(10, 5, 0))


def test_what_is_no_cube_has_no_coordinates(cube: xr.Dataset) -> None:
    with pytest.raises(CubeError, match="wcs: 'data' has the dimensions .'y', 'x'."):
        _ = cube.isel(wavelength=0).lucid.wcs
    with pytest.raises(CubeError, match="wcs needs the variable 'data'"):
        _ = xr.Dataset().lucid.wcs


def test_white_light_is_the_mean_of_what_is_known(cube: xr.Dataset) -> None:
    with np.errstate(invalid="ignore"), pytest.warns(RuntimeWarning, match="Mean of empty"):
        expected = np.nanmean(cube["data"].values.astype(float), axis=0)
    np.testing.assert_allclose(cube.lucid.white_light(), expected)


def test_all_ways_to_give_a_region_agree(cube: xr.Dataset, tmp_path: Path) -> None:
    wcs = cube.lucid.wcs.celestial
    pixel = regions.CirclePixelRegion(regions.PixCoord(25.2, 31.7), 8.3)
    (tmp_path / "disc.reg").write_text("image\ncircle(26.2, 32.7, 8.3)\n")
    y, x = np.mgrid[:61, :61]
    ways = [pixel, pixel.to_sky(wcs), tmp_path / "disc.reg", np.hypot(x - 25.2, y - 31.7) < 8.3]
    first, *others = [cube.lucid.spectrum(way) for way in ways]
    for other in others:
        xr.testing.assert_allclose(first, other)
    data = np.where(ways[-1], cube["data"].values.astype(float), np.nan).reshape(64, -1)
    known = np.isfinite(data)
    np.testing.assert_array_equal(first["pixels"], known.sum(axis=1))
    total = np.nansum(data, axis=1)
    some = known.any(axis=1)
    np.testing.assert_allclose(first["data"][some], (total / known.sum(axis=1).clip(1))[some])
    np.testing.assert_allclose(cube.lucid.spectrum(pixel, "sum")["data"][some], total[some])
    assert np.isnan(first["data"][~some]).all()
    assert (~some).sum() == 1


def test_the_dimensions_of_a_region_may_be_in_any_order(cube: xr.Dataset) -> None:
    y, x = np.mgrid[:61, :61]
    inside = (x < 20) & (y < 45)
    expected = cube.lucid.spectrum(inside)
    region = xr.DataArray(inside, dims=("y", "x"))
    for given in (region, region.transpose("x", "y")):
        xr.testing.assert_identical(cube.lucid.spectrum(given), expected)
    other = cube.lucid.spectrum(inside.T)
    assert (other["data"] - expected["data"]).max() > 1  # in one graph


def test_a_spectrum_is_lazy(cube: xr.Dataset, nothing_computes: None) -> None:
    assert cube.lucid.spectrum()["variance"].chunks


@pytest.mark.parametrize("width", [0.0, 0.6, 1.2])
def test_the_variance_of_a_spectrum_is_its_scatter(width: float) -> None:
    """By simulation, also where the noise is correlated and its variance differs from pixel to pixel."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(5)
    noise = rng.normal(size=(400, 24, 24))
    if width:
        noise = gaussian_filter(noise, (0, width, width), mode="wrap")
        noise /= noise.std()
    sigma = np.linspace(1, 3, 24)
    cube = lc.from_arrays(
        sigma * noise, 1e-9 * np.arange(500, 900), variance=np.broadcast_to(sigma**2, noise.shape)
    )
    cube["noise_width"] = "wavelength", np.full(400, width)
    region = regions.CirclePixelRegion(regions.PixCoord(11, 12), 6)
    for statistic in ("mean", "sum"):
        made = cube.lucid.spectrum(region, statistic)
        assert made["data"].var() / made["variance"].mean() == pytest.approx(1, abs=0.25)


def test_missing_variance_and_deconvolved_data() -> None:
    cube = arrays()
    cube["variance"][1, 3, 4] = np.nan
    assert np.isnan(cube.lucid.spectrum()["variance"].values).tolist() == [False, True, False, False]
    sharp = lc.Deconvolve(method="lucy_richardson", n_iter=2)(cube, lc.gaussian_psf(cube, fwhm=2))
    assert "variance" not in sharp.lucid.spectrum()


@pytest.mark.parametrize(
    ("region", "message"),
    [
        (regions.CirclePixelRegion(regions.PixCoord(500, 5), 3), "the region has no pixel"),
        (regions.CircleSkyRegion(SkyCoord(1 * u.deg, 1 * u.deg), 1 * u.arcsec), "on the sky, but the cube has no"),
        (np.ones((3, 3), bool), "of the shape .3, 3.; it must be boolean, of the shape .20, 24."),
        (np.ones((20, 24)), "array of float64"),
        (xr.DataArray(np.ones((20, 24), bool)), "the region has the dimensions .'dim_0', 'dim_1'.; they must be"),
        (xr.DataArray(np.ones((1, 20, 24), bool), dims=("wavelength", "y", "x")), "the region has the dimensions"),
        (5, "int is no region: give one of the package regions"),
        ("missing.reg", "missing.reg"),
    ],
)  # fmt: skip
def test_a_wrong_region_is_one_clear_error(region: object, message: str) -> None:
    with pytest.raises(CubeError, match=message):
        arrays().lucid.spectrum(region)


def test_a_cube_keeps_its_header_in_a_file(cube: xr.Dataset, tmp_path: Path) -> None:
    made = lc.Rebin(bin_step="2nm")(cube)
    path = made.lucid.to_fits(tmp_path / "new" / "rebinned.fits")
    again = lc.open_cube(path)
    for name in ("data", "variance"):
        np.testing.assert_array_equal(again[name], made[name])
    np.testing.assert_allclose(again["wavelength"], made["wavelength"], rtol=1e-12)
    header = fits.getheader(path)
    assert header["OBJECT"] == "simulated ice giant"
    assert header["HIERARCH LUCIDCUBE TARGET STAGES"] == "rebin"
    with fits.open(path, checksum=True) as hdus:
        assert [h.name for h in hdus] == ["DATA", "STAT"]


def test_a_deconvolved_cube_has_its_log_and_its_psf(cube: xr.Dataset, tmp_path: Path) -> None:
    part = cube.isel(wavelength=slice(3, 9))
    stage = lc.Deconvolve(method="lucy_richardson", n_iter=3, chi2_target=None)
    made = stage(part, lc.moffat_psf(part, fwhm=3))
    path = made.lucid.to_fits(tmp_path / "sharp.fits")
    with fits.open(path) as hdus:
        assert [h.name for h in hdus] == ["DECONVOLVED", "STAT", "RESIDUAL", "PSF", "DECONVOLUTION LOG"]
        np.testing.assert_array_equal(hdus["PSF"].data, made["psf"])
        assert (hdus["DECONVOLUTION LOG"].data["iterations"] == 3).all()
    assert list(tmp_path.iterdir()) == [path]


def test_a_psf_goes_through_a_file(cube: xr.Dataset, tmp_path: Path) -> None:
    part = cube.isel(wavelength=slice(3, 6))
    psf = lc.moffat_psf(part, fwhm=3)
    path = psf.lucid.to_fits(tmp_path / "psf.fits")
    assert fits.getheader(path)["EXTNAME"] == "PSF"
    stage = lc.Deconvolve(method="lucy_richardson", n_iter=2)
    for a, b in zip(
        *((stage(part, p)[v] for v in ("psf", "data")) for p in (psf, lc.open_cube(path))), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_arrays_get_a_header_with_their_wavelengths(tmp_path: Path) -> None:
    cube = arrays()
    again = lc.open_cube(cube.lucid.to_fits(tmp_path / "a.fits"))
    np.testing.assert_array_equal(again["data"], cube["data"])
    np.testing.assert_allclose(again["wavelength"], cube["wavelength"])
    assert again["data"].attrs["units"] == "Jy"


def test_files_are_not_overwritten(cube: xr.Dataset, tmp_path: Path) -> None:
    copy = tmp_path / "copy.fits"
    copy.write_bytes(EXAMPLE.read_bytes())
    part = lc.open_cube(copy).isel(wavelength=slice(0, 2))
    out = part.lucid.to_fits(tmp_path / "out.fits")
    before = out.read_bytes()
    with pytest.raises(CubeError, match="exists; give another name, or overwrite=True"):
        part.lucid.to_fits(out)
    assert out.read_bytes() == before
    part.isel(wavelength=[0]).lucid.to_fits(out, overwrite=True)
    assert fits.getdata(out).shape == (1, 61, 61)
    with pytest.raises(CubeError, match="is one of the inputs"):
        part.lucid.to_fits(copy, overwrite=True)
    with pytest.raises(CubeError, match="to_fits needs the variable 'data'"):
        xr.Dataset().lucid.to_fits(tmp_path / "none.fits")


def test_a_folder_that_cannot_be_written_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("tempfile.mkdtemp", refused)
    with pytest.raises(CubeError, match=f"nothing can be written in {tmp_path}/deep: Read-only file system"):
        arrays().lucid.to_fits(tmp_path / "deep" / "out.fits")


def test_a_plane_is_drawn_on_the_sky(cube: xr.Dataset) -> None:
    import matplotlib.pyplot as plt

    ax = cube.lucid.plot(wave="0.72um")
    assert hasattr(ax, "coords")
    np.testing.assert_array_equal(ax.images[0].get_array().filled(np.nan), cube["data"][7])
    assert "0.72 µm" in ax.get_title(loc="left")
    assert cube.lucid.plot(channel=7).get_title(loc="left") == ax.get_title(loc="left")
    white = cube.lucid.plot()
    np.testing.assert_allclose(white.images[0].get_array().filled(np.nan), cube.lucid.white_light())
    _, given = plt.subplots()
    assert lc.moffat_psf(cube, fwhm=3).lucid.plot(channel=3, scale="linear", ax=given) is given
    assert arrays().lucid.plot(channel=1).get_xlabel() == "x (pixel)"
    plt.close("all")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"wave": "0.9um"}, "outside the cube's range"),
        ({"channel": 99}, "there is no channel 99"),
        ({"wave": "0.72um", "channel": 3}, "give wave or channel, and not both"),
        ({"variable": "mask"}, "plot needs the variable 'mask'"),
        ({"variable": "wavelength"}, "wavelength is no image"),
    ],
)
def test_a_wrong_plane_is_one_clear_error(
    cube: xr.Dataset, arguments: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        cube.lucid.plot(**arguments)

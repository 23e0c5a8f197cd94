"""A star that is cut out of the target, from FITS to FITS."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.io import fits

from config_scenes import moffat
from lucidcube.config.load import from_plain
from lucidcube.config.star import Place
from lucidcube.cube import DATA, HEADER, VARIANCE
from lucidcube.errors import ConfigError
from lucidcube.io.reader import open_cube
from lucidcube.io.wcs import celestial_wcs
from lucidcube.runner.pipeline import run
from lucidcube.runner.star_in_target import star_in_target

SKY = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 30.0, "CRVAL2": -20.0, "CRPIX1": 10.0, "CRPIX2": 20.0,
    "CD1_1": -0.025 / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.025 / 3600, "RADESYS": "FK5",
}  # fmt: skip
WAVE = {"CTYPE3": "AWAV", "CUNIT3": "nm", "CRVAL3": 500.0, "CRPIX3": 1.0, "CD3_3": 2.0}
STAR = 58, 25  # x, y
PSF = moffat((27, 27), 3.0, (13, 13))
CHAIN = ["noise", {"fit_psf": {"model": "effective"}}]


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disc, and beside it a star, with the same PSF."""
    rng, path = np.random.default_rng(0), tmp_path_factory.mktemp("target") / "target.fits"
    y, x = np.indices((50, 80))
    scene = np.clip(10 - np.hypot(y - 25, x - 22), 0, 1) * 100
    scene[STAR[1], STAR[0]] = 1e5
    psf = np.zeros(scene.shape)
    psf[12:39, 27:54] = PSF
    blurred = np.fft.irfft2(np.fft.rfft2(scene) * np.fft.rfft2(np.fft.ifftshift(psf)), scene.shape)
    variance = 4 + np.maximum(blurred, 0)
    data = blurred + rng.normal(0, 1, (3, 50, 80)) * np.sqrt(variance)
    arrays = data, np.broadcast_to(variance, data.shape)
    hdus = [fits.ImageHDU(a.astype(np.float32), fits.Header(SKY | WAVE)) for a in arrays]
    hdus[0].name, hdus[1].name = "DATA", "STAT"
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def product(file: Path, folder: Path, star: dict[str, Any], **more: Any) -> dict[str, Any]:
    values = {
        "target": {"input": str(file), "stages": ["noise"]},
        "star": {"from": "target", "stages": CHAIN} | star,
        "deconvolve": {"method": "map", "n_iter": 10},
        "output": {"path": f"{folder}/out.fits"},
        "checkpoints": {"dir": f"{folder}/work"},
        "profile": "synchronous",
    }
    config = from_plain(values | more)
    assert from_plain(config.plain()) == config
    with fits.open(run(config).path) as hdus:
        return {h.name: np.array(h.data) for h in hdus} | {"header": hdus[0].header}


def test_the_part_is_that_of_the_file(target: Path) -> None:
    cube = open_cube(str(target))
    part = star_in_target(cube, Place(source="target", x=58, y=25.4, radius=12))
    for name in (DATA, VARIANCE):
        np.testing.assert_array_equal(part[name].values, cube[name].values[:, 14:38, 46:71])
    whole, here = (celestial_wcs(fits.Header.fromstring(c.attrs[HEADER], sep="\n")) for c in (cube, part))
    np.testing.assert_allclose(here.wcs_pix2world([[3, 4]], 0), whole.wcs_pix2world([[49, 18]], 0))
    near = star_in_target(cube, Place(source="target", x=77, y=2, radius=8))
    np.testing.assert_array_equal(near[DATA].values, cube[DATA].values[:, :11, 69:])


def test_the_psf_is_that_of_the_star(target: Path, tmp_path: Path) -> None:
    made = product(target, tmp_path, {"x": STAR[0], "y": STAR[1], "radius": 13})
    assert made["PSF"].shape == (3, 27, 27)
    error = np.linalg.norm(made["PSF"] - PSF) / np.linalg.norm(PSF) / np.sqrt(3)
    assert error < 0.02, error  # 0.007
    header = made["header"]
    assert header["LUCIDCUBE STAR FILE"] == header["LUCIDCUBE TARGET FILE"] == "target.fits"
    assert header["LUCIDCUBE STAR STAGES"] == "noise fit_psf"


@pytest.mark.slow
def test_sky_coordinates_mean_the_same(target: Path, tmp_path: Path) -> None:
    header = fits.getheader(target, 1)
    place = celestial_wcs(header).pixel_to_world(STAR[0] + 0.1, STAR[1] - 0.1)
    assert isinstance(place, SkyCoord)
    ra, dec = place.icrs.ra, place.icrs.dec
    star = {"x": ra.to_string("hourangle", precision=6), "y": f"{dec.deg:.8f}deg", "radius": "0.325arcsec"}
    made = product(target, tmp_path / "sky", star)
    known = product(target, tmp_path / "pixels", {"x": STAR[0] + 0.1, "y": STAR[1] - 0.1, "radius": 13})
    np.testing.assert_array_equal(made["PSF"], known["PSF"])


@pytest.mark.slow
def test_the_slice_of_the_target_counts(target: Path, tmp_path: Path) -> None:
    star = {"x": STAR[0] - 10, "y": STAR[1] - 5, "radius": 10}
    made = product(
        target, tmp_path / "a", star, target={"input": str(target), "slice": ":2,5:,10:", "stages": ["noise"]}
    )
    known = product(
        target, tmp_path / "b", star | {"x": STAR[0], "y": STAR[1]}, target={"input": f"{target}[:2]", "stages": ["noise"]}
    )  # fmt: skip
    np.testing.assert_array_equal(made["PSF"], known["PSF"])


def test_the_recommended_chain(target: Path, tmp_path: Path) -> None:
    values = {
        "target": {"input": str(target)},
        "star": {"from": "target", "x": STAR[0], "y": STAR[1], "radius": 12},
        "deconvolve": {"n_iter": 3},
        "output": {"path": f"{tmp_path}/out.fits"},
        "profile": "synchronous",
    }
    header = fits.getheader(run(from_plain(values)).path)
    assert header["LUCIDCUBE STAR STAGES"] == "rebin noise fit_psf"
    assert (
        header["LUCIDCUBE TARGET STAGES"] == "rebin noise broaden_psf artefacts mask interpolate deconvolve"
    )


@pytest.mark.parametrize(
    ("star", "message"),
    [
        ({"x": 80}, "star: x: the star at 80 is outside of the target, whose pixels are 0 to 79 along x"),
        ({"y": -1}, "star: y: the star at -1 is outside"),
        ({"radius": 2}, "star: radius: 2 pixels are too few"),
        ({"radius": 40}, "star: radius: 40 pixels reach across the target"),
        ({"x": "5h", "y": "-12deg"}, "star: .* (is outside of the target|is not on the projection)"),
        ({"x": "5h"}, "star: x and y must both be pixels, or both angles"),
        ({"x": "5"}, "star.x: '5' is neither a number of pixels nor an angle"),
        ({"radius": 0}, "star.radius: 0 is neither"),
        ({"input": "a.fits"}, "star: has both from and input"),
        ({"from": "b.fits"}, "star.from: must be one of target"),
        ({"z": 3}, "star.z: unknown key"),
        ({"stages": ["rebi"]}, "star.rebi: there is no stage 'rebi'; did you mean 'rebin'"),
        ({"stages": [{"fit_psf": {"model": "efective"}}]}, "star.fit_psf.model: must be one of"),
    ],
)
def test_mistakes_are_one_line(target: Path, tmp_path: Path, star: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        product(target, tmp_path, {"x": STAR[0], "y": STAR[1], "radius": 10} | star)
    assert len(caught.value.problems) == 1

"""PSFs on other pixels and at other wavelengths than the target, from FITS to FITS."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from lucidcube.config.load import from_plain
from lucidcube.errors import ConfigError, CubeError
from lucidcube.io.reader import open_cube
from lucidcube.kernels.psf.analytic import model_psf
from lucidcube.kernels.psf.optical_psf import Optics
from lucidcube.runner.monitor import Monitor
from lucidcube.runner.one_stage import run_stage
from lucidcube.runner.pipeline import run
from lucidcube.stages.match_psf import match_psf

SCALE = 0.05
WAVE = {"CTYPE3": "AWAV", "CUNIT3": "nm", "CRVAL3": 500.0, "CRPIX3": 1.0, "CD3_3": 100.0}
SIDE = 31


def sky(scale: float, degrees: float = 0.0, mirror: bool = False) -> dict[str, Any]:
    """Return cards of pixels of this size, whose y axis points this far east of north."""
    angle, east = np.deg2rad(degrees), 1 if mirror else -1
    c, s = scale / 3600 * np.cos(angle), scale / 3600 * np.sin(angle)
    return {
        "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 30.0, "CRVAL2": -20.0, "CRPIX1": 9.0, "CRPIX2": 9.0,
        "CD1_1": east * c, "CD1_2": s, "CD2_1": -east * s, "CD2_2": c,
    }  # fmt: skip


def moffat(fwhm: float, side: int) -> np.ndarray:
    return model_psf(np.array([fwhm, 2.5]), 1.0, model="moffat", side=side, optics=Optics(8.0, 0.0, 1.0))


class Listener(Monitor):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("target") / "target.fits"
    data = np.random.default_rng(0).normal(10, 1, (3, SIDE, SIDE)).astype(np.float32)
    fits.PrimaryHDU(data, fits.Header(WAVE | sky(SCALE))).writeto(path)
    return path


def psf_file(folder: Path, data: np.ndarray, cards: dict[str, Any], name: str = "psf.fits") -> Path:
    fits.PrimaryHDU(data.astype(np.float32), fits.Header(cards)).writeto(folder / name)
    return folder / name


def used(
    target: Path, psf: Path, folder: Path, *, stages: Any = (), **star: Any
) -> tuple[np.ndarray, list[str], Any]:
    """Run a deconvolution; return its PSF, the messages, and the header of the product."""
    values = {
        "target": {"input": str(target), "stages": []},
        "star": {"input": str(psf), "stages": list(stages)} | star,
        "deconvolve": {"method": "lucy_richardson", "n_iter": 1, "chi2_target": None},
        "output": {"path": f"{folder}/out.fits"},
        "profile": "synchronous",
    }
    listener = Listener()
    with fits.open(run(from_plain(values), listener).path) as hdus:
        return np.array(hdus["PSF"].data), listener.texts, hdus[0].header


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_an_oversampled_psf_is_integrated_over_the_pixels(target: Path, tmp_path: Path) -> None:
    """As STPSF writes it: no sky coordinates, an even side, the pixel scale in a card, the sum below one."""
    file = tmp_path / "stpsf.fits"
    fine = _even(moffat(12.0, 201))
    hdus = [fits.PrimaryHDU(), fits.ImageHDU(name="DET_SAMP")]
    for hdu, image, scale in zip(hdus, (0.9 * fine, 0.9 * moffat(3.0, 51)), (SCALE / 4, SCALE), strict=True):
        hdu.data = image.astype(np.float32)
        hdu.header["PIXELSCL"], hdu.header["WAVELEN"] = scale, 6e-7
    hdus[0].header["EXTNAME"] = "OVERSAMP"
    fits.HDUList(hdus).writeto(file)
    psf, texts, header = used(target, file, tmp_path)
    assert psf.shape == (1, SIDE, SIDE)
    assert distance(psf[0], moffat(3.0, SIDE)) < 8e-3  # the mean of neighbouring pixels is broader
    assert "star: resampled to the pixels of the target, which are 4 of its own" in texts
    assert header["LUCIDCUBE STAR STAGES"] == "resample_psf"
    with pytest.raises(ConfigError, match="the PSF must have unit sum.*normalise_psf"):
        used(target, file, tmp_path, ext="DET_SAMP")
    psf, texts, _ = used(target, file, tmp_path, ext="DET_SAMP", stages=["normalise_psf"])
    assert psf.shape == (1, 51, 51)
    assert not any("resampled" in text for text in texts)


def _even(psf: np.ndarray) -> np.ndarray:
    """Return a PSF between the pixels, on an even number of them."""
    shifted = (psf[:-1] + psf[1:]) / 2
    return (shifted[:, :-1] + shifted[:, 1:]) / 2


def test_a_psf_cube_with_listed_wavelengths(target: Path, tmp_path: Path) -> None:
    """As STPSF lists them; planes between them are interpolated."""
    planes = np.stack([moffat(12.0, 125), moffat(16.0, 125)])
    cards = {"PIXELSCL": SCALE / 4, "NWAVES": 2, "WAVELN00": 5e-7, "WAVELN01": 7e-7}
    psf, texts, _ = used(target, psf_file(tmp_path, planes, cards), tmp_path)
    assert psf.shape == (3, SIDE, SIDE)
    ends = moffat(3.0, SIDE), moffat(4.0, SIDE)
    for made, known in zip(psf, (ends[0], (ends[0] + ends[1]) / 2, ends[1]), strict=True):
        assert distance(made, known) < 3e-3
    assert any("interpolated in wavelength" in text for text in texts)


@pytest.mark.parametrize("degrees", [90.0, 30.0])
@pytest.mark.parametrize("mirror", [False, True])
def test_a_psf_of_another_orientation_is_turned(
    target: Path, tmp_path: Path, degrees: float, mirror: bool
) -> None:
    """A PSF that is long towards the north-west stays so on the sky."""
    image = _streak(SIDE, sky(SCALE, degrees, mirror))
    psf, texts, _ = used(target, psf_file(tmp_path, image, sky(SCALE, degrees, mirror)), tmp_path)
    assert distance(psf[0], _streak(SIDE, sky(SCALE))) < 0.01
    (text,) = [text for text in texts if "resampled" in text]
    assert ("mirrored" in text) == mirror


def _streak(side: int, cards: dict[str, Any]) -> np.ndarray:
    """Return a Gaussian that is longer towards the north-west, with a fainter blob to the north."""
    y, x = np.indices((side, side)) - side // 2
    matrix = np.array([[cards["CD1_1"], cards["CD1_2"]], [cards["CD2_1"], cards["CD2_2"]]]) * 3600 / SCALE
    east, north = matrix[0, 0] * x + matrix[0, 1] * y, matrix[1, 0] * x + matrix[1, 1] * y
    along, across = (north - east) / np.sqrt(2), (north + east) / np.sqrt(2)
    image = np.exp(-0.5 * ((along / 3) ** 2 + (across / 1.8) ** 2))
    image += 0.1 * np.exp(-0.5 * ((north - 5) ** 2 + east**2) / 1.5**2)
    return image / image.sum()


def test_an_observed_star_is_scaled_but_not_turned(target: Path, tmp_path: Path) -> None:
    cards = sky(0.8 * SCALE, 40.0) | WAVE
    star = 1e4 * np.repeat(moffat(3.75, 41)[None], 3, axis=0)
    file = psf_file(tmp_path, star + np.random.default_rng(0).normal(0, 0.1, star.shape), cards)
    psf, texts, header = used(
        target, file, tmp_path, stages=["normalise_psf", {"fit_psf": {"model": "radial"}}]
    )
    assert header["LUCIDCUBE STAR STAGES"] == "normalise_psf fit_psf resample_psf"
    assert psf.shape == (3, SIDE, SIDE)
    assert distance(psf[0], moffat(3.0, SIDE)) < 0.02
    (text,) = [text for text in texts if "resampled" in text]
    assert "which are 1.25 of its own; its sky is rotated by -40 degrees" in text


def test_a_stage_that_is_given_is_not_added_again(target: Path, tmp_path: Path) -> None:
    file = psf_file(tmp_path, moffat(9.0, 93), {"PIXELSCL": SCALE})
    psf, _, header = used(target, file, tmp_path, stages=[{"resample_psf": {"scale": 3.0}}])
    assert header["LUCIDCUBE STAR STAGES"] == "resample_psf"
    assert distance(psf[0], moffat(3.0, SIDE)) < 5e-3


def test_a_psf_without_a_scale_is_taken_as_it_is(target: Path, tmp_path: Path) -> None:
    psf, texts, _ = used(target, psf_file(tmp_path, moffat(3.0, 25), {}), tmp_path)
    np.testing.assert_array_equal(psf[0], moffat(3.0, 25))
    assert any("the file states no pixel scale" in text for text in texts)


@pytest.mark.parametrize("step", [100.0, 50.0, -100.0, 200.0])
def test_planes_between_wavelengths_are_interpolated(target: Path, tmp_path: Path, step: float) -> None:
    nm = np.arange(500.0, 701.0, abs(step))[:: 1 if step > 0 else -1]
    planes = np.stack([moffat(0.006 * w, 25) for w in nm])
    cards = WAVE | {"CRVAL3": nm[0], "CD3_3": step}
    psf, _, _ = used(target, psf_file(tmp_path, planes, cards), tmp_path)
    for made, w in zip(psf, (500, 600, 700), strict=True):
        assert distance(made, moffat(0.006 * w, 25)) < (0.05 if step == 200 else 1e-6)
    np.testing.assert_allclose(psf.sum(axis=(1, 2)), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("cards", "side", "message"),
    [
        (sky(8 * SCALE), 25, "its pixels are 8 times as large as those of the target"),
        ({"PIXELSCL": 8 * SCALE}, 25, "its pixels are 8 times as large"),
        ({"PIXELSCL": SCALE / 20}, 41, "the PSF covers only 3 pixels of the target"),
        ({"PIXELSCL": SCALE / 20}, 201, "of the light of the PSF falls on one pixel"),
        (sky(SCALE) | {"CD2_2": 2 * SCALE / 3600}, 25, "different shapes"),
        (
            {"PIXELSCL": SCALE, "WAVELEN": 2e-6},
            25,
            "its wavelength is 2e-06 m, but those of the target are 5e-07",
        ),
    ],
)
def test_what_cannot_agree_is_refused(
    target: Path, tmp_path: Path, cards: Any, side: int, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        used(target, psf_file(tmp_path, moffat(3.0, side), cards), tmp_path)
    assert len(caught.value.problems) == 1
    assert not (tmp_path / "target.work").exists()


def test_wavelengths_that_do_not_overlap_are_refused(target: Path, tmp_path: Path) -> None:
    planes = np.repeat(moffat(3.0, 25)[None], 3, axis=0)
    with pytest.raises(ConfigError, match="they do not overlap"):
        used(target, psf_file(tmp_path, planes, WAVE | {"CRVAL3": 900.0}), tmp_path)


def test_a_command_resamples_too(target: Path, tmp_path: Path) -> None:
    file, listener = psf_file(tmp_path, moffat(12.0, 201), {"PIXELSCL": SCALE / 4}), Listener()
    options = {"method": "lucy_richardson", "n_iter": "1", "chi2_target": "null"}
    path = run_stage(
        "deconvolve", [str(target), str(file)], options, output=f"{tmp_path}/out.fits", monitor=listener
    )
    psf = fits.getdata(path, "PSF")
    assert distance(psf[0], moffat(3.0, SIDE)) < 3e-3
    assert any("which are 4 of its own" in text for text in listener.texts)
    coarse = psf_file(tmp_path, moffat(3.0, 25), sky(8 * SCALE), "coarse.fits")
    with pytest.raises(CubeError, match="its pixels are 8 times as large"):
        run_stage("deconvolve", [str(target), str(coarse)], options, output=f"{tmp_path}/out2.fits")


def test_the_psf_of_a_star_by_lucidcube_keeps_its_orientation(target: Path, tmp_path: Path) -> None:
    star = 1e4 * np.repeat(_streak(SIDE, sky(SCALE))[None], 3, axis=0)
    file = psf_file(tmp_path, star, sky(SCALE, 30.0) | WAVE, "star.fits")
    path = run_stage("fit_psf", [str(file)], {"model": "effective"}, output=f"{tmp_path}/psf.fits")
    match = match_psf(open_cube(str(path)), open_cube(str(target)), observed=False)
    assert match.stage is None
    assert "rotated" in match.text


@pytest.mark.parametrize("cards", [sky(SCALE / 2, 30.0), {"PIXELSCL": SCALE / 2}])
def test_a_psf_that_was_resampled_states_its_new_pixels(
    target: Path, tmp_path: Path, cards: dict[str, Any]
) -> None:
    """By the command: the file is used as it is afterwards, and the PSF of the product states its pixels."""
    file = psf_file(tmp_path, moffat(6.0, 61), WAVE | cards | {"CTYPE1": cards.get("CTYPE1", "")})
    made = run_stage("resample_psf", [str(file)], {"scale": "2"}, output=f"{tmp_path}/made.fits")
    header = fits.getheader(made)
    assert header["PIXELSCL"] == pytest.approx(SCALE)
    assert (header["CTYPE1"], header["CRPIX1"]) == ("LINEAR", header["NAXIS1"] / 2 + 0.5)
    psf, texts, _ = used(target, made, tmp_path)
    assert psf[0].shape == fits.getdata(made).shape
    assert not any("resampled" in text for text in texts)
    with fits.open(tmp_path / "out.fits") as hdus:
        assert hdus["PSF"].header["PIXELSCL"] == pytest.approx(SCALE)

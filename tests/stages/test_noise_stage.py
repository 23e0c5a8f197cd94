"""The stage `noise` on a cube whose variance is wrong, in memory and from FITS to FITS."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from scipy import ndimage

from config_scenes import galaxy, observe
from lucidcube.cli.app import main
from lucidcube.config.load import from_plain
from lucidcube.cube import DATA, NOISE_FACTOR, NOISE_WIDTH, VARIANCE, WAVELENGTH, from_arrays
from lucidcube.errors import ConfigError
from lucidcube.kernels.noise import correlated_pixels, noise_width
from lucidcube.runner.monitor import Monitor
from lucidcube.runner.pipeline import run
from lucidcube.stages import Noise

PLANES, SIDE = 36, 44


class Messages(Monitor):
    """Keep the messages of a run."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


def scene(factor: Any = 1.0, width: float = 0.0, side: int = SIDE, planes: int = PLANES) -> xr.Dataset:
    """Return a faint object with noise of variance 4, and a variance that is too small by a factor."""
    rng = np.random.default_rng(5)
    noise = rng.normal(size=(planes, side, side))
    if width:
        weights = ndimage.gaussian_filter(np.pad([[1.0]], 12), width)
        noise = ndimage.gaussian_filter(noise, (0, width, width)) / np.sqrt(np.sum(weights**2))
    y, x = np.mgrid[:side, :side]
    data = 50 * np.exp(-((y - 20) ** 2 + (x - 23) ** 2) / 50) + 2 * noise
    variance = np.full(data.shape, 4.0) / np.reshape(factor, (-1, 1, 1))
    return from_arrays(
        data.astype(np.float32), 7e-7 + 1e-9 * np.arange(planes), variance=variance.astype(np.float32)
    )


def found(stage: Noise, cube: xr.Dataset) -> str:
    """Return what the stage says about a cube."""
    return "\n".join([*stage.warnings(cube), *stage.findings(stage(cube))])


def test_a_right_variance_is_left_as_it_is() -> None:
    cube = scene()
    made = Noise()(cube)
    np.testing.assert_array_equal(made[VARIANCE].values, cube[VARIANCE].values)
    np.testing.assert_array_equal(made[NOISE_FACTOR].values, 1)
    np.testing.assert_array_equal(made[NOISE_WIDTH].values, 0)
    assert found(Noise(), cube) == ""


@pytest.mark.parametrize(("factor", "words"), [(3.0, "3 times too small"), (0.2, "5 times too large")])
def test_a_wrong_variance_is_corrected_and_said(factor: float, words: str) -> None:
    cube = scene(factor)
    made = Noise()(cube)
    np.testing.assert_allclose(made[NOISE_FACTOR].values, factor, rtol=0.2)
    assert np.mean(made[NOISE_FACTOR].values) == pytest.approx(factor, rel=0.03)
    corrected = cube[VARIANCE].values * made[NOISE_FACTOR].values[:, None, None]
    np.testing.assert_array_equal(made[VARIANCE].values, corrected)
    np.testing.assert_allclose(made[VARIANCE].values, 4, rtol=0.2)
    text = found(Noise(), cube)
    assert f"{PLANES} of {PLANES} planes" in text
    size = float(text.split(" times")[0].rpartition(" ")[2])
    assert size == pytest.approx(float(words.split()[0]), rel=0.1)
    assert words.partition(" ")[2] in text


def test_a_wrong_variance_is_kept_and_said() -> None:
    cube = scene(4.0)
    stage = Noise(calibrate=False)
    made = stage(cube)
    np.testing.assert_array_equal(made[VARIANCE].values, cube[VARIANCE].values)
    assert NOISE_FACTOR not in made
    assert "in 3 of 3 planes; it is kept" in found(stage, cube)
    assert found(stage, scene()) == ""


def test_a_given_factor_multiplies_the_variance() -> None:
    cube, stage = scene(), Noise(calibrate=2.5)
    made = stage(cube)
    np.testing.assert_array_equal(made[VARIANCE].values, 10)
    np.testing.assert_array_equal(made[NOISE_FACTOR].values, 2.5)
    assert found(stage, cube) == ""
    for wrong in (-1.0, "twice"):
        with pytest.raises(ConfigError, match="calibrate"):
            Noise(calibrate=wrong)


def test_the_factor_depends_on_the_wavelength_but_not_on_the_chunks() -> None:
    factor = np.linspace(1, 4, PLANES)
    cube = scene(factor)
    made = Noise()(cube)
    high = factor > 1.8
    np.testing.assert_allclose(made[NOISE_FACTOR].values[high], factor[high], rtol=0.25)
    assert (made[NOISE_FACTOR].values[:3] == 1).all()
    for size in (1, 5, 16):
        lazy = Noise()(cube.chunk({WAVELENGTH: size})).compute(scheduler="synchronous")
        for name in (VARIANCE, NOISE_FACTOR, NOISE_WIDTH):
            np.testing.assert_array_equal(lazy[name].values, made[name].values)


@pytest.mark.parametrize("width", [0.5, 0.8])
def test_correlated_noise_is_found(width: float) -> None:
    cube = scene(2.0, width)
    made = Noise()(cube)
    np.testing.assert_allclose(made[NOISE_WIDTH].values, width, atol=0.04)
    np.testing.assert_allclose(made[NOISE_FACTOR].values, 2, rtol=0.2)
    assert "the noise of neighbouring pixels is correlated" in found(Noise(), cube)


@pytest.mark.parametrize("width", [0.0, 0.5, 0.8])
def test_a_plane_alone_has_the_width_that_the_stage_finds(width: float) -> None:
    """Each plane is measured again by methods such as `map`, with the corrected variance."""
    made = Noise()(scene(2.0, width, side=101, planes=10))
    each = [noise_width(p, v) for p, v in zip(made[DATA].values, made[VARIANCE].values, strict=True)]
    np.testing.assert_allclose(each, made[NOISE_WIDTH].values, atol=0.06)
    expected = correlated_pixels(made[DATA].values[0], made[VARIANCE].values[0])
    assert expected == pytest.approx(max(1, 4 * np.pi * width**2), rel=0.3)


def test_too_few_pixels_are_said() -> None:
    cube = scene(4.0).isel(y=slice(0, 9), x=slice(0, 9))
    made = Noise()(cube)
    np.testing.assert_array_equal(made[VARIANCE].values, cube[VARIANCE].values)
    assert np.isnan(made[NOISE_FACTOR].values).all()
    assert "too few pixels" in found(Noise(), cube)


def test_from_fits_to_fits(tmp_path: Path) -> None:
    files = observe(galaxy(81), tmp_path, seed=1, sky=20.0, variance=True)
    with fits.open(files.target) as hdus:
        truth = hdus[2].data.copy()
        hdus[2].data /= 4
        hdus.writeto(tmp_path / "wrong.fits")
    config = {
        "target": {"input": str(tmp_path / "wrong.fits"), "stages": ["noise"]},
        "output": {"path": str(tmp_path / "out.fits"), "products": ["deconvolved", "variance", "log"]},
        "profile": "synchronous",
    }
    seen = Messages()
    path = run(from_plain(config), seen).path
    with fits.open(path) as hdus:
        factor, table = hdus["STAT"].data / (truth / 4), hdus["NOISE"].data
        np.testing.assert_allclose(factor, 4, rtol=0.1)
        np.testing.assert_allclose(table[NOISE_FACTOR], factor[:, 0, 0], rtol=1e-5)
        np.testing.assert_array_equal(table[NOISE_WIDTH], 0)
    (said,) = [text for text in seen.texts if "the variance is" in text]
    assert said.startswith("target, noise: the variance is ")
    assert "times too small for the scatter of the data in 12 of 12 planes; it was corrected" in said


@pytest.mark.parametrize(("value", "factor"), [("false", 0.25), ("4", 1.0), ("true", 1.0)])
def test_the_command_takes_a_word_or_a_number(tmp_path: Path, value: str, factor: float) -> None:
    cube = scene(4.0)
    axis = fits.Header({"CTYPE3": "WAVE", "CUNIT3": "m", "CRPIX3": 1.0, "CRVAL3": 7e-7, "CDELT3": 1e-9})
    names = ((DATA, "DATA"), (VARIANCE, "STAT"))
    hdus = [fits.ImageHDU(cube[name].values, axis, name=label) for name, label in names]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(tmp_path / "in.fits")
    output = tmp_path / "out.fits"
    main(["noise", str(tmp_path / "in.fits"), "-o", str(output), "--calibrate", value])
    with fits.open(output) as made:
        np.testing.assert_allclose(made["STAT"].data, 4 * factor, rtol=0.2)

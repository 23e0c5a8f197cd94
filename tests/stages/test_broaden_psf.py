"""PSFs that are broadened by a number or by a fit, from FITS to FITS."""

from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
from astropy.io import fits
from scipy import ndimage

from config_scenes import error, moffat, observe, planet
from lucidcube.config.load import from_plain, load
from lucidcube.cube import BROADENING, DATA, PSF, PSF_PLANE, WAVELENGTH, from_arrays
from lucidcube.errors import ConfigError, CubeError
from lucidcube.kernels.deconvolution.psf_broadening import broadened
from lucidcube.runner.one_stage import run_stage
from lucidcube.runner.pipeline import run
from lucidcube.stages import BroadenPSF

TRUE = 3.5
SKY = {
    "CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 30.0, "CRVAL2": -20.0, "CRPIX1": 20.0, "CRPIX2": 20.0,
    "CD1_1": -0.025 / 3600, "CD1_2": 0.0, "CD2_1": 0.0, "CD2_2": 0.025 / 3600,
}  # fmt: skip
WAVE = {"CTYPE3": "AWAV", "CUNIT3": "Angstrom", "CRVAL3": 6560.0, "CRPIX3": 1.0, "CD3_3": 10.0}


def narrow(planes: int = 4, factor: float = 0.85) -> np.ndarray:
    return np.repeat(moffat((31, 31), factor * TRUE, (15, 15))[None], planes, axis=0).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A planet in four planes, and a PSF that is 15 % narrower than its own."""
    folder = tmp_path_factory.mktemp("planet")
    made = observe(np.repeat(planet(61), 4, axis=0), folder, seed=1, sky=100, variance=True)
    fits.PrimaryHDU(narrow(), fits.Header(WAVE)).writeto(folder / "psf.fits")
    return made._replace(star=folder / "psf.fits")


def product(files: Any, folder: Path, fwhm: Any, **more: Any) -> dict[str, Any]:
    values = {
        "target": {"input": str(files.target), "stages": ["noise", {"broaden_psf": {"fwhm": fwhm}}]},
        "star": {"input": str(files.star), "stages": []},
        "deconvolve": {"method": "map"},
        "output": {"path": f"{folder}/out.fits"},
        "checkpoints": {"dir": f"{folder}/work"},
        "profile": "synchronous",
    }
    with fits.open(run(from_plain(values | more)).path) as hdus:
        return {h.name: np.array(h.data) for h in hdus} | {"header": hdus[0].header}


def test_zero_passes_the_cube_on() -> None:
    cube = from_arrays(np.ones((2, 9, 9), np.float32), [5e-7, 6e-7])
    cube = cube.assign({PSF: ((WAVELENGTH, *PSF_PLANE), narrow(2))})
    made = BroadenPSF()(cube)
    assert made[PSF].data is cube[PSF].data
    assert BROADENING not in made


def test_a_width_is_a_number_or_an_angle(files: Any, tmp_path: Path) -> None:
    made = product(files, tmp_path / "a", 2.0, deconvolve={"n_iter": 1, "method": "map"})
    expected = broadened(narrow()[0], 2.0 / np.sqrt(8 * np.log(2)))
    np.testing.assert_allclose(made["PSF"], np.repeat(expected[None], 4, axis=0), atol=1e-7)
    np.testing.assert_allclose(made["PSF BROADENING"]["broadening"], 2.0)
    assert made["header"]["LUCIDCUBE TARGET STAGES"] == "noise broaden_psf deconvolve"
    with fits.open(files.target) as hdus:
        for hdu in hdus[1:]:
            hdu.header.update(SKY)
        hdus.writeto(tmp_path / "sky.fits")
    sky = files._replace(target=tmp_path / "sky.fits")
    angle = product(sky, tmp_path / "b", "50mas", deconvolve={"n_iter": 1, "method": "map"})
    np.testing.assert_allclose(angle["PSF"], made["PSF"], atol=1e-7)
    with pytest.raises(
        ConfigError, match="broaden_psf: the header holds no sky coordinates: give fwhm in pixels"
    ):
        product(files, tmp_path / "c", "50mas")


@pytest.mark.slow
def test_the_modes_are_broadened_as_the_psf(files: Any, tmp_path: Path) -> None:
    """The errors of the deconvolution belong to the PSF that it used."""
    given = {
        "star": {"input": str(files.target.parent / "star.fits"), "stages": [{"fit_psf": {"modes": 2}}]},
        "deconvolve": {"method": "map", "n_iter": 2, "errors": {"draws": 2}},
    }
    before, after = (product(files, tmp_path / name, fwhm, **given) for name, fwhm in (("a", 0), ("b", 3.0)))
    assert before["PSF_MODES"].shape == after["PSF_MODES"].shape
    sigma = 3.0 / np.sqrt(8 * np.log(2))
    for plain, wide in zip(before["PSF_MODES"], after["PSF_MODES"], strict=True):
        expected = ndimage.gaussian_filter(
            plain.astype(float), (0, sigma, sigma), mode="constant", truncate=6
        )
        np.testing.assert_allclose(wide, expected, atol=1e-4 * np.abs(plain).max())
    assert not np.array_equal(before["ERROR"], after["ERROR"])


@pytest.mark.slow
def test_a_fit_improves_the_result(files: Any, tmp_path: Path) -> None:
    before, after = (product(files, tmp_path / name, fwhm) for name, fwhm in (("a", 0), ("b", "fit")))
    np.testing.assert_array_equal(before["PSF"], narrow())
    assert "PSF BROADENING" not in before
    widths = after["PSF BROADENING"]["broadening"]
    assert (widths == widths[0]).all()
    assert 1.0 < widths[0] < 2.4, widths  # 1.85 for Gaussians
    assert after["PSF"].max() < 0.95 * before["PSF"].max()
    ratio = error(after["DECONVOLVED"], files.truth) / error(before["DECONVOLVED"], files.truth)
    assert ratio < 0.93, ratio


@pytest.mark.slow
def test_a_right_psf_is_left(files: Any, tmp_path: Path) -> None:
    right = tmp_path / "right.fits"
    fits.PrimaryHDU(narrow(4, 1.0), fits.Header(WAVE)).writeto(right)
    made = product(files._replace(star=right), tmp_path, "fit", deconvolve={"n_iter": 1, "method": "map"})
    np.testing.assert_array_equal(made["PSF"], narrow(4, 1.0))
    np.testing.assert_array_equal(made["PSF BROADENING"]["broadening"], 0)


@pytest.mark.slow
def test_a_command(files: Any, tmp_path: Path) -> None:
    names = [str(files.target), str(files.star)]
    path = run_stage("broaden_psf", names, {"fwhm": "fit"}, output=f"{tmp_path}/psf.fits")
    with fits.open(path) as hdus:
        assert hdus[0].data.shape == narrow().shape
        assert (hdus["PSF BROADENING"].data["broadening"] > 0.9).all()
    options = {"method": "lucy_richardson", "n_iter": "1", "chi2_target": "null"}
    run_stage("deconvolve", [str(files.target), str(path)], options, output=f"{tmp_path}/out.fits")


def test_the_fit_is_lazy_and_does_not_depend_on_blocks(files: Any, nothing_computes: None) -> None:
    cube = from_arrays(
        da.zeros((4, 61, 61), chunks=(2, 61, 61), dtype=np.float32), np.arange(4) * 1e-9 + 5e-7
    )
    cube = cube.assign({PSF: ((WAVELENGTH, *PSF_PLANE), da.from_array(narrow(), chunks=(2, 31, 31)))})
    made = BroadenPSF(fwhm="fit")(cube)
    assert isinstance(made[PSF].data, da.Array)
    assert isinstance(made[BROADENING].data, da.Array)


@pytest.mark.slow
def test_chunks_and_memory_give_the_same(files: Any) -> None:
    with fits.open(files.target) as hdus:
        data = hdus["DATA"].data.astype(np.float32)
    cube = from_arrays(data, 5e-7 + 1e-9 * np.arange(4))
    cube = cube.assign({PSF: ((WAVELENGTH, *PSF_PLANE), narrow())})
    known = BroadenPSF(fwhm="fit")(cube)
    for chunks in (1, 3):
        made = BroadenPSF(fwhm="fit")(cube.chunk({WAVELENGTH: chunks})).compute(scheduler="synchronous")
        np.testing.assert_array_equal(made[PSF].values, known[PSF].values)
        np.testing.assert_array_equal(made[BROADENING].values, known[BROADENING].values)


def test_a_target_that_does_not_tell_is_a_warning() -> None:
    cube = from_arrays(np.random.default_rng(0).normal(0, 1, (2, 31, 31)).astype(np.float32), [5e-7, 6e-7])
    cube = cube.assign({PSF: ((WAVELENGTH, *PSF_PLANE), narrow(2))})
    stage = BroadenPSF(fwhm="fit")
    made = stage(cube.assign({DATA: cube[DATA] * np.nan}))
    assert np.isnan(made[BROADENING].values).all()
    (text,) = stage.findings(made)
    assert "the width could not be fitted" in text


def test_it_is_in_the_recommended_chain(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("target: {input: a.fits}\nstar: {input: b.fits}\n")
    config = load(tmp_path / "c.yaml", ["target.broaden_psf.fwhm=fit"])
    assert config.stages("target")[2] == BroadenPSF(fwhm="fit")
    formula = from_plain({"target": {"input": "a.fits"}, "star": {"psf": {"fwhm": 3}}})
    assert [s.name for s in formula.stages("target")][2:5] == ["model_psf", "broaden_psf", "artefacts"]


@pytest.mark.parametrize("fwhm", [-1, "3s", "fitt", True, None])
def test_what_is_no_width_is_an_error(fwhm: Any) -> None:
    stages = [{"broaden_psf": {"fwhm": fwhm}}]
    text = (
        "fwhm: true and false are no numbers|target.broaden_psf.fwhm: .* neither a positive number of pixels"
    )
    with pytest.raises(ConfigError, match=text):
        from_plain({"target": {"input": "a.fits", "stages": stages}, "star": {"input": "b.fits"}})


def test_a_psf_is_needed() -> None:
    cube = from_arrays(np.ones((1, 9, 9), np.float32), [5e-7])
    with pytest.raises(CubeError, match="needs the variable 'psf'"):
        BroadenPSF(fwhm=2)(cube)

"""Errors of the deconvolution from FITS to FITS: products, headers, the error of the PSF, pulls of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from scipy import ndimage

from config_scenes import Files, galaxy, moffat, observe
from lucidcube.cli.app import main
from lucidcube.config.load import from_plain
from lucidcube.cube import (
    BIAS,
    DATA,
    ERROR,
    MODE,
    PSF,
    PSF_MODES,
    PSF_PLANE,
    VARIABLES,
    VARIANCE,
    WAVELENGTH,
    X,
    Y,
    from_arrays,
)
from lucidcube.errors import ConfigError
from lucidcube.runner.pipeline import run
from lucidcube.simulate import Scene, write_scene
from lucidcube.stages import Deconvolve, FitPSF
from lucidcube.stages.attach_psf import attach_psf
from truth_scores import rebinned_truth

INPUTS: dict[str, Any] = {"target": {"input": "a.fits"}, "star": {"input": "b.fits"}}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Three planes of a galaxy with foreground stars, and a star."""
    folder = tmp_path_factory.mktemp("galaxy")
    return observe(galaxy(31)[4:7], folder, seed=3, sky=9, variance=True)


def config(files: Files, folder: Path, **deconvolve: Any) -> Any:
    """Return a config without the stages that look for artefacts."""
    return from_plain(
        {
            "target": {"input": str(files.target), "stages": []},
            "star": {"input": str(files.star), "stages": ["fit_psf"]},
            "deconvolve": deconvolve,
            "output": {"path": str(folder / "out.fits")},
            "profile": "synchronous",
        }
    )


def read(path: Path) -> dict[str, Any]:
    with fits.open(path, checksum=True) as hdus:
        hdus.verify("exception")
        return {hdu.name: (np.array(hdu.data), hdu.header.copy()) for hdu in hdus}


def pulls(image: np.ndarray, error: np.ndarray, truth: np.ndarray, smoothing: float = 1.0) -> np.ndarray:
    """Return the deviations from the truth in units of the error, NaN where it is unknown."""
    smooth, expected = (
        ndimage.gaussian_filter(np.nan_to_num(a).astype(float), (0, smoothing, smoothing), mode="constant")
        for a in (image, truth)
    )
    return (smooth - expected) / error


@pytest.mark.slow
def test_a_run_with_errors(files: Files, tmp_path: Path) -> None:
    """The error and the bias are in the default products, with their unit and resolution."""
    made = read(run(config(files, tmp_path, errors={"draws": 2, "smoothing": 1.5})).path)
    plain = read(run(config(files, tmp_path / "without")).path)
    np.testing.assert_array_equal(made["DECONVOLVED"][0], plain["DECONVOLVED"][0])
    assert not {"ERROR", "BIAS", "PSF_MODES"} & {*plain}
    for name in ("ERROR", "BIAS"):
        data, header = made[name]
        assert np.isfinite(data).all()
        assert header["SMOOTHED"] == 1.5
        assert "sigma" in header.comments["SMOOTHED"]
        assert header.get("BUNIT") == made["DECONVOLVED"][1].get("BUNIT")
    assert (made["ERROR"][0] > 0).all()
    pull = pulls(made["DECONVOLVED"][0], made["ERROR"][0], files.truth, 1.5)
    assert 0.5 < pull.std() < 1.3
    assert (np.abs(pull) < 2).mean() > 0.9


def test_the_modes_of_the_psf(files: Files, tmp_path: Path) -> None:
    made = read(run(config(files, tmp_path, errors={"draws": 2})).path)
    modes, header = made["PSF_MODES"]
    assert modes.shape == (3, 4, *made["PSF"][0].shape[1:])
    assert header["NAXIS4"] == 3
    assert header["CTYPE4"] == "AWAV"
    np.testing.assert_allclose(modes.sum(axis=(2, 3)), 0, atol=1e-6)
    power = np.square(modes).sum(axis=(2, 3))
    assert (np.diff(power, axis=1) <= 0).all()
    known = moffat(made["PSF"][0].shape[1:], 3.5, tuple(n // 2 for n in made["PSF"][0].shape[1:]))
    actual = np.square(made["PSF"][0] - known).sum(axis=(1, 2))
    assert (power.sum(axis=1) < 20 * actual).all()


@pytest.mark.slow
def test_errors_as_commands(files: Files, tmp_path: Path) -> None:
    """The modes pass from fit_psf to deconvolve in the file of the PSF."""
    psf, out = tmp_path / "psf.fits", tmp_path / "out.fits"
    main(["fit_psf", str(files.star), "--modes", "3", "-o", str(psf)])
    assert fits.getdata(psf, "PSF_MODES").shape[:2] == (3, 3)
    command = ["deconvolve", str(files.target), str(psf), "--errors", "{draws: 2}", "-o", str(out)]
    main(command)
    given = read(out)
    with fits.open(psf) as hdus:
        fits.HDUList([h for h in hdus if h.name != "PSF_MODES"]).writeto(tmp_path / "bare.fits")
    main([*command[:2], str(tmp_path / "bare.fits"), *command[3:-1], str(tmp_path / "bare_out.fits")])
    bare = read(tmp_path / "bare_out.fits")
    np.testing.assert_array_equal(given["DECONVOLVED"][0], bare["DECONVOLVED"][0])
    assert given["ERROR"][1]["SMOOTHED"] == 1.0
    ratio = given["ERROR"][0] / bare["ERROR"][0]
    assert np.isfinite(ratio).all()
    assert not np.array_equal(given["ERROR"][0], bare["ERROR"][0])


@pytest.mark.slow
def test_the_width_of_the_psf(files: Files, tmp_path: Path) -> None:
    """Its uncertainty is an option of the config and of the command, and adds to the error of a bright star."""
    wide, none = (
        read(run(config(files, tmp_path / f"{width}", errors={"draws": 8, "psf_width": width})).path)[
            "ERROR"
        ][0]
        for width in (0.3, 0.0)
    )
    bright = files.truth > np.percentile(files.truth, 99)
    assert np.median(wide[bright]) > 1.3 * np.median(none[bright])
    psf, out = tmp_path / "psf.fits", tmp_path / "out.fits"
    main(["fit_psf", str(files.star), "--modes", "4", "-o", str(psf)])
    main([
        "deconvolve", str(files.target), str(psf), "--errors", "{draws: 8, psf_width: 0.3}", "-o", str(out),
    ])  # fmt: skip
    np.testing.assert_allclose(read(out)["ERROR"][0], wide, rtol=1e-3)


@pytest.mark.slow
def test_errors_of_fluxes_of_1e_20(files: Files, tmp_path: Path) -> None:
    unit = 2.0**-66
    with fits.open(files.target) as hdus:
        for name, factor in (("DATA", unit), ("STAT", unit**2)):
            hdus[name].data = hdus[name].data.astype(np.float64) * factor
        hdus.writeto(tmp_path / "faint.fits")
    options = {"errors": {"draws": 2}, "n_iter": 10}
    plain = read(run(config(files, tmp_path / "plain", **options)).path)
    faint = files._replace(target=tmp_path / "faint.fits")
    made = read(run(config(faint, tmp_path, **options)).path)
    for name in ("ERROR", "BIAS"):
        np.testing.assert_allclose(made[name][0] / unit, plain[name][0], rtol=1e-3, atol=1e-3)


def small_cube() -> xr.Dataset:
    """Return a cube of five planes with a PSF and its modes; the fourth plane has no PSF."""
    rng = np.random.default_rng(0)
    y, x = np.indices((15, 17))
    data = 100 * np.exp(-((y - 7) ** 2 + (x - 8) ** 2) / 18) + rng.normal(size=(5, 15, 17))
    data[1, 3, 4] = np.nan
    cube = from_arrays(
        data.astype(np.float32), 7e-7 + 1e-9 * np.arange(5), variance=np.ones(data.shape, np.float32)
    )
    psf = np.repeat(moffat((9, 9), 2.5, (4, 4))[None].astype(np.float32), 5, axis=0)
    modes = 0.01 * rng.normal(size=(5, 2, 9, 9)).astype(np.float32)
    psf[3] = np.nan
    return cube.assign(
        {PSF: ((WAVELENGTH, *PSF_PLANE), psf), PSF_MODES: ((WAVELENGTH, MODE, *PSF_PLANE), modes)}
    )


@pytest.mark.parametrize("method", ["map", "lucy_richardson"])
def test_errors_do_not_depend_on_the_blocks(method: str) -> None:
    cube = small_cube()
    stage = Deconvolve(method=method, errors={"draws": 2}, n_iter=4)
    expected = stage(cube)
    made = stage(cube.chunk({WAVELENGTH: (2, 2, 1), **dict.fromkeys({*cube.dims} - {WAVELENGTH}, -1)}))
    for name in (ERROR, BIAS):
        np.testing.assert_array_equal(made[name].values, expected[name].values)
        assert np.isnan(expected[name].values[3]).all()
        assert np.isnan(expected[name].values[1, 3, 4])
        assert np.isfinite(expected[name].values[0]).all()
    again = stage(cube.isel({WAVELENGTH: [2]}))
    np.testing.assert_array_equal(again[ERROR].values[0], expected[ERROR].values[2])
    without = stage(cube.drop_vars(PSF_MODES))
    assert not np.array_equal(without[ERROR].values[2], expected[ERROR].values[2])


@pytest.mark.parametrize("planes", [1, 3, 5])
def test_modes_come_with_the_psf(planes: int) -> None:
    """A PSF of one plane is that of all planes; at other wavelengths the modes are those of the nearest."""
    cube = small_cube()
    chosen = np.linspace(0, 4, planes).astype(int)
    star = cube.isel({WAVELENGTH: chosen})
    star = star.drop_vars([DATA, VARIANCE]).assign({DATA: ((WAVELENGTH, Y, X), star[PSF].values)})
    made = attach_psf(cube.drop_vars([PSF, PSF_MODES]), star)
    assert made[PSF_MODES].dims == VARIABLES[PSF_MODES].dims
    nearest = {1: [0] * 5, 3: [0, 0, 2, 2, 4], 5: [0, 1, 2, 3, 4]}[planes]
    np.testing.assert_array_equal(made[PSF_MODES].values, cube[PSF_MODES].values[nearest])


@pytest.mark.parametrize("errors", [True, {}, {"draws": 3}])
def test_a_config_with_errors_makes_modes_of_the_psf(errors: Any) -> None:
    given = INPUTS | {"deconvolve": {"errors": errors}}
    assert from_plain(given).stages("star")[-1].modes == 4
    star = {"input": "b.fits", "stages": [{"fit_psf": {"modes": 2}}]}
    assert from_plain(given | {"star": star}).stages("star")[-1].modes == 2
    star["stages"] = ["normalise_psf", {"fit_psf": {"model": "radial"}}]
    assert from_plain(given | {"star": star}).stages("star")[-1] == FitPSF(model="radial")


@pytest.mark.parametrize("errors", [None, False])
def test_no_modes_without_errors(errors: Any) -> None:
    config = from_plain(INPUTS | {"deconvolve": {"errors": errors}})
    assert config.stages("star")[-1].modes == 0
    assert config.deconvolve == Deconvolve()


def test_true_means_the_defaults() -> None:
    assert Deconvolve(errors=True) == Deconvolve(errors={}) == Deconvolve(errors={"draws": 8})
    assert Deconvolve(errors=True, resolution=3.0).errors.smoothing is None


def test_one_repeat_says_nothing() -> None:
    with pytest.raises(ConfigError, match="draws"):
        Deconvolve(errors={"draws": 1})


@pytest.mark.slow
def test_pulls_after_the_recommended_stages(tmp_path: Path) -> None:
    """Where no artefact was near, the errors are those of the whole chain: mask, fill, PSF, deconvolution."""
    scene = Scene(shape=(40, 61, 61), wavelength_step=0.5e-9, seed=11, gain=4.0, read_noise=25.0)
    paths = write_scene(scene, tmp_path)
    inputs = {name: {"input": str(getattr(paths, name))} for name in ("target", "star")}
    output = {"path": str(tmp_path / "out.fits")}
    given = inputs | {"deconvolve": {"errors": {"draws": 4}}, "output": output, "profile": "synchronous"}
    made, known = read(run(from_plain(given)).path), rebinned_truth(scene)
    error = made["ERROR"][0]
    np.testing.assert_array_equal(np.isnan(error[made["FILLED"][0] > 0]), True)
    pull = pulls(made["DECONVOLVED"][0], error, known.truth)
    near = ndimage.binary_dilation(np.abs(known.artefact_flux) > known.noise, np.ones((1, 5, 5)))
    disc = known.truth > 0.3 * np.median(known.truth[known.truth > 0])
    limb = ndimage.binary_dilation(disc, np.ones((1, 5, 5))) & ~ndimage.binary_erosion(
        disc, np.ones((1, 7, 7))
    )
    for where in (disc & ~limb, limb):
        values = pull[where & ~near & np.isfinite(pull)]
        # 1.11 and 92 % in the disc, 0.99 and 95 % at the limb.
        assert 0.7 < values.std() < 1.4
        assert (np.abs(values) < 2).mean() > 0.88

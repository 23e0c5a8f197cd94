"""Errors of the deconvolution from FITS to FITS: products, headers, the error of the PSF, pulls of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from scipy import ndimage

from config_scenes import Files, galaxy, moffat, observe
from lucidcube.cli.app import main
from lucidcube.config.load import from_plain
from lucidcube.runner.pipeline import run
from lucidcube.simulate import Scene, write_scene
from lucidcube.stages import Deconvolve, FitPSF
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
    with pytest.raises(ValueError, match="draws"):
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

"""Mistakes with the two inputs: the same file twice, swapped files, and a star that is not normalised."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from commands import call
from config_scenes import moffat
from lucidcube.config.load import from_plain
from lucidcube.cube import from_arrays
from lucidcube.errors import ConfigError
from lucidcube.kernels.psf.star_shape import source_width
from lucidcube.runner.pipeline import check, run
from lucidcube.stages import FitPSF, NormalisePSF, Rebin
from lucidcube.stages.star_checks import LARGER, swapped, unfit

SIDE = 31
Y, X = np.indices((SIDE, SIDE)) - SIDE // 2
POINT = 1e5 * moffat((SIDE, SIDE), 3.5, (15, 15))
DISC = 3e3 * (np.hypot(Y, X) < 10)


def planes(plane: np.ndarray, count: int = 3) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 1, (count, *plane.shape))
    return (plane + noise).astype(np.float32)


def cube(plane: np.ndarray, count: int = 3) -> Any:
    return from_arrays(planes(plane, count), 5e-7 + 2e-9 * np.arange(count))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for name, plane in {"disc": DISC, "point": POINT}.items():
        header = fits.Header({"CTYPE3": "WAVE", "CUNIT3": "nm", "CRVAL3": 500.0, "CDELT3": 2.0})
        both = [fits.ImageHDU(planes(plane), header, name=n) for n in ("DATA", "OTHER")]
        fits.HDUList([fits.PrimaryHDU(), *both]).writeto(tmp_path / f"{name}.fits")
    return tmp_path


def config(folder: Path, target: str, star: str, stages: list[Any] | None = None) -> Any:
    tracks: dict[str, Any] = {
        "target": {"input": f"{folder}/{target}"},
        "star": {"input": f"{folder}/{star}"},
    }
    if stages is not None:
        tracks["target"]["stages"], tracks["star"]["stages"] = [], stages
    return from_plain(
        {
            **tracks,
            "output": {"path": f"{folder}/out.fits"},
            "profile": "synchronous",
            "deconvolve": {"n_iter": 3},
        }
    )


def test_the_same_array_twice_is_refused(files: Path) -> None:
    os.link(files / "point.fits", files / "hard.fits")
    (files / "soft.fits").symlink_to(files / "point.fits")
    for other in (
        "point.fits",
        "hard.fits",
        "soft.fits",
        "point.fits{DATA}",
        "point.fits{1}",
        "point.fits[0:3]",
    ):
        with pytest.raises(ConfigError, match="is the target as well: give the file of a star") as error:
            check(config(files, "point.fits", other))
        assert len(error.value.problems) == 1
    for other in ("disc.fits", "point.fits{OTHER}", "point.fits[:,1:,:]"):
        check(config(files, "point.fits", other))


@pytest.mark.slow
def test_swapped_inputs_are_found_and_said(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    right, wrong = config(files, "disc.fits", "point.fits"), config(files, "point.fits", "disc.fits")
    assert check(right).warnings == ()
    (warning,) = check(wrong).warnings
    assert "the target looks like a point" in warning
    assert "that of the star is 2" in warning  # about 20 pixels
    assert run(wrong).warnings[0] == warning
    with fits.open(files / "out.fits") as hdus:
        assert hdus[0].header["LCWARN1"].startswith("inputs: the brightest source of the target")
    (files / "c.yaml").write_text(
        f"target: {files}/point.fits\nstar: {files}/disc.fits\noutput: {{path: {files}/o2.fits}}\n"
    )
    code, out, err = call(capsys, "config", "check", files / "c.yaml")
    assert (code, out) == (0, "no errors found\n")
    assert err == f"lucidcube: warning: {warning}\n"
    code, _, err = call(capsys, "plan", files / "c.yaml")
    assert (code, err) == (0, f"lucidcube: warning: {warning}\n")


def test_what_is_not_swapped() -> None:
    point, disc = cube(POINT), cube(DISC)
    assert swapped(point, disc) is not None
    assert swapped(disc, point) is None
    assert swapped(point, point) is None
    assert swapped(disc, disc) is None
    assert swapped(cube(0 * DISC), disc) is None  # there is only noise
    assert swapped(cube(np.nan * DISC), disc) is None
    assert swapped(point, cube(np.nan * DISC)) is None
    hot = cube(0 * DISC)
    hot["data"][1, 3, 4] = 1e6  # a hot pixel in one plane
    assert swapped(hot, disc) is None
    wider = cube(1e5 * moffat((SIDE, SIDE), 3.5 * LARGER / 1.5, (15, 15)))  # worse seeing
    assert swapped(point, wider) is None
    assert swapped(cube(POINT, 1), cube(DISC, 1)) is not None  # images


def test_the_width_of_a_source() -> None:
    gauss = np.exp(-(Y**2 + X**2) / (2 * 3.0**2))
    assert source_width(gauss) == pytest.approx(2.3548 * np.hypot(3, 1), rel=0.05)
    assert source_width(DISC) == pytest.approx(20, rel=0.05)
    assert source_width(np.full((9, 9), np.nan)) == 0
    masked = np.where(np.hypot(Y, X) < 12, DISC, np.nan)
    masked.setflags(write=False)
    assert source_width(masked) == pytest.approx(20, rel=0.05)


def test_a_model_before_the_normalisation_is_refused(files: Path) -> None:
    for model in ("radial", "gaussian"):
        fit = {"fit_psf": {"model": model}}
        with pytest.raises(ConfigError, match="move normalise_psf before it"):
            check(config(files, "disc.fits", "point.fits", [fit, "normalise_psf"]))
        assert check(config(files, "disc.fits", "point.fits", ["normalise_psf", fit])).warnings == ()
        (warning,) = check(config(files, "disc.fits", "point.fits", [fit])).warnings
        assert "put normalise_psf before it" in warning
    effective = {"fit_psf": {"model": "effective"}}
    check(config(files, "disc.fits", "point.fits", [effective, "normalise_psf"]))


def test_a_star_of_which_no_stage_makes_a_psf(files: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"star.stages: no stage makes a PSF .* not 1: add fit_psf"
    ) as error:
        check(config(files, "disc.fits", "point.fits", ["noise"]))
    assert len(error.value.problems) == 1
    normalised = POINT / POINT.sum()
    fits.PrimaryHDU(normalised[None].astype(np.float32)).writeto(files / "psf.fits")
    check(config(files, "disc.fits", "psf.fits{CELESTIAL:(1,2),SPECTRAL:(0)}", ["noise"]))


def test_which_stages_normalise() -> None:
    star = cube(POINT)
    radial, effective = FitPSF(model="radial"), FitPSF(model="effective")
    assert unfit([], star) is None
    assert unfit([Rebin()], star)[1]
    assert not unfit([radial], star)[1]
    for stages in ([effective], [NormalisePSF()], [NormalisePSF(), radial], [radial, NormalisePSF()]):
        assert (unfit(stages, star) is None) == (stages[0] is not radial)
    assert unfit([radial], cube(POINT / POINT.sum())) is not None  # the noise is as large as the star
    assert unfit([radial], from_arrays((POINT / POINT.sum())[None], [5e-7])) is None
    assert unfit([radial], cube(np.nan * POINT)) is None

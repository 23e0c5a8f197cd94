"""Warnings about results, from FITS to FITS: in the messages, the summary and the header of the product."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.io import fits
from scipy import ndimage

from config_scenes import Files, moffat, observe
from config_scenes import planet as planet_with_moon
from lucidcube.cli.app import main
from lucidcube.config.load import from_plain
from lucidcube.cube import NOISE_FACTOR, WAVELENGTH
from lucidcube.runner.pipeline import run
from lucidcube.stages.deconvolution_warnings import result_warnings

QUICK = {"n_iter": 40}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Files:
    truth = planet_with_moon(61)
    return observe(truth, tmp_path_factory.mktemp("scene"), seed=3, sky=100, variance=True)


def warnings(target_file: Path, star_file: Path, folder: Path, **changes: Any) -> list[str]:
    """Run a chain without artefacts, and return the warnings, which are the same in summary and header."""
    values: dict[str, Any] = {
        "target": {"input": f"{target_file}{{DATA}}", "stages": []},
        "star": {"input": f"{star_file}{{DATA}}", "stages": ["fit_psf"]},
        "deconvolve": QUICK,
        "output": {"path": str(folder / "out.fits")},
        "profile": "synchronous",
    }
    summary = run(from_plain(values | changes))
    header = fits.getheader(folder / "out.fits")
    said = [str(header[f"LCWARN{n + 1}"]) for n in range(len(summary.warnings))]
    assert said == summary.warnings
    assert f"LCWARN{len(said) + 1}" not in header
    return said


def write(path: Path, plane: np.ndarray, variance: float) -> Path:
    """Write one plane with noise of this variance."""
    noise = np.random.default_rng(1).normal(0, np.sqrt(variance), plane.shape)
    arrays = {"DATA": plane + noise, "STAT": np.full(plane.shape, variance)}
    hdus = [fits.ImageHDU(a.astype(np.float32), name=name) for name, a in arrays.items()]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def test_a_good_run_gives_no_warnings(scene: Files, tmp_path: Path) -> None:
    assert warnings(scene.target, scene.star, tmp_path) == []


def test_a_star_with_worse_seeing(scene: Files, tmp_path: Path) -> None:
    star = write(tmp_path / "star.fits", 1e6 * moffat((45, 45), 5.0, (22, 22)), 1e3)
    (text,) = warnings(scene.target, star, tmp_path)
    assert text.startswith("target, deconvolve: the residual has structure")
    assert "PSF is too wide" in text


def test_a_variance_that_is_too_small(scene: Files, tmp_path: Path) -> None:
    with fits.open(scene.target) as hdus:
        hdus["STAT"].data /= 6
        hdus.writeto(tmp_path / "target.fits")
    said = warnings(tmp_path / "target.fits", scene.star, tmp_path)
    assert any("chi2 is" in text and "too small" in text for text in said)


@pytest.mark.slow
def test_a_disc_instead_of_a_star_and_a_double_star(scene: Files, tmp_path: Path) -> None:
    y, x = np.indices((61, 61)) - 30
    disc = ndimage.gaussian_filter(1e4 * (np.hypot(y, x) < 9.0), 1.5)
    said = warnings(scene.target, write(tmp_path / "disc.fits", disc, 100), tmp_path)
    assert any("looks like a disc" in text for text in said)
    pair = 1e6 * (moffat((61, 61), 3.5, (30, 30)) + 0.6 * moffat((61, 61), 3.5, (38, 34)))
    said = warnings(scene.target, write(tmp_path / "pair.fits", pair, 100), tmp_path)
    assert any("looks double" in text and "60%" in text for text in said)


def test_an_object_that_leaves_the_field(scene: Files, tmp_path: Path) -> None:
    target = {"input": f"{scene.target}{{DATA}}[:, :30, :]", "stages": []}
    said = warnings(scene.target, scene.star, tmp_path, target=target)
    assert any("edge of the field" in text for text in said)


def test_marks_that_cover_the_brightest_parts(scene: Files, tmp_path: Path) -> None:
    region = tmp_path / "core.reg"
    region.write_text("image\ncircle(31, 31, 12)\n")
    stages = [{"artefacts": {"method": "ssa"}}, {"mask": {"cut": [[0, 1e3]], "const_regions": [str(region)]}}]
    stages.append({"interpolate": {"method": "linear"}})
    target = {"input": f"{scene.target}{{DATA}}", "stages": stages}
    said = warnings(scene.target, scene.star, tmp_path, target=target)
    assert any("brightest parts" in text for text in said)
    assert any("in one group" in text for text in said)


def test_planes_without_a_psf(scene: Files, tmp_path: Path) -> None:
    planes = np.stack([moffat((31, 31), 3.5, (15, 15))] * 3).astype(np.float32)
    planes[1] = np.nan
    axis = fits.Header({"CTYPE3": "WAVE", "CUNIT3": "nm", "CRVAL3": 700.0, "CRPIX3": 1.0, "CDELT3": 2.0})
    fits.PrimaryHDU(planes, axis).writeto(tmp_path / "psf.fits")
    with fits.open(scene.target) as hdus:
        arrays = [fits.ImageHDU(np.stack([hdus[n].data[0]] * 3), axis, name=n) for n in ("DATA", "STAT")]
    fits.HDUList([fits.PrimaryHDU(), *arrays]).writeto(tmp_path / "target.fits")
    star = {"input": str(tmp_path / "psf.fits"), "stages": []}
    said = warnings(tmp_path / "target.fits", tmp_path / "psf.fits", tmp_path, star=star)
    assert "target, deconvolve: 1 of 3 planes were not deconvolved, because they have no PSF" in said


def test_a_finished_run_gives_the_same_warnings_and_bytes(scene: Files, tmp_path: Path) -> None:
    star = write(tmp_path / "star.fits", 1e6 * moffat((45, 45), 5.0, (22, 22)), 1e3)
    first = warnings(scene.target, star, tmp_path)
    made = (tmp_path / "out.fits").read_bytes()
    assert warnings(scene.target, star, tmp_path) == first
    assert (tmp_path / "out.fits").read_bytes() == made


@pytest.mark.slow
def test_the_terminal_ends_with_the_warnings(
    scene: Files, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    star = write(tmp_path / "star.fits", 1e6 * moffat((45, 45), 5.0, (22, 22)), 1e3)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"target: {{input: '{scene.target}{{DATA}}', stages: []}}\n"
        f"star: {{input: '{star}{{DATA}}', stages: [fit_psf]}}\n"
        f"deconvolve: {{n_iter: 40}}\noutput: {{path: {tmp_path / 'out.fits'}}}\nprofile: synchronous\n"
    )
    main(["run", str(config)])
    *_, last, report = capsys.readouterr().err.strip().splitlines()
    assert last.startswith("warning: target, deconvolve: the residual has structure")
    assert report == f"report: {tmp_path / 'out.html'}"


def test_a_command_writes_its_warnings_too(scene: Files, tmp_path: Path) -> None:
    wide = moffat((45, 45), 5.0, (22, 22)).astype(np.float32)
    fits.PrimaryHDU(wide / wide.sum()).writeto(tmp_path / "psf.fits")
    files = [f"{scene.target}{{DATA}}", str(tmp_path / "psf.fits")]
    main(["deconvolve", *files, "-o", str(tmp_path / "out.fits"), "--n-iter", "40"])
    assert "structure" in fits.getheader(tmp_path / "out.fits")["LCWARN1"]


def test_the_stage_noise_is_no_advice_where_it_was_used() -> None:
    numbers = {"stop_reason": np.zeros(3), "residual_structure": np.ones(3), "chi2_bright": np.full(3, 4.0)}
    cube = xr.Dataset({name: (WAVELENGTH, values) for name, values in numbers.items()})
    (without,) = result_warnings(cube)
    (after,) = result_warnings(cube.assign({NOISE_FACTOR: (WAVELENGTH, np.ones(3))}))
    assert "the variance is probably too small, which the stage noise can correct" in without
    assert after.endswith("the variance is probably too small")

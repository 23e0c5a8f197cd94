"""The configs of `configs/` on scenes of their kind, compared with the truth.

Every threshold leaves a margin to what was measured when it was written, which stands beside it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from config_scenes import Files, error, galaxy, moffat, observe, planet
from locations import ROOT
from lucidcube.config.load import load
from lucidcube.runner.pipeline import run

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


def sharpened(name: str, files: Files, folder: Path, *more: str) -> dict[str, np.ndarray]:
    """Run a config on the files of a scene and return the planes of its product by name."""
    sets = [f"target.input={files.target}", f"output.path={folder / 'out.fits'}"]
    if name != "no-star":
        sets.append(f"star.input={files.star}")
    work = [f"checkpoints.dir={folder / 'work'}", "profile=synchronous"]
    run(load(ROOT / "configs" / f"{name}.yaml", [*sets, *work, *more]))
    with fits.open(folder / "out.fits") as hdus:
        return {hdu.name: np.array(hdu.data).reshape(files.observed.shape) for hdu in hdus
                if isinstance(hdu, (fits.PrimaryHDU, fits.ImageHDU)) and hdu.data is not None
                and hdu.data.size == files.observed.size}  # fmt: skip


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid(path: Path) -> None:
    config = load(path, [])
    assert config.deconvolve is not None
    assert config.star is not None


@pytest.mark.slow
def test_an_image_without_a_variance(tmp_path: Path) -> None:
    files = observe(planet(), tmp_path, seed=1, sky=100, variance=False)
    made = sharpened("image", files, tmp_path)
    assert error(made["DECONVOLVED"], files.truth) < error(files.observed, files.truth) / 3  # 4.0
    assert (made["MASK"][files.hot] > 0).all()
    assert (made["MASK"][~files.hot] > 0).sum() < 10  # 0


@pytest.mark.slow
def test_a_rotating_galaxy(tmp_path: Path) -> None:
    files = observe(galaxy(), tmp_path, seed=2, sky=4, variance=True)
    made = sharpened("galaxy", files, tmp_path)
    assert error(made["DECONVOLVED"], files.truth) < error(files.observed, files.truth) / 2.6  # 3.4
    assert (made["MASK"][files.hot] > 0).all()
    assert (made["MASK"][~files.hot] > 0).sum() < 20  # 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "factor"), [("muse-nfm", 4), ("reference", 1.6)])  # 5.2, 2.0
def test_a_cube_of_a_planet(name: str, factor: float, tmp_path: Path) -> None:
    truth = np.repeat(planet(61), 12, axis=0) * np.linspace(1, 0.7, 12)[:, None, None]
    files = observe(truth, tmp_path, seed=3, sky=100, variance=True)
    made = sharpened(name, files, tmp_path, "target.rebin.preset=auto", "star.rebin.preset=auto")
    assert error(made["DECONVOLVED"], files.truth) < error(files.observed, files.truth) / factor
    assert (made["MASK"][files.hot] > 0).mean() > 0.8  # 1.0, 0.87


@pytest.mark.slow
def test_a_planet_without_a_star(tmp_path: Path) -> None:
    truth = np.repeat(planet(61), 12, axis=0) * np.linspace(1, 0.7, 12)[:, None, None]
    files = observe(truth, tmp_path, seed=3, sky=100, variance=True)
    made = sharpened("no-star", files, tmp_path, "star.psf.fwhm=3.4")
    assert error(made["DECONVOLVED"], files.truth) < error(files.observed, files.truth) / 4


@pytest.mark.slow
def test_bands_of_a_survey(tmp_path: Path) -> None:
    """Objects of other colours than their neighbours are not artefacts."""
    truth = np.zeros((5, 81, 81))
    for y, x, colour in ((30, 35, 1.0), (45, 48, 0.75), (50, 33, 1.33)):
        truth[:, y, x] += 2e4 * colour ** np.arange(-2, 3)
    files = observe(truth, tmp_path, seed=4, sky=100, variance=False)
    made = sharpened("image", files, tmp_path, "target.artefacts.spectral=true")
    assert error(made["DECONVOLVED"], files.truth) < error(files.observed, files.truth) / 5  # 7.0
    assert (made["MASK"][~files.hot] > 0).sum() < 10  # 0


def message(tmp_path: Path, target: np.ndarray, star: np.ndarray) -> str:
    """Return the output of the command `run` for two images, which must fail with exit code 2."""
    for name, data in (("target", target), ("star", star)):
        header = fits.Header({"CTYPE3": "WAVE", "CUNIT3": "nm", "CRVAL3": 500.0, "CDELT3": 2.0})
        fits.PrimaryHDU(data.astype(np.float32), header).writeto(tmp_path / f"{name}.fits")
    config = tmp_path / "c.yaml"
    config.write_text(
        f"target: {{input: {tmp_path}/target.fits}}\nstar: {{input: {tmp_path}/star.fits}}\n"
        f"output: {{path: {tmp_path}/out.fits}}\nprofile: synchronous\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "lucidcube", "run", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done
    assert "Traceback" not in done.stderr
    return done.stderr


STAR = 1e5 * moffat((31, 31), 3.5, (15, 15))[None]


@pytest.mark.slow
def test_a_target_of_one_plane_needs_one_plane_of_the_star(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 1, (3, 31, 31))
    text = message(tmp_path, STAR + noise[:1], np.repeat(STAR, 3, axis=0) + noise)
    assert "the target has one plane and the star 3" in text
    assert "slice" in text


@pytest.mark.slow
def test_a_star_that_is_no_star(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).normal(0, 1, (3, 31, 31))
    text = message(tmp_path, np.repeat(STAR, 3, axis=0), noise)
    assert "the PSF is NaN at all wavelengths" in text

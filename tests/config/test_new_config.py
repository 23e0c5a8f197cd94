"""Configs to start from: listed, and filled in for files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits

from commands import call
from locations import SHARED
from lucidcube.config.load import load
from lucidcube.config.shipped import ALIASES, configs_to_start_from
from lucidcube.runner.pipeline import check, run
from lucidcube.simulate import Scene, write_scene

PRESETS = configs_to_start_from()
WITH_STAR = [name for name in PRESETS if name != "no-star"]
DATA = [*sorted((SHARED / "data").glob("*.fits"))]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    write_scene(Scene(shape=(12, 25, 25), star_shape=(23, 23)), folder)
    return folder


def made(capsys: pytest.CaptureFixture[str], path: Path, *arguments: object) -> str:
    """Write what `config new` prints to a file; return what it says on stderr."""
    code, out, err = call(capsys, "config", "new", *arguments)
    assert code == 0, err
    path.write_text(out)
    return err


def test_the_list_has_a_line_for_each(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "config", "presets")
    assert code == 0
    lines = out.splitlines()[:-1]
    assert [line.split()[0] for line in lines] == [*PRESETS]
    assert all(len(line.split()) > 5 and line.endswith(".") for line in lines)
    wanted = {
        "planet",
        "muse-nfm",
        "muse-wfm",
        "image",
        "galaxy",
        "jwst-nirspec",
        "jwst-miri",
        "no-star",
        "reference",
    }
    assert wanted == {*PRESETS}


@pytest.mark.parametrize("name", [*PRESETS, *ALIASES])
def test_every_preset_is_filled_in(
    name: str, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, star = scene / "target.fits", scene / "star.fits"
    path = tmp_path / "my.yaml"
    err = made(capsys, path, name, target, *([] if name == "no-star" else [star]))
    text = path.read_text()
    assert ("another preset" in err) == (name == "image")
    assert "out/" not in text
    config = load(path)
    assert config.target.input == str(target)
    assert config.output.path == "target-sharp.fits"
    for fact in ("12 planes of 25 x 25", "Angstrom", "0.025 arcsec", "STAT", "% NaN", "erg/s/cm**2"):
        assert fact in text, fact
    if name == "no-star":
        assert config.star.psf.fwhm == "0.075arcsec"
    else:
        assert config.star.input == str(star)
        assert "12 planes of 23 x 23" in text
    check(load(path, [f"output.path={tmp_path / 'o.fits'}"]))


@pytest.mark.slow
def test_the_config_runs(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "my.yaml"
    made(capsys, path, "planet", scene / "target.fits", scene / "star.fits")
    done = run(
        load(path, [f"output.path={tmp_path / 'o.fits'}", "deconvolve.n_iter=3", "profile=synchronous"])
    )
    with fits.open(done.path) as hdus:
        assert np.isfinite(hdus["DECONVOLVED"].data).any()


def test_odd_paths_and_axes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that YAML would read differently, and axes that the header does not name."""
    cube = tmp_path / "a: 'b' # c.fits"
    fits.PrimaryHDU(np.ones((12, 9, 9), np.float32)).writeto(cube)
    code, _, err = call(capsys, "config", "new", "no-star", cube)
    assert code == 2
    assert "name them" in err
    made(capsys, tmp_path / "my.yaml", "no-star", f"{cube}{{CELESTIAL:(1,2),SPECTRAL:(0)}}")
    config = load(tmp_path / "my.yaml")
    assert config.target.specifier().file == cube
    assert config.output.path == "a: 'b' # c-sharp.fits"
    assert config.star.psf.fwhm == 3.0
    text = (tmp_path / "my.yaml").read_text()
    assert "# wave_start: 480" in text
    (tmp_path / "known.yaml").write_text(text.replace("# wave_", "wave_"))
    assert load(tmp_path / "known.yaml").target.wave_unit == "nm"


def test_a_line_break_in_a_name_adds_no_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cube = tmp_path / "a\nevil: 1.fits"
    fits.PrimaryHDU(np.ones((9, 9), np.float32)).writeto(cube)
    made(capsys, tmp_path / "my.yaml", "no-star", str(cube))
    assert load(tmp_path / "my.yaml").target.specifier().file == cube
    assert not any(line.startswith("evil") for line in (tmp_path / "my.yaml").read_text().splitlines())


def test_mistakes_are_one_line(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target, star = scene / "target.fits", scene / "star.fits"
    for arguments, wanted in {
        ("muse-nfn", target): "did you mean 'muse-nfm'?",
        ("full", target): "there are: ",
        ("muse-nfm", target): "config new no-star",
        ("no-star", target, star): "has no place for a star",
        ("planet", target, scene / "gone.fits"): "star: ",
        ("planet", scene / "gone.fits", star): "target: ",
    }.items():
        code, out, err = call(capsys, "config", "new", *arguments)
        assert (code, out, len(err.splitlines())) == (2, "", 1), (arguments, err)
        assert wanted in err


def test_an_image_is_told_from_a_cube(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fits.PrimaryHDU(np.ones((31, 31), np.float32)).writeto(tmp_path / "i.fits")
    err = made(capsys, tmp_path / "c.yaml", "planet", tmp_path / "i.fits", tmp_path / "i.fits")
    assert "the preset image suits it better" in err
    assert "image of 31 x 31 (y x)" in (tmp_path / "c.yaml").read_text()
    assert made(capsys, tmp_path / "c.yaml", "image", tmp_path / "i.fits", tmp_path / "i.fits") == ""


@pytest.mark.skipif(not DATA, reason="the real data are not here")
@pytest.mark.parametrize("path", DATA, ids=lambda p: p.stem)
def test_real_files(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Either the config passes the check, or one line says what to type."""
    code, out, err = call(capsys, "config", "new", "no-star", path)
    if code:
        assert (code, len(err.splitlines())) == (2, 1)
        assert "name them" in err or "pick one" in err
        return
    (tmp_path / "c.yaml").write_text(out)
    assert yaml.safe_load(out)["output"]["path"] == f"{path.stem}-sharp.fits"
    check(load(tmp_path / "c.yaml", [f"output.path={tmp_path / 'o.fits'}"]))

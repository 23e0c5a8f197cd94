"""The complete config as it would run, with where its values come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from commands import call
from locations import ROOT
from lucidcube.config.load import load
from lucidcube.config.origins import origins, settings
from lucidcube.config.show import show

CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_is_shown_is_the_same_config(path: Path, tmp_path: Path) -> None:
    config = load(path)
    for text in (show(config), show(config, origins(config, [path]))):
        (tmp_path / "shown.yaml").write_text(text)
        assert load(tmp_path / "shown.yaml").plain() == config.plain()


def test_every_value_has_its_origin(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(
        "target: {input: t.fits}\n"
        "star: &s\n"
        "  input: s.fits\n"
        "  stages:\n"
        "    - rebin\n"
        "    - fit_psf: {smoothing: 3,\n"
        "        modes: 2}\n"
    )
    second.write_text("\ndeconvolve:\n  resolution:\n    0.1arcsec\npreset: recommended\n")
    config = load([first, second], ["deconvolve.n_iter=9"])
    text = show(config, origins(config, [first, second], ["deconvolve.n_iter=9"]))
    lines = {
        line.split(" #")[0].strip(): line.rpartition("# ")[2] for line in text.splitlines() if "#" in line
    }
    wanted = {
        "input: t.fits": "a.yaml:1",
        "input: s.fits": "a.yaml:3",
        "smoothing: 3": "a.yaml:6",
        "modes: 2": "a.yaml:7",
        "resolution: 0.1arcsec": "b.yaml:4",
        "n_iter: 9": "--set",
        "preset: recommended": "b.yaml:5",
        "mu: 0.07": "default",
    }
    assert {key: lines.get(key) for key in wanted} == wanted
    assert text.count(" # ") == len(settings(config.plain()))


def test_the_command_shows_a_config(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text("target: t.fits\nstar: s.fits\n")
    code, out, _ = call(capsys, "config", "show", file, "--set", "target.mask.cut=3")
    assert (code, out.count("#")) == (0, 0)
    assert "cut: [[0.0, 3.0]]" in out
    code, out, _ = call(capsys, "config", "show", file, "--origin", "--profile", "synchronous")
    assert code == 0
    assert {line.rpartition("# ")[2] for line in out.splitlines() if "profile:" in line} == {"--set"}
    file.write_text("target: t.fits\nsta: s.fits\n")
    code, _, err = call(capsys, "config", "show", file)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "did you mean 'star'?" in err

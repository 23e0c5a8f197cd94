"""Chosen values in a config file: comments are kept, and the file gives the config that was chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ruamel.yaml", reason="no ruamel.yaml: pip install lucidcube[gui]")

from lucidcube.config.load import load
from lucidcube.errors import ConfigError, UserError
from lucidcube.tune.choices import OFFERED, Choices, tuned, usual
from lucidcube.tune.save import ConfigFile

SHORT = """\
# Europa, second night
target: {input: a.fits}   # the object
star: star.fits
output: {path: "sharp.fits"}
"""
LONG = """\
# Europa
target:
  input: a.fits   # the object
  stages:
    - noise
    # the marks
    - artefacts: {suspect_above: 4}
    - mask:
        cut: 4.0   # was 5
    - interpolate
star: {psf: {model: moffat, fwhm: 3}}
deconvolve:
  n_iter: 30   # enough
  mu: 0.3
  errors: {draws: 4}
"""
COMMENTS = {
    "short": ["# Europa, second night", "# the object"],
    "long": ["# the marks", "# was 5", "# enough"],
}


def changed(path: Path, **mask: Any) -> Choices:
    before = Choices.of(load(path))
    return replace(before, mask={**before.mask, **mask})


@pytest.mark.parametrize(
    ("name", "text", "star_stages"),
    [("short", SHORT, ["rebin", "noise", "fit_psf"]), ("long", LONG, [])],
)
def test_values_are_written_and_comments_are_kept(
    name: str, text: str, star_stages: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    file, before = ConfigFile(path), load(path)
    assert file.save(changed(path)) == []
    assert path.read_text() == text
    assert file.save(changed(path, cut=3.5, grow=None)) == ["target.mask.cut=3.5", "target.mask.grow=null"]
    made = path.read_text()
    assert all(comment in made for comment in COMMENTS[name])
    wanted = load(path, [])
    assert Choices.of(wanted).mask["cut"] == 3.5
    assert Choices.of(wanted).mask["grow"] is None
    assert wanted.deconvolve == before.deconvolve
    assert [s.name for s in getattr(wanted.star, "stages", ())] == star_stages
    assert (tmp_path / "run.yaml.bak").read_text() == text
    # A second change keeps the first copy.
    file.save(changed(path, cut=6.0))
    assert (tmp_path / "run.yaml.bak").read_text() == text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.yaml", "run.yaml.bak"]


@pytest.mark.parametrize("method", OFFERED)
@pytest.mark.parametrize("text", [SHORT, LONG])
def test_every_method_can_be_written(method: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    before = Choices.of(load(path))
    values = {**usual(method), "n_iter": 7}
    ConfigFile(path).save(replace(before, method=method, deconvolve=values))
    made = load(path)
    assert Choices.of(made) == replace(before, method=method, deconvolve=values)
    assert made.deconvolve is not None
    kept = load_text(text, tmp_path).deconvolve
    assert kept is not None
    assert made.deconvolve.flat()["errors"] == kept.flat()["errors"]
    other = OFFERED["lucy_richardson" if method != "lucy_richardson" else "map"][1]
    assert f"{other}:" not in path.read_text()


def load_text(text: str, folder: Path) -> Any:
    path = folder / "other.yaml"
    path.write_text(text)
    return load(path)


def test_a_file_that_was_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(SHORT)
    file = ConfigFile(path)
    other = SHORT + "# a thought\n"
    path.write_text(other)
    with pytest.raises(UserError, match="was changed meanwhile"):
        file.save(changed(path, cut=3.0))
    assert path.read_text() == other


def test_only_values_that_the_schema_accepts_are_written(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(SHORT)
    before = Choices.of(load(path))
    with pytest.raises(ConfigError, match="deconvolve.mu"):
        ConfigFile(path).save(replace(before, deconvolve={**before.deconvolve, "mu": -1.0}))
    assert path.read_text() == SHORT


def test_a_config_without_a_mask_cannot_be_tuned(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("target: {input: a.fits, stages: [noise]}\n")
    with pytest.raises(ConfigError, match="nothing to tune"):
        Choices.of(load(path))


def test_hostile_names_are_data(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(SHORT)
    name = "a: b\n- {x: !!python/object:os.system ls}.reg"
    (tmp_path / "b.reg").write_text("image\ncircle(3,3,2)\n")
    ConfigFile(path).save(changed(path, const_regions=[name]))
    assert Choices.of(load(path)).mask["const_regions"] == [name]


def test_a_value_that_was_written_can_be_taken_back(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(SHORT)
    sets = ["deconvolve.mu=0.7"]
    before = Choices.of(load(path, sets))
    ConfigFile(path).save(replace(Choices.of(load(path)), mask={**before.mask, "cut": 7.0}))
    assert Choices.of(load(path)).mask["cut"] == 7.0
    assert Choices.of(tuned([path], sets, before)) == before


def test_a_profile_that_can_run_commands_needs_trust(tmp_path: Path) -> None:
    path, sets = tmp_path / "run.yaml", [f"profile={tmp_path / 'mine.yaml'}"]
    path.write_text(SHORT)
    (tmp_path / "mine.yaml").write_text("class: dask_kubernetes.KubeCluster\n")
    choices = Choices.of(load([path]))
    with pytest.raises(ConfigError, match="add --trust-profile"):
        tuned([path], sets, choices)
    assert tuned([path], sets, choices, trust_profile=True).where.kind == "class"


def test_files_of_the_user_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(SHORT)
    (tmp_path / "run.yaml.new").write_text("mine")
    (tmp_path / "run.yaml.bak").write_text("also mine")
    ConfigFile(path).save(changed(path, cut=3.5))
    second = path.read_text()
    ConfigFile(path).save(changed(path, cut=3.0))
    assert {p.name: p.read_text() for p in tmp_path.iterdir() if p != path} == {
        "run.yaml.new": "mine",
        "run.yaml.bak": "also mine",
        "run.yaml.bak-2": SHORT,
        "run.yaml.bak-3": second,
    }


def test_a_link_stays_a_link_and_permissions_are_kept(tmp_path: Path) -> None:
    real, link = tmp_path / "real.yaml", tmp_path / "link.yaml"
    real.write_text(SHORT)
    real.chmod(0o600)
    link.symlink_to(real)
    ConfigFile(link).save(changed(link, cut=3.5))
    assert link.is_symlink()
    assert Choices.of(load(real)).mask["cut"] == 3.5
    assert [p.stat().st_mode & 0o777 for p in (real, tmp_path / "real.yaml.bak")] == [0o600, 0o600]


def test_the_home_folder_can_be_abbreviated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run.yaml").write_text(SHORT)
    file = ConfigFile(Path("~/run.yaml"))
    file.save(changed(file.path, cut=3.5))
    assert Choices.of(load(tmp_path / "run.yaml")).mask["cut"] == 3.5


def test_overrides_are_readable(tmp_path: Path) -> None:
    config = load_text(SHORT, tmp_path)
    before = Choices.of(config)
    choices = replace(before, mask={**before.mask, "const_regions": ["Größe.reg"]})
    assert choices.overrides(config) == ['target.mask.const_regions=["Größe.reg"]']

"""Odd configs, profiles and overrides: a config that can be used, or one line each; never a traceback or a hang."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from commands import call
from lucidcube.cluster.profile import load_profile
from lucidcube.config.describe import schema
from lucidcube.config.load import load
from lucidcube.errors import ConfigError
from lucidcube.io.yaml_text import LARGEST_TEXT, parse_yaml
from lucidcube.simulate import Scene, write_scene
from lucidcube.stages.base import REGISTRY, Stage

BOMB = "a: &a [x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
TEXTS = {
    "aliases": BOMB,
    "a merge of itself": "a: &a\n  <<: *a\n  b: 1\n",
    "a list of itself": "target: &t [*t]\n",
    "a mapping of itself": "target: &t {input: *t}\n",
    "deep": "[" * 3000,
    "long": "# " + "x" * LARGEST_TEXT,
    "objects": "target: !!python/object/apply:os.system [ls]",
    "two documents": "target: {}\n---\nstar: {}\n",
    "a list": "[1, 2]",
    "a date": "2020-01-01",
    "digits": "target: x.fits\ndeconvolve: {n_iter: " + "9" * 5000 + "}",
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_that_are_no_config(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(TEXTS[name])
    code, _, err = call(capsys, "config", "check", path)
    assert code == 2
    assert all(line.startswith("lucidcube: ") for line in err.splitlines())


def test_some_aliases_are_fine() -> None:
    assert parse_yaml("a: &a 5\nb: [*a, *a]\n") == {"a": 5, "b": [5, 5]}


@pytest.mark.parametrize(
    "override",
    [
        "target.wave_start=.nan", "target.wave_step=.inf", "deconvolve.mu=.inf", "deconvolve.point_penalty=1e400",
        "target.stages=[mask: {cut: [[0, .nan]]}]", "target.stages=[mask: {cut: [[0, 1], [0, 2]]}]",
        "target.stages=[rebin: {bin_step: .inf}]", "output.path=/", "output.path=.", "output.path=~nosuch/x",
        'output.path="a\\0b"', 'checkpoints.dir="a\\0b"', "profile=~nosuch/x", f"profile={'x' * 300}", "output.path.x=1",
        "deconvolve=3", "=1", "..=1", "deconvolve.n_iter=[", "deconvolve.n_iter=!!python/name:os.system",
        f"deconvolve.n_iter={'[' * 3000}", "target.input=/proc/self/mem",
    ],
)  # fmt: skip
def test_odd_overrides(tmp_path: Path, capsys: pytest.CaptureFixture[str], override: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("target: {input: nothing.fits}\nstar: {input: nothing.fits}\n")
    code, _, err = call(capsys, "config", "check", path, "--set", override)
    assert code == 2
    assert len(err) < 4000
    lines = [line for line in err.splitlines() if "nothing.fits" not in line]
    assert lines
    assert all(line.startswith("lucidcube: ") for line in lines)


@pytest.mark.parametrize(
    "override",
    ["target.mask.cut=[[0, 1], [0, 2]]", "target.mask.cut=[]", "target.mask.cut=.nan", "target.mask.cut=.inf",
     "target.mask.cut=[[.inf, 1]]", "target.rebin.bin_step=.inf", "target.wave_start=.nan", "target.wave_start=1e300",
     f"output.path={'x' * 300}", "output.path=profile.yaml", f"target.noise.calibrate={10**400}",
     f"star={{from: target, x: {10**400}, y: 1, radius: 5}}", "star.stages=[normalise_psf, resample_psf: {scale: 1e-320}]",
     "star.stages=[normalise_psf, resample_psf: {scale: 1e-6}]", "target.artefacts={method: ssa, start: -1e308}"],
)  # fmt: skip
def test_odd_values_with_files_that_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, override: str
) -> None:
    """Nothing else is wrong, so that the values themselves have to be refused."""
    monkeypatch.chdir(tmp_path)
    write_scene(Scene(shape=(4, 21, 21), seed=2), tmp_path)
    Path("run.yaml").write_text(
        "target: {input: target.fits}\nstar: {input: star.fits}\noutput: {path: o.fits}\n"
    )
    Path("profile.yaml").write_text("kind: synchronous\n")
    base = ("plan", "run.yaml", "--profile", "profile.yaml", "--set", "output.overwrite=true")
    assert call(capsys, *base)[0] == 0
    code, _, err = call(capsys, *base, "--set", override)
    assert code == 2
    assert err
    assert all(line.startswith("lucidcube: ") for line in err.splitlines())
    assert Path("profile.yaml").read_text() == "kind: synchronous\n"


@pytest.mark.slow
def test_names_that_are_not_ascii_from_files_to_product(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The product, its provenance, its report and its log."""
    monkeypatch.chdir(tmp_path)
    write_scene(Scene(shape=(4, 25, 25), seed=7, wavelength_step=0.5e-9), tmp_path)
    target, star, product = "naïve 星.fits", "étoile.fits", "Schärfe 星.fits"
    Path("target.fits").rename(target)
    Path("star.fits").rename(star)
    config = {
        "preset": "reference",
        "target": {"input": target, "stages": [{"interpolate": {"method": "linear"}}]},
        "star": {"input": star, "stages": ["normalise_psf"]},
        "deconvolve": {"method": "lucy_richardson", "n_iter": 2},
        "output": {"path": product},
    }
    Path("läuft.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    code, out, err = call(capsys, "run", "läuft.yaml", "--profile", "synchronous")
    assert code == 0, err
    assert out == f"{product}\n"
    assert target in Path(product).with_suffix(".html").read_text()
    assert Path(product).with_suffix(".log").exists()
    code, out, err = call(capsys, "config", "from", product)
    assert (code, err) == (0, "")
    Path("again.yaml").write_text(out)
    again = load(["again.yaml"])
    assert (again.output.path, str(again.target.input)) == (product, target)


@pytest.mark.parametrize(
    "value", ["1e400", ".inf", ".nan", "-1", "[]", "2020-01-01", "'1 PB '", "null", "true"]
)
@pytest.mark.parametrize("key", ["memory", "walltime", "workers", "wait"])
def test_odd_profiles(tmp_path: Path, key: str, value: str) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(f"kind: slurm\n{key}: {value}\n")
    try:
        load_profile(str(path))
    except ConfigError as error:
        assert all(len(problem.splitlines()) == 1 for problem in error.problems)
    else:
        assert value in ("null", "'1 PB '", "true")


CHAINS = {
    "target": ["rebin", "noise", "artefacts", "mask", "interpolate"],
    "star": ["rebin", "noise", "normalise_psf", "fit_psf"],
}
PARAMETER_VALUES = (
    0, -1, 1.5, 1e308, -1e308, 1e-320, 10**9, 10**400, "", "x", "~nosuch", "1e300 nm", "0 nm", "\0", [], [[0, 1], [0, 2]],
    [[1e308, 1]], [-1, -1], [1e308, 1e308], {}, {"draws": 10**9},
)  # fmt: skip


def _with_parameters(name: str, values: dict[str, object]) -> dict[str, object]:
    """Return a config in which a stage has these parameters."""
    tracks = {
        track: {"input": f"{track}.fits", "stages": [{s: values} if s == name else s for s in stages]}
        for track, stages in CHAINS.items()
    }
    if name not in ("deconvolve", *CHAINS["target"], *CHAINS["star"]):
        tracks["target"]["stages"] = [{name: values}, *CHAINS["target"]]
    return {**tracks, "deconvolve": values if name == "deconvolve" else {}, "output": {"path": "o.fits"}}


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.parametrize("variant", [v for stage in REGISTRY.values() for v in stage.variants()])
def test_odd_values_of_each_parameter_with_files_that_exist(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variant: type[Stage]
) -> None:
    """A plan, or one line each; values that the config itself refuses are those of the tests below."""
    monkeypatch.chdir(tmp_path)
    write_scene(Scene(shape=(4, 21, 21), seed=2), tmp_path)
    chosen = {key: get_args(variant.model_fields[key].annotation)[0] for key in variant.choices}
    for field in variant.model_fields.keys() - {*variant.choices}:
        for value in PARAMETER_VALUES:
            config = _with_parameters(variant.name, {**chosen, field: value})
            Path("run.yaml").write_text(yaml.safe_dump(config))
            code, _, err = call(capsys, "plan", "run.yaml", "--profile", "synchronous")
            assert code in (0, 2), (field, value)
            assert code == 0 or err
            assert code == 0 or all(line.startswith("lucidcube: ") for line in err.splitlines()), err


_SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.dates(),
    st.sampled_from(["map", "auto", "1 nm", "0.1arcsec", "[[0, 3]]", "~x", "\0", "{}"]),
)  # fmt: skip
_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def _names(node: object) -> set[str]:
    """Return all keys of a config and its stages, from the schema."""
    found: set[str] = set()
    if isinstance(node, dict):
        found |= {str(key) for key in node.get("properties", {})}
        for inner in node.values():
            found |= _names(inner)
    elif isinstance(node, list):
        for inner in node:
            found |= _names(inner)
    return found


_KEYS = st.sampled_from(sorted(_names(schema())))
_ODD = st.recursive(
    _VALUES,
    lambda inner: st.dictionaries(_KEYS, inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.slow
@given(config=st.dictionaries(_KEYS, _ODD, max_size=4), base=st.booleans())
@settings(
    max_examples=2000,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_values_under_known_keys(tmp_path: Path, config: dict[str, object], base: bool) -> None:
    path = tmp_path / "run.yaml"
    whole = {"target": {"input": "x.fits"}, "star": {"input": "y.fits"}} if base else {}
    path.write_text(yaml.safe_dump(whole | config, allow_unicode=True))
    try:
        load([path], [])
    except ConfigError as error:
        assert error.problems


@pytest.mark.slow
@given(key=st.lists(_KEYS, min_size=1, max_size=4), value=st.text(max_size=20))
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_of_an_override(tmp_path: Path, key: list[str], value: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("target: {input: x.fits}\nstar: {input: y.fits}\n")
    try:
        load([path], [f"{'.'.join(key)}={value}"])
    except ConfigError as error:
        assert error.problems


@pytest.mark.parametrize(
    "override",
    ["deconvolve.mu=true", "deconvolve.n_iter=true", "target.wave_start=false", "target.rebin.bin_step=true",
     "target.mask.cut=true", "target.mask.cut=[[0, true]]", "target.mask.grow=yes"],
)  # fmt: skip
def test_true_is_no_number(tmp_path: Path, override: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("target: {input: x.fits}\nstar: {input: y.fits}\n")
    with pytest.raises(ConfigError, match="true and false are no numbers|is not a number|neither a positive"):
        load([path], [override])
    assert load([path], ["deconvolve.errors=true", "target.noise.calibrate=true"])


@pytest.mark.timeout(20)
def test_configs_and_profiles_are_regular_files_of_moderate_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in ("/dev/zero", tmp_path, "/dev/tty"):
        code, _, err = call(capsys, "config", "check", path)
        assert code == 2
        assert len(err.splitlines()) == 1


def test_units_that_would_take_minutes(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("target: {input: x.fits}\nstar: {input: y.fits}\n")
    for value in ("1 10**99999999 m", "1e5m**999999", "1 m/0"):
        with pytest.raises(ConfigError):
            load([path], [f"target.rebin.bin_step={value}"])


@pytest.mark.parametrize("command", [["config", "check"], ["run"], ["plan"], ["prune"]])
@pytest.mark.parametrize("name", ["~nosuch/run.yaml", "x" * 300])
def test_odd_names_of_configs(command: list[str], name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, said = call(capsys, *command, name)
    assert code == 2
    assert said.count("\n") == 1
    assert said.startswith("lucidcube: ")

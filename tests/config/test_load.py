"""Loading of configs, error messages, and the documents generated from the schema."""

from pathlib import Path
from typing import Any, get_args

import hypothesis
import jsonschema
import pytest
import yaml
from hypothesis import strategies as st

from locations import ROOT
from lucidcube.config.describe import schema, settings_help, stage_text, stages_markdown, template
from lucidcube.config.load import from_plain, load
from lucidcube.config.schema import Config
from lucidcube.config.track import Track
from lucidcube.errors import ConfigError
from lucidcube.stages.base import REGISTRY, by_word

GOOD = """
target:
  input: target.fits{DATA}
  stages: [rebin, artefacts, mask: {cut: [[0, 2.5], [10, 3.5]]}, interpolate]
star:
  input: star.fits
  stages:
    - rebin: {bin_step: 2 nm}
    - normalise_psf
    - fit_psf
deconvolve: {method: lucy_richardson, n_iter: 20}
output: {path: out.fits}
"""


def written(folder: Path, text: str, name: str = "run.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def problems(folder: Path, text: str, *sets: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load([written(folder, text)], sets)
    return [p.split("run.yaml: ", 1)[1] if "run.yaml: " in p else p for p in caught.value.problems]


def test_stages_are_created(tmp_path: Path) -> None:
    config = load([written(tmp_path, GOOD)])
    assert [s.name for s in config.target.stages] == ["rebin", "artefacts", "mask", "interpolate"]
    assert config.target.stages[2].flat()["cut"] == [[0, 2.5], [10, 3.5]]
    assert config.star is not None
    assert config.star.stages[0].flat()["bin_step"] == pytest.approx(2e-9)
    assert config.deconvolve is not None
    assert config.deconvolve.flat()["method"] == "lucy_richardson"
    assert config.deconvolve.flat()["n_iter"] == 20


def test_plain_data_round_trip(tmp_path: Path) -> None:
    config = load([written(tmp_path, GOOD)])
    text = yaml.safe_dump(config.plain())
    assert from_plain(yaml.safe_load(text)) == config


def test_later_files_and_overrides_take_precedence(tmp_path: Path) -> None:
    first = written(tmp_path, GOOD)
    second = written(tmp_path, "deconvolve: {n_iter: 7}\noutput: {path: other.fits}\n", "more.yaml")
    sets = [
        "deconvolve.strength=0.5",
        "target.mask.max_dilation=2",
        "target.rebin.bin_step=3nm",
        "profile=synchronous",
    ]
    config = load([first, second], sets)
    assert config.deconvolve is not None
    assert (config.deconvolve.flat()["n_iter"], config.deconvolve.flat()["strength"]) == (7, 0.5)
    assert config.output.path == "other.fits"
    assert config.target.stages[2].flat()["max_dilation"] == 2
    assert config.target.stages[2].flat()["cut"] == [[0, 2.5], [10, 3.5]]
    assert config.target.stages[0].flat()["bin_step"] == pytest.approx(3e-9)
    assert config.profile == "synchronous"


def test_a_repeated_stage_is_addressed_by_number(tmp_path: Path) -> None:
    text = "target: {input: a.fits, stages: [rebin, rebin]}"
    config = load([written(tmp_path, text)], ["target.rebin[1].bin_step=4 nm"])
    assert [s.flat()["bin_step"] for s in config.target.stages] == [None, pytest.approx(4e-9)]
    assert "say which, as rebin[0]" in problems(tmp_path, text, "target.rebin.bin_step=4 nm")[0]
    assert "only 2 stages" in problems(tmp_path, text, "target.rebin[2].bin_step=4 nm")[0]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("deconvolve:", "deconvole:", "deconvole: unknown key; did you mean 'deconvolve'?"),
        ("n_iter: 20", "n_itr: 20", "deconvolve.n_itr: unknown key; did you mean 'n_iter'?"),
        ("n_iter: 20", "loop_gain: 0.1", "deconvolve.loop_gain: unknown key"),
        ("n_iter: 20", "n_iter: many", "deconvolve.n_iter: input should be a valid integer"),
        (
            "n_iter: 20",
            "n_iter: -1",
            "deconvolve.n_iter: input should be greater than or equal to 0 (not -1)",
        ),
        (
            "lucy_richardson",
            "lucy",
            "deconvolve.method: must be one of map, clean_modified, clean_multiscale, lucy",
        ),
        (
            "normalise_psf",
            "normalize_psf",
            "star.normalize_psf: there is no stage 'normalize_psf'; did you mean 'normalise_psf'?",
        ),
        ("bin_step: 2 nm", "bin_step: 2 kg", "star.rebin.bin_step: '2 kg' is neither a wavelength"),
        ("bin_step: 2 nm", "bin_step: -2e-9", "star.rebin.bin_step: input should be greater than 0"),
        ("[[0, 2.5], [10, 3.5]]", "three", "target.mask.cut"),
        ("[[0, 2.5], [10, 3.5]]", "[3]", "target.mask.cut"),
        ("input: star.fits", "", "star.input: must be given"),
        ("path: out.fits", "pth: out.fits", "output.pth: unknown key; did you mean 'path'?"),
        ("input: star.fits", "input: star.fits[", "star.input"),
        ("{method: lucy_richardson, n_iter: 20}", "3", "deconvolve"),
    ],
)
def test_an_error_names_the_key(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    found = problems(tmp_path, GOOD.replace(old, new))
    assert any(p.startswith(expected) for p in found), found
    assert all("\n" not in p for p in found)


def test_a_number_is_the_cut_of_all_channels(tmp_path: Path) -> None:
    config = load([written(tmp_path, GOOD.replace("[[0, 2.5], [10, 3.5]]", "3"))])
    assert config.target.stages[2].flat()["cut"] == [[0, 3]]
    config = load([written(tmp_path, GOOD)], ["target.mask.cut=4.5"])
    assert config.target.stages[2].flat()["cut"] == [[0, 4.5]]


def test_a_text_is_the_input_of_a_track(tmp_path: Path) -> None:
    short = load([written(tmp_path, "target: obs.fits{DATA}\nstar: star.fits")])
    long = load([written(tmp_path, "target: {input: 'obs.fits{DATA}'}\nstar: {input: star.fits}")])
    assert short == long
    assert len(short.target.stages) == 6
    more = written(tmp_path, "target: {wave_unit: nm}", "more.yaml")
    merged = load([written(tmp_path, "target: obs.fits\nstar: star.fits"), more], ["star=other.fits"])
    assert (merged.target.input, merged.target.wave_unit) == ("obs.fits", "nm")
    assert isinstance(merged.star, Track)
    assert merged.star.input == "other.fits"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("target: a.fits\ntarget: b.fits", "line 2: the key 'target' was given already in line 1"),
        ("target: a.fits\ndeconvolve:\n  n_iter: 3\n  gain: 1\n  n_iter: 3", "line 5: the key 'n_iter' was given already in line 3"),
        ("target: {input: a.fits, 'input': b.fits}", "line 1: the key 'input' was given already in line 1"),
    ],
)  # fmt: skip
def test_a_key_that_is_given_twice_is_an_error(tmp_path: Path, text: str, expected: str) -> None:
    (found,) = problems(tmp_path, text)
    assert found == expected


def test_keys_of_merged_mappings_may_be_replaced(tmp_path: Path) -> None:
    text = "target: &t {input: a.fits, wave_unit: nm}\nstar: {<<: *t, input: b.fits}"
    config = load([written(tmp_path, text)])
    assert isinstance(config.star, Track)
    assert (config.star.input, config.star.wave_unit) == ("b.fits", "nm")


@pytest.mark.parametrize("key", ["loop_gain", "sigma", "wavelength", "fft"])
def test_no_far_fetched_advice(tmp_path: Path, key: str) -> None:
    assert "did you mean" not in problems(tmp_path, GOOD.replace("n_iter: 20", f"{key}: 1"))[0]


def test_all_errors_are_reported_at_once(tmp_path: Path) -> None:
    text = (
        GOOD.replace("n_iter: 20", "n_itr: 20")
        .replace("interpolate]", "interpolat]")
        .replace("path:", "pth:")
    )
    found = problems(tmp_path, text, "target.msk.cut=3", "nonsense")
    assert len(found) == 5, found


def test_errors_of_all_kinds_are_reported_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("n_iter: 20", "n_itr: 20").replace("star.fits", "star.fits[")
    text += "profile: laptp\ncheckpoints: {after: [rebinn]}"
    places = [p.split(":")[0] for p in problems(tmp_path, text, "out.x")]
    assert places == ["--set out.x", "star.input", "deconvolve.n_itr", "checkpoints.after", "profile"]


@pytest.mark.parametrize(
    "text", ["target: 3", "target: {input: a, stages: {rebin: 3}}", "target: {stages: [3]}"]
)
def test_an_override_of_a_malformed_config(tmp_path: Path, text: str) -> None:
    assert "target has no stage 'rebin'" in problems(tmp_path, text, "target.rebin.bin_step=1nm")[0]


def test_an_override_does_not_leak_through_a_yaml_alias(tmp_path: Path) -> None:
    text = "target: {input: a.fits, stages: &same [rebin: {bin_step: 2nm}]}\nstar: {input: b.fits, stages: *same}"
    config = load([written(tmp_path, text)], ["target.rebin.bin_step=3nm"])
    assert config.star is not None
    steps = [track.stages[0].flat()["bin_step"] for track in (config.target, config.star)]
    assert steps == pytest.approx([3e-9, 2e-9])


def test_a_deconvolution_needs_a_star(tmp_path: Path) -> None:
    assert "needs a PSF" in problems(tmp_path, "target: {input: a.fits}\ndeconvolve: {}")[0]


@pytest.mark.parametrize("value", ["-1", "0", ".inf", ".nan", "twice", "null", "[1]"])
def test_a_wrong_calibration_gives_one_message(tmp_path: Path, value: str) -> None:
    text = GOOD.replace("interpolate]", "noise: {calibrate: %s}, interpolate]" % value)  # noqa: UP031
    (found,) = problems(tmp_path, text)
    assert found.startswith("target.noise.calibrate: must be true, false or a positive number (not ")


def test_unknown_profiles_and_checkpoints_are_errors(tmp_path: Path) -> None:
    found = problems(tmp_path, GOOD + "profile: laptp\ncheckpoints: {after: [rebinn]}")
    assert any("did you mean 'laptop'?" in p for p in found)
    assert any("there is no stage 'rebinn'; did you mean 'rebin'?" in p for p in found)


def test_files_that_are_not_configs(tmp_path: Path) -> None:
    written(tmp_path, GOOD, "good.yaml")
    with pytest.raises(ConfigError, match="did you mean .*good.yaml"):
        load([tmp_path / "god.yaml"])
    for text in ("[1, 2]", "a: [", "!!python/object/apply:os.getcwd []", "x: \x00", "12"):
        with pytest.raises(ConfigError):
            load([written(tmp_path, text)])
    (tmp_path / "binary.yaml").write_bytes(bytes(range(128, 256)))
    with pytest.raises(ConfigError, match="cannot be read as text"):
        load([tmp_path / "binary.yaml"])


YAML_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.floats()
    | st.sampled_from(["rebin", "target", "mask", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from([*Config.model_fields, *REGISTRY, "stages", "input", "method"]), inner, max_size=4
        )
    ),
    max_leaves=12,
)


@pytest.mark.slow
@hypothesis.given(
    values=st.dictionaries(st.sampled_from([*Config.model_fields, "z"]), YAML_VALUES, max_size=6)
)
@hypothesis.settings(max_examples=150)
def test_any_text_gives_a_config_or_a_config_error(values: dict) -> None:
    try:
        config = from_plain(values)
    except ConfigError as error:
        assert error.problems
        assert all(p and "\n" not in p for p in error.problems)
    else:
        assert isinstance(config, Config)


def test_the_committed_template_is_current_and_valid() -> None:
    path = ROOT / "configs" / "full.yaml"
    assert path.read_text() == template(), "run: lucidcube config template > configs/full.yaml"
    assert load([path]).deconvolve == REGISTRY["deconvolve"]()


def test_the_committed_page_of_stages_is_current() -> None:
    path = ROOT / "docs" / "stages.md"
    assert path.read_text() == stages_markdown(), "run: lucidcube stages --markdown > docs/stages.md"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_committed_configs_load(path: Path) -> None:
    assert load([path]).target.stages


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_help_names_every_parameter(name: str) -> None:
    text, lines = stage_text(REGISTRY[name]), settings_help(REGISTRY[name])
    for variant in REGISTRY[name].variants():
        for parameter, field in variant.model_fields.items():
            assert parameter in text
            assert (field.description or "") in lines[parameter]
    for key in REGISTRY[name].choices:
        for word in by_word(REGISTRY[name].variants(), key):
            assert f"with {key}: {word}" in text
            assert word in lines[key]


def valid(config: dict) -> bool:
    """Return whether a config agrees with the JSON schema."""
    return jsonschema.Draft202012Validator(schema()).is_valid(config)


def test_the_schema_is_a_valid_json_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(schema())
    assert schema()["required"] == ["target"]


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_committed_configs_agree_with_the_schema(path: Path) -> None:
    assert valid(yaml.safe_load(path.read_text()))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_the_schema_knows_every_variant_and_its_parameters(name: str) -> None:
    for variant in REGISTRY[name].variants():
        words = {key: get_args(variant.model_fields[key].annotation)[0] for key in REGISTRY[name].choices}
        flat = REGISTRY[name](**words).flat()
        # Words for infinity and NaN occur only in the provenance; configs have YAML numbers.
        flat = {k: v for k, v in flat.items() if "inf" not in str(v)}
        if name == "model_psf":
            flat = {k: v for k, v in flat.items() if v is not None}  # the width must be given
        for values in (words, flat):
            config = {"target": {"input": "a.fits", "stages": [{name: values}]}}
            if name == "deconvolve":
                config = {name: values}
            elif name == "model_psf":
                config = {"star": {"psf": values}}
            assert valid({"target": {"input": "a.fits"}, **config}), values
            values["zzz"] = 3
            assert not valid({"target": {"input": "a.fits"}, **config}), values


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("n_iter: 20", "n_iter: 20", True),
        ("{method: lucy_richardson, n_iter: 20}", "{n_iter: 20}", True),
        ("{method: lucy_richardson, n_iter: 20}", "{}", True),
        ("- fit_psf", "- fit_psf: {model: gaussian, x: 0.5, sigma: {free: false}}", True),
        ("- fit_psf", "- fit_psf: {sigma: {free: false}}", False),
        ("- fit_psf", "- fit_psf: {model: radail}", False),
        ("n_iter: 20", "loop_gain: 0.1", False),
        ("n_iter: 20", "n_iter: -1", False),
        ("lucy_richardson", "lucy", False),
        ("normalise_psf", "normalize_psf", False),
        ("rebin, artefacts", "deconvolve, artefacts", False),
        ("input: star.fits", "", False),
        ("path: out.fits", "pth: out.fits", False),
    ],
)
def test_the_schema_agrees_with_the_validation(old: str, new: str, expected: bool) -> None:
    assert old in GOOD
    assert valid(yaml.safe_load(GOOD.replace(old, new))) == expected


@pytest.mark.parametrize("kind", [str, Path, lambda path: [path]])
def test_one_file_may_be_given_by_its_name(tmp_path: Path, kind: Any) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("target: {input: a.fits}")
    assert load(kind(path)).target.input == "a.fits"


def test_a_date_that_does_not_exist_is_not_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("target: {input: 2024-13-45}")
    with pytest.raises(ConfigError, match="not YAML"):
        load(path)
    path.write_text("target: {input: a.fits}")
    with pytest.raises(ConfigError, match="the value is not YAML"):
        load(path, ["output.path=2024-13-45"])

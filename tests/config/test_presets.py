"""Presets: chains of stages where a config has none, and methods where it chooses none."""

from __future__ import annotations

from typing import Any

import pytest

from lucidcube.config.load import from_plain, load
from lucidcube.config.presets import REFERENCE
from lucidcube.errors import ConfigError
from lucidcube.stages import Artefacts, Deconvolve, FitPSF, Interpolate
from lucidcube.stages.base import REGISTRY

INPUTS: dict[str, Any] = {"target": {"input": "a.fits"}, "star": {"input": "b.fits"}}


def names(config: Any) -> dict[str, list[str]]:
    return {track: [s.name for s in config.stages(track)] for track in config.tracks()}


def test_two_inputs_are_enough() -> None:
    config = from_plain(INPUTS)
    assert names(config) == {
        "target": ["rebin", "noise", "broaden_psf", "artefacts", "mask", "interpolate", "deconvolve"],
        "star": ["rebin", "noise", "fit_psf"],
    }
    assert [s.flat().get("method", s.flat().get("model")) for s in config.stages("target")[3:]] == [
        "spectral_psf", None, "model", "map",
    ]  # fmt: skip
    assert config.stages("star")[-1] == FitPSF(model="effective")
    assert from_plain(INPUTS | {"preset": "recommended"}) == config.model_copy(
        update={"preset": "recommended"}
    )


def test_the_reference() -> None:
    config = from_plain(INPUTS | {"preset": "reference"})
    assert names(config) == {
        "target": ["rebin", "artefacts", "mask", "interpolate", "deconvolve"],
        "star": ["rebin", "normalise_psf", "fit_psf"],
    }
    _, artefacts, mask, interpolate, deconvolve = config.stages("target")
    assert artefacts == Artefacts(method="ssa")
    assert (mask.cut, mask.grow, mask.max_dilation) == (((0, 3.0),), None, None)
    assert interpolate == Interpolate(method="linear")
    assert deconvolve == Deconvolve(method="clean_modified", noise_std=0.1, chi2_target=None)
    assert config.stages("star")[-1].model == "radial"


def test_the_parameters_of_the_reference_exist() -> None:
    for name, sets in REFERENCE.items():
        for parameters in sets:
            REGISTRY[name].parse(parameters)


def test_a_config_that_names_methods_keeps_them() -> None:
    chosen = {"method": "lucy_richardson", "n_iter": 7}
    for preset in ("recommended", "reference"):
        config = from_plain(INPUTS | {"preset": preset, "deconvolve": chosen})
        assert (config.deconvolve.method, config.deconvolve.n_iter) == ("lucy_richardson", 7)
    assert config.deconvolve.strength == 0.1
    assert not config.deconvolve.accelerate
    stages = {"stages": [{"artefacts": {"method": "spectral_psf"}}, {"mask": {"cut": [[0, 4.0]]}}]}
    config = from_plain({"target": INPUTS["target"] | stages, "star": INPUTS["star"], "preset": "reference"})
    assert config.stages("target")[0].method == "spectral_psf"
    assert config.stages("target")[1].max_dilation == 0
    assert config.stages("target")[1].cut == ((0, 4.0),)


def test_stages_that_are_left_out_stay_so_if_there_are_others() -> None:
    """A star without stages is a PSF."""
    config = from_plain(
        {"target": {"input": "a.fits", "stages": []}, "star": INPUTS["star"], "deconvolve": {}}
    )
    assert names(config) == {"target": ["deconvolve"], "star": []}
    given = INPUTS | {"target": {"input": "a.fits", "stages": ["rebin"]}}
    assert names(from_plain(given)) == {"target": ["rebin"], "star": []}
    empty = {"target": {"input": "a.fits", "stages": []}, "star": {"input": "b.fits", "stages": []}}
    assert names(from_plain(empty | {"preset": "recommended"})) == {"target": ["deconvolve"], "star": []}


def test_a_psf_from_a_file_leaves_the_stages_of_the_target() -> None:
    psf = {"input": "psf.fits", "stages": []}
    given = names(from_plain({"target": {"input": "a.fits"}, "star": psf}))
    assert given == {"target": names(from_plain(INPUTS))["target"], "star": []}


def test_a_deconvolution_does_not_replace_the_chain() -> None:
    """It means the same in the file and on the command line."""
    config = from_plain(INPUTS | {"deconvolve": {"n_iter": 300}})
    assert len(config.stages("target")) == 7
    assert config.deconvolve.n_iter == 300


def test_stages_of_a_star_need_no_psf() -> None:
    star = {"input": "b.fits", "stages": ["interpolate", "normalise_psf", "fit_psf"]}
    for preset in ({}, {"preset": "reference"}):
        config = from_plain({"target": {"input": "a.fits", "stages": []}, "star": star} | preset)
        assert config.stages("star")[0].method == "linear"


def test_without_a_star_no_stage_needs_a_psf() -> None:
    config = from_plain({"target": INPUTS["target"]})
    assert names(config) == {"target": ["rebin", "noise", "artefacts", "mask", "interpolate"]}
    assert config.stages("target")[2].method == "ssa"
    assert config.stages("target")[3].cut == ((0, 3.0),)
    assert config.stages("target")[4].method == "linear"


def test_the_cut_suits_the_score() -> None:
    def cut(method: str) -> Any:
        stages = [{"artefacts": {"method": method}}, "mask"]
        return (
            from_plain({"target": {"input": "a.fits", "stages": stages}, "star": INPUTS["star"]})
            .stages("target")[1]
            .cut
        )

    assert cut("ssa") == ((0, 3.0),)
    assert cut("spectral_psf") == ((0, 5.0),)


def test_parameters_of_the_chain_can_be_changed(tmp_path: Any) -> None:
    (tmp_path / "c.yaml").write_text("target: {input: a.fits}\nstar: {input: b.fits}\n")
    changes = [
        "target.mask.cut=[[0, 7]]",
        "deconvolve.n_iter=9",
        "output.path=o.fits",
        "star.rebin.bin_step=2nm",
    ]
    config = load(tmp_path / "c.yaml", changes)
    assert config.stages("target")[4].cut == ((0, 7.0),)
    assert config.stages("target")[-1].n_iter == 9
    assert config.stages("star")[0].bin_step == pytest.approx(2e-9)
    changed = load(tmp_path / "c.yaml", [*changes, "preset=reference"])
    assert changed.stages("target")[2].cut == ((0, 7.0),)
    assert changed.stages("star")[-1].model == "radial"


def test_a_parameter_of_another_method_is_explained() -> None:
    with pytest.raises(
        ConfigError, match=r"target.artefacts.window: unknown key here; it belongs to method: ssa"
    ):
        from_plain(INPUTS | {"target": {"input": "a.fits", "stages": [{"artefacts": {"window": 5}}]}})
    with pytest.raises(ConfigError, match=r"deconvolve.loop_gain: .* belongs to method: clean_modified"):
        from_plain(INPUTS | {"deconvolve": {"loop_gain": 0.1}})


def test_an_unknown_preset_is_one_line() -> None:
    with pytest.raises(ConfigError, match="preset: must be one of recommended, reference"):
        from_plain(INPUTS | {"preset": "best"})


def test_a_config_with_a_preset_survives_the_provenance() -> None:
    for preset in ("recommended", "reference", None):
        config = from_plain(INPUTS | {"preset": preset})
        assert from_plain(config.plain()) == config

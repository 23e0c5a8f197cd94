"""Configs as Python programs have them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import lucidcube as lc
from lucidcube.config.load import from_plain
from lucidcube.config.python import from_python
from lucidcube.errors import ConfigError
from lucidcube.stages.base import Stage


def test_stages_and_paths_stand_for_their_text(tmp_path: Path) -> None:
    made = from_python(
        {
            "target": {"input": tmp_path / "a.fits", "stages": [lc.Rebin(bin_step="2nm"), "noise", {"mask": {"cut": 4}}]},
            "star": {"psf": lc.ModelPSF(model="gaussian", fwhm=3)},
            "deconvolve": lc.Deconvolve(method="clean_modified", n_iter=7),
        }
    )  # fmt: skip
    assert made == from_plain(
        {
            "target": {"input": f"{tmp_path}/a.fits", "stages": [{"rebin": {"bin_step": 2e-9}}, "noise", {"mask": {"cut": 4}}]},
            "star": {"psf": {"model": "gaussian", "fwhm": 3}},
            "deconvolve": {"method": "clean_modified", "n_iter": 7},
        }
    )  # fmt: skip


def test_two_paths_are_a_config(tmp_path: Path) -> None:
    made = from_python({"target": tmp_path / "a.fits", "star": tmp_path / "b.fits"})
    assert made == from_plain({"target": f"{tmp_path}/a.fits", "star": f"{tmp_path}/b.fits"})


def test_a_path_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("target: a.fits\nstar: b.fits\n")
    assert (
        from_python(tmp_path / "c.yaml")
        == from_python(f"{tmp_path}/c.yaml")
        == lc.load_config(tmp_path / "c.yaml")
    )


def test_errors_of_a_stage_ask_for_the_modes_of_the_psf() -> None:
    made = from_python({"target": "a.fits", "star": "b.fits", "deconvolve": lc.Deconvolve(errors=True)})
    assert made.stages("star")[-1].modes == 4


def test_mistakes_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such config file"):
        lc.run(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="config: targt: unknown key; did you mean 'target'"):
        lc.run({"targt": "a.fits", "target": "b.fits"})


@pytest.mark.parametrize(
    ("stage", "values", "lines"),
    [
        (lc.Deconvolve, {"method": "mapp"}, ["deconvolve.method: must be one of map, .*; did you mean 'map'"]),
        (lc.Deconvolve, {"n_iterr": 3}, ["deconvolve.n_iterr: unknown key; did you mean 'n_iter'"]),
        (type(lc.Deconvolve()), {"mu": -3}, ["deconvolve.mu: input should be greater than or equal to 0 .not -3."]),
        (lc.Mask, {"cutt": 3, "grow": "x"}, ["mask.grow: .* .not 'x'.", "mask.cutt: unknown key; .*'cut'"]),
    ],
)  # fmt: skip
def test_wrong_parameters_of_a_stage(stage: type[Stage], values: dict[str, Any], lines: list[str]) -> None:
    """The same lines as for a config."""
    with pytest.raises(ConfigError) as caught:
        stage(**values)
    assert len(caught.value.problems) == len(lines)
    for problem, line in zip(caught.value.problems, lines, strict=True):
        assert re.match(line, problem), problem

"""What may take the part of the star in a config."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lucidcube.config.describe import schema, template
from lucidcube.config.load import from_plain, load
from lucidcube.errors import ConfigError

MOFFAT: dict[str, Any] = {"model": "moffat", "fwhm": {"480nm": "0.09arcsec", "930nm": "60mas"}}


def config(star: Any, **more: Any) -> Any:
    return from_plain({"target": {"input": "a.fits"}, "star": star} | more)


def test_a_formula_needs_no_input() -> None:
    made = config({"psf": MOFFAT})
    assert [*made.tracks()] == ["target"]
    assert [s.name for s in made.stages("target")] == [
        "rebin", "noise", "model_psf", "broaden_psf", "artefacts", "mask", "interpolate", "deconvolve",
    ]  # fmt: skip
    (first, *_), (last, *_) = made.stages("target")[2].fwhm
    assert (first, last) == pytest.approx((4.8e-7, 9.3e-7))
    assert made.stages("target")[4].method == "spectral_psf"


def test_a_formula_survives_the_provenance() -> None:
    for psf in (MOFFAT, {"model": "muse_ao", "r0": 0.1, "amplitude": [["1um", 3]]}, {"model": "gaussian"}):
        made = config({"psf": psf})
        assert from_plain(made.plain()) == made


def test_without_a_stage_that_needs_it_no_psf_is_made() -> None:
    made = from_plain(
        {"target": {"input": "a.fits", "stages": ["rebin"]}, "star": {"psf": MOFFAT}, "deconvolve": {}}
    )
    assert [s.name for s in made.stages("target")] == ["rebin", "model_psf", "deconvolve"]
    made = made.model_copy(update={"deconvolve": None})
    assert [s.name for s in made.stages("target")] == ["rebin"]


def test_parameters_of_a_formula_can_be_set(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("target: {input: a.fits}\nstar: {psf: {model: moffat}}\n")
    made = load(
        tmp_path / "c.yaml", ["star.psf.fwhm=0.1arcsec", "target.mask.cut=[[0, 7]]", "star.psf.beta=3"]
    )
    assert made.star.psf.flat() | {"pixel_scale": None} == {
        "model": "moffat", "fwhm": "0.1arcsec", "beta": 3.0, "pixel_scale": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("star", "message"),
    [
        (
            {"psf": {"model": "mofat"}},
            "star.psf.model: must be one of moffat, gaussian, muse_ao; did you mean 'moffat'",
        ),
        ({"psf": {"fwhm": "3s"}}, "star.psf.fwhm: '3s' is neither a positive number of pixels nor an angle"),
        ({"psf": {"fwhm": -1}}, "star.psf.fwhm: -1 is neither a positive"),
        ({"psf": {"fwhm": {480: 3}}}, "star.psf.fwhm: 480 is not a wavelength, such as '480nm'"),
        ({"psf": {"fwhm": {"a": 3}}}, "star.psf.fwhm: 'a' is not a wavelength, such as '480nm'"),
        ({"psf": {"fwhm": {"480nm": 1, 4.8e-7: 2}}}, "star.psf.fwhm: a wavelength is given twice"),
        ({"psf": {"fwhm": [1, 2]}}, "star.psf.fwhm: values at several wavelengths are written as"),
        ({"psf": {"beta": 1}}, "star.psf.beta: 1 is not from 1.05 to 100"),
        (
            {"psf": {"model": "gaussian", "beta": 3}},
            "star.psf.beta: unknown key here; it belongs to model: moffat",
        ),
        ({"psf": {}, "stages": ["rebin"]}, "star.stages: unknown key"),
        (
            {"psf": {}, "input": "a.fits"},
            "star: has both psf and input: give one of a file, a formula or a place",
        ),
        ({"psf": 3}, "star.psf: must be a mapping"),
        (3, "star: must be a mapping"),
        ({}, "star.input: must be given"),
    ],
)
def test_mistakes_are_one_line(star: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config(star)
    assert len(caught.value.problems) == 1


def test_the_formula_is_no_stage_of_a_track() -> None:
    with pytest.raises(ConfigError, match="give its parameters as 'star: {psf: ...}'"):
        from_plain({"target": {"input": "a.fits", "stages": ["model_psf"]}})


def test_template_and_schema_have_the_keys() -> None:
    for key in ("psf", "from", "x", "y", "radius"):
        assert f"\n  # {key}: " in template()
    assert "ModelledStar" in schema()["$defs"]
    jsonschema = pytest.importorskip("jsonschema")
    for psf in (MOFFAT, {"fwhm": 3}, {"model": "muse_ao", "r0": 0.1, "amplitude": {"1um": 3}}):
        jsonschema.validate({"target": {"input": "a"}, "star": {"psf": psf}}, schema())

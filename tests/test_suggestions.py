"""The name that was probably meant."""

from __future__ import annotations

import pytest

from lucidcube.errors import closest, did_you_mean
from lucidcube.stages import Deconvolve, Mask, Rebin
from lucidcube.stages.base import REGISTRY

TOP = ("target", "star", "deconvolve", "preset", "output", "checkpoints", "profile")
HDUS = ("DATA", "STAT", "SCI", "ERR", "DQ")
MAP = [*type(Deconvolve(method="map")).model_fields]


@pytest.mark.parametrize(
    ("given", "known", "meant"),
    [
        ("niter", MAP, "n_iter"),
        ("n_iters", MAP, "n_iter"),
        ("tolerence", MAP, "tolerance"),
        ("step", Rebin.model_fields, "bin_step"),
        ("width", Rebin.model_fields, "bin_width"),
        ("cutoff", Mask.model_fields, "cut"),
        ("interpol", REGISTRY, "interpolate"),
        ("artifacts", REGISTRY, "artefacts"),
        ("Deconvolution", REGISTRY, "deconvolve"),
        ("tagret", TOP, "target"),
        ("atrget", TOP, "target"),
        ("out", TOP, "output"),
        ("ERROR", HDUS, "ERR"),
        # Far-fetched, and said before:
        ("iterations", Rebin.model_fields, None),
        ("data", MAP, None),
        ("deconvolution", MAP, None),
        ("stage", TOP, None),
        ("stage", HDUS, None),
        ("out", MAP, None),
        ("sharpen", REGISTRY, None),
        ("", REGISTRY, None),
    ],
)
def test_the_closest_name(given: str, known: list[str], meant: str | None) -> None:
    assert closest(given, known) == meant


def test_the_end_of_a_message() -> None:
    assert did_you_mean("outptu", TOP) == "; did you mean 'output'?"
    assert did_you_mean("xyz", ("a", "b")) == "; there are: a, b"
    assert did_you_mean("xyz", ("a", "b"), others=False) == ""
    assert did_you_mean("xyz", ()) == ""


def test_names_of_files_are_compared_without_their_suffixes() -> None:
    assert closest("neptun.fits", ["neptune.fits.gz", "standard.fits"], files=True) == "neptune.fits.gz"
    assert closest("a.fits", ["b.fits"], files=True) is None

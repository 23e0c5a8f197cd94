"""The walk over tracks and segments: order, attachment of the PSF, and failed tracks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from lucidcube.config.schema import Config
from lucidcube.cube import DATA, PSF, from_arrays
from lucidcube.errors import UserError
from lucidcube.runner.segments import Segment, walk
from lucidcube.stages import Artefacts, Deconvolve, Interpolate, Mask, Rebin
from lucidcube.stages.base import REGISTRY, Stage

PLANES = 4
LINEAR = Interpolate(method="linear")


@pytest.fixture
def uses_psf() -> Iterator[type[Stage]]:
    """A stage of the target's track that requires the PSF."""

    class UsesPSF(Stage):
        """Multiply the data by the peak of the PSF."""

        name: ClassVar[str] = "uses_psf"
        requires: ClassVar[tuple[str, ...]] = (DATA, PSF)
        copies: ClassVar[float] = 3
        tag: ClassVar[str] = "_usespsf"

        def apply(self, cube: xr.Dataset) -> xr.Dataset:
            return cube.assign({DATA: cube[DATA] * cube[PSF].max(("psf_y", "psf_x"))})

    yield UsesPSF
    del REGISTRY["uses_psf"]


def cube(side: int, scale: float = 1.0) -> xr.Dataset:
    data = np.full((PLANES, side, side), scale, np.float32)
    return from_arrays(da.from_array(data, chunks=(1, side, side)), 7e-7 + 5e-10 * np.arange(PLANES))


def config(target: tuple[Stage, ...], star: tuple[Stage, ...], after: tuple[str, ...]) -> Config:
    return Config.model_validate(
        {
            "target": {"input": "target.fits", "stages": target},
            "star": {"input": "star.fits", "stages": star},
            "deconvolve": Deconvolve(n_iter=1),
            "checkpoints": {"after": after},
        }
    )


def walked(made: Config, fail: str = "") -> tuple[list[Segment], dict[str, xr.Dataset], dict[str, Exception]]:
    seen: list[Segment] = []

    def visit(segment: Segment) -> xr.Dataset:
        seen.append(segment)
        if segment.track == fail:
            raise UserError("no")
        return segment.cube

    cubes, errors = walk(
        made, {"target": cube(9), "star": cube(5, 0.04)}, {"target": "t", "star": "s"}, visit
    )
    return seen, cubes, errors


def test_the_psf_is_attached_where_a_stage_first_requires_it(uses_psf: type[Stage]) -> None:
    made = config((LINEAR, uses_psf(), LINEAR), (Rebin(bin_step="5e-10"),), ("uses_psf",))
    seen, cubes, errors = walked(made)
    assert [segment.label for segment in seen] == [
        "star: rebin", "target: interpolate, uses_psf", "target: interpolate, deconvolve",
    ]  # fmt: skip
    assert not errors
    assert [PSF in c for c in seen[1].cubes] == [False, True, True]
    assert PSF not in seen[1].variables
    assert PSF in seen[2].cubes[0]
    np.testing.assert_allclose(seen[1].cube[DATA], 0.04, rtol=1e-6)
    assert cubes["target"].sizes["psf_y"] == 5


def test_the_key_depends_on_the_star_from_there_on(uses_psf: type[Stage]) -> None:
    names = {}
    for width in ("5e-10", "1e-9"):
        star = (Rebin(bin_step="5e-10", bin_width=width),)
        seen, _, _ = walked(config((LINEAR, uses_psf()), star, ("interpolate", "uses_psf")))
        names[width] = [segment.name for segment in seen]
    same = [a == b for a, b in zip(*names.values(), strict=True)]
    assert same == [False, True, False, False]


def test_a_failed_star_stops_only_stages_that_need_it(uses_psf: type[Stage]) -> None:
    made = config((LINEAR, uses_psf()), (Rebin(),), ("interpolate",))
    seen, _, errors = walked(made, fail="star")
    assert [segment.label for segment in seen] == ["star: rebin", "target: interpolate"]
    assert [*errors] == ["star"]


def test_the_name_depends_on_the_variables_that_are_kept() -> None:
    """Without a checkpoint before a segment, that one keeps what the stages before would have kept."""
    names, kept = {}, {}
    for after in ((), ("mask",)):
        made = config((Artefacts(method="ssa"), Mask(cut=3.0), LINEAR), (Rebin(bin_step="5e-10"),), after)
        last = [segment for segment in walked(made)[0] if segment.track == "target"][-1]
        names[after], kept[after] = last.name, {*last.variables}
    assert kept[("mask",)] < kept[()]
    assert names[("mask",)] != names[()]

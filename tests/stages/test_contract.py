"""What every stage promises, tried on every stage there is."""

import re
from typing import Literal, get_origin

import dask.array as da
import hypothesis
import numpy as np
import pytest
import xarray as xr
import yaml
from hypothesis import strategies as st

import lucidcube.stages  # noqa: F401
from lucidcube.cube import DATA, DIMS, PSF, PSF_PLANE, VARIABLES, WAVELENGTH, from_arrays, require
from lucidcube.errors import CubeError
from lucidcube.stages.base import REGISTRY, Stage

PLANES, HEIGHT, WIDTH = 7, 25, 27
STEP = 0.5e-9

every_stage = pytest.mark.parametrize("stage", [cls() for cls in REGISTRY.values()], ids=lambda s: s.name)


def example() -> xr.Dataset:
    """A cube in memory that any stage can work on: a bright round object, noise, a few holes."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    object_ = 100 * np.exp(-((y - 12.3) ** 2 + (x - 13.2) ** 2) / (2 * 3.0**2))
    data = (object_ + rng.normal(0, 1, (PLANES, HEIGHT, WIDTH))).astype(np.float32)
    data[2, 5:7, 20] = np.nan
    cube = from_arrays(
        data,
        7e-7 + STEP * np.arange(PLANES),
        variance=np.ones_like(data),
        units="adu",
        attrs={"source": "made up"},
    )
    psf = np.exp(-((np.arange(-4, 5)[:, None] ** 2) + np.arange(-4, 5) ** 2) / 4.0)
    psf = np.broadcast_to(psf / psf.sum(), (PLANES, 9, 9)).astype(np.float32)
    extra = {
        "badness": (DIMS, np.abs(rng.normal(1, 1.5, data.shape)).astype(np.float32)),
        "mask": (DIMS, (rng.random(data.shape) < 0.02).astype(np.uint8)),
        "filled": (DIMS, (rng.random(data.shape) < 0.02).astype(np.uint8)),
        PSF: ((WAVELENGTH, *PSF_PLANE), psf),
    }
    return cube.assign(extra)


def lazily(cube: xr.Dataset, sizes: tuple[int, ...]) -> xr.Dataset:
    """The cube with dask data in blocks of these sizes."""
    return cube.assign(
        {
            name: (v.dims, da.from_array(v.values, chunks=(sizes, *v.shape[1:])), v.attrs)
            for name, v in cube.data_vars.items()
        }
    )


def settled(stage: Stage, cube: xr.Dataset) -> xr.Dataset:
    return stage(cube).compute(scheduler="synchronous")


def same(a: xr.Dataset, b: xr.Dataset, names) -> None:
    for name in names:
        if name in a.variables or name in b.variables:
            np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)


@every_stage
def test_defaults_survive_yaml(stage: Stage) -> None:
    text = yaml.safe_dump({stage.name: stage.flat()})
    again = type(stage).model_validate(yaml.safe_load(text)[stage.name])
    assert again == stage
    assert again.fingerprint() == stage.fingerprint()


@every_stage
def test_names_and_meanings(stage: Stage) -> None:
    cls = type(stage)
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", cls.name)
    assert cls.tag.startswith("_")
    assert [c.tag for c in REGISTRY.values()].count(cls.tag) == 1
    assert {*cls.requires, *cls.optional, *cls.produces, *cls.drops} <= {*VARIABLES}
    assert (cls.__doc__ or "").strip()
    choices = cls.choices()
    models = [cls, *(m for members in choices.values() for m in members.values())]
    for model in models:
        for name, field in model.model_fields.items():
            if name in choices and get_origin(field.annotation) is Literal:
                continue
            assert field.description, f"{model.__name__}.{name} has no description"
            assert isinstance(field.json_schema_extra, dict), f"{model.__name__}.{name} has no unit"
            assert "unit" in field.json_schema_extra
    for chosen in choices.values():
        for member in chosen.values():
            inside = set(member.model_fields) - set(choices)
            outside = set(cls.model_fields) - set(choices)
            rest = [m for ms in choices.values() if ms is not chosen for m in ms.values()]
            others = {n for m in rest for n in m.model_fields} - set(choices)
            assert not inside & (outside | others), "two parameters of one name stand beside each other"


@every_stage
def test_building_computes_nothing(stage: Stage, nothing_computes: None) -> None:
    made = stage(lazily(example(), (3, 3, 1)))
    for name in stage.produces:
        if name in made and made[name].ndim == 3:
            assert isinstance(made[name].data, da.Array), name
            assert all(len(c) == 1 for c in made[name].chunks[1:]), f"{name} is not in whole planes"


@every_stage
def test_numpy_in_numpy_out(stage: Stage) -> None:
    now, later = stage(example()), stage(lazily(example(), (3, 3, 1)))
    for name in stage.produces:
        if name in now:
            assert isinstance(now[name].data, np.ndarray)
            if now[name].ndim == 3:
                assert isinstance(later[name].data, da.Array)
    same(now, later.compute(scheduler="synchronous"), stage.produces)


@every_stage
@hypothesis.given(cuts=st.sets(st.integers(1, PLANES - 1)))
@hypothesis.settings(max_examples=6)
def test_chunking_does_not_matter(stage: Stage, cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), PLANES]
    sizes = tuple(int(n) for n in np.diff(edges))
    same(settled(stage, example()), settled(stage, lazily(example(), sizes)), stage.produces)


@every_stage
def test_schedulers_agree(stage: Stage) -> None:
    made = stage(lazily(example(), (2, 2, 2, 1)))
    same(
        made.compute(scheduler="synchronous"),
        made.compute(scheduler="threads", num_workers=3),
        stage.produces,
    )


@every_stage
def test_changes_exactly_what_it_declares(stage: Stage) -> None:
    before = lazily(example(), (4, 3))
    after = stage(before)
    new_grid = after.sizes != before.sizes
    for name in before.data_vars:
        changed = name not in after or after[name].data is not before[name].data
        if name in stage.produces:
            assert changed, f"{name} is declared but not changed"
        elif name in stage.drops:
            assert name not in after
        else:
            assert not changed or (new_grid and name not in after), f"{name} changed undeclared"
    assert {*after.data_vars} - {*before.data_vars} <= {*stage.produces}
    required = {n for n in stage.produces if n not in ("variance",)}
    assert required <= {*after.data_vars}


@every_stage
def test_declared_types_are_the_computed_ones(stage: Stage) -> None:
    made = stage(lazily(example(), (4, 3)))
    settled_ = made.compute(scheduler="synchronous")
    for name in stage.produces:
        if name in made:
            assert made[name].dtype == settled_[name].dtype, name
            assert made[name].shape == settled_[name].shape, name
            assert made[name].dims == VARIABLES[name].dims, name


@every_stage
def test_inputs_are_left_alone(stage: Stage) -> None:
    cube, copy = example(), example()
    for variable in cube.data_vars.values():
        variable.values.flags.writeable = False
    stage(cube)
    same(cube, copy, cube.data_vars)


@every_stage
def test_a_plane_of_nan_passes(stage: Stage) -> None:
    cube = example()
    cube[DATA].values[3] = np.nan
    cube["badness"].values[3] = np.nan
    made = stage(cube)
    if made.sizes[WAVELENGTH] == PLANES and DATA in stage.produces:
        assert np.isnan(made[DATA].values[3]).all()
        assert np.isfinite(made[DATA].values[4]).any()


@every_stage
def test_a_cube_of_nan_passes(stage: Stage) -> None:
    cube = example()
    cube[DATA].values[:] = np.nan
    cube["badness"].values[:] = np.nan
    made = stage(cube)
    if DATA in stage.produces:
        assert np.isnan(made[DATA].values).all()


@every_stage
def test_infinite_is_missing(stage: Stage) -> None:
    infinite, missing = example(), example()
    infinite[DATA].values[1, 3, 4], infinite[DATA].values[1, 20, 9] = np.inf, -np.inf
    missing[DATA].values[1, 3, 4] = missing[DATA].values[1, 20, 9] = np.nan
    same(stage(infinite), stage(missing), stage.produces)


@every_stage
def test_one_plane(stage: Stage) -> None:
    whole = example()
    one = whole.isel({WAVELENGTH: slice(0, 1)})
    made = stage(one)
    assert made.sizes[WAVELENGTH] == 1
    if stage.name != "rebin":
        same(made, stage(whole).isel({WAVELENGTH: slice(0, 1)}), stage.produces)


@every_stage
def test_no_variance_is_fine(stage: Stage) -> None:
    made = stage(example().drop_vars("variance"))
    assert "variance" not in made


@every_stage
def test_what_is_missing_is_named(stage: Stage) -> None:
    for name in stage.requires:
        with pytest.raises(CubeError, match=f"{stage.name} needs the variable '{name}'"):
            stage(example().drop_vars(name))


@every_stage
def test_history_is_kept(stage: Stage) -> None:
    twice = stage(example())
    assert [h["stage"] for h in twice.attrs["history"]] == [stage.name]


def test_dimensions_in_another_order_are_refused() -> None:
    with pytest.raises(CubeError, match="they must be"):
        require(example().transpose("y", "x", WAVELENGTH, *PSF_PLANE), [DATA], "test")

"""Contract of every variant of every stage, from NumPy arrays to FITS files."""

import pickle
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import dask.array as da
import hypothesis
import numpy as np
import pytest
import xarray as xr
import yaml
from astropy.io import fits
from hypothesis import strategies as st

import lucidcube.stages  # noqa: F401  registers the stages
from lucidcube.cli.app import main
from lucidcube.config.load import from_plain
from lucidcube.cube import (
    AMPLITUDE,
    BADNESS,
    BIAS,
    DATA,
    DIMS,
    ERROR,
    FILLED,
    MASK,
    NOISE_FACTOR,
    NOISE_WIDTH,
    PARAMETER,
    PSF,
    PSF_MODES,
    PSF_PLANE,
    VARIABLES,
    VARIANCE,
    WAVELENGTH,
    from_arrays,
    require,
)
from lucidcube.errors import CubeError
from lucidcube.io.reader import open_cube
from lucidcube.runner.one_stage import run_stage
from lucidcube.runner.pipeline import run
from lucidcube.stages.base import REGISTRY, Stage

PLANES, HEIGHT, WIDTH = 5, 25, 27
STEP = 0.5e-9
QUICK = {
    "n_iter": 8,
    "max_evaluations": 1,
    "live_points": 20,
    "max_calls": 100,
    "window": 5,
}
QUICK |= {key: {"free": False} for key in ("alpha", "beta", "amplitude", "background")}
"""Parameters for fast computation; the quality of the results does not matter here."""


QUICK_OF = {
    "model_psf": {"fwhm": 3.0, "r0": 0.2, "alpha": 0.1, "beta": 2.0, "amplitude": 2.0, "pixel_scale": 0.025},
    "broaden_psf": {"fwhm": 3.0},
}
"""Parameters that a stage needs; for these keys they replace those of all stages."""

COSTLY = [["muse_ao", "minimize"], ["turbulence", "minimize"]]
"""Variants that take seconds; their models and methods are in others as well."""


def variants(*, all_quick: bool = True) -> Iterator[Any]:
    """Return every variant of every stage; those that are costly, or not the default one, may be slow tests.

    Nested sampling is included if it is installed.
    """
    for name, cls in REGISTRY.items():
        for variant in cls.variants():
            words = {key: get_args(variant.model_fields[key].annotation)[0] for key in cls.choices}
            nested = words.get("method") == "ultranest"
            if nested and find_spec("ultranest") is None:
                continue
            usual_values = {**QUICK, "background": 0.0, **QUICK_OF[name]} if name in QUICK_OF else QUICK
            quick = {key: value for key, value in usual_values.items() if key in variant.model_fields}
            costly = words.get("model") != "radial" if nested else [*words.values()] in COSTLY
            usual = all_quick or variant is type(cls())
            marks = [] if usual and not costly else [pytest.mark.slow]
            yield pytest.param(cls(**words, **quick), id="-".join([name, *words.values()]), marks=marks)


ON_REQUEST = {VARIANCE, ERROR, BIAS, PSF_MODES, NOISE_FACTOR, NOISE_WIDTH}
"""Variables that only some inputs or parameters make."""
NEIGHBOURS = {"effective", "spectral_psf", "model"}
"""Methods and models that use the neighbouring planes as well."""
ESTIMATE = pytest.param(REGISTRY["noise"](existing="replace"), id="noise-replace")
every_variant = pytest.mark.parametrize("stage", [*variants(), ESTIMATE])
OPTIONS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("rebin", {}, {"preset": "auto", "despike": 5.0}),
    ("noise", {}, {"existing": "replace"}),
    ("noise", {}, {"calibrate": False}),
    ("noise", {}, {"calibrate": 2.5}),
    ("artefacts", {"method": "spectral_psf"}, {"spectral": False, "suspect_above": 3.0}),
    ("interpolate", {"method": "model"}, {"spectral": False, "n_iter": 3}),
    ("fit_psf", {"model": "effective"}, {"smoothing": 0}),
    ("fit_psf", {"model": "effective"}, {"modes": 2}),
    ("broaden_psf", {}, {"fwhm": "fit"}),
    ("resample_psf", {}, {"scale": 2.0, "rotation": 30.0, "mirror": True, "side": 11}),
    ("model_psf", {"model": "moffat"}, {"fwhm": {"700nm": 2.0, "701nm": 4.0}, "beta": 3.0}),
    ("model_psf", {"model": "gaussian"}, {"fwhm": "0.1arcsec", "pixel_scale": 0.05}),
    ("model_psf", {"model": "muse_ao"}, {"r0": 0.15, "amplitude": 3.0, "pixel_scale": 0.05}),
    ("deconvolve", {"method": "map"}, {"mu": 1.0, "point_penalty": 1.0, "delta": 3.0, "robust": None}),
    ("deconvolve", {"method": "map"}, {"tolerance": 0.1, "chi2_target": 2.0}),
    *(
        ("deconvolve", {"method": method}, {"errors": {"draws": 2, "smoothing": 1.5}})
        for method in ("map", "lucy_richardson", "clean_modified", "clean_multiscale")
    ),
    ("deconvolve", {"method": "map"}, {"resolution": 3.0}),
    ("deconvolve", {"method": "clean_modified"}, {"resolution": 3.0}),
    ("deconvolve", {"method": "lucy_richardson"}, {"resolution": 3.0}),
    ("deconvolve", {"method": "clean_multiscale"}, {"resolution": 3.0}),
    ("deconvolve", {"method": "clean_multiscale"}, {"scales": [0.0, 2.0], "gain": 0.3, "threshold": 0.2}),
    ("deconvolve", {"method": "clean_multiscale"}, {"chi2_target": None, "restoring_beam": 0.0}),
    ("deconvolve", {"method": "clean_modified"}, {"chi2_target": None, "restoring_beam": 3.0}),
    (
        "deconvolve",
        {"method": "lucy_richardson"},
        {"weighted": False, "accelerate": False, "chi2_target": None},
    ),
]
"""Values of options other than the defaults, which go from FITS to FITS as the variants do."""
with_options = [
    pytest.param(REGISTRY[name].parse(words | values), id="-".join([name, *words.values(), *values]))
    for name, words, values in OPTIONS
]
every_variant_on_files = pytest.mark.parametrize(
    "stage",
    [
        *variants(all_quick=False),
        *(pytest.param(*p.values, id=p.id, marks=pytest.mark.slow) for p in with_options),
    ],
)


def example() -> xr.Dataset:
    """Return a cube in memory that any stage can work on: a bright round object, noise, a few holes."""
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
        BADNESS: (DIMS, np.abs(rng.normal(1, 1.5, data.shape)).astype(np.float32)),
        AMPLITUDE: (DIMS, np.abs(rng.normal(1, 1, data.shape)).astype(np.float32)),
        MASK: (DIMS, (rng.random(data.shape) < 0.02).astype(np.uint8)),
        FILLED: (DIMS, (rng.random(data.shape) < 0.02).astype(np.uint8)),
        PSF: ((WAVELENGTH, *PSF_PLANE), psf),
    }
    return cube.assign(extra)


@cache
def expected(stage: Stage) -> xr.Dataset:
    """Return the result of the stage for the example in memory; it must not be modified."""
    return stage(example())


def lazily(cube: xr.Dataset, *sizes: int) -> xr.Dataset:
    """Return the cube with dask arrays in blocks of these numbers of planes."""
    return cube.assign(
        {
            name: (v.dims, da.from_array(v.values, chunks=(sizes, *v.shape[1:])), v.attrs)
            for name, v in cube.data_vars.items()
        }
    )


def assert_same(a: xr.Dataset, b: xr.Dataset, names: Any) -> None:
    for name in names:
        if name in a.variables or name in b.variables:
            np.testing.assert_array_equal(a[name].values, b[name].values, err_msg=name)


# The class


@every_variant
def test_parameters_round_trip_through_yaml(stage: Stage) -> None:
    text = yaml.safe_dump({stage.name: stage.flat()})
    again = REGISTRY[stage.name].parse(yaml.safe_load(text)[stage.name])
    assert again == stage
    assert again.fingerprint() == stage.fingerprint()


@every_variant
def test_instances_can_be_pickled(stage: Stage) -> None:
    again = pickle.loads(pickle.dumps(stage))
    assert again == stage
    assert type(again) is type(stage)


def test_the_default_variant_is_one_of_the_variants() -> None:
    for cls in REGISTRY.values():
        assert type(cls()) in cls.variants()
        assert type(cls()) is type(cls.parse({}))


@every_variant
def test_declarations_are_valid_and_described(stage: Stage) -> None:
    cls = type(stage)
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", cls.name)
    assert cls.tag.startswith("_")
    assert [c.tag for c in REGISTRY.values()].count(cls.tag) == 1
    assert {*cls.requires, *cls.optional, *cls.produces, *cls.drops} <= {*VARIABLES}
    assert (cls.__doc__ or "").strip()
    for name, field in cls.model_fields.items():
        if name in cls.choices:
            assert get_origin(field.annotation) is Literal
            field = REGISTRY[cls.name].model_fields[name]
        assert field.description, f"{cls.__name__}.{name} has no description"
        assert isinstance(field.json_schema_extra, dict), f"{cls.__name__}.{name} has no unit"
        assert "unit" in field.json_schema_extra


# Cubes in memory and lazy ones


@every_variant
def test_building_computes_nothing(stage: Stage, nothing_computes: None) -> None:
    made = stage(lazily(example(), 3, 2))
    for name in stage.produces:
        if name in made and made[name].ndim == 3:
            assert isinstance(made[name].data, da.Array), name
            assert all(len(c) == 1 for c in made[name].chunks[1:]), f"{name} is not in whole planes"


@every_variant
def test_numpy_arrays_give_numpy_arrays(stage: Stage) -> None:
    for name in stage.produces:
        if name in expected(stage):
            assert isinstance(expected(stage)[name].data, np.ndarray), name


@every_variant
@hypothesis.given(cuts=st.sets(st.integers(1, PLANES - 1)))
@hypothesis.settings(max_examples=3)
def test_chunking_does_not_change_the_result(stage: Stage, cuts: set[int]) -> None:
    made = stage(lazily(example(), *np.diff([0, *sorted(cuts), PLANES]).tolist()))
    assert_same(made.compute(scheduler="synchronous"), expected(stage), stage.produces)


@every_variant
def test_the_scheduler_does_not_change_the_result(stage: Stage) -> None:
    made = stage(lazily(example(), 2, 1, 2)).compute(scheduler="threads", num_workers=3)
    assert_same(made, expected(stage), stage.produces)


@every_variant
def test_exactly_the_declared_variables_change(stage: Stage) -> None:
    before = lazily(example(), 3, 2)
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
    assert {n for n in stage.produces if n not in ON_REQUEST} <= {*after.data_vars}


def test_a_variance_is_kept_unless_it_is_to_be_replaced() -> None:
    cube = lazily(example(), 3, 2)
    kept, replaced = REGISTRY["noise"](calibrate=False)(cube), REGISTRY["noise"](existing="replace")(cube)
    assert kept[VARIANCE].data is cube[VARIANCE].data
    right = REGISTRY["noise"]()(cube)
    np.testing.assert_array_equal(right[VARIANCE].values, cube[VARIANCE].values)
    np.testing.assert_array_equal(right[NOISE_FACTOR].values, 1)
    made = REGISTRY["noise"]()(cube.drop_vars(VARIANCE))
    np.testing.assert_array_equal(made[VARIANCE].values, replaced[VARIANCE].values)
    missing = np.isnan(cube[DATA].values) | (cube[FILLED].values != 0)
    np.testing.assert_array_equal(np.isnan(made[VARIANCE].values), missing)


@every_variant
def test_declared_types_are_the_computed_ones(stage: Stage) -> None:
    declared, computed = stage(lazily(example(), 3, 2)), expected(stage)
    for name in stage.produces:
        if name in declared:
            assert declared[name].dtype == computed[name].dtype, name
            assert declared[name].shape == computed[name].shape, name
            assert declared[name].dims == VARIABLES[name].dims, name


@every_variant
def test_inputs_are_not_modified(stage: Stage) -> None:
    cube, copy = example(), example()
    for variable in cube.data_vars.values():
        variable.values.flags.writeable = False
    stage(cube)
    assert_same(cube, copy, cube.data_vars)


# Missing, infinite and other unusual data


@every_variant
def test_a_plane_of_nan_is_accepted(stage: Stage) -> None:
    cube = example()
    cube[DATA].values[3] = np.nan
    cube[BADNESS].values[3] = np.nan
    made = stage(cube)
    if made.sizes[WAVELENGTH] == PLANES and DATA in stage.produces:
        assert np.isnan(made[DATA].values[3]).all()
        assert np.isfinite(made[DATA].values[4]).any()


@every_variant
def test_a_cube_of_nan_is_accepted(stage: Stage) -> None:
    cube = example()
    cube[DATA].values[:] = np.nan
    cube[BADNESS].values[:] = np.nan
    made = stage(cube)
    if DATA in stage.produces:
        assert np.isnan(made[DATA].values).all()


@every_variant
def test_infinite_values_are_missing(stage: Stage) -> None:
    infinite, missing = (example().isel({WAVELENGTH: slice(0, 2)}) for _ in range(2))
    infinite[DATA].values[1, 3, 4], infinite[DATA].values[1, 20, 9] = np.inf, -np.inf
    missing[DATA].values[1, 3, 4] = missing[DATA].values[1, 20, 9] = np.nan
    assert_same(stage(infinite), stage(missing), stage.produces)


@every_variant
def test_one_plane(stage: Stage) -> None:
    made = stage(example().isel({WAVELENGTH: slice(0, 1)}))
    assert made.sizes[WAVELENGTH] == 1
    if stage.name == "rebin" or {getattr(stage, key, "") for key in stage.choices} & NEIGHBOURS:
        assert np.isfinite(made[stage.produces[0]].values).any()
    else:
        assert_same(made, expected(stage).isel({WAVELENGTH: slice(0, 1)}), stage.produces)


@every_variant
def test_the_variance_is_optional(stage: Stage) -> None:
    made = stage(example().drop_vars(VARIANCE).isel({WAVELENGTH: slice(0, 2)}))
    assert (VARIANCE in made) == (stage.name == "noise")


@every_variant
def test_missing_variables_are_named(stage: Stage) -> None:
    for name in stage.requires:
        with pytest.raises(CubeError, match=f"{stage.name} needs the variable '{name}'"):
            stage(example().drop_vars(name))


@every_variant
def test_history_is_kept(stage: Stage) -> None:
    assert expected(stage).attrs["history"] == [{"stage": stage.name, **stage.flat()}]


def test_dimensions_in_another_order_are_an_error() -> None:
    with pytest.raises(CubeError, match="they must be"):
        require(example().transpose("y", "x", WAVELENGTH, *PSF_PLANE), [DATA], "test")


# The example has neither cosmic rays, nor another variance, nor planes enough for the spectral test.
WITHOUT_EFFECT = ("rebin", "noise", "artefacts")


@pytest.mark.parametrize("stage", [p for p in with_options if not str(p.id).startswith(WITHOUT_EFFECT)])
def test_options_change_the_result(stage: Stage) -> None:
    needed = {k: v for k, v in QUICK_OF.get(stage.name, {}).items() if k in type(stage).model_fields}
    usual = expected(type(stage)(**{key: getattr(stage, key) for key in stage.choices}, **needed))
    made = expected(stage)
    assert any(name not in usual or not usual[name].equals(made[name]) for name in made.data_vars)


# From FITS to FITS


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example as FITS files: a cube with its variance, and files of its other variables."""
    folder, cube = tmp_path_factory.mktemp("example"), example()
    axis = fits.Header({"CTYPE3": "WAVE", "CUNIT3": "m", "CRPIX3": 1.0, "CRVAL3": 7e-7, "CDELT3": STEP})
    for variable in (DATA, BADNESS, MASK, PSF):
        hdus = [fits.PrimaryHDU(cube[variable].values, axis)]
        if variable == DATA:
            hdus[0].header["BUNIT"] = "adu"
            hdus.append(fits.ImageHDU(cube[VARIANCE].values, axis, name="STAT"))
        fits.HDUList(hdus).writeto(folder / f"{variable}.fits")
    return folder


def from_files(stage: Stage, files: Path, extra: tuple[str, ...]) -> xr.Dataset:
    """Return the result of the stage in memory for the data and some other variables of the example."""
    cube, other = open_cube(str(files / "data.fits")).compute(), example()
    return stage(cube.assign({name: (other[name].dims, other[name].values) for name in extra}))


def assert_holds(path: Path, made: xr.Dataset, variables: Any, *, main: str = DATA) -> None:
    """Check that a FITS file holds these variables, the main one first, and is valid."""
    with fits.open(path, checksum=True) as hdus:
        hdus.verify("exception")
        columns = {c: h for h in hdus if isinstance(h, fits.BinTableHDU) for c in h.data.names}
        np.testing.assert_array_equal(hdus[main if main != DATA else 0].data, made[DATA].values)
        for name in {*variables} - {DATA}:
            if name not in made:
                continue
            values = made[name].values
            if made[name].ndim >= 3:
                label = "STAT" if name == VARIANCE else name.upper()
                np.testing.assert_array_equal(hdus[label].data, values, err_msg=name)
            elif PARAMETER not in made[name].dims:
                np.testing.assert_array_equal(columns[name].data[name], values, err_msg=name)
            else:
                suffix = "_error" if name == "fit_error" else ""
                for label, column in zip(made[name].attrs["names"], values.T, strict=True):
                    label = f"{label}_fit{suffix}" if label == WAVELENGTH else f"{label}{suffix}"
                    np.testing.assert_array_equal(columns[label].data[label], column, err_msg=label)


@every_variant_on_files
def test_as_a_command(stage: Stage, files: Path, tmp_path: Path) -> None:
    inputs = [str(files / f"{variable}.fits") for variable in stage.files]
    options = {key: yaml.safe_dump(value) for key, value in stage.flat().items()}
    path = run_stage(stage.name, inputs, options, output=str(tmp_path / "{stem}{tag}.fits"))
    assert path.name == f"{stage.files[0]}{stage.file_tag()}.fits"
    made = from_files(stage, files, tuple(v for v in stage.files if v != DATA))
    variables = [v for v in stage.produces if v in made]
    if not {DATA, VARIANCE} & {*variables}:
        made = made.assign({DATA: made[variables[0]]})
    assert_holds(path, made, variables)


@every_variant_on_files
def test_inside_a_run(stage: Stage, files: Path, tmp_path: Path) -> None:
    item = {stage.name: stage.flat()}
    config: dict[str, Any] = {
        "target": {"input": f"{files}/data.fits", "stages": []},
        "output": {"path": str(tmp_path / "out.fits"), "products": ["deconvolved", "residual", "log", "fit"]},
        "profile": "synchronous",
    }
    config["output"]["products"] += ["restored", "points", "model", "error", "bias"]
    config["output"]["products"] += ["psf", "filled", "mask", "badness", "variance"]
    if stage.name == "model_psf":
        config |= {"star": {"psf": stage.flat()}, "deconvolve": {"n_iter": 1}}
        made = from_files(stage, files, ())
        assert_holds(run(from_plain(config)).path, made.assign({DATA: made[PSF]}), [PSF], main="PSF")
        return
    if stage.name == "deconvolve":
        config |= {"star": {"input": f"{files}/psf.fits"}, **item}
        made = from_files(stage, files, (PSF,))
    elif stage.name in ("normalise_psf", "fit_psf", "resample_psf"):
        config["star"] = {"input": f"{files}/data.fits", "stages": [item]}
        made = from_files(stage, files, ())
    elif BADNESS in stage.requires:
        first = REGISTRY["artefacts"](method="ssa", window=QUICK["window"])
        config["target"]["stages"] = [{first.name: first.flat()}, item]
        made = stage(from_files(first, files, ()))
    elif PSF in stage.requires:
        config |= {"star": {"input": f"{files}/psf.fits"}}
        config["target"]["stages"] = [item]
        made = from_files(stage, files, (PSF,))
    else:
        config["target"]["stages"] = [item]
        made = from_files(stage, files, ())
    path = run(from_plain(config)).path
    if stage.name in ("normalise_psf", "fit_psf", "resample_psf"):
        tables = [v for v in stage.produces if VARIABLES[v].dims != DIMS]
        assert_holds(path, made, tables, main="PSF")
    else:
        assert_holds(path, made, [v for v in stage.produces if v in made])


def test_as_a_command_line(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--model", "turbulence", "--r0", "{start: 0.2, free: false}", "--max-evaluations", "1"]
    main(["fit_psf", f"{files}/data.fits", *options, "-o", f"{tmp_path}/psf.fits"])
    assert capsys.readouterr().out.strip() == f"{tmp_path}/psf.fits"
    table = fits.getdata(tmp_path / "psf.fits", "FITTED MODEL PARAMS")
    np.testing.assert_array_equal(table["r0"], 0.2)
    np.testing.assert_allclose(table["wavelength"], 7e-7 + STEP * np.arange(PLANES), rtol=1e-12)
    np.testing.assert_array_equal(table["wavelength_fit"], table["wavelength"])
    assert np.isnan(table["wavelength_fit_error"]).all()

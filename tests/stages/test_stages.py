"""Stages apart from their kernels: units, regions, variants, the scale of the data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS

from lucidcube.config.load import from_plain
from lucidcube.cube import (
    BADNESS,
    CHANNEL,
    DATA,
    DIMS,
    FILLED,
    MASK,
    PSF,
    PSF_PLANE,
    VARIANCE,
    WAVELENGTH,
    from_arrays,
)
from lucidcube.errors import ConfigError, CubeError, UserError
from lucidcube.kernels.holes import Filled
from lucidcube.runner.one_stage import run_stage
from lucidcube.runner.pipeline import run
from lucidcube.stages import Artefacts, Deconvolve, FitPSF, Interpolate, Mask, NormalisePSF, Rebin
from scenes import target_cube

STEP = 0.25e-9


def flat_cube(planes: int = 9, side: int = 20, **kwargs) -> xr.Dataset:
    data = np.ones((planes, side, side), np.float32)
    cube = from_arrays(data, 7e-7 + STEP * np.arange(planes), **kwargs)
    return cube.assign({BADNESS: (DIMS, np.zeros_like(data))})


def header(side: int = 20) -> str:
    wcs = WCS(naxis=3)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN", "WAVE"]
    wcs.wcs.crval, wcs.wcs.crpix = [53.2, 18.5, 7e-7], [side / 2, side / 2, 1]
    wcs.wcs.cdelt = [-1e-5, 1e-5, STEP]
    made = wcs.to_header()
    made.insert(0, ("NAXIS", 3))
    for axis in (1, 2, 3):
        made.insert(axis, (f"NAXIS{axis}", side if axis < 3 else 9))
    return made.tostring(sep="\n", endcard=False, padding=False)


# rebin


@pytest.mark.parametrize("text", ["1nm", "1 nm", "1e-9", "10 Angstrom", "0.001 um"])
def test_widths_with_units(text: str) -> None:
    assert Rebin(bin_step=text).bins() == pytest.approx((1e-9, 2e-9))


def test_presets_and_explicit_bins() -> None:
    assert Rebin().bins() == (1e-9, 2e-9)
    assert Rebin(bin_step=3e-9).bins() == pytest.approx((3e-9, 6e-9))
    assert Rebin(bin_width="5nm").bins() == pytest.approx((1e-9, 5e-9))


def test_a_frequency_axis_is_rebinned_in_frequency() -> None:
    data = np.arange(40, dtype=np.float32)[:, None, None] * np.ones((1, 3, 3), np.float32)
    cube = from_arrays(data, 1e11 + 1e6 * np.arange(40), wavelength_units="Hz")
    made = Rebin(bin_step="4 MHz")(cube)
    np.testing.assert_allclose(made[WAVELENGTH], 1e11 + 4e6 * np.arange(10))
    assert made[WAVELENGTH].attrs["units"] == "Hz"
    np.testing.assert_allclose(made[DATA].values[2:-2, 0, 0], 4.0 * np.arange(10)[2:-2], rtol=1e-6)


def test_bins_finer_than_the_axis_are_an_error() -> None:
    with pytest.raises(CubeError, match=r"bin_step 1e-10 m is smaller than the step of the input, 2.5e-10 m"):
        Rebin(bin_step="0.1 nm")(flat_cube())


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"bin_step": 2}, "bin_step = 2 m .* 2 nm[?]"),
        ({"bin_width": "0.5"}, "bin_width = 0.5 m .* 0.5 nm[?]"),
    ],
)
def test_a_width_without_a_unit_is_not_taken_for_metres(parameters: dict[str, Any], expected: str) -> None:
    with pytest.raises(CubeError, match=expected):
        Rebin(**parameters)(flat_cube())


def test_a_non_monotonic_axis_is_an_error() -> None:
    cube = flat_cube(5)
    cube[WAVELENGTH] = (WAVELENGTH, [1.0, 2.0, 1.5, 3.0, 4.0], {"units": "m"})
    with pytest.raises(CubeError, match="neither increase nor decrease"):
        Rebin(bin_step=3.0)(cube)


# artefacts


def test_a_star_gives_a_warning_and_a_planet_does_not() -> None:
    y, x = np.mgrid[:60, :60]
    star = np.exp(-((y - 30) ** 2 + (x - 30) ** 2) / 8).astype(np.float32)[None]
    warnings = list(Artefacts(method="ssa").warnings(from_arrays(star, [7e-7])))
    assert len(warnings) == 1
    assert "like a star" in warnings[0]
    planet = target_cube()
    assert not list(Artefacts(method="ssa").warnings(planet))


@pytest.mark.parametrize(
    "bounds", [{"start": -0.8}, {"start": 80, "stop": 75}, {"stop": 101}, {"start": 0.5}, {"start": -2}]
)
def test_bounds_without_any_component_are_errors(bounds: dict) -> None:
    with pytest.raises(ConfigError):
        Artefacts(method="ssa", **bounds)


# mask


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_constant_regions_in_pixels_and_on_the_sky(tmp_path: Path) -> None:
    cube = flat_cube(attrs={"header": header()})
    sky = WCS(naxis=2)
    sky.wcs.ctype, sky.wcs.crval, sky.wcs.crpix = ["RA---TAN", "DEC--TAN"], [53.2, 18.5], [10, 10]
    sky.wcs.cdelt = [-1e-5, 1e-5]
    place: SkyCoord = sky.pixel_to_world(4, 12)
    pixels = write(tmp_path / "a.reg", "image\ncircle(5,13,2.2)\n")  # DS9 counts from 1
    celestial = write(
        tmp_path / "b.reg", f"icrs\ncircle({place.ra.deg:.10f},{place.dec.deg:.10f},{2.2e-5:.10f})\n"
    )
    masks = [Mask(const_regions=(f,))(cube)[MASK].values for f in (pixels, celestial)]
    y, x = np.mgrid[:20, :20]
    expected = np.hypot(y - 12, x - 4) < 2.2
    for mask in masks:
        np.testing.assert_array_equal(mask, np.broadcast_to(expected, mask.shape))


def test_moving_regions(tmp_path: Path) -> None:
    first = write(tmp_path / "a.reg", "image\ncircle(5,5,1.5) # text={ghost}\n")
    last = write(tmp_path / "b.reg", "image\ncircle(13,9,1.5) # text={ghost}\n")
    mask = Mask(dynamic_regions=((1, first), (5, last)))(flat_cube())[MASK].values
    assert not mask[0].any()
    assert not mask[6:].any()
    for channel in range(1, 6):
        y, x = (np.argwhere(mask[channel]).mean(0)).tolist()
        assert (x, y) == pytest.approx((4 + 2 * (channel - 1), 4 + (channel - 1)))


def test_missing_pixels_are_never_marked(tmp_path: Path) -> None:
    cube = flat_cube()
    cube[BADNESS].values[:, 4, 4] = np.nan
    mask = Mask(const_regions=(write(tmp_path / "a.reg", "image\nbox(10,10,40,40,0)"),))(cube)[MASK].values
    assert mask[:, 4, 4].sum() == 0
    assert mask.sum() == mask.size - mask.shape[0]


def test_a_changed_region_file_changes_the_fingerprint(tmp_path: Path) -> None:
    path = tmp_path / "a.reg"
    stage = Mask(const_regions=(write(path, "image\ncircle(5,13,2)"),))
    before = stage.fingerprint()
    path.write_text("image\ncircle(5,13,3)")
    assert stage.fingerprint() != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("physical\n", "region"),
        ("", "region"),
        ("icrs\ncircle(53,18,1)", "sky|coordinates|WCS|celestial"),
        ("nonsense", "nonsense|region"),
    ],
)
def test_unusable_region_files_are_errors(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Mask(const_regions=(write(tmp_path / "a.reg", text),))(flat_cube())
    with pytest.raises(UserError, match="no such|not.*exist|no file|cannot"):
        Mask(const_regions=(str(tmp_path / "none.reg"),))(flat_cube())


def test_the_cut_follows_the_channel() -> None:
    cube = flat_cube(9)
    cube[BADNESS].values[:, 3, 3] = 3.4
    made = Mask(cut=((2, 3.0), (6, 4.0)))(cube)
    np.testing.assert_allclose(made["cut"], [3, 3, 3, 3.25, 3.5, 3.75, 4, 4, 4])
    np.testing.assert_array_equal(made[MASK].values[:, 3, 3], [1, 1, 1, 1, 0, 0, 0, 0, 0])


# interpolate


every_method = pytest.mark.parametrize("method", ["linear", "ssa", "ssa_deviation"])


@every_method
def test_marked_pixels_are_replaced_and_good_ones_kept(method: str) -> None:
    clean = target_cube()
    damaged = clean.copy(deep=True)
    mask = np.zeros(clean[DATA].shape, np.uint8)
    mask[:, 18:20, 20:23] = 1
    damaged[DATA].values[mask == 1] += 5000
    made = Interpolate(method=method)(damaged.assign({MASK: (DIMS, mask)}))
    known = np.isfinite(clean[DATA].values)
    at = (mask == 1) & known
    before = np.sqrt(np.mean((damaged[DATA].values - clean[DATA].values)[at] ** 2))
    after = np.sqrt(np.mean((made[DATA].values - clean[DATA].values)[at] ** 2))
    assert after < 0.2 * before
    keep = (mask == 0) & known
    np.testing.assert_array_equal(made[DATA].values[keep], damaged[DATA].values[keep])
    np.testing.assert_array_equal(made[FILLED].values == Filled.REPLACED, at)
    assert np.isnan(made[VARIANCE].values[made[FILLED].values > 0]).all()
    total = made[DATA].values + made["residual"].values
    np.testing.assert_allclose(total[known], damaged[DATA].values[known], rtol=1e-5)


def cube_with_holes() -> tuple[xr.Dataset, np.ndarray, np.ndarray]:
    """Return half a frame of noise with a hole, a dead column, marked pixels between them and a marked rim.

    The other two arrays are the pixels of a plane that are holes, and those outside the field.
    """
    rng = np.random.default_rng(5)
    data = (100 + rng.normal(0, 1, (2, 48, 48))).astype(np.float32)
    hole, outside, mask = (np.zeros((48, 48), bool) for _ in range(3))
    outside[:, 30:] = True
    hole[:, 20] = hole[8:13, 8:14] = True
    mask[20:23, 18:23] = mask[:, 28:30] = mask[8, 8] = mask[40, 40] = True
    data[:, hole | outside] = np.nan
    cube = from_arrays(data, [7e-7, 7.1e-7], variance=np.where(np.isnan(data), np.nan, np.float32(1)))
    return cube.assign({MASK: (DIMS, np.array([mask, mask & False], np.uint8))}), hole, outside


@every_method
def test_holes_are_filled_and_the_outside_stays_nan(method: str) -> None:
    cube, hole, outside = cube_with_holes()
    made = Interpolate(method=method)(cube)
    missing = hole | outside
    for i in range(2):
        marked = (cube[MASK].values[i] > 0) & ~missing
        expected = np.where(hole, Filled.HOLE, np.where(marked, Filled.REPLACED, Filled.NO))
        np.testing.assert_array_equal(made[FILLED].values[i], expected)
        np.testing.assert_array_equal(np.isnan(made[DATA].values[i]), outside)
        np.testing.assert_array_equal(np.isnan(made["residual"].values[i]), missing)
        np.testing.assert_array_equal(np.isnan(made[VARIANCE].values[i]), missing | marked)
        inner = hole.copy()
        inner[[0, -1]] = False  # which falls towards zero
        np.testing.assert_allclose(made[DATA].values[i][inner], 100, atol=12)


@pytest.mark.parametrize(("max_hole", "filled"), [(0, 0), (5, 0), (9, 49), (10, 49)])
def test_only_holes_up_to_the_largest_are_filled(max_hole: int, filled: int) -> None:
    data = np.ones((1, 30, 30), np.float32)
    data[0, 10:17, 10:17] = np.nan
    made = Interpolate(method="linear", max_hole=max_hole)(from_arrays(data, [7e-7]))
    assert (made[FILLED].values == Filled.HOLE).sum() == filled
    assert np.isnan(made[DATA].values).sum() == 49 - filled


def test_a_second_interpolation_keeps_the_filled_map_of_the_first() -> None:
    cube, _, _ = cube_with_holes()
    once = Interpolate(method="linear")(cube)
    twice = Interpolate(method="linear")(once)
    np.testing.assert_array_equal(twice[FILLED].values, once[FILLED].values)
    np.testing.assert_array_equal(np.isnan(twice[VARIANCE].values), np.isnan(once[VARIANCE].values))


# fit_psf


def test_a_parameter_can_be_given_in_part() -> None:
    stage = FitPSF(model="gaussian", sigma={"free": False}, x=0.5)
    parameters = {p.name: p for p in stage.parameters()}
    assert parameters["sigma"].free is False
    assert (parameters["sigma"].lower, parameters["sigma"].upper) == (0.2, 100.0)
    assert parameters["x"].start == 0.5
    assert parameters["x"].free is True


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"x": {"domain": (6, 5)}}, "is empty"),
        ({"x": 6}, "start 6 is outside"),
        ({"r0": 0.1}, "r0"),
        ({"model": "moffat"}, "moffat"),
    ],
)
def test_invalid_fit_parameters_are_errors(settings: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        FitPSF(**{"model": "gaussian", **settings})


def test_physical_models_need_the_wavelength() -> None:
    image = flat_cube(1, 21)
    image[WAVELENGTH] = (WAVELENGTH, [np.nan])
    with pytest.raises(CubeError, match="needs the wavelength of every plane"):
        FitPSF(model="muse_ao")(image)


def test_a_star_with_even_sides_is_an_error_for_models_of_one_plane() -> None:
    with pytest.raises(CubeError, match="put normalise_psf before it"):
        FitPSF(model="radial")(flat_cube(2, 20))


def star_cube(*, normalised: bool = False) -> xr.Dataset:
    """Return a star of 20 x 22 pixels on a background, off its centre, with a variance."""
    y, x = np.mgrid[:20, :22]
    star = 1e4 * np.exp(-((y - 8.3) ** 2 + (x - 12.4) ** 2) / 4.0) + 50.0
    data = star + np.random.default_rng(0).normal(size=(3, 20, 22)) * np.sqrt(star)
    cube = from_arrays(
        data.astype(np.float32),
        7e-7 + 1e-9 * np.arange(3),
        variance=np.broadcast_to(star, data.shape).astype(np.float32),
        units="adu",
    )
    return NormalisePSF()(cube) if normalised else cube


def test_the_effective_psf_of_a_star_as_observed_and_normalised() -> None:
    observed, normalised = FitPSF()(star_cube()), FitPSF()(star_cube(normalised=True))
    y, x = np.mgrid[-9:10, -10:11]
    truth = np.exp(-(y**2 + x**2) / 4.0) / (4.0 * np.pi)
    for made in (observed, normalised):
        assert made[DATA].shape == (3, 19, 21)
        np.testing.assert_allclose(made[DATA].values.sum(axis=(1, 2), dtype=float), 1.0, atol=1e-6)
        assert np.abs(made[DATA].values - truth).max() < 0.02 * truth.max()
        assert (made["fit_status"].values == 0).all()
        assert VARIANCE not in made
    names, units = (observed["fit_value"].attrs[key] for key in ("names", "units"))
    assert (names, units) == (["x", "y", "flux", "background"], ["pixel", "pixel", "adu", "adu"])
    expected = [12.4 - 11, 8.3 - 10, 4e4 * np.pi, 50.0]
    np.testing.assert_allclose(observed["fit_value"].values, [expected] * 3, rtol=0.05, atol=0.05)
    np.testing.assert_allclose(normalised["fit_value"].values[:, :2], 0.0, atol=0.05)
    assert FitPSF(smoothing=0)(star_cube())["fit_value"].shape == (3, 4)


@pytest.mark.parametrize("smoothing", [-1, 16])
def test_invalid_smoothing_is_an_error(smoothing: int) -> None:
    with pytest.raises(ConfigError, match="smoothing"):
        FitPSF(smoothing=smoothing)


@pytest.mark.slow
def test_an_even_star_from_fits_to_fits(tmp_path: Path) -> None:
    cube = star_cube()
    header = fits.Header({"CTYPE3": "WAVE", "CUNIT3": "m", "CRPIX3": 1.0, "CRVAL3": 7e-7, "CDELT3": 1e-9})
    hdus = [
        fits.PrimaryHDU(cube[DATA].values, header),
        fits.ImageHDU(cube[VARIANCE].values, header, name="STAT"),
    ]
    fits.HDUList(hdus).writeto(tmp_path / "star.fits")
    fits.HDUList(hdus).writeto(tmp_path / "target.fits")
    alone = run_stage("fit_psf", [str(tmp_path / "star.fits")], {}, output=str(tmp_path / "psf.fits"))
    config = {
        "target": {"input": str(tmp_path / "target.fits"), "stages": []},
        "star": {"input": str(tmp_path / "star.fits"), "stages": ["fit_psf"]},
        "deconvolve": {"n_iter": 3},
        "output": {"path": str(tmp_path / "out.fits")},
        "profile": "synchronous",
    }
    whole = run(from_plain(config)).path
    with fits.open(alone) as one, fits.open(whole) as other:
        assert one[0].data.shape == (3, 19, 21)
        np.testing.assert_array_equal(one[0].data, other["PSF"].data)
        for hdus in (one, other):
            table = hdus["FITTED MODEL PARAMS"].data
            np.testing.assert_allclose(table["flux"], 4e4 * np.pi, rtol=0.05)
            np.testing.assert_allclose(table["background"], 50.0, rtol=0.05)
            assert (table["flux_error"] > 0.0).all()


# deconvolve


@pytest.mark.parametrize(
    "method",
    [{"method": "clean_modified", "noise_std": 3.0}, {"method": "lucy_richardson", "threshold": 2.0}],
    ids=lambda m: m["method"],
)
def test_a_scaled_cube_gives_scaled_components(method: dict) -> None:
    rng = np.random.default_rng(2)
    y, x = np.mgrid[:31, :31]
    data = (200 * np.exp(-((y - 15) ** 2 + (x - 15) ** 2) / 40) + rng.normal(0, 1, (2, 31, 31))).astype(
        np.float32
    )
    psf = np.exp(-((np.arange(-4, 5)[:, None] ** 2) + np.arange(-4, 5) ** 2) / 4.0)
    psf = np.broadcast_to(psf / psf.sum(), (2, 9, 9)).astype(np.float32)
    results = []
    for exponent in (0, 12):
        cube = from_arrays(data * np.float32(2**exponent), [7e-7, 7.1e-7], attrs={"scale_exponent": exponent})
        stage = Deconvolve(**method, n_iter=25)
        results.append(stage(cube.assign({PSF: ((WAVELENGTH, *PSF_PLANE), psf)})))
    scaled = results[0][DATA].values * np.float32(2**12)
    # Subnormal numbers have fewer digits.
    np.testing.assert_allclose(results[1][DATA].values, scaled, rtol=0, atol=1e-30)
    np.testing.assert_allclose(results[1]["chi2"].values, results[0]["chi2"].values, rtol=1e-6)


def test_crossed_clips_are_an_error() -> None:
    with pytest.raises(ConfigError, match="is above"):
        Deconvolve(method="lucy_richardson", cf_lclip=2, cf_uclip=1)


def test_channels_count_in_the_file() -> None:
    cube = flat_cube()
    assert cube[CHANNEL].values.tolist() == list(range(9))


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan])
def test_a_variance_that_is_known_nowhere_is_estimated(value: float) -> None:
    """Data are not lost because an extension of variances is empty."""
    y, x = np.mgrid[:31, :31] - 15
    psf = np.exp(-(y**2 + x**2) / 4.0)[11:20, 11:20]
    noise = np.random.default_rng(5).normal(0, 1, (3, 31, 31))
    data = (200 * np.exp(-(y**2 + x**2) / 40) + noise).astype(np.float32)
    cube = from_arrays(data, 7e-7 + 1e-9 * np.arange(3))
    psfs = np.broadcast_to(psf / psf.sum(), (3, 9, 9)).astype(np.float32)
    cube = cube.assign({PSF: ((WAVELENGTH, *PSF_PLANE), psfs)})
    marks = np.zeros(data.shape, np.uint8)
    marks[:, 15, 15] = 1
    empty = cube.assign({VARIANCE: (DIMS, np.full_like(data, value))})
    for name, stage in (("badness", Artefacts()), (DATA, Interpolate()), (DATA, Deconvolve(n_iter=20))):
        marked = {"mask": (DIMS, marks)} if stage.name == "interpolate" else {}
        known, unknown = stage(cube.assign(marked)), stage(empty.assign(marked))
        np.testing.assert_array_equal(unknown[name], known[name])
        assert np.isfinite(unknown[name]).all()


def test_stages_say_that_the_noise_is_estimated() -> None:
    for stage in (Artefacts(spectral=False), Deconvolve(), Deconvolve(method="lucy_richardson")):
        assert any("no variance" in text for text in stage.warnings(flat_cube()))
        given = flat_cube().assign({VARIANCE: (DIMS, np.ones((9, 20, 20), np.float32))})
        assert not any("no variance" in text for text in stage.warnings(given))


def test_a_cube_that_is_passed_on_and_a_wish_for_more_give_a_warning() -> None:
    coarse = from_arrays(np.ones((4, 5, 5), np.float32), 1e-6 + 5e-9 * np.arange(4))
    assert list(Rebin(preset="auto").warnings(coarse)) == []
    (text,) = Rebin(preset="auto", despike=7.0).warnings(coarse)
    assert "despike has no effect" in text


def test_the_memory_of_a_large_psf_is_planned() -> None:
    cube = flat_cube()
    psf = np.zeros((9, 201, 201), np.float32)
    psf[:, 100, 100] = 1
    small, large = (cube.assign({PSF: ((WAVELENGTH, *PSF_PLANE), p)}) for p in (psf[:, 96:105, 96:105], psf))
    for stage in (Artefacts(), Interpolate(), Deconvolve()):
        lean, wide = (stage.working_bytes(c, c) for c in (small, large))
        assert wide - lean > psf[:1].nbytes

"""Complete runs: products, reuse of checkpoints, and results that depend on the config only."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import yaml
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from scipy.signal import convolve

import lucidcube.lift.blocks
import lucidcube.runner.write_product
from lucidcube.config.load import from_plain
from lucidcube.config.schema import Config
from lucidcube.errors import ConfigError, UserError
from lucidcube.runner.checkpoint import Checkpoint
from lucidcube.runner.monitor import Monitor
from lucidcube.runner.pipeline import check, run
from lucidcube.runner.segments import cut
from lucidcube.simulate import Scene, write_scene

SCENE = Scene(shape=(8, 31, 31), seed=11, wavelength_step=0.5e-9)
TARGET_STAGES = ["rebin", "artefacts", "mask", "interpolate"]
STAR_STAGES = ["rebin", "normalise_psf", "fit_psf"]
PLANES = 4
"""Number of planes after rebinning."""
BLOCKS = 6 * PLANES
"""Number of blocks in all segments: three of the target, two of the star, and the deconvolution."""
ALL_PRODUCTS = [
    "deconvolved", "residual", "psf", "log", "fit", "filled", "mask", "badness", "variance", "provenance",
]  # fmt: skip


class Recorder(Monitor):
    """Records the events of a run."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.messages: list[str] = []
        self.segments: list[tuple[str, int, int]] = []
        self.blocks = 0
        self.left = interrupt_after

    def message(self, text: str) -> None:
        self.messages.append(text)

    def segment(self, label: str, blocks: int, reused: int) -> None:
        self.segments.append((label, blocks, reused))

    def block(self, number: int) -> None:
        self.blocks += 1
        if self.left is not None:
            self.left -= 1
            if self.left <= 0:
                raise KeyboardInterrupt

    def computed(self) -> dict[str, int]:
        """Number of blocks computed in each segment, without the products."""
        return {label: n - reused for label, n, reused in self.segments if label != "product"}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with target.fits, star.fits and truth.fits."""
    folder = tmp_path_factory.mktemp("files")
    write_scene(SCENE, folder, truth=True)
    return folder


def config(files: Path, out: Path, **changes: Any) -> Config:
    """Return a config of the preset `reference` with few iterations.

    `changes` replace entire sections, and None removes one. A track without `stages` has none.
    """
    values: dict[str, Any] = {
        "preset": "reference",
        "target": {"input": f"{files}/target.fits", "stages": TARGET_STAGES},
        "star": {"input": f"{files}/star.fits", "stages": STAR_STAGES},
        "deconvolve": {"method": "clean_modified", "n_iter": 40, "loop_gain": 0.2},
        "output": {"path": str(out), "products": ALL_PRODUCTS},
        "profile": "synchronous",
    }
    values |= changes
    for track in ("target", "star"):
        if values[track] is not None:
            values[track] = {"stages": [], **values[track]}
    return from_plain({k: v for k, v in values.items() if v is not None or k == "deconvolve"})


class Finished(NamedTuple):
    """A finished run, and the folder of its relative paths, which must not be modified."""

    config: Config
    folder: Path

    @property
    def path(self) -> Path:
        return self.folder / self.config.output.path


@pytest.fixture(scope="session")
def finished(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    # The path of the product is part of its provenance: it is relative, so that bytes can be compared.
    made = Finished(config(files, Path("out.fits")), tmp_path_factory.mktemp("finished"))
    with contextlib.chdir(made.folder):
        run(made.config)
    return made


@pytest.fixture
def again(finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a copy of the finished run, including checkpoints, the current folder."""
    shutil.copytree(finished.folder, tmp_path / "again")
    monkeypatch.chdir(tmp_path / "again")
    return tmp_path / "again"


def numbers(path: Path) -> dict[str, Any]:
    """Return every image and table of a product by name, except for the provenance, which names folders."""
    with fits.open(path) as hdus:
        return {h.name: np.array(h.data) for h in hdus if h.name != "PROVENANCE"}


def same_numbers(a: Path, b: Path) -> None:
    one, other = numbers(a), numbers(b)
    assert [*one] == [*other]
    for name, array in one.items():
        assert array.dtype == other[name].dtype, name
        assert array.tobytes() == other[name].tobytes(), name


def write_cube(path: Path, data: np.ndarray, cards: dict[str, Any] | None = None, **more: np.ndarray) -> Path:
    """Write a FITS file with DATA and other extensions, on the wavelengths of the scene."""
    grid = {"CTYPE3": "AWAV", "CUNIT3": "m", "CRPIX3": 1.0, "CRVAL3": SCENE.first_wavelength, "CDELT3": 5e-10}
    header = fits.Header(cards or {})
    if data.ndim == 3:
        header.update(grid)
    hdus = [fits.PrimaryHDU(), *(fits.ImageHDU(a, header, name=n) for n, a in {"DATA": data, **more}.items())]
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


def planes(files: Path, name: str = "target.fits", hdu: str = "DATA") -> np.ndarray:
    with fits.open(files / name) as hdus:
        return hdus[hdu].data.astype(np.float32)


# Products


def test_products_and_their_hdus(finished: Finished) -> None:
    with fits.open(finished.path, checksum=True) as hdus:
        assert {h.name for h in hdus} == {
            "DECONVOLVED", "RESIDUAL", "FILLED", "MASK", "BADNESS", "STAT", "PSF",
            "DECONVOLUTION LOG", "FITTED MODEL PARAMS", "NORMALISATION", "CUT BY CHANNEL", "PROVENANCE",
        }  # fmt: skip
        assert hdus[0].name == "DECONVOLVED"
        for hdu in hdus:
            hdu.verify("exception")
            if isinstance(hdu, fits.BinTableHDU):
                continue
            assert hdu.shape == (PLANES, 31, 31), hdu.name
            assert hdu.header["BITPIX"] == (8 if hdu.name in ("FILLED", "MASK") else -32)
        units = {n: hdus[n].header.get("BUNIT", "") for n in ("DECONVOLVED", "RESIDUAL", "STAT", "MASK")}
        flux = "10**(-20)*erg/s/cm**2/Angstrom"
        assert units == {"DECONVOLVED": flux, "RESIDUAL": flux, "STAT": f"({flux})**2", "MASK": ""}


@pytest.mark.slow
def test_components_and_residual_make_up_the_input(finished: Finished, files: Path, tmp_path: Path) -> None:
    filled = config(files, tmp_path / "filled.fits", deconvolve=None)
    run(filled)
    data, made = numbers(Path(filled.output.path))["DATA"], numbers(finished.path)
    assert np.isfinite(data).mean() > 0.8
    names = ("DECONVOLVED", "RESIDUAL", "FILLED", "PSF")
    for d, x, r, f, p in zip(data, *(made[n] for n in names), strict=True):
        assert p.sum(dtype=float) == pytest.approx(1, abs=1e-5)
        blurred = convolve(np.nan_to_num(x).astype(float), p.astype(float), mode="same", method="fft")
        known = np.isfinite(r)
        np.testing.assert_array_equal(known, np.isfinite(d) & (f != 2))
        error = np.abs(blurred + r - d)[known].max()
        assert error < 1e-5 * np.abs(d[known]).max()
    assert np.nansum(np.abs(made["RESIDUAL"])) < 0.7 * np.nansum(np.abs(data))


def test_the_variance_is_that_of_the_rebinned_input(finished: Finished, files: Path) -> None:
    made = numbers(finished.path)
    variance = planes(files, hdu="STAT").astype(float)
    wavelengths = SCENE.wavelengths
    for j, centre in enumerate(wavelengths[0] + 1e-9 * np.arange(PLANES)):
        weight = np.clip(1 - np.abs(wavelengths - centre) / 2e-9, 0, None)[:, None, None]
        weight = np.where(np.isfinite(variance), weight, 0)
        expected = (weight**2 * np.nan_to_num(variance)).sum(0) / weight.sum(0).clip(1e-30) ** 2
        measured = (made["FILLED"][j] == 0) & (weight.sum(0) > 0)
        np.testing.assert_allclose(made["STAT"][j][measured], expected[measured], rtol=1e-4)
        assert np.isnan(made["STAT"][j][~measured]).all()


def test_the_log_has_a_row_for_each_plane(finished: Finished) -> None:
    made = numbers(finished.path)
    with fits.open(finished.path) as hdus:
        log, fitted = hdus["DECONVOLUTION LOG"].data, hdus["FITTED MODEL PARAMS"].data
        star = hdus["NORMALISATION"].data
        np.testing.assert_allclose(log["wavelength"], SCENE.first_wavelength + 1e-9 * np.arange(PLANES))
        np.testing.assert_allclose(fitted["wavelength"], log["wavelength"])
        assert [c.lower() for c in log.columns.names] == [
            "wavelength", "iterations", "stop_reason", "stop_reason_text",
            "fabs", "rms", "flux_in", "flux_out", "chi2", "chi2_bright", "residual_structure",
        ]  # fmt: skip
        np.testing.assert_array_equal(log["iterations"], 40)
        assert set(log["stop_reason_text"]) == {"all iterations done"}
        np.testing.assert_allclose(
            log["flux_out"], np.nansum(made["DECONVOLVED"], axis=(1, 2), dtype=float), rtol=1e-4
        )
        assert (log["chi2"] > 0).all()
        assert {"x", "y", "x_error", "reduced_chi2", "fit_status_text"} <= {*fitted.columns.names}
        assert {"offset_y", "offset_x", "background_level", "total"} <= {*star.columns.names}
        assert (star["total"] > 1e6).all()


def test_the_run_can_be_repeated_from_its_provenance(finished: Finished) -> None:
    with fits.open(finished.path) as hdus:
        rows = dict(zip(hdus["PROVENANCE"].data["KEY"], hdus["PROVENANCE"].data["VALUE"], strict=True))
        assert from_plain(yaml.safe_load(rows["config"])) == finished.config
        assert len(rows["target.sha256"]) == 64
        assert hdus[0].header["HIERARCH LUCIDCUBE TARGET SHA256"] == rows["target.sha256"][:32]


@pytest.mark.slow
def test_a_plane_without_data_stays_without_data(files: Path, tmp_path: Path) -> None:
    assert np.isnan(planes(files)[SCENE.empty_plane]).all()
    made = config(
        files,
        tmp_path / "out.fits",
        target={"input": f"{files}/target.fits", "stages": TARGET_STAGES[1:]},
        star={"input": f"{files}/star.fits", "stages": STAR_STAGES[1:]},
    )
    run(made)
    with fits.open(made.output.path) as hdus:
        log = hdus["DECONVOLUTION LOG"].data
        assert log["stop_reason_text"][SCENE.empty_plane].startswith("no data")
        assert log["iterations"][SCENE.empty_plane] == 0
        others = np.delete(np.arange(SCENE.shape[0]), SCENE.empty_plane)
        assert {*log["stop_reason_text"][others]} == {"all iterations done"}
        for name in ("DECONVOLVED", "RESIDUAL", "BADNESS", "STAT"):
            assert np.isnan(hdus[name].data[SCENE.empty_plane]).all(), name
            assert np.isfinite(hdus[name].data[others]).any(axis=(1, 2)).all(), name
        assert not hdus["MASK"].data[SCENE.empty_plane].any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "stages",
    [["normalise_psf", "fit_psf"], ["interpolate", {"normalise_psf": {"n_sigma": 1e9}}]],
    ids=["fitted", "normalised"],
)
def test_a_plane_of_the_star_without_data_affects_only_itself(
    files: Path, tmp_path: Path, stages: list[Any]
) -> None:
    with fits.open(files / "star.fits") as hdus:
        hdus["DATA"].data[2] = np.nan
        hdus.writeto(tmp_path / "star.fits")
    made = config(
        files,
        tmp_path / "out.fits",
        target={"input": f"{files}/target.fits", "stages": ["interpolate"]},
        star={"input": f"{tmp_path}/star.fits", "stages": stages},
    )
    run(made)
    with fits.open(made.output.path) as hdus:
        log = hdus["DECONVOLUTION LOG"].data
        assert np.isnan(hdus["DECONVOLVED"].data[2]).all()
        assert log["stop_reason_text"][2] != log["stop_reason_text"][3]
        assert np.isfinite(hdus["DECONVOLVED"].data[[1, 3]]).any(axis=(1, 2)).all()


# Positions


LINE, LINE_WIDTH = 719.4e-9, 0.7e-9
"""An emission line between two channels."""


@pytest.mark.slow
def test_positions_of_the_moon_and_the_line_are_kept(tmp_path: Path) -> None:
    scene = Scene(shape=(12, 41, 41), seed=11, wavelength_step=0.5e-9)
    paths = write_scene(scene, tmp_path)
    with fits.open(paths.target, mode="update") as hdus:
        shape = np.exp(-(((scene.wavelengths - LINE) / LINE_WIDTH) ** 2) / 2)
        hdus["DATA"].data *= (1 + 3 * shape).astype(np.float32)[:, None, None]
    made = config(
        tmp_path,
        tmp_path / "out.fits",
        target={"input": f"{paths.target}", "stages": ["rebin", "interpolate"], "slice": ":,2:,3:-1"},
        deconvolve={"method": "lucy_richardson", "strength": 1.0},
    )
    run(made)
    with fits.open(made.output.path) as hdus:
        sharp, header = hdus[0].data, hdus[0].header
    assert sharp.shape == (6, 39, 37)
    wcs = WCS(header)
    sky = SkyCoord(scene.moon.right_ascension, scene.moon.declination, unit="deg", frame="fk5")
    x, y = (float(c) for c in wcs.celestial.world_to_pixel(sky))
    assert (round(x), round(y)) == (scene.moon.x - 3, scene.moon.y - 2)
    top, left = round(y) - 2, round(x) - 2
    window = np.nansum(sharp, axis=0)[top : top + 5, left : left + 5]
    weight = np.clip(window - np.median(window), 0, None)
    rows, columns = np.indices(window.shape)
    centre = (weight * rows).sum() / weight.sum() + top, (weight * columns).sum() / weight.sum() + left
    assert np.hypot(centre[0] - y, centre[1] - x) < 0.5
    assert window[2, 2] == window.max()
    spectrum = np.nansum(sharp, axis=(1, 2), dtype=float)
    wavelength = wcs.spectral.pixel_to_world(np.arange(spectrum.size)).to_value("m")
    np.testing.assert_allclose(wavelength, scene.first_wavelength + 1e-9 * np.arange(6), rtol=1e-9)
    level = np.interp(wavelength, wavelength[[0, -1]], spectrum[[0, -1]])
    excess = np.clip(spectrum - level, 0, None)
    assert excess.max() > 0.5 * level.max()
    assert (wavelength * excess).sum() / excess.sum() == pytest.approx(LINE, abs=0.5e-9)


@pytest.mark.slow
def test_the_header_is_kept_card_for_card(files: Path, tmp_path: Path) -> None:
    with fits.open(files / "target.fits") as hdus:
        header = hdus["DATA"].header
        header["OBSERVER"] = ("Galle", "who looked first")
        header["EMPTY"] = None
        header["HIERARCH ESO OBS TARG NAME"] = ("Neptune", "hierarchical")
        header["LONGTEXT"] = "a text that does not fit on a card and so goes on and on " * 3
        header.add_comment("a comment")
        header.add_comment("another one")
        header.add_history("reduced")
        hdus[0].header["OBSERVAT"] = ("Berlin", "in the primary header alone")
        hdus.writeto(tmp_path / "target.fits")
        wanted = [str(c) for c in fits.Header.fromstring(header.tostring()).cards]
    made = config(files, tmp_path / "out.fits", target={"input": f"{tmp_path}/target.fits", "stages": ["rebin", "interpolate"]})  # fmt: skip
    run(made)
    result = fits.getheader(made.output.path)
    cards = [str(c) for c in result.cards]
    changed = ("XTENSION", "NAXIS3", "CD3_3 ", "EXTNAME", "PCOUNT", "GCOUNT")
    missing = [c for c in wanted if c not in cards and not c.startswith(changed)]
    assert not missing
    kept = [c for c in cards if c in wanted]
    assert kept == [c for c in wanted if c in cards], "the order changed"
    assert result["CD3_3"] == pytest.approx(10.0)
    assert result["OBSERVAT"] == "Berlin"


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "bitpix"), [(">f8", -64), (">f4", -32), (">i4", -32)])
def test_the_product_has_the_stored_type_of_the_input(
    files: Path, tmp_path: Path, dtype: str, bitpix: int
) -> None:
    write_cube(tmp_path / "target.fits", np.nan_to_num(planes(files)[:4]).astype(dtype))
    made = config(
        files, tmp_path / "out.fits",
        target={"input": f"{tmp_path}/target.fits", "stages": ["interpolate"]},
        star={"input": f"{files}/truth.fits", "ext": "PSF", "slice": ":4"},
    )  # fmt: skip
    run(made)
    with fits.open(made.output.path) as hdus:
        stored = {n: hdus[n].header["BITPIX"] for n in ("DECONVOLVED", "RESIDUAL")}
        assert stored == {"DECONVOLVED": bitpix, "RESIDUAL": bitpix}


@pytest.mark.slow
@pytest.mark.parametrize("variance", [True, False], ids=["variance", "no-variance"])
def test_small_fluxes_keep_their_units(files: Path, tmp_path: Path, variance: bool) -> None:
    unit = 2.0**-66  # an exact power of two, about 1e-20: then everything must scale exactly
    data, stat = planes(files)[:4], planes(files, hdu="STAT")[:4]
    results = []
    for name, scale in (("large", 1.0), ("tiny", unit)):
        extra = {"STAT": (stat * np.float64(scale) ** 2).astype(">f8")} if variance else {}
        write_cube(tmp_path / f"{name}.fits", (data * np.float64(scale)).astype(">f8"), **extra)
        made = config(
            files, tmp_path / f"{name}.out.fits",
            target={"input": f"{tmp_path}/{name}.fits", "stages": ["artefacts", "mask", "interpolate"]},
            star={"input": f"{files}/truth.fits", "ext": "PSF", "slice": ":4"},
            deconvolve={"method": "clean_modified", "n_iter": 40}
            | ({} if variance else {"noise_std": 60.0 * scale}),
        )  # fmt: skip
        run(made)
        with fits.open(made.output.path) as hdus:
            results.append({h.name: np.array(h.data) for h in hdus if h.name != "PROVENANCE"})
    large, tiny = results
    assert np.nanmax(tiny["DECONVOLVED"]) > 0
    for name in ("DECONVOLVED", "RESIDUAL"):
        np.testing.assert_allclose(tiny[name], large[name] * unit, rtol=1e-6, atol=0)
    if variance:
        np.testing.assert_allclose(tiny["STAT"], large["STAT"] * unit**2, rtol=1e-6, atol=0)
    np.testing.assert_array_equal(tiny["MASK"], large["MASK"])
    log, expected = tiny["DECONVOLUTION LOG"], large["DECONVOLUTION LOG"]
    for name in ("fabs", "rms", "flux_in", "flux_out"):
        np.testing.assert_allclose(log[name], expected[name] * unit, rtol=1e-6, err_msg=name)
    np.testing.assert_array_equal(log["iterations"], expected["iterations"])
    # Without a variance noise_std is used instead, and scales with the data.
    np.testing.assert_allclose(log["chi2"], expected["chi2"], rtol=1e-6)
    assert np.isfinite(log["chi2"]).any()


# Reuse of checkpoints


def test_a_second_run_computes_nothing(again: Path, finished: Finished) -> None:
    monitor = Recorder()
    done = run(finished.config, monitor)
    assert [*monitor.computed()] == [
        "star: rebin", "star: normalise_psf, fit_psf",
        "target: rebin", "target: artefacts", "target: mask, interpolate", "target: deconvolve",
    ]  # fmt: skip
    assert set(monitor.computed().values()) == {0}
    assert done.reused == BLOCKS
    assert (again / "out.fits").read_bytes() == finished.path.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "recomputed"),
    [
        ({"deconvolve": {"n_iter": 41}}, ["target: deconvolve"]),
        (
            {"target": ["rebin", "artefacts", {"mask": {"cut": [[0, 4.0]]}}, "interpolate"]},
            ["target: mask, interpolate", "target: deconvolve"],
        ),
        (
            {"target": ["rebin", {"artefacts": {"window": 6}}, "mask", "interpolate"]},
            ["target: artefacts", "target: mask, interpolate", "target: deconvolve"],
        ),
        (
            {"star": ["rebin", {"normalise_psf": {"n_sigma": 6}}, "fit_psf"]},
            ["star: normalise_psf, fit_psf", "target: deconvolve"],
        ),
    ],
    ids=["deconvolve", "mask", "artefacts", "normalise_psf"],
)
def test_a_changed_parameter_recomputes_from_its_stage_on(
    again: Path, files: Path, changes: dict[str, Any], recomputed: list[str]
) -> None:
    tracks = {k: {"input": f"{files}/{k}.fits", "stages": v} for k, v in changes.items() if k != "deconvolve"}
    monitor = Recorder()
    run(config(files, Path("out.fits"), **{**changes, **tracks}), monitor)
    assert [label for label, n in monitor.computed().items() if n] == recomputed
    assert {n for n in monitor.computed().values() if n} == {PLANES}


@pytest.mark.slow
def test_another_input_recomputes_its_track(again: Path, files: Path) -> None:
    with fits.open(files / "target.fits") as hdus:
        hdus["DATA"].data[1, 15, 15] += 1
        hdus.writeto("target.fits")
    monitor = Recorder()
    run(config(files, Path("out.fits"), target={"input": "target.fits", "stages": TARGET_STAGES}), monitor)
    assert [label for label, n in monitor.computed().items() if not n] == [
        "star: rebin", "star: normalise_psf, fit_psf",
    ]  # fmt: skip


@pytest.mark.slow
def test_more_products_can_be_requested_later(files: Path, tmp_path: Path) -> None:
    def products(*names: str) -> Config:
        return config(
            files, tmp_path / "out.fits", output={"path": f"{tmp_path}/out.fits", "products": names}
        )

    run(products("deconvolved"))
    run(products(*ALL_PRODUCTS))
    fresh = config(files, tmp_path / "fresh" / "out.fits")
    run(fresh)
    same_numbers(tmp_path / "out.fits", Path(fresh.output.path))


@pytest.mark.slow
def test_a_deconvolution_can_be_added_later(files: Path, finished: Finished, tmp_path: Path) -> None:
    first = {"path": f"{tmp_path}/out.fits", "products": ["deconvolved"]}
    run(config(files, tmp_path, deconvolve=None, output=first))
    made = config(files, tmp_path / "out.fits")
    run(made)
    same_numbers(Path(made.output.path), finished.path)


@pytest.mark.parametrize(
    "after", [7, pytest.param(BLOCKS + 2, marks=pytest.mark.slow)], ids=["at-work", "while-writing"]
)
def test_an_interrupted_run_is_resumed(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        run(finished.config, Recorder(interrupt_after=after))
    assert [p.name for p in tmp_path.iterdir()] == ["target.work"]
    monitor = Recorder()
    run(finished.config, monitor)
    assert sum(monitor.computed().values()) == BLOCKS - min(after, BLOCKS)
    assert Path("out.fits").read_bytes() == finished.path.read_bytes()


@pytest.mark.slow
def test_an_interrupted_run_on_threads_is_resumed(files: Path, finished: Finished, tmp_path: Path) -> None:
    config_ = config(files, tmp_path / "out.fits", profile="laptop")
    with pytest.raises(KeyboardInterrupt):
        run(config_, Recorder(interrupt_after=7))
    monitor = Recorder()
    run(config_, monitor)
    assert 0 < sum(monitor.computed().values()) <= BLOCKS - 7
    same_numbers(tmp_path / "out.fits", finished.path)


@pytest.mark.slow
def test_a_damaged_block_is_computed_again(again: Path, finished: Finished) -> None:
    (folder,) = finished.config.work().glob("target-artefacts-*")
    chunk = folder / "cube.zarr" / "badness" / "c.3.0.0"
    content = bytearray(chunk.read_bytes())
    content[100] ^= 1
    chunk.write_bytes(content)
    monitor = Recorder()
    run(finished.config, monitor)
    assert {label: n for label, n in monitor.computed().items() if n} == {"target: artefacts": 1}
    assert Path("out.fits").read_bytes() == finished.path.read_bytes()


# Profiles and blocks


@pytest.mark.slow
@pytest.mark.timeout(100)
@pytest.mark.parametrize("profile", ["laptop", pytest.param("processes", marks=pytest.mark.slow)])
def test_every_profile_makes_the_same_product(
    files: Path, finished: Finished, tmp_path: Path, profile: str
) -> None:
    config_ = config(files, tmp_path / "out.fits", profile=profile)
    run(config_)
    same_numbers(Path(config_.output.path), finished.path)


@pytest.mark.slow
@pytest.mark.timeout(100)
@pytest.mark.parametrize("kind", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_a_product_that_is_gathered_is_the_same(
    files: Path, finished: Finished, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers: list[int] = []
    real = lucidcube.runner.write_product.write_planes

    def recording(*arguments: Any) -> int:
        writers.append(threading.get_ident())
        return real(*arguments)

    monkeypatch.setattr(lucidcube.runner.write_product, "write_planes", recording)
    never = "block_factor: .inf\n" if kind == "processes" else ""
    (tmp_path / "nfs.yaml").write_text(f"kind: {kind}\nworkers: 2\nproduct: gather\n{never}")
    config_ = config(files, tmp_path / "out.fits", profile=str(tmp_path / "nfs.yaml"))
    run(config_)
    assert len(writers) > 4, "the planes were written by another process"
    assert {*writers} == {threading.get_ident()}
    same_numbers(Path(config_.output.path), finished.path)
    with fits.open(config_.output.path, checksum=True) as hdus:
        hdus.verify("exception")


@pytest.mark.slow
@pytest.mark.parametrize("least", [1, 2])
def test_blocks_of_any_size_make_the_same_product(
    files: Path, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: int
) -> None:
    monkeypatch.setattr(lucidcube.lift.blocks, "MIN_BLOCKS", least)
    monitor, config_ = Recorder(), config(files, tmp_path / "out.fits")
    run(config_, monitor)
    assert {n for _, n, _ in monitor.segments} == {least}
    same_numbers(Path(config_.output.path), finished.path)


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_checkpoints_make_the_same_product(
    files: Path, finished: Finished, tmp_path: Path, codec: str
) -> None:
    made = config(files, tmp_path / "out.fits", checkpoints={"codec": codec})
    run(made)
    assert run(made).reused > 0
    same_numbers(Path(made.output.path), finished.path)


@pytest.mark.slow
def test_a_run_with_the_transforms_of_scipy_agrees(files: Path, finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "scipy.yaml").write_text("kind: threads\nfft: scipy\n")
    made = config(files, tmp_path / "out.fits", profile=str(tmp_path / "scipy.yaml"))
    run(made)
    with fits.open(made.output.path) as ours, fits.open(finished.path) as theirs:
        scale = np.nanmax(np.abs(theirs[0].data))
        np.testing.assert_allclose(ours[0].data, theirs[0].data, atol=1e-3 * scale)


@pytest.mark.slow
def test_checkpoints_do_not_change_the_product(files: Path, finished: Finished, tmp_path: Path) -> None:
    config_ = config(files, tmp_path / "out.fits", checkpoints={"after": [], "dir": f"{tmp_path}/else"})
    monitor = Recorder()
    run(config_, monitor)
    assert [*monitor.computed()] == [
        f"star: {', '.join(STAR_STAGES)}", f"target: {', '.join([*TARGET_STAGES, 'deconvolve'])}",
    ]  # fmt: skip
    same_numbers(Path(config_.output.path), finished.path)


def test_checking_computes_nothing(files: Path, tmp_path: Path, nothing_computes: None) -> None:
    checked = check(config(files, tmp_path / "out.fits"))
    assert [s.stage for s in checked.steps] == [*STAR_STAGES, *TARGET_STAGES, "deconvolve"]
    assert {s.shape for s in checked.steps} == {(PLANES, 31, 31)}
    assert not [*tmp_path.iterdir()]


def test_a_cube_is_cut_into_blocks_without_rebin(files: Path, tmp_path: Path) -> None:
    target = {"input": f"{files}/target.fits", "stages": ["interpolate"]}
    (step, *_) = check(config(files, tmp_path / "out.fits", target=target, star=None, deconvolve=None)).steps
    assert step.blocks > 1, "a single block leaves a second core idle and cannot be resumed"


# Inputs


def test_an_image_and_a_ready_made_psf(files: Path, tmp_path: Path) -> None:
    image, psf = planes(files)[0], planes(files, "truth.fits", "PSF")[0]
    write_cube(tmp_path / "image.fits", image)
    write_cube(tmp_path / "psf.fits", psf)
    made = config(
        files, tmp_path / "out.fits",
        target={"input": f"{tmp_path}/image.fits", "stages": ["artefacts", "mask", "interpolate"]},
        star={"input": f"{tmp_path}/psf.fits"},
    )  # fmt: skip
    run(made)
    with fits.open(made.output.path) as hdus:
        assert hdus[0].data.squeeze().shape == image.shape
        assert hdus["DECONVOLUTION LOG"].data["iterations"] == [40]
        np.testing.assert_array_equal(hdus["PSF"].data.squeeze(), psf)
        assert hdus[0].data.shape == image.shape, "the input is an image, but the product is a cube"


@pytest.mark.slow
def test_one_psf_image_serves_all_planes(files: Path, tmp_path: Path) -> None:
    psf = planes(files, "truth.fits", "PSF")[3]
    write_cube(tmp_path / "image.fits", psf)
    write_cube(tmp_path / "cube.fits", np.repeat(psf[None], SCENE.shape[0], axis=0))
    results = []
    for name in ("image", "cube"):
        made = config(
            files, tmp_path / f"{name}.out.fits",
            target={"input": f"{files}/target.fits", "stages": ["interpolate"]},
            star={"input": f"{tmp_path}/{name}.fits"},
        )  # fmt: skip
        run(made)
        results.append(numbers(Path(made.output.path)))
    for name in ("DECONVOLVED", "RESIDUAL"):
        np.testing.assert_array_equal(results[0][name], results[1][name])
    assert len({plane.tobytes() for plane in results[0]["DECONVOLVED"]}) == SCENE.shape[0]


@pytest.mark.slow
def test_a_psf_of_another_size_than_the_plane(files: Path, tmp_path: Path) -> None:
    psf = planes(files, "truth.fits", "PSF")[:, 7:24, 7:24]
    write_cube(tmp_path / "psf.fits", psf / psf.sum(axis=(1, 2), keepdims=True))
    made = config(
        files, tmp_path / "out.fits",
        target={"input": f"{files}/target.fits", "stages": ["interpolate"]},
        star={"input": f"{tmp_path}/psf.fits"},
    )  # fmt: skip
    run(made)
    assert numbers(Path(made.output.path))["PSF"].shape == (8, 17, 17)


def test_no_deconvolution(files: Path, tmp_path: Path) -> None:
    made = config(files, tmp_path / "out.fits", star=None, deconvolve=None)
    run(made)
    with fits.open(made.output.path) as hdus:
        assert hdus[0].name == "DATA"
        assert "DECONVOLUTION LOG" not in hdus
        assert "PSF" not in hdus


def test_no_stages_at_all(files: Path, tmp_path: Path) -> None:
    made = config(
        files, tmp_path / "out.fits", star=None, deconvolve=None, target={"input": f"{files}/target.fits"}
    )
    run(made)
    with fits.open(made.output.path) as hdus:
        np.testing.assert_array_equal(hdus[0].data, planes(files))
        np.testing.assert_array_equal(hdus["STAT"].data, planes(files, hdu="STAT"))


@pytest.mark.parametrize("stages", [["artefacts"], ["artefacts", "mask"], ["rebin", "artefacts", "mask"]])
def test_stages_without_a_requested_product(files: Path, tmp_path: Path, stages: list[str]) -> None:
    made = config(
        files, tmp_path / "out.fits", star=None, deconvolve=None,
        target={"input": f"{files}/target.fits", "stages": stages},
        output={"path": f"{tmp_path}/out.fits", "products": ["deconvolved"]},
    )  # fmt: skip
    run(made)
    assert fits.getdata(made.output.path).shape == (PLANES if "rebin" in stages else 8, 31, 31)


def test_rebinning_an_image_changes_nothing(files: Path, tmp_path: Path) -> None:
    image = np.nan_to_num(planes(files)[0])
    write_cube(tmp_path / "image.fits", image)
    made = config(
        files, tmp_path / "out.fits", star=None, deconvolve=None,
        target={"input": f"{tmp_path}/image.fits", "stages": ["rebin"]},
    )  # fmt: skip
    run(made)
    np.testing.assert_array_equal(fits.getdata(made.output.path).squeeze(), image)


@pytest.mark.slow
def test_a_repeated_stage(files: Path, tmp_path: Path) -> None:
    twice = ["rebin", {"rebin": {"bin_step": "2 nm"}}, "artefacts", "mask", "interpolate", "interpolate"]
    star = ["rebin", {"rebin": {"bin_step": "2 nm"}}, "normalise_psf", "fit_psf"]
    made = config(
        files, tmp_path / "out.fits",
        target={"input": f"{files}/target.fits", "stages": twice},
        star={"input": f"{files}/star.fits", "stages": star},
    )  # fmt: skip
    monitor = Recorder()
    run(made, monitor)
    assert [s[0] for s in monitor.segments if s[0].startswith("target")][:4] == [
        "target: rebin", "target: rebin", "target: artefacts", "target: mask, interpolate",
    ]  # fmt: skip
    with fits.open(made.output.path) as hdus:
        assert hdus[0].data.shape == (2, 31, 31)
        assert hdus["FILLED"].data.any(), "the second interpolation lost the filled pixels of the first"


@pytest.mark.parametrize("stages", [[], ["rebin"]])
def test_axes_of_length_one_are_restored(files: Path, tmp_path: Path, stages: list[str]) -> None:
    data = np.nan_to_num(planes(files))[None]
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CTYPE3": "WAVE", "CTYPE4": "STOKES"})
    header.update({"CUNIT3": "m", "CRPIX3": 1.0, "CRVAL3": SCENE.first_wavelength, "CDELT3": 5e-10})
    fits.writeto(tmp_path / "cube.fits", data, header)
    made = config(
        files, tmp_path / "out.fits", star=None, deconvolve=None,
        target={"input": f"{tmp_path}/cube.fits", "stages": stages},
    )  # fmt: skip
    run(made)
    result = fits.getheader(made.output.path)
    assert [result[f"NAXIS{n}"] for n in range(1, result["NAXIS"] + 1)] == [
        31,
        31,
        PLANES if stages else 8,
        1,
    ]
    assert result["CTYPE4"] == "STOKES"


def test_the_last_segment_always_has_a_checkpoint(files: Path, tmp_path: Path) -> None:
    stages = config(files, tmp_path / "out.fits").target.stages
    names = [[stage.name for stage in part] for part in cut(stages, ("artefacts",))]
    assert names == [["rebin", "artefacts"], ["mask", "interpolate"]]
    assert [len(part) for part in cut(stages, ())] == [4]
    assert not [*cut((), ("rebin",))]


# Errors


def test_the_input_is_never_overwritten(files: Path, tmp_path: Path) -> None:
    copy = tmp_path / "target.fits"
    shutil.copy(files / "target.fits", copy)
    before = copy.read_bytes()
    with pytest.raises(UserError, match="input"):
        run(
            config(
                files,
                copy,
                star=None,
                deconvolve=None,
                target={"input": str(copy), "stages": ["interpolate"]},
            )
        )
    assert copy.read_bytes() == before


def test_an_existing_product_is_detected_before_the_computation(files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.fits"
    out.write_bytes(b"precious")
    monitor = Recorder()
    with pytest.raises(UserError, match="exists"):
        run(config(files, out), monitor)
    assert out.read_bytes() == b"precious"
    assert not monitor.blocks, "the error was raised only after the computation"


@pytest.mark.parametrize("kind", ["device", "fifo", "folder", "link to a device"])
def test_only_regular_files_are_replaced(files: Path, tmp_path: Path, kind: str) -> None:
    out = Path("/dev/null") if kind == "device" else tmp_path / "out.fits"
    if kind == "fifo":
        os.mkfifo(out)
    elif kind == "folder":
        out.mkdir()
    elif kind == "link to a device":
        out.symlink_to("/dev/null")
    mode = out.lstat().st_mode
    with pytest.raises(ConfigError, match=r"output\.path: .*(regular file|folder)"):
        run(config(files, out, star=None, deconvolve=None, checkpoints={"dir": f"{tmp_path}/work"}))
    assert out.lstat().st_mode == mode


@pytest.mark.parametrize("path", [".", "/", "", "~no-such-user/x.fits", "x" * 300, "/etc/passwd/x.fits"])
def test_paths_that_cannot_be_a_product(files: Path, tmp_path: Path, path: str) -> None:
    with contextlib.chdir(tmp_path), pytest.raises(ConfigError, match=r"output\.path"):
        check(config(files, tmp_path, output={"path": path}))


@pytest.mark.slow
def test_runs_that_compare_methods_share_checkpoints(files: Path, tmp_path: Path) -> None:
    clean, lucy = Recorder(), Recorder()
    run(config(files, tmp_path / "clean.fits"), clean)
    run(config(files, tmp_path / "lucy.fits", deconvolve={"method": "lucy_richardson", "n_iter": 2}), lucy)
    assert sum(clean.computed().values()) == BLOCKS
    assert {label for label, n in lucy.computed().items() if n} == {"target: deconvolve"}
    assert {p.name for p in tmp_path.iterdir()} == {"clean.fits", "lucy.fits", "target.work"}


def test_an_invalid_psf_is_detected_before_the_computation(files: Path, tmp_path: Path) -> None:
    psf = planes(files, "truth.fits", "PSF")
    write_cube(tmp_path / "even.fits", psf[:, 1:, 1:])
    target = {"input": f"{files}/target.fits", "stages": ["interpolate"]}
    with pytest.raises(ConfigError, match="odd"):
        check(config(files, tmp_path / "out.fits", target=target, star={"input": f"{tmp_path}/even.fits"}))


def test_different_grids_are_an_error(files: Path, tmp_path: Path) -> None:
    star = {"input": f"{files}/star.fits", "stages": STAR_STAGES, "slice": "2:"}
    with pytest.raises(ConfigError, match="give both inputs the range that they share") as caught:
        check(config(files, tmp_path / "out.fits", star=star))
    wave = str(caught.value).split("wave: '")[1].split("'")[0]
    checked = check(
        config(
            files, tmp_path / "out.fits",
            target={"input": f"{files}/target.fits", "stages": TARGET_STAGES, "wave": wave},
            star={"input": f"{files}/star.fits", "stages": STAR_STAGES, "wave": wave},
        )
    )  # fmt: skip
    assert checked.steps[-1].stage == "deconvolve"


def test_a_star_as_target_gives_a_warning(files: Path, tmp_path: Path) -> None:
    y, x = np.mgrid[:61, :61]
    star = np.exp(-((y - 30) ** 2 + (x - 30) ** 2) / 4.0) * 1e4 + np.random.default_rng(1).normal(
        0, 1, (61, 61)
    )
    write_cube(tmp_path / "star.fits", star.astype(np.float32))
    monitor = Recorder()
    run(
        config(
            files, tmp_path / "out.fits", star=None, deconvolve=None,
            target={"input": f"{tmp_path}/star.fits", "stages": ["artefacts"]},
        ),
        monitor,
    )  # fmt: skip
    assert any("like a star" in m for m in monitor.messages)


@pytest.mark.parametrize(("star", "advice"), [(None, "star: {psf: ...}"), ({}, "deconvolve: {}")])
def test_a_run_without_a_deconvolution_says_so(
    files: Path, tmp_path: Path, star: dict[str, str] | None, advice: str
) -> None:
    given = None if star is None else {"input": f"{files}/star.fits"}
    target = {"input": f"{files}/target.fits", "stages": ["rebin"]}
    summary = run(config(files, tmp_path / "out.fits", star=given, deconvolve=None, target=target))
    (found,) = [text for text in summary.warnings if "nothing is deconvolved" in text]
    assert advice in found
    assert any(found in str(value) for value in fits.getheader(tmp_path / "out.fits").values())


def test_no_temporary_files_remain_next_to_the_product(finished: Finished) -> None:
    strays = [p for p in finished.folder.rglob("*") if p.name.startswith(".") or "part" in p.suffix]
    assert not strays
    assert sorted(p.name for p in finished.folder.iterdir()) == ["out.fits", "target.work"]
    for part in (finished.folder / "target.work").glob("*/"):
        assert not Checkpoint(part).missing()

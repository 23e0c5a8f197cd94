"""Artefacts and pixels to fill, searched and filled in planes together with an array library: from FITS to FITS."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from array_libraries import difference
from locations import ROOT
from lucidcube.config.python import from_python
from lucidcube.kernels.artefacts import psf_consistency
from lucidcube.kernels.deconvolution.map_fit import Fit
from lucidcube.kernels.stacked.arrays import Arrays, use_arrays
from lucidcube.kernels.stacked.map_solver import PlanesSolver
from lucidcube.runner.monitor import Monitor
from lucidcube.runner.one_stage import run_stage
from lucidcube.runner.pipeline import run
from lucidcube.stages.artefact_windows import scores_together
from lucidcube.stages.base import REGISTRY
from lucidcube.stages.interpolate_planes import modelled_together

PLANES, SIDE, EMPTY = 17, 31, 1
"""A whole group of planes that share a window, and one of the next."""
CUT = 5.0


class Recorder(Monitor):
    """Records the messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of small planes, one of which is missing, with hot pixels and a hole."""
    path = tmp_path_factory.mktemp("target") / "target.fits"
    with fits.open(ROOT / "example_data" / "target.fits") as hdus:
        for hdu in hdus[1:]:
            hdu.data = hdu.data[20 : 20 + PLANES, 15 : 15 + SIDE, 15 : 15 + SIDE]
        data = hdus[1].data
        data[:, [8, 20], [9, 25]] += 40 * np.sqrt(hdus[2].data[:, [8, 20], [9, 25]])
        data[4, 15:18, 15:18] = np.nan
        data[EMPTY] = np.nan
        hdus.writeto(path)
    return str(path)


@pytest.fixture
def fitted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of planes of the estimates that were made together."""
    numbers: list[int] = []
    solve = PlanesSolver.solve

    def counting(self: PlanesSolver, fits: dict[int, Fit], **options: Any) -> Any:
        numbers.append(len(fits))
        return solve(self, fits, **options)

    monkeypatch.setattr(PlanesSolver, "solve", counting)
    return numbers


def product(folder: Path, target: str, library: str | None) -> tuple[dict[str, Any], list[str]]:
    """Return the arrays of the product of the recommended stages, and the messages of the run."""
    folder.mkdir()
    where = {}
    if library is not None:
        (folder / "profile.yaml").write_text(f"array_library: {library}\ndevice: cpu\n")
        where = {"profile": str(folder / "profile.yaml")}
    stages = [
        {"artefacts": {"method": "spectral_psf"}},
        {"mask": {"cut": [[0, CUT]]}},
        {"interpolate": {"method": "model"}},
    ]
    products = ["deconvolved", "badness", "mask", "filled"]
    config = from_python(
        {
            "target": {"input": target, "stages": stages},
            "star": {"psf": {"model": "moffat", "fwhm": 3}},
            "deconvolve": {"method": "lucy_richardson", "n_iter": 5},
            "output": {"path": str(folder / "sharp.fits"), "products": products},
            **where,
        }
    )
    monitor = Recorder()
    with fits.open(run(config, monitor).path) as hdus:
        return {h.name: np.array(h.data) for h in hdus if h.is_image}, monitor.messages


def relative(score: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return how much scores differ from others, as a fraction of these, or in standard deviations below one."""
    return np.asarray(np.abs(score - known) / np.maximum(known, 1))


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory, target: str) -> dict[str, Any]:
    """The product of planes that are computed one by one."""
    return product(tmp_path_factory.mktemp("usual") / "run", target, None)[0]


@pytest.mark.parametrize("library", ["numpy", pytest.param("torch", marks=pytest.mark.slow)])
def test_the_recommended_stages_give_the_same_product(
    tmp_path: Path, target: str, usual: dict[str, Any], fitted: list[int], library: str
) -> None:
    pytest.importorskip(library)
    found, messages = product(tmp_path / "run", target, library)
    assert [m for m in messages if f"{library} on cpu: artefacts, interpolate, deconvolve; the other" in m]
    assert sum(fitted) > 4 * (PLANES - 1)  # three rounds or four, and the filling
    assert found.keys() == usual.keys()
    for name, expected in usual.items():
        assert np.array_equal(np.isnan(found[name]), np.isnan(expected)), name
    assert np.nanpercentile(relative(found["BADNESS"], usual["BADNESS"]), 99) < 0.2
    marked = usual["MASK"] > 0
    assert marked[:, [8, 20], [9, 25]].sum() == 2 * (PLANES - 1)
    # The two engines for Fourier transforms differ at 1 of 100 marked pixels.
    assert (found["MASK"] != usual["MASK"]).sum() < 0.05 * marked.sum()
    assert (found["FILLED"] != usual["FILLED"]).sum() < 0.05 * marked.sum()
    # Single pixels beside a mark that differs, or where rounding decides what is a point, differ by more.
    apart = np.abs(found["DECONVOLVED"] - usual["DECONVOLVED"]) / np.nanmax(usual["DECONVOLVED"])
    assert np.nanpercentile(apart, 99) < 0.01
    assert np.nanmax(apart) < 0.3


@pytest.mark.parametrize(
    ("stage", "method"), [("artefacts", "spectral_psf"), ("interpolate", "model")], ids=lambda word: word
)
def test_the_commands_of_the_stages_use_the_profile(
    tmp_path: Path, target: str, fitted: list[int], stage: str, method: str
) -> None:
    pytest.importorskip("torch")
    (tmp_path / "profile.yaml").write_text("array_library: torch\ndevice: cpu\n")
    y, x = np.mgrid[:15, :15] - 7
    star = np.repeat(((1 + (y**2 + x**2) / 6) ** -2.0)[None], PLANES, axis=0)
    with fits.open(target) as hdus:
        axis = {key: hdus[1].header[key] for key in ("CTYPE3", "CUNIT3", "CRPIX3", "CRVAL3")}
        axis["CDELT3"] = hdus[1].header["CDELT3" if "CDELT3" in hdus[1].header else "CD3_3"]
        marks = (np.indices(hdus[1].data.shape).sum(axis=0) % 31 == 0).astype(np.uint8)
        fits.writeto(tmp_path / "mask.fits", marks, hdus[1].header)
    star /= star.sum(axis=(1, 2), keepdims=True)
    fits.writeto(tmp_path / "star.fits", star.astype(np.float32), fits.Header(axis))
    others = ["mask.fits", "star.fits"] if stage == "interpolate" else ["star.fits"]
    files = [target, *(str(tmp_path / name) for name in others)]
    made, monitor = {}, Recorder()
    for name, profile in {"usual": "laptop", "torch": str(tmp_path / "profile.yaml")}.items():
        path = str(tmp_path / f"{name}.fits")
        run_stage(stage, files, {"method": method}, output=path, profile=profile, monitor=monitor)
        made[name] = fits.getdata(path)
        assert bool(fitted) == (name == "torch")
    assert [m for m in monitor.messages if f"torch on cpu: {stage}" in m]
    assert np.isnan(made["usual"][EMPTY]).all()
    if stage == "artefacts":
        assert np.nanpercentile(relative(made["torch"], made["usual"]), 99) < 0.2
    else:
        assert difference(made["torch"], made["usual"]) < 5e-3


@pytest.mark.parametrize(("stage", "method"), [("artefacts", "spectral_psf"), ("interpolate", "model")])
def test_the_memory_of_planes_together_is_planned(
    monkeypatch: pytest.MonkeyPatch, stage: str, method: str
) -> None:
    """That of the host, with all planes on the device at a time: PyTorch does not allocate through Python."""
    pytest.importorskip("torch")
    rounds = [one._replace(n_iter=1) for one in psf_consistency.CONTINUED]
    monkeypatch.setattr(psf_consistency, "CONTINUED", rounds)
    monkeypatch.setattr(Arrays, "stack_size", lambda self, plane_bytes: 99)
    side, window, wanted = 97, 8, slice(2, 6)
    y, x = np.mgrid[:side, :side] - side // 2
    star = ((1 + (y**2 + x**2) / 16) ** -1.5).astype(np.float32)
    noise = np.random.default_rng(1).normal(0, 1e-3, (window, side, side)).astype(np.float32)
    psf, variance = (np.repeat(one[None], window, axis=0) for one in (star / star.sum(), 0 * star + 1e-6))
    mask = np.zeros(noise.shape, np.uint8)
    mask[np.arange(window), np.arange(window), 40:44] = 1
    arrays = [star + noise, psf, *([mask] if stage == "interpolate" else []), variance]
    peaks = []
    for number in (1, 1, 3):  # the first loads what is compiled
        windows = [[*arrays, None] if stage == "interpolate" else arrays] * number
        tracemalloc.start()
        with use_arrays("torch", "cpu"):
            if stage == "artefacts":
                scores_together(windows, [wanted] * number, cut=CUT, spectral=True)
            else:
                modelled_together(windows, [wanted] * number, max_hole=10, n_iter=1, spectral=True)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    copies = REGISTRY[stage].parse({"method": method}).together_copies
    assert 0.7 < (peaks[2] - peaks[1]) / (2 * 4) / (4 * side**2 * copies) < 1.05

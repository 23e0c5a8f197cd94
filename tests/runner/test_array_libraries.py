"""Engines that a profile chooses: planes that are deconvolved together, from FITS to FITS."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from scipy import ndimage

from array_libraries import difference
from locations import ROOT
from lucidcube.cluster.profile import Profile
from lucidcube.config.python import from_python
from lucidcube.errors import ConfigError
from lucidcube.kernels.stacked.arrays import current_arrays, use_arrays
from lucidcube.lift.blocks import BLOCK_BYTES, planes_per_block
from lucidcube.runner import engines
from lucidcube.runner.engines import DEVICE_BLOCK_BYTES, Engines, engines_of
from lucidcube.runner.monitor import Monitor
from lucidcube.runner.one_stage import run_stage
from lucidcube.runner.pipeline import run
from lucidcube.runner.plan import planned_blocks
from lucidcube.stages.base import REGISTRY
from lucidcube.stages.deconvolve import Deconvolve
from lucidcube.stages.deconvolve_planes import deconvolved_together

METHODS: dict[str, dict[str, Any]] = {
    "lucy_richardson": {"chi2_target": None, "n_iter": 10},
    "map": {},
    "clean_modified": {"n_iter": 60},
}
ROUNDING = {"lucy_richardson": (5e-5, 2e-5), "map": (5e-2, 2e-3), "clean_modified": (1e-5, 1e-5)}
"""Largest difference of components, smoothed by a pixel, and of residuals, from those of another engine, relative to
the brightest component. With map, those of the two engines of the Fourier transforms differ by 3e-2 and 1e-3."""
TABLE = "DECONVOLUTION LOG"
TARGET = str(ROOT / "example_data" / "target.fits[20:26]")


class Recorder(Monitor):
    """Records the messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


def product(
    folder: Path, profile: str | None, method: str, target: str = TARGET, **others: Any
) -> tuple[dict[str, Any], list[str]]:
    """Return the arrays of the product of a run with the text of a profile, and the messages of the run."""
    folder.mkdir()
    where = {}
    if profile is not None:
        (folder / "profile.yaml").write_text(profile)
        where = {"profile": str(folder / "profile.yaml")}
    products = ["deconvolved", "residual", "log", *(["error", "bias"] if others.get("errors") else [])]
    config = from_python(
        {
            "target": {"input": target, "stages": []},
            "star": {"psf": {"model": "moffat", "fwhm": 3}},
            "deconvolve": {"method": method, **METHODS.get(method, {}), **others},
            "output": {"path": str(folder / "sharp.fits"), "products": products},
            **where,
        }
    )
    monitor = Recorder()
    with fits.open(run(config, monitor).path) as hdus:
        return {h.name: np.array(h.data) for h in hdus}, monitor.messages


def smooth(planes: np.ndarray) -> np.ndarray:
    """Return planes without NaN, smoothed by one pixel."""
    return np.asarray(ndimage.gaussian_filter(np.nan_to_num(planes).astype(float), (0, 1, 1)))


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The products of planes that are deconvolved one by one, by method."""
    folder = tmp_path_factory.mktemp("usual")
    return {method: product(folder / method, None, method)[0] for method in METHODS}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of planes with which the kernels of planes together were called."""
    counts: list[int] = []
    usual = Deconvolve.deconvolve_planes

    def counting(self: Deconvolve, planes: Any, arrays: Any, kernel: Any) -> Any:
        def called(given: Any, *others: Any, **options: Any) -> Any:
            counts.append(len(given))
            return kernel(given, *others, **options)

        return usual(self, planes, arrays, called)

    monkeypatch.setattr(Deconvolve, "deconvolve_planes", counting)
    return counts


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("method", METHODS)
def test_planes_together_give_the_same_product(
    tmp_path: Path, usual: dict[str, dict[str, Any]], counted: list[int], library: str, method: str
) -> None:
    pytest.importorskip(library)
    found, messages = product(tmp_path / "run", f"array_library: {library}\ndevice: cpu\n", method)
    assert f"{library} on cpu: deconvolve; the other stages are computed on the processor" in messages
    assert sum(counted) == 6
    expected = usual[method]
    assert found.keys() == expected.keys()
    components, residual = ROUNDING[method]
    assert difference(smooth(found["DECONVOLVED"]), smooth(expected["DECONVOLVED"])) < components
    scale = np.nanmax(expected["DECONVOLVED"])
    assert np.nanmax(np.abs(found["RESIDUAL"] - expected["RESIDUAL"])) < residual * scale
    assert np.array_equal(found[TABLE]["stop_reason"], expected[TABLE]["stop_reason"])
    for name in ("rms", "chi2", "flux_out"):
        assert np.allclose(found[TABLE][name], expected[TABLE][name], rtol=1e-3), name


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Files of five small planes, the second of which is missing: with a variance, and without."""
    folder, paths = tmp_path_factory.mktemp("small"), {}
    with fits.open(ROOT / "example_data" / "target.fits") as hdus:
        for hdu in hdus[1:]:
            hdu.data = hdu.data[20:25, 12:49, 12:49]
            hdu.data[1] = np.nan
        for name, number in (("variance", 3), ("none", 2)):
            paths[name] = str(folder / f"{name}.fits")
            fits.HDUList(hdus[:number]).writeto(paths[name])
    return paths


@pytest.mark.parametrize(
    ("file", "planes", "method", "options"),
    [
        ("variance", 4, "map", {"errors": {"draws": 2}}),
        ("variance", 4, "map", {"resolution": 3.0}),
        ("variance", 4, "clean_modified", {}),
        ("none", 4, "map", {}),
        ("none", 4, "lucy_richardson", {"chi2_target": 1.0}),
        ("variance[0:1]", 1, "lucy_richardson", {}),
    ],
)
def test_options_and_missing_data_give_the_same_product(
    tmp_path: Path,
    small: dict[str, str],
    counted: list[int],
    file: str,
    planes: int,
    method: str,
    options: Any,
) -> None:
    name, _, part = file.partition("[")
    target = small[name] + ("[" + part if part else "")
    options = {"n_iter": 3, **options}
    found, _ = product(tmp_path / "numpy", "array_library: numpy\n", method, target, **options)
    assert sum(counted) == planes
    expected, _ = product(tmp_path / "usual", None, method, target, **options)
    assert sum(counted) == planes
    assert found.keys() == expected.keys()
    assert np.array_equal(found[TABLE]["stop_reason"], expected[TABLE]["stop_reason"])
    images = [key for key, data in expected.items() if data.ndim == 3]
    assert len(images) == (4 if "errors" in options else 2)
    for key in images:
        allowed = 2e-2 if key in ("ERROR", "BIAS") else 1e-3
        assert difference(found[key], expected[key]) < allowed, key
        if planes > 1:
            assert np.isnan(found[key][1]).all()


def test_the_command_of_the_stage_uses_the_profile(
    tmp_path: Path, usual: dict[str, dict[str, Any]], counted: list[int]
) -> None:
    (tmp_path / "profile.yaml").write_text("array_library: numpy\n")
    star = np.zeros((6, 11, 11), np.float32)
    star[:, 4:7, 4:7] = 1 / 9
    axis = {"CTYPE3": "WAVE", "CUNIT3": "m", "CRPIX3": 1.0, "CRVAL3": 7.26e-7, "CDELT3": 8e-10}
    fits.writeto(tmp_path / "star.fits", star, fits.Header(axis))
    files = [str(ROOT / "example_data" / "target.fits[20:26]"), str(tmp_path / "star.fits")]
    options = {"method": "lucy_richardson", "n_iter": "5"}
    made, monitor = {}, Recorder()
    for name, profile in {"usual": "laptop", "numpy": str(tmp_path / "profile.yaml")}.items():
        path = str(tmp_path / f"{name}.fits")
        made[name] = run_stage("deconvolve", files, options, output=path, profile=profile, monitor=monitor)
    assert [m for m in monitor.messages if "numpy on the processor: deconvolve" in m]
    assert sum(counted) == 6
    assert (
        difference(fits.getdata(made["numpy"]), fits.getdata(made["usual"])) < ROUNDING["lucy_richardson"][0]
    )


def test_a_device_that_is_absent_is_replaced_by_the_processor(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    method = "lucy_richardson"
    found, messages = product(tmp_path / "absent", "array_library: torch\ndevice: cuda:99\n", method)
    expected, _ = product(tmp_path / "usual", None, method)
    assert len([m for m in messages if "one by one on the processor" in m and "cuda:99" in m]) == 1
    assert np.array_equal(found["DECONVOLVED"], expected["DECONVOLVED"], equal_nan=True)


@pytest.mark.parametrize(
    ("method", "options"), [("clean_multiscale", {}), ("clean_modified", {"threshold": -1.0})]
)
def test_a_method_that_needs_single_planes_says_so(
    tmp_path: Path, counted: list[int], method: str, options: dict[str, Any]
) -> None:
    options = {**options, "n_iter": 2}
    found, messages = product(tmp_path / "numpy", "array_library: numpy\n", method, **options)
    expected, _ = product(tmp_path / "usual", None, method, **options)
    assert [m for m in messages if "no stage of this run can use it" in m]
    assert counted == []
    assert np.array_equal(found["DECONVOLVED"], expected["DECONVOLVED"], equal_nan=True)


def test_a_worker_without_the_device_warns_and_computes_on_the_processor() -> None:
    pytest.importorskip("torch")
    with (
        pytest.warns(RuntimeWarning, match="cuda:98.*one by one"),
        Engines("auto", "torch", "cuda:98").chosen(),
    ):
        assert current_arrays() is None
    with Engines("auto", "torch", "cpu").chosen():
        assert str(current_arrays()) == "torch on cpu"
    assert current_arrays() is None


def test_engines_of_remote_workers_are_not_looked_for_here() -> None:
    profile = Profile(kind="slurm", array_library="cupy", device="cuda", processes=1)
    assert engines_of(profile, pytest.fail) == Engines("auto", "cupy", "cuda")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"array_library": "jax"}, "'numpy', 'torch' or 'cupy'"),
        ({"array_library": "torch", "device": "gpu"}, "'gpu' is not a device: cuda, cuda:1 or cpu"),
        ({"device": "cuda"}, "device needs array_library"),
        ({"kind": "processes", "array_library": "torch"}, "workers must be 1 .* workers: 1 .*or device: cpu"),
        ({"kind": "processes", "array_library": "cupy", "workers": 2}, "workers must be 1"),
        ({"kind": "slurm", "array_library": "torch", "cores": 8}, "processes must be 1 .* processes: 1"),
        ({"kind": "pbs", "array_library": "torch", "device": "cuda", "processes": 2}, "processes must be 1"),
        ({"class": "dask_jobqueue.SLURMCluster", "array_library": "torch"}, "processes must be 1"),
    ],
)
def test_what_a_profile_refuses(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    text = "".join(f"{key}: {value}\n" for key, value in values.items())
    with pytest.raises(ConfigError, match=message):
        product(tmp_path / "run", text, "lucy_richardson")


@pytest.mark.parametrize(
    "values",
    [
        {"kind": "processes", "workers": 1, "threads": 4},
        {"kind": "processes", "device": "cpu"},
        {"kind": "processes", "array_library": "numpy"},
        {"kind": "slurm", "processes": 1},
        {"kind": "slurm", "device": "cpu", "processes": 4},
    ],
)
def test_one_process_for_each_gpu_is_accepted(values: dict[str, Any]) -> None:
    assert Profile.model_validate({"array_library": "torch", **values})


@pytest.mark.parametrize("method", METHODS)
def test_the_memory_of_planes_together_is_planned(method: str) -> None:
    """That of the host: PyTorch does not allocate its own through Python."""
    pytest.importorskip("torch")
    side, peaks = 129, []
    stage = REGISTRY["deconvolve"].parse({"method": method, "n_iter": 1})
    y, x = np.mgrid[:side, :side] - side // 2
    psf = ((1 + (y**2 + x**2) / 16) ** -1.5).astype(np.float32)
    variance = np.full_like(psf, 1e-6)
    with use_arrays("torch", "cpu"):
        for number in (1, 2, 6):  # the first loads what is compiled
            columns = ([array] * number for array in (psf, psf / psf.sum(), 0, variance))
            tracemalloc.start()
            assert deconvolved_together(*columns, None, None, stage=stage) is not None
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
    assert 0.5 < (peaks[2] - peaks[1]) / 4 / (4 * side**2 * stage.together_copies) < 1.05


def test_blocks_are_larger_for_a_device_that_has_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    device, here = Engines("auto", "torch", "cuda"), "threads"
    assert [device.block_bytes(kind) for kind in ("slurm", "address")] == [DEVICE_BLOCK_BYTES] * 2
    assert Engines().block_bytes(here) is None
    assert Engines("auto", "torch", "cpu").block_bytes(here) is None
    for free, expected in ((1 << 40, DEVICE_BLOCK_BYTES), (1 << 20, BLOCK_BYTES), (130 << 24, 1 << 24)):
        found = SimpleNamespace(stack_bytes=lambda free=free: free)
        monkeypatch.setattr(engines, "find_arrays", lambda library, device, found=found: found)
        assert device.block_bytes(here) == expected
    with planned_blocks(DEVICE_BLOCK_BYTES):
        assert planes_per_block(256, 341 * 341) == 64
    with planned_blocks(BLOCK_BYTES):
        assert planes_per_block(256, 341 * 341) == 16

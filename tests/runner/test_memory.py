"""The predicted memory agrees with the measured memory, and a memory limit is not exceeded."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits

import lucidcube.stages  # noqa: F401
from locations import TESTS
from lucidcube.runner.plan import BASELINE
from lucidcube.simulate import Scene, write_scene
from lucidcube.stages.base import REGISTRY

PROBE = TESTS / "memory_probe.py"
WORK = [
    ("rebin", {}),
    ("rebin", {"despike": 7.0}),
    ("artefacts", {}),
    ("artefacts", {"method": "ssa"}),
    ("mask", {}),
    ("interpolate", {"n_iter": 3}),
    ("interpolate", {"method": "linear"}),
    ("noise", {}),
    ("noise", {"existing": "replace"}),
    ("normalise_psf", {}),
    ("fit_psf", {}),
    ("fit_psf", {"model": "radial"}),
    ("model_psf", {"fwhm": 30.0, "beta": 1.1}),
    ("resample_psf", {"scale": 0.8}),
    ("broaden_psf", {"fwhm": 3.0}),
    ("deconvolve", {"n_iter": 3}),
    ("deconvolve", {"n_iter": 2, "method": "clean_modified"}),
    ("deconvolve", {"n_iter": 2, "method": "clean_multiscale"}),
    ("deconvolve", {"n_iter": 2, "method": "lucy_richardson"}),
    ("deconvolve", {"n_iter": 2, "resolution": 4.0}),
    ("deconvolve", {"n_iter": 2, "errors": {"draws": 2}}),
    ("deconvolve", {"n_iter": 2, "method": "lucy_richardson", "errors": {"draws": 2}}),
]


def python(arguments: list[str], cap: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run Python in a separate process, optionally with a hard limit on its data segment."""

    def limit() -> None:
        if cap is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))

    return subprocess.run(
        [sys.executable, *arguments],
        preexec_fn=limit,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"},
    )


def repeated(folder: Path, *, planes: int, side: int) -> str:
    """Write a target and a star of a few simulated planes again and again; return the path of the target."""
    few = 4
    paths = write_scene(Scene(shape=(few, side, side), seed=1, star_shape=(41, 41)), folder)
    for path in (paths.target, paths.star):
        with fits.open(path, memmap=False) as hdus:
            for hdu in hdus[1:]:
                hdu.data = np.tile(hdu.data, (planes // few, 1, 1))
            hdus.writeto(path, overwrite=True)
    return str(paths.target)


def test_every_stage_is_measured() -> None:
    assert {name for name, _ in WORK} == {*REGISTRY}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options"), WORK, ids=lambda v: v if isinstance(v, str) else v.get("method", "")
)
def test_the_predicted_peak_is_the_measured_one(name: str, options: dict, tmp_path: Path) -> None:
    files = []
    if name == "rebin":
        files = [
            repeated(tmp_path / "small", planes=16, side=33),
            repeated(tmp_path / "large", planes=400, side=341),
        ]
    # Stages on windows of planes compute the planes of a window again for each block of four.
    side = "331" if REGISTRY[name].parse(options).halo else "701"
    done = python([str(PROBE), name, side, "4", json.dumps(options), *files])
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)
    predicted = BASELINE + measured["working"]
    assert predicted == pytest.approx(measured["peak"], rel=0.25), measured
    # The baseline must not hide the memory of the stage.
    own = measured["peak"] - measured["before"]
    assert measured["working"] == pytest.approx(own, rel=0.5, abs=16 << 20), measured


CAP = 560 << 20
"""Imports alone take more than half of it; with much less, libraries hang instead of failing."""

LOAD_ALL = """
import sys
from lucidcube.io.reader import open_cube
cube = open_cube(sys.argv[1])
print(cube["data"].load().sum().item(), cube["variance"].load().sum().item())
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not hasattr(resource, "RLIMIT_DATA") or sys.platform != "linux", reason="needs RLIMIT_DATA"
)
def test_a_cube_larger_than_the_memory_limit_is_processed(tmp_path: Path) -> None:
    target = repeated(tmp_path, planes=1700, side=341)
    assert Path(target).stat().st_size > 2.5 * CAP
    control = python(["-c", LOAD_ALL, target], CAP)
    assert control.returncode != 0
    assert "MemoryError" in control.stderr, "the control process should run out of memory"
    config = {
        "preset": "reference",
        "target": {
            "input": target,
            "stages": [{"rebin": {"bin_step": "10 nm"}}, "artefacts", "mask", "interpolate"],
        },
        "star": {
            "input": str(tmp_path / "star.fits"),
            "stages": [{"rebin": {"bin_step": "10 nm"}}, "normalise_psf", "fit_psf"],
        },
        "deconvolve": {"n_iter": 5},
        "output": {"path": str(tmp_path / "sharp.fits")},
        "profile": "synchronous",
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    done = python(["-m", "lucidcube", "run", str(tmp_path / "run.yaml"), "--quiet"], CAP)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sharp.fits").exists()

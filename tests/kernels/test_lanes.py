"""The length of this processor's vectors is nobody's business but its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import hashlib
import sys

import llvmlite.binding

features = llvmlite.binding.get_host_cpu_features()
if sys.argv[1] != "own":
    known = {"16": ("avx", "avx512f"), "8": ("avx",), "4": ()}[sys.argv[1]]
    for name in ("avx", "avx512f"):
        features[name] = name in known
    llvmlite.binding.get_host_cpu_features = lambda: features

import numpy as np

from lucidcube.kernels.convolve import Convolver, Support
from lucidcube.kernels.ssa import components, decompose
from lucidcube.kernels.vectors import LANES

rng = np.random.default_rng(0)
plane = rng.normal(size=(70, 83)).astype(np.float32)
psf = rng.gamma(1.0, 1.0, (41, 51)).astype(np.float32)
convolver = Convolver(psf / psf.sum(), plane.shape)
part = np.zeros_like(plane)
part[20:50, 30:41] = plane[20:50, 30:41]
lit = convolver.convolve_part(convolver.pad(part), Support(20, 50, 30, 41, 10**9))[:, :83]
results = [convolver.convolve(plane), convolver.correlate(plane), lit]
results += components(plane, decompose(plane, 5), range(25))
print(LANES, hashlib.sha256(b"".join(np.ascontiguousarray(r).tobytes() for r in results)).hexdigest())
"""


def run(lanes: str, cache: Path) -> tuple[str, str]:
    """Lanes and the hash of all results of a process that believes its processor to have so many."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, lanes], env=environment, capture_output=True, text=True, check=True
    )
    used, digest = done.stdout.split()
    return used, digest


@pytest.mark.slow
def test_results_do_not_depend_on_the_length_of_vectors(tmp_path: Path) -> None:
    _, own = run("own", tmp_path / "own")
    for lanes in ("4", "8", "16"):
        assert run(lanes, tmp_path / lanes) == (lanes, own)

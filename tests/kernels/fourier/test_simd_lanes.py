"""The results of the simd engine do not depend on the number of lanes of the processor."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lucidcube.kernels.fourier import simd

if simd.why_unavailable() is not None:
    pytest.skip("the simd engine cannot run here", allow_module_level=True)

from lucidcube.kernels.fourier.simd.vectors import LANES  # after the check: it needs numba's compiler

PROGRAM = """
import hashlib
import sys

import numpy as np
from numba.core import codegen

# Only the module that chooses the number of lanes sees other features: the compiler needs the true ones.
true = codegen.get_host_cpu_features
codegen.get_host_cpu_features = {"16": "+avx512f,+fma", "8": "+avx,+fma", "4": "+fma"}[sys.argv[1]].strip
import lucidcube.kernels.fourier.simd.vectors

codegen.get_host_cpu_features = true

from lucidcube.kernels.fourier.convolver import Convolver, Support
from lucidcube.kernels.fourier.engines import current_engine
from lucidcube.kernels.ssa.decomposition import components, decompose
from lucidcube.kernels.fourier.simd.vectors import LANES

assert current_engine().name == "simd"
rng = np.random.default_rng(0)
plane = rng.normal(size=(70, 83)).astype(np.float32)
psf = rng.gamma(1.0, 1.0, (41, 51)).astype(np.float32)
convolver = Convolver(psf / psf.sum(), plane.shape)
part = np.zeros_like(plane)
part[20:50, 30:41] = plane[20:50, 30:41]
left, ones = convolver.pad(plane), convolver.pad(np.ones_like(plane))
statistics = convolver.subtract_part(convolver.pad(part), Support(20, 50, 30, 41, 10**9), left, ones)
results = [convolver.convolve(plane), convolver.correlate(plane), left[:, :83], np.array(statistics)]
results += components(plane, decompose(plane, 5), range(25))
print(LANES, hashlib.sha256(b"".join(np.ascontiguousarray(r).tobytes() for r in results)).hexdigest())
"""


def run(lanes: str, cache: Path) -> tuple[str, str]:
    """Return the number of lanes and the hash of all results of a process that sees so many lanes."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CPU")}
    environment["LUCIDCUBE_FFT"] = "simd"
    if lanes != str(LANES):  # code for the lanes of this processor is in the usual cache
        environment["NUMBA_CACHE_DIR"] = str(cache)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, lanes], env=environment, capture_output=True, text=True, check=True
    )
    used, digest = done.stdout.split()
    return used, digest


@pytest.mark.slow
@pytest.mark.timeout(900)  # each run compiles all functions
def test_results_do_not_depend_on_the_length_of_vectors(tmp_path: Path) -> None:
    digests = set()
    for lanes in ("4", "8", "16"):
        used, digest = run(lanes, tmp_path / lanes)
        assert used == lanes
        digests.add(digest)
    assert len(digests) == 1

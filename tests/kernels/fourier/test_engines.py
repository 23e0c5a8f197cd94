"""The choice of an engine, and the agreement of the two."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import scipy.fft

from locations import TESTS
from lucidcube.kernels.fourier import simd
from lucidcube.kernels.fourier.convolver import Convolver, Support, autocorrelation_filter, use_engine
from lucidcube.kernels.fourier.engines import VARIABLE, current_engine
from lucidcube.kernels.ssa.decomposition import components, decompose

needs_simd = pytest.mark.skipif(simd.why_unavailable() is not None, reason="the simd engine cannot run here")


def scene(shape, psf_shape):
    rng = np.random.default_rng(7)
    psf = rng.gamma(1.0, 1.0, psf_shape).astype(np.float32)
    return rng.normal(3, 1, shape).astype(np.float32), psf / psf.sum()


def name():
    return current_engine().name


@pytest.fixture
def no_variable(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


@needs_simd
@pytest.mark.parametrize("shape", [(101, 101), (57, 130)])
@pytest.mark.parametrize("psf_shape", [(1, 1), (61, 41), (151, 201)])
def test_both_engines_give_the_same(shape, psf_shape):
    plane, psf = scene(shape, psf_shape)
    part = np.zeros_like(plane)
    part[20:50, 30:41] = plane[20:50, 30:41]
    results, statistics = {}, {}
    for engine in ("simd", "scipy"):
        with use_engine(engine):
            convolver = Convolver(psf, shape)
            found = [convolver.convolve(plane), convolver.correlate(plane)]
            for pixels in (1, 10**9):
                left, ones = convolver.pad(plane), convolver.pad(np.ones_like(plane))
                support = Support(20, 50, 30, 41, pixels)
                measured = convolver.subtract_part(convolver.pad(part), support, left, ones)
                found.append(left[:, : shape[1]])
                statistics.setdefault(engine, []).append(measured)
            results[engine] = found + list(components(plane, decompose(plane, 5), range(25)))
    for one, other in zip(*results.values(), strict=True):
        np.testing.assert_allclose(one, other, atol=3e-6 * np.abs(plane).max())
    np.testing.assert_allclose(*statistics.values(), rtol=3e-6)


@pytest.mark.parametrize("window", [(5, 5), (6, 3), (1, 4)])
@pytest.mark.parametrize("engine", ["auto", "scipy"])
def test_filter_by_autocorrelation_is_its_definition(window, engine):
    plane, vector = scene((40, 50), window)
    with use_engine(engine):
        filtered = autocorrelation_filter(plane, window)(vector)
    height, width = window
    inside = slice(height, -height), slice(width, -width)
    expected = np.zeros(plane.shape)
    for dy in range(1 - height, height):
        for dx in range(1 - width, width):
            one = vector[max(0, dy) : height + min(0, dy), max(0, dx) : width + min(0, dx)]
            other = vector[max(0, -dy) : height + min(0, -dy), max(0, -dx) : width + min(0, -dx)]
            expected += np.sum(one * other, dtype=float) * np.roll(plane, (dy, dx), (0, 1)) / vector.size
    np.testing.assert_allclose(filtered[inside], expected[inside], rtol=3e-6)


@needs_simd
def test_choice_holds_within_its_context_and_thread(no_variable):
    assert name() == "simd"
    with use_engine("scipy"):
        assert name() == "scipy"
        with use_engine("auto"):
            assert name() == "simd"
        assert name() == "scipy"
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(name).result() == "simd"
    assert name() == "simd"


def test_choice_made_in_a_worker_thread():
    def work(engine):
        with use_engine(engine):
            return name()

    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(work, ["scipy"] * 8)) == {"scipy"}


def test_convolver_keeps_the_engine_with_which_it_was_made():
    plane, psf = scene((30, 40), (9, 9))
    with use_engine("scipy"):
        convolver = Convolver(psf, plane.shape)
        expected = convolver.convolve(plane)
    np.testing.assert_array_equal(convolver.convolve(plane), expected)


def test_variable_names_the_default(monkeypatch):
    monkeypatch.setenv(VARIABLE, "scipy")
    assert name() == "scipy"
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(ValueError, match=r"LUCIDCUBE_FFT=fast names no engine.*choose auto, simd or scipy"):
        name()


def test_unknown_engines_are_errors():
    with pytest.raises(ValueError, match="fft: mkl names no engine"), use_engine("mkl"):
        pass


def test_unknown_processors_use_scipy(no_variable, monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    assert name() == "scipy"
    with (
        pytest.raises(ValueError, match=r"fft: simd cannot be used here because .* riscv64"),
        use_engine("simd"),
    ):
        pass


def test_an_incompatible_numba_falls_back_to_scipy(no_variable, monkeypatch):
    """The engine imports internals of numba, which may change in later versions."""
    monkeypatch.setitem(sys.modules, "lucidcube.kernels.fourier.simd.engine", None)
    assert name() == "scipy"
    with pytest.raises(ValueError, match="does not work with the installed numba"), use_engine("simd"):
        pass


class CountingBackend:
    """A backend of scipy.fft that passes everything on to scipy and counts the calls."""

    __ua_domain__ = "numpy.scipy.fft"
    calls = 0

    @classmethod
    def __ua_function__(cls, method, args, kwargs):
        cls.calls += 1
        with scipy.fft.skip_backend(cls):
            return method(*args, **kwargs)


def test_scipy_engine_uses_the_chosen_backend():
    plane, psf = scene((30, 40), (9, 9))
    with use_engine("scipy"):
        expected = Convolver(psf, plane.shape).convolve(plane)
        with scipy.fft.set_backend(CountingBackend):
            result = Convolver(psf, plane.shape).convolve(plane)
    np.testing.assert_array_equal(result, expected)
    assert CountingBackend.calls == 3


WITHOUT_COMPILER = """
import numpy as np

from deconvolvers import clean_modified, lucy_richardson
from lucidcube.kernels.fourier.convolver import use_engine
from lucidcube.kernels.fourier.engines import current_engine
from lucidcube.kernels.ssa.artefact_score import badness
from lucidcube.kernels.ssa.inpaint import fill_ssa

assert current_engine().name == "scipy"
y, x = np.mgrid[-4:5, -4:5]
psf = np.exp(-(y**2 + x**2) / 4.0)
psf = (psf / psf.sum()).astype(np.float32)
plane = np.random.default_rng(0).normal(10, 1, (22, 24)).astype(np.float32)
plane[8:14, 9:15] += 50
plane[3, 4] = np.nan
settings = {name: 0.0 for name in ("min_frac_stat_delta", "rms_frac_threshold", "fabs_frac_threshold")}
for threshold in (0.3, -1.0):
    result = clean_modified(plane, psf, n_iter=6, threshold=threshold, **settings)
    assert result.iterations == 6 and result.rms < 20, result
result = lucy_richardson(plane, psf, n_iter=3)
assert result.iterations == 3 and result.rms < 20, result
score = badness(plane, window=4, start=-0.25, stop=-0.75, region="class")
assert np.isnan(score).sum() == 1 and np.nanmax(score) > 0.5
assert np.isfinite(fill_ssa(plane, np.zeros(plane.shape, bool), window=4)).all()
try:
    with use_engine("simd"):
        pass
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_everything_works_without_the_compiler_of_numba():
    environment = {key: value for key, value in os.environ.items() if key != VARIABLE}
    environment["NUMBA_DISABLE_JIT"] = "1"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", WITHOUT_COMPILER],
        env=environment,
        cwd=TESTS,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "fft: simd cannot be used here because numba's compiler is switched off (NUMBA_DISABLE_JIT): "
        "choose auto or scipy\n"
    )

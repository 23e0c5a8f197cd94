"""Array libraries and devices: what is imported, and what is refused."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import numpy as np
import pytest

from array_libraries import Scene, arrays
from lucidcube.kernels.fourier.convolver import Convolver
from lucidcube.kernels.stacked import arrays as stacked_arrays
from lucidcube.kernels.stacked.arrays import Arrays, Unavailable, current_arrays, find_arrays, use_arrays
from lucidcube.kernels.stacked.convolver import StackConvolver
from lucidcube.stages.base import REGISTRY

__all__ = ["arrays"]


def test_no_array_library_is_imported_unless_it_is_chosen() -> None:
    code = (
        "import sys, lucidcube.runner.pipeline, lucidcube.stages, lucidcube.kernels.stacked.map\n"
        "print(*{'torch', 'cupy', 'array_api_compat'} & {*sys.modules})"
    )
    made = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert made.stdout.strip() == ""


def test_what_is_not_installed_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked_arrays, "_found", {})
    remedies = {"torch": r"pip install 'lucidcube\[gpu\]'", "cupy": "pip install .*cupy-cuda12x"}
    for library, remedy in remedies.items():
        monkeypatch.setitem(sys.modules, f"array_api_compat.{library}", None)
        for _ in range(2):  # the second time from memory
            with pytest.raises(Unavailable, match=rf"{library} cannot be imported .*: {remedy}"):
                find_arrays(library)  # type: ignore[arg-type]


def test_a_device_must_exist() -> None:
    with pytest.raises(Unavailable, match="numpy has no device cuda: choose torch or cupy"):
        find_arrays("numpy", "cuda")
    pytest.importorskip("torch")
    with pytest.raises(Unavailable, match="torch finds"):
        find_arrays("torch", "cuda:77")
    with pytest.raises(Unavailable, match="torch knows no device nonsense"):
        find_arrays("torch", "nonsense")


def test_threads_share_one_lock_of_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, look_for, everyone = [], stacked_arrays._look_for, Barrier(8)

    def slowly(library: Any, name: str | None) -> Arrays:
        looks.append(name)
        time.sleep(0.02)
        return look_for(library, name)

    def find(name: str | None) -> Arrays:
        everyone.wait()
        return find_arrays("numpy", name)

    monkeypatch.setattr(stacked_arrays, "_found", {})
    monkeypatch.setattr(stacked_arrays, "_look_for", slowly)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(find, [None, "cpu"] * 4))
    assert sorted(map(str, looks)) == ["None", "cpu"]
    assert len({id(arrays.lock) for arrays in found}) == 1


def test_names_of_one_gpu_share_its_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(stacked_arrays, "_found", {})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    first, *others, second = (find_arrays("torch", name) for name in (None, "cuda", "cuda:0", "cuda:1"))
    assert all(other.lock is first.lock and other.device == first.device for other in others)
    assert second.lock is not first.lock


def test_the_size_of_a_stack_is_chosen_while_no_other_thread_uses_the_device(
    arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = []
    monkeypatch.setattr(Arrays, "stack_bytes", lambda self: locked.append(self.lock.locked()) or 1 << 28)
    planes = Scene(20).planes[:2]
    for method in ("map", "lucy_richardson", "clean_modified"):
        stage = REGISTRY["deconvolve"].parse({"method": method, "n_iter": 1})
        stage.deconvolve_planes(planes, arrays, stage.planes_kernel)
    assert locked == [True] * 3


def test_the_choice_is_that_of_the_context_and_the_thread(arrays: Arrays) -> None:
    with use_arrays(arrays.library, "cpu") as chosen, ThreadPoolExecutor(1) as pool:
        assert chosen is current_arrays() is find_arrays(arrays.library, "cpu")
        assert pool.submit(current_arrays).result() is None
        with use_arrays(None):
            assert current_arrays() is None
    assert current_arrays() is None


def test_arrays_travel_to_the_device_and_back(arrays: Arrays) -> None:
    given = np.arange(12, dtype=np.float32).reshape(3, 4)[:, ::2]
    given.flags.writeable = False
    there = arrays.put(given)
    there += 1
    assert np.array_equal(arrays.get(there), given + 1)


@pytest.mark.parametrize("sides", [(5, 5), (21, 9), (75, 61)], ids=str)
@pytest.mark.parametrize("shape", [(40, 31), (17, 32)], ids=str)
def test_convolution_is_that_of_single_planes(
    arrays: Arrays, sides: tuple[int, int], shape: tuple[int, int]
) -> None:
    rng = np.random.default_rng(1)
    psf = rng.random((3, *sides))
    psf /= psf.sum(axis=(1, 2), keepdims=True)
    planes = rng.normal(size=(3, *shape)).astype(np.float32)
    convolver = StackConvolver(arrays, psf, shape)
    given = arrays.put(planes)
    for found, name in ((convolver.convolve(given), "convolve"), (convolver.correlate(given), "correlate")):
        expected = [getattr(Convolver(p, shape), name)(plane) for p, plane in zip(psf, planes, strict=True)]
        assert np.allclose(arrays.get(found), expected, atol=2e-6)
    some = convolver.part(np.array([2, 0])).convolve(arrays.put(planes[[2, 0]]))
    assert np.allclose(arrays.get(some), arrays.get(convolver.convolve(given))[[2, 0]], atol=1e-6)

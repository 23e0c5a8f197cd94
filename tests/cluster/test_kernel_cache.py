"""Where numba keeps compiled kernels, and the first block, which is computed alone while there are none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import lucidcube
from lucidcube.cluster import Profile, kernel_cache, start_workers
from lucidcube.cluster.kernel_cache import VARIABLE, compiled_kernels


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pretend that the package is in an empty folder, and that the user has no compiled kernels."""
    package = tmp_path / "lucidcube"
    (package / "kernels" / "psf").mkdir(parents=True)
    monkeypatch.setattr(lucidcube, "__path__", [str(package)])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(VARIABLE, raising=False)
    return package


def test_kernels_next_to_the_package(package: Path) -> None:
    assert not compiled_kernels()
    cache = package / "kernels" / "__pycache__"
    cache.mkdir()
    (cache / f"{kernel_cache.AT_IMPORT}162.py311.nbi").touch()  # the client has imported the kernels
    assert not compiled_kernels()
    (cache / "mask._dilate-30.py311.nbi").touch()
    assert compiled_kernels()


def test_kernels_next_to_the_package_are_not_used_if_another_folder_is_named(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (package / "kernels" / "__pycache__").mkdir()
    (package / "kernels" / "__pycache__" / "mask._dilate-30.py311.nbi").touch()
    monkeypatch.setenv(VARIABLE, str(tmp_path / "named"))
    assert not compiled_kernels()


def test_kernels_of_other_packages_do_not_count(package: Path, tmp_path: Path) -> None:
    other = tmp_path / "cache" / "numba" / "kernels_0123456789"
    other.mkdir(parents=True)
    (other / "mask._dilate-30.py311.nbi").touch()
    assert not compiled_kernels()


def dilated(cut: float) -> tuple[int, int, str]:
    """Return the number of marked pixels, that of compilations in this process, and numba's folder."""
    from numba import config

    from lucidcube.kernels import mask

    marked = mask.bad_pixel_mask(np.eye(8, dtype=np.float32), cut, max_dilation=None)
    return int(marked.sum()), sum(mask._dilate.stats.cache_misses.values()), config.CACHE_DIR


ONE_WORKER = Profile.model_validate(
    {
        "kind": "class",
        "class": "distributed.LocalCluster",
        "arguments": {"n_workers": 1, "threads_per_worker": 1, "memory_limit": "1GiB"},
    }
)


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_workers_share_what_one_of_them_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next worker compiles nothing, and its first block is not computed alone."""
    cache = tmp_path / "numba"
    monkeypatch.setenv(VARIABLE, str(cache))
    for cold in (True, False):
        with start_workers(ONE_WORKER, tmp_path / "work") as workers:
            assert workers.cold is cold
            done = workers.result(workers.submit("mask", 0, dilated, 1.0))
            assert done == (8, int(cold), str(cache))
    assert len(list(cache.rglob("*._dilate-*.nbi"))) == 1


def files_read(folder: str) -> list[str]:
    """Compute a mask, and return which files of a folder were opened for that."""
    opened: list[str] = []
    sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
    dilated(1.0)
    return [path for path in opened if path.startswith(folder)]


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_compiled_kernels_in_a_work_folder_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A work folder may have come from somebody else, and compiled kernels are pickles."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "numba"))
    dilated_here = (
        "import sys; sys.path[:0] = sys.argv[1:]; from cluster.test_kernel_cache import dilated; dilated(1.0)"
    )
    tests = str(Path(__file__).parents[1])
    subprocess.run([sys.executable, "-c", dilated_here, tests], check=True, timeout=100)
    work = tmp_path / "obs.work"
    work.mkdir(mode=0o700)
    (tmp_path / "numba").rename(work / "kernels")
    assert [*work.rglob("*._dilate-*.nbi")]
    monkeypatch.delenv(VARIABLE)
    with start_workers(ONE_WORKER, work) as workers:
        assert workers.result(workers.submit("mask", 0, files_read, str(tmp_path))) == []
        assert workers.result(workers.submit("mask", 1, dilated, 1.0))[2] == ""


AFTER_IMPORT = """
from pathlib import Path
import lucidcube.stages
from lucidcube.cluster.kernel_cache import compiled_kernels
print(len([*Path(lucidcube.__path__[0]).rglob("*.nbi")]), compiled_kernels())
"""


@pytest.mark.slow
def test_an_import_alone_leaves_the_workers_cold(tmp_path: Path) -> None:
    """Otherwise all workers would compile the same kernels at once."""
    package = Path(lucidcube.__path__[0])
    shutil.copytree(package, tmp_path / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment |= {"PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", AFTER_IMPORT]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    compiled, known = done.stdout.split()
    assert known == "False"
    assert int(compiled) <= 1


READ_ONLY = """
from pathlib import Path
import numpy as np
from lucidcube.kernels import mask
mask.bad_pixel_mask(np.eye(8, dtype=np.float32), 1.0, max_dilation=None)
print(mask.__file__, mask._dilate._cache.cache_path, sum(mask._dilate.stats.cache_misses.values()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("variable", [None, VARIABLE])
def test_a_package_that_cannot_be_written_to_uses_the_folder_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    package = tmp_path / "site-packages" / "lucidcube"
    (package / "kernels").mkdir(parents=True)
    for name in ("__init__.py", "kernels/__init__.py"):
        (package / name).touch()
    source = Path(sys.modules["lucidcube"].__file__ or "").parent / "kernels" / "mask.py"
    (package / "kernels" / "mask.py").write_text(source.read_text())
    # A file in its place denies the folder to every user, root included.
    (package / "kernels" / "__pycache__").touch()
    folder = tmp_path / "cache" / "numba"
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    chosen = {VARIABLE: str(folder)} if variable else {"XDG_CACHE_HOME": str(folder.parent)}
    environment |= {"PYTHONPATH": str(package.parent)} | chosen
    monkeypatch.setattr(lucidcube, "__path__", [str(package)])
    monkeypatch.delenv(VARIABLE, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    for misses in ("1", "0"):
        assert compiled_kernels() is (misses == "0")
        command = [sys.executable, "-c", READ_ONLY]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
        file, cache, missed = done.stdout.split()
        assert file.startswith(str(package))
        assert cache.startswith(str(folder))
        assert missed == misses

"""The folder in which workers share compiled kernels, and the first block, which is computed alone."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import lucidcube
from lucidcube.cluster import Profile, kernel_cache, start_workers
from lucidcube.cluster.kernel_cache import FOLDER, KernelCache, installed_kernels, share_kernels
from lucidcube.io.work_files import is_private


class FakeClient:
    """Keeps the plugins that it is given."""

    def __init__(self) -> None:
        self.plugins: list[KernelCache] = []

    def register_plugin(self, plugin: KernelCache) -> None:
        self.plugins.append(plugin)


@pytest.fixture(autouse=True)
def _nothing_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that there are no compiled kernels next to the package."""
    monkeypatch.setattr(kernel_cache, "installed_kernels", lambda: False)


def test_kernels_next_to_the_package_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client: Any = FakeClient()
    monkeypatch.setattr(lucidcube, "__path__", [str(tmp_path / "lucidcube")])
    monkeypatch.setattr(kernel_cache, "installed_kernels", installed_kernels)
    assert share_kernels(client, tmp_path / "work")
    cache = tmp_path / "lucidcube" / "kernels" / "__pycache__"
    cache.mkdir(parents=True)
    (cache / "mask._dilate-30.py311.nbi").touch()
    assert not share_kernels(client, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_folder_is_for_the_user_alone(tmp_path: Path) -> None:
    client: Any = FakeClient()
    assert share_kernels(client, tmp_path / "new" / "work")
    folder = tmp_path / "new" / "work" / FOLDER
    assert is_private(folder)
    assert [plugin.folder for plugin in client.plugins] == [folder]
    (folder / "mask_1").mkdir()
    (folder / "mask_1" / "mask.nbi").touch()
    assert not share_kernels(client, tmp_path / "new" / "work")  # not cold any more
    assert len(client.plugins) == 2


def test_a_folder_of_others_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client: Any = FakeClient()
    folder = tmp_path / FOLDER
    folder.mkdir()
    for mode in (0o770, 0o707, 0o710, 0o701):
        folder.chmod(mode)
        assert not share_kernels(client, tmp_path)
    folder.chmod(0o700)
    with monkeypatch.context() as other:
        mine = os.geteuid()
        other.setattr("os.geteuid", lambda: mine + 1)
        assert not share_kernels(client, tmp_path)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere")
    assert not share_kernels(client, tmp_path)
    folder.unlink()
    folder.write_text("a file of the user")
    assert not share_kernels(client, tmp_path)
    assert client.plugins == []
    assert not is_private(tmp_path / "missing")


def test_other_processes_only_and_the_user_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o700)
    plugin = KernelCache(tmp_path)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    plugin.setup(SimpleNamespace())
    assert "NUMBA_CACHE_DIR" not in os.environ
    monkeypatch.setattr("os.getpid", lambda: -1)
    monkeypatch.setitem(sys.modules, "numba", SimpleNamespace(config=SimpleNamespace(reload_config=int)))
    monkeypatch.setenv("NUMBA_CACHE_DIR", "mine")
    plugin.setup(SimpleNamespace())
    assert os.environ["NUMBA_CACHE_DIR"] == "mine"
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    plugin.setup(SimpleNamespace())
    assert os.environ["NUMBA_CACHE_DIR"] == str(tmp_path)


def dilated(cut: float) -> tuple[int, int, str]:
    """Return the number of marked pixels, that of compilations in this process, and numba's folder."""
    from numba import config

    from lucidcube.kernels import mask

    marked = mask.bad_pixel_mask(np.eye(8, dtype=np.float32), cut, max_dilation=None)
    return int(marked.sum()), sum(mask._dilate.stats.cache_misses.values()), config.CACHE_DIR


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_workers_share_what_one_of_them_compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    arguments = {"n_workers": 1, "threads_per_worker": 1, "memory_limit": "1GiB"}
    profile = Profile.model_validate(
        {"kind": "class", "class": "distributed.LocalCluster", "arguments": arguments}
    )
    for cold in (True, False):
        with start_workers(profile, tmp_path) as workers:
            assert workers.cold is cold
            done = workers.result(workers.submit("mask", 0, dilated, 1.0))
            assert done == (8, int(cold), str(tmp_path / FOLDER))
    assert len(list((tmp_path / FOLDER).rglob("*._dilate-*.nbi"))) == 1


READ_ONLY = """
from pathlib import Path
import numpy as np
from lucidcube.kernels import mask
mask.bad_pixel_mask(np.eye(8, dtype=np.float32), 1.0, max_dilation=None)
print(mask.__file__, mask._dilate._cache.cache_path, sum(mask._dilate.stats.cache_misses.values()))
"""


@pytest.mark.slow
def test_a_package_that_cannot_be_written_to_uses_the_folder_of_the_user(tmp_path: Path) -> None:
    package = tmp_path / "site-packages" / "lucidcube"
    (package / "kernels").mkdir(parents=True)
    for name in ("__init__.py", "kernels/__init__.py"):
        (package / name).touch()
    source = Path(sys.modules["lucidcube"].__file__ or "").parent / "kernels" / "mask.py"
    (package / "kernels" / "mask.py").write_text(source.read_text())
    # A file in its place denies the folder to every user, root included.
    (package / "kernels" / "__pycache__").touch()
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment |= {"PYTHONPATH": str(package.parent), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    for misses in ("1", "0"):
        command = [sys.executable, "-c", READ_ONLY]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)
        file, cache, missed = done.stdout.split()
        assert file.startswith(str(package))
        assert cache.startswith(str(tmp_path / "cache" / "numba"))
        assert missed == misses

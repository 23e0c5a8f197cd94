"""Fixtures of all tests: the folder of shared data, and a scheduler that raises an error."""

import signal
from collections.abc import Iterator
from pathlib import Path

import dask
import hypothesis
import pytest

from locations import SHARED

hypothesis.settings.register_profile("lucidcube", deadline=None, max_examples=25, derandomize=True)
hypothesis.settings.load_profile("lucidcube")


@pytest.fixture(autouse=True)
def _interrupt() -> None:
    """Restore the handler of Ctrl-C, which dask_jobqueue replaces on import, and of SIGHUP, as under nohup."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that there is no display, so that no browser opens."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _no_default_scheduler() -> Iterator[None]:
    """Fail if a test leaves a default scheduler behind, because later tests would compute with it."""
    before = dask.config.get("scheduler", None)
    yield
    left = dask.config.get("scheduler", None)
    dask.config.set(scheduler=before)
    assert left is before, f"the test left dask's scheduler set to {left!r}"


@pytest.fixture
def nothing_computes() -> Iterator[None]:
    """Fail if anything is computed."""

    def refuse(graph, keys, **kwargs):  # type: ignore[no-untyped-def]
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        yield


@pytest.fixture
def shared() -> Path:
    """Return the folder of real and recorded data next to the repository; skip the test if it is missing."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no shared data next to the repository")
    return SHARED

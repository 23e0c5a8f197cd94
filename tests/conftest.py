"""What all tests share: where shared data lie, and a scheduler that refuses to work."""

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
    """Ctrl-C as ever: importing dask_jobqueue replaces its handler by one that exits."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def nothing_computes() -> Iterator[None]:
    """Fail if anything is computed."""

    def refuse(graph, keys, **kwargs):  # type: ignore[no-untyped-def]
        raise AssertionError("something was computed")

    with dask.config.set(scheduler=refuse):
        yield


@pytest.fixture
def shared() -> Path:
    """The folder of real and recorded data next to the repository; without it the test is skipped."""
    if not (SHARED / "data").is_dir():
        pytest.skip("no shared data next to the repository")
    return SHARED

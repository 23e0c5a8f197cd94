"""The folder in which the workers of a run share compiled kernels."""

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from distributed import Client
from distributed.diagnostics.plugin import WorkerPlugin

import lucidcube
from lucidcube.io.work_files import is_private

FOLDER = "kernels"
"""Name of the folder within the work folder of a run."""
VARIABLE = "NUMBA_CACHE_DIR"


class KernelCache(WorkerPlugin):  # type: ignore[misc]
    """Makes a worker process read and write compiled kernels in a folder.

    A process whose environment names a folder for numba's cache keeps it, and so does that of the client,
    whose threads may be workers. Cached kernels are pickles, which run code when they are read, so only a
    private folder is used.
    """

    name = "lucidcube-kernels"

    def __init__(self, folder: Path) -> None:
        self.folder, self._client = folder, os.getpid()

    def setup(self, worker: Any) -> None:
        """Set the folder; dask calls this in each worker, also in those that join later, before its tasks."""
        if os.getpid() != self._client and VARIABLE not in os.environ and is_private(self.folder):
            os.environ[VARIABLE] = str(self.folder)
            if "numba" in sys.modules:
                sys.modules["numba"].config.reload_config()


def installed_kernels() -> bool:
    """Return whether compiled kernels lie next to the package, where numba keeps them if it can."""
    return any(Path(lucidcube.__path__[0]).rglob("*.nbi"))


def share_kernels(client: Client, work: Path) -> bool:
    """Let all workers keep compiled kernels in a work folder; return whether there are none yet.

    Nothing is done if there are compiled kernels next to the package, since these are for all processes that
    import it. The folder is made for the present user alone. If there is another one of that name, each
    worker uses numba's own folder for compiled kernels, next to the package or in the user's cache folder.
    """
    if installed_kernels():
        return False
    folder = work.absolute() / FOLDER
    with suppress(OSError):  # such as a file of that name
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not is_private(folder):
        return False
    client.register_plugin(KernelCache(folder))
    return not any(folder.rglob("*.nbi"))

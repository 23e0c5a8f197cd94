"""Preload of worker processes of this machine: Ctrl-C is for the run, which then lets them finish.

A terminal sends SIGINT to all processes at once; workers that died of it could not finish their blocks.
"""

from __future__ import annotations

import signal
from typing import Any


async def dask_setup(worker: Any) -> None:
    """Ignore SIGINT; called by dask in the main thread of a worker process, once it is there."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

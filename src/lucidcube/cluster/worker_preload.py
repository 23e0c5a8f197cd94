"""Preload of worker processes on this machine: Ctrl-C is left to the run, which lets the workers finish.

A terminal sends SIGINT to all processes at once; workers that ended on it could not finish their blocks.
"""

import logging
import signal
from typing import Any


async def dask_setup(worker: Any) -> None:
    """Ignore SIGINT; dask calls this in the main thread of each new worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("distributed.worker").addFilter(_is_unexpected)


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Return whether a message is more than that the scheduler has removed the worker at the end of a run."""
    return not record.getMessage().startswith("Scheduler was unaware of this worker")

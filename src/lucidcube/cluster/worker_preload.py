"""Preload of worker processes on this machine: signals are left to the run, which lets the workers finish.

A terminal sends SIGINT to all processes at once, and SIGHUP when it is closed; batch systems send SIGTERM.
Workers that ended on it could not finish their blocks. They end with the run in any case.
"""

import logging
import signal
from typing import Any

from lucidcube.cluster.dask_logs import shorten_logs

EXPECTED = (
    "Scheduler was unaware of this worker",
    "Worker stream died during communication",
    "Failed to communicate with scheduler during heartbeat",
)
"""Beginnings of messages that follow from the removal of this or another worker by the scheduler."""


async def dask_setup(worker: Any) -> None:
    """Ignore signals; dask calls this in the main thread of each new worker process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    logging.getLogger("distributed.worker").addFilter(_is_unexpected)
    shorten_logs()


def _is_unexpected(record: logging.LogRecord) -> bool:
    """Return whether a message is more than that the scheduler has removed a worker."""
    return not record.getMessage().startswith(EXPECTED)

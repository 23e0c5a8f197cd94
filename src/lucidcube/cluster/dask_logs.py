"""Show messages of dask and tornado as one line each; their tracebacks go to the log of the run."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

LOG = logging.getLogger(__name__)
LIBRARIES = ("distributed", "tornado")
LONGEST = 300
"""Number of characters of a message that are shown."""


class OneLine(logging.Filter):
    """Shortens a record to its first line, and passes on the whole to the log of the package."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten a record; the cause takes the place of a message that is empty."""
        text = record.getMessage()
        cause = repr(record.exc_info[1]) if record.exc_info else ""
        LOG.debug("%s: %s", record.name, text, exc_info=record.exc_info)
        record.msg, record.args = (text or cause).partition("\n")[0][:LONGEST], ()
        record.exc_info = record.exc_text = None
        return True


def shorten_logs() -> list[tuple[logging.Handler, OneLine]]:
    """Shorten the records of all handlers of the libraries; return the handlers and their filters."""
    loggers = [*LIBRARIES, *(n for n in logging.root.manager.loggerDict if n.startswith(LIBRARIES))]
    handlers = {handler for name in loggers for handler in logging.getLogger(name).handlers}
    added = [(handler, OneLine()) for handler in handlers]
    for handler, shortened in added:
        handler.addFilter(shortened)
    return added


@contextmanager
def short_logs() -> Iterator[None]:
    """Shorten the records of the libraries until the end of this context."""
    added = shorten_logs()
    try:
        yield
    finally:
        for handler, shortened in added:
            handler.removeFilter(shortened)

"""Exit quietly, as other commands do, when the reader of the output closes its pipe."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import rich.console

CLOSED_PIPE = 128 + signal.SIGPIPE
"""Exit code that a shell reports for a program that was ended by SIGPIPE."""


class Console(rich.console.Console):
    """A console that raises BrokenPipeError, whereas rich exits with 1, the exit code of a failed stage."""

    def on_broken_pipe(self) -> None:
        """Let `ends_quietly` handle the error."""
        raise BrokenPipeError


@contextmanager
def ends_quietly() -> Iterator[None]:
    """Exit without a message when a pipe is closed; the default action of SIGPIPE would also end sockets."""
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # an error while the interpreter exits could not be caught
    except BrokenPipeError:
        devnull = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):
            os.dup2(devnull, stream.fileno())  # the remaining buffered output is discarded
        sys.exit(CLOSED_PIPE)

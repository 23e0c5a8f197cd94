"""Start the command line: what happens while it is being imported.

That takes a good part of a second, in which signals and failing disks have the same exit codes as later.
This module therefore imports hardly anything itself.
"""

import errno
import os
import signal
import sys
from types import FrameType
from typing import NoReturn

STAGE_FAILED, USER_ERROR, STOPPED, INTERRUPTED, TERMINATED = 1, 2, 75, 130, 143
FAILING = (errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE)
"""Errors of a disk or of the limits of a process, which no code of ours has caused."""


def main() -> None:
    """Run the command line and exit; see `lucidcube.cli.app.main` for the exit codes."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler == signal.SIG_DFL:
            signal.signal(number, _stop)
    try:
        from lucidcube.cli.app import main as run_command_line
    except KeyboardInterrupt:
        _exit(INTERRUPTED, "interrupted")
    except (OSError, ImportError, MemoryError) as error:
        if not machine_fails(error):
            raise
        _exit(USER_ERROR, f"lucidcube cannot be loaded: {str(error) or 'there is not enough memory'}")
    run_command_line()


def machine_fails(error: BaseException) -> bool:
    """Return whether an error comes from a disk that fails or from a limit of the process."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in FAILING):
        return True
    return isinstance(error, ImportError) and any(os.strerror(number) in str(error) for number in FAILING)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    """End before or after a run; during one, `lucidcube.runner.signals` has a handler of its own."""
    resumable = sys.argv[1:2] == ["run"]
    _exit(STOPPED if resumable else TERMINATED, "stopped")


def _exit(code: int, text: str) -> NoReturn:
    print(f"lucidcube: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(code)

"""Lock a work folder, so that only one run at a time uses it."""

import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from lucidcube.errors import UserError
from lucidcube.io.atomic import write_atomically
from lucidcube.io.work_files import DAMAGE, read_json
from lucidcube.runner.work_folder import own_work_folder

LOCK, HOLDER = "in-use.lock", "in-use.json"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Lock a work folder, which is created if it does not exist.

    The operating system releases the lock when the process ends in any way, so the lock file of a killed run
    does not block other runs. On file systems without locks the existence of the lock file is the lock. A
    folder that another run uses, or that cannot be written, raises UserError.
    """
    lock = FileLock(folder / LOCK)
    try:
        own_work_folder(folder)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about file systems without locks, for which this is documented
            lock.acquire(timeout=0)
        since = datetime.now().astimezone().isoformat(" ", "seconds")
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "since": since}
        write_atomically(folder / HOLDER, json.dumps(holder))
    except Timeout:
        raise UserError(
            f"{folder} is in use by another run ({_holder(folder / HOLDER)}); wait for it, or set "
            "another checkpoints.dir"
        ) from None
    except OSError as error:
        lock.release()
        raise UserError(
            f"cannot write checkpoints to {folder}: {error.strerror or error}; set checkpoints.dir"
        ) from error
    try:
        yield
    finally:
        (folder / HOLDER).unlink(missing_ok=True)
        lock.release()


def _holder(path: Path) -> str:
    with suppress(OSError, *DAMAGE, KeyError, TypeError):
        holder = read_json(path)
        return f"process {holder['pid']} on {holder['host']}, since {holder['since']}"
    return "which has just started"

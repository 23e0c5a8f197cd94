"""One run at a time on a work folder.

The lock is `flock` on a file in the folder: the system gives it back whenever and however the run
ends, so a lock left behind by a killed run is no obstacle. The file says who holds it. Where the
file system knows no locks, what it says decides.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from lucidcube.errors import UserError

LOCK = "in-use.json"
NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a work folder, which is made if need be.

    Raises
    ------
    UserError
        If another run holds it (says which), or it cannot be written.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _taken(path)
    except OSError as error:
        raise UserError(
            f"cannot write checkpoints to {folder}: {error.strerror or error}: set checkpoints.dir"
        ) from error
    try:
        yield
    finally:
        # Removed while it is still held: whoever waits for it notices that it has another file now.
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _taken(path: Path) -> int:
    """An open file that holds the lock."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _free(descriptor):
                raise UserError(
                    f"{path.parent} is in use by another run ({_words(_record(descriptor))}); wait for it, "
                    "or set another output.path or checkpoints.dir"
                )
            if _same_file(descriptor, path):
                _sign(descriptor)
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the run before removed it in this very moment


def _free(descriptor: int) -> bool:
    """Whether the lock could be had; then it is held by this descriptor."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        return not _alive(_record(descriptor))
    return True


def _same_file(descriptor: int, path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), path.stat())
    return False


def _sign(descriptor: int) -> None:
    me = {
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
    }
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(me).encode(), 0)


def _record(descriptor: int) -> dict[str, Any]:
    """What the holder wrote; empty if it is just about to."""
    try:
        record = json.loads(os.pread(descriptor, 4096, 0) or b"{}")
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _alive(record: dict[str, Any]) -> bool:
    """Whether the run may still be there: nobody can look into another machine."""
    if not record:
        return False
    if record.get("host") != socket.gethostname():
        return True
    try:
        return bool(psutil.Process(int(record["pid"])).create_time() == record["started"])
    except (psutil.NoSuchProcess, KeyError, TypeError, ValueError):
        return False


def _words(record: dict[str, Any]) -> str:
    if not record:
        return "which has just begun"
    return f"process {record.get('pid')} on {record.get('host')}, since {record.get('since')}"

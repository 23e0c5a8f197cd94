"""Lock a work folder and the path of a product, so that only one run at a time uses them.

A lock is a file that one process at most can create. It names the process by its host, number and time of
start, and its owner changes the time of the file regularly. The lock of a process that has ended is taken
over on the same machine. Whether a process on another machine has ended is unknown, so the user is told which
file to remove. No locks of the file system are used: on network file systems they may be missing, or only
valid on one machine.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import psutil
from filelock import LeaseCompromise, OwnerRecord, SoftFileLease, Timeout

from lucidcube.errors import UserError
from lucidcube.io.atomic import hidden_name
from lucidcube.runner.work_folder import own_work_folder

LOG = logging.getLogger(__name__)

LOCK = "in-use"
"""Name of the lock file in a work folder."""
WAIT = 10.0
"""Seconds for which a run waits by default for another one, which may be ending."""
HEARTBEAT = 30.0
"""Seconds between the changes of the time of a lock file."""
INCOMPLETE = 60.0
"""Seconds after which a lock file without content is that of a process that was killed while it wrote it."""
NEVER = 1e9
"""Seconds after which the lock of a process on another machine is taken over, where it may still run."""


@contextmanager
def locked(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Lock a work folder, which is created if it does not exist.

    UserError is raised if another run still uses it after `wait` seconds, or if it cannot be written.
    """
    own_work_folder(folder)
    with _held(folder / LOCK, str(folder), "set another checkpoints.dir", wait):
        yield


@contextmanager
def product_locked(path: Path, wait: float = 0.0) -> Iterator[None]:
    """Lock the path of a product, whose folder is created if it does not exist; see `locked`."""
    path = path.expanduser().absolute()
    with _held(path.with_name(f"{hidden_name(path)}.lock"), str(path), "give the product another name", wait):
        yield


@contextmanager
def _held(file: Path, what: str, remedy: str, wait: float) -> Iterator[None]:
    lock = _lease(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        _acquire(lock, what, wait)
    except Timeout:
        raise UserError(f"{_in_use(lock, what)}; wait for it, or {remedy}{_advice(lock)}") from None
    except OSError as error:
        raise UserError(
            f"nothing can be written to {file.parent}: {error.strerror or error}; {remedy}"
        ) from None
    try:
        yield
    except BaseException:
        with suppress(OSError):  # the next run replaces the lock of a process that has ended
            lock.release()
        raise
    try:
        lock.release()
    except OSError as error:  # the work under the lock is done
        LOG.warning("%s cannot be removed: %s; remove it", file, error.strerror or error)


def _lease(file: Path) -> SoftFileLease:
    return SoftFileLease(
        file,
        lease_duration=NEVER,
        heartbeat_interval=HEARTBEAT,
        on_compromise=_lost,
        thread_local=False,
        poll_interval=0.1,
    )


def _acquire(lock: SoftFileLease, what: str, wait: float) -> None:
    for _ in range(2):
        with suppress(Timeout):
            lock.acquire(timeout=0)
            return
        _remove_abandoned(lock)
    if wait > 0:
        LOG.warning("%s; waiting for it for %g s", _in_use(lock, what), wait)
    lock.acquire(timeout=wait)


def _lost(loss: LeaseCompromise) -> None:
    """Warn that a lock was removed or replaced by somebody else."""
    LOG.warning(
        "%s was removed during the run (%s): another run may use the same files", loss.lock_file, loss.reason
    )


def _remove_abandoned(lock: SoftFileLease) -> None:
    """Remove a lock file whose process has ended, where that cannot be seen from its number alone."""
    file = Path(lock.lock_file)
    with (
        suppress(Timeout, OSError),
        _lease(file.with_name(f"{file.name}.removed")).acquire(timeout=0) as guard,
    ):
        # Only one process at a time is here, so that nobody removes the lock that another one took instead.
        owner, own = lock.owner, guard.owner
        incomplete = file.stat().st_size == 0 and _age(file) > INCOMPLETE
        if incomplete or (owner and own and owner.hostname == own.hostname and _is_zombie(owner.pid)):
            file.unlink()


def _is_zombie(pid: int) -> bool:
    """Return whether a process has ended without its parent having noticed."""
    with suppress(psutil.Error):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return False


def _in_use(lock: SoftFileLease, what: str) -> str:
    who = _name(lock.owner)
    with suppress(OSError):
        who += f", last active {timedelta(seconds=round(_age(Path(lock.lock_file))))} ago"
    return f"{what} is in use by another run ({who})"


def _advice(lock: SoftFileLease) -> str:
    """Say which file to remove, if it cannot be known here whether the other run has ended."""
    owner, alive = lock.owner, False
    with suppress(OSError):
        alive = _age(Path(lock.lock_file)) < 2 * HEARTBEAT  # containers of a host have other processes
    here = owner is not None and psutil.pid_exists(owner.pid) and _host(owner) == os.uname().nodename
    return "" if here and alive else f"; if that run has ended, remove {lock.lock_file}"


def _name(owner: OwnerRecord | None) -> str:
    return "a process that left no record" if owner is None else f"process {owner.pid} on {_host(owner)}"


def _host(owner: OwnerRecord) -> str:
    return owner.hostname.partition("?")[0]  # what follows tells containers of one host apart


def _age(file: Path) -> float:
    """Return the number of seconds since a file was last changed."""
    return max(0.0, time.time() - file.stat().st_mtime)

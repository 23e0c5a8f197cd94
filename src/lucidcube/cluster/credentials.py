"""Certificates of the connections between the run, the scheduler and the workers.

Each run has a key and a certificate of its own, which is also the only authority that it accepts: whoever
does not have the key is refused before a message is read.
"""

import os
import re
import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from distributed.security import Security

from lucidcube.cluster.profile import Profile
from lucidcube.errors import ConfigError
from lucidcube.io.work_files import is_private

CERTIFICATE, KEY = "certificate.pem", "key.pem"
PREFIX = "tls-"
"""Beginning of the names of folders with keys within a work folder."""
PLAIN_PATH = re.compile(r"[\w./@%+=:,-]+", re.ASCII)
"""Paths that need no quotes on the command line of a job."""


def in_memory() -> Security:
    """Return new credentials that are kept in memory; ConfigError if `cryptography` is not installed."""
    try:
        return Security.temporary()
    except ImportError as error:
        raise ConfigError(f"profile: {' '.join(str(error).split())}, or set security: none") from error


def write_folder(folder: Path) -> None:
    """Write new credentials into a folder that only the present user can read."""
    tls = in_memory().get_tls_config_for_role("worker")
    for name, text in ((CERTIFICATE, tls["cert"]), (KEY, tls["key"])):
        with open(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)


def from_folder(folder: Path) -> Security:
    """Return the credentials in a folder; ConfigError if other users can read or change them."""
    if not is_private(folder):
        raise ConfigError(f"profile: {folder} holds keys and must be a folder that only you can read")
    return _security(str(folder / CERTIFICATE), str(folder / CERTIFICATE), str(folder / KEY))


def from_profile(profile: Profile) -> Security | None:
    """Return the credentials in the files that a profile names, or None; ConfigError if there is no file."""
    if profile.tls_ca is None:
        return None
    paths = {name: Path(getattr(profile, name)).expanduser() for name in ("tls_ca", "tls_cert", "tls_key")}
    for name, path in paths.items():
        if not path.is_file():
            raise ConfigError(f"profile: {name}: there is no file {path}")
    return _security(*map(str, paths.values()))


def for_jobs(stack: ExitStack, work: Path | None) -> Security:
    """Return new credentials in files that the jobs of this run can read; closing the stack removes them.

    They lie in the work folder. If the command line of a job cannot contain its path, or if there is no work
    folder, they lie in the present directory, in which jobs start.
    """
    folders = [] if work is None else [str(work.absolute()), os.path.relpath(work)]
    parent = Path(next((f for f in folders if PLAIN_PATH.fullmatch(f)), os.curdir))
    parent.mkdir(parents=True, exist_ok=True)
    if parent != Path(os.curdir):
        # A run that was killed could not remove them.
        for stale in filter(is_private, parent.glob(f"{PREFIX}*")):
            shutil.rmtree(stale, ignore_errors=True)
    hidden = "." if parent == Path(os.curdir) else ""
    # mkdtemp returns an absolute path, which may need quotes.
    folder = parent / Path(tempfile.mkdtemp(prefix=f"{hidden}{PREFIX}", dir=parent)).name
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    write_folder(folder)
    return from_folder(folder)


def _security(ca: str, certificate: str, key: str) -> Security:
    roles = ("client", "scheduler", "worker")
    files = {f"tls_{role}_cert": certificate for role in roles} | {f"tls_{role}_key": key for role in roles}
    return Security(require_encryption=True, tls_ca_file=ca, **files)

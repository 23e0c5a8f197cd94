"""Find out whether numba has compiled kernels of this package already."""

import hashlib
import os
from pathlib import Path

import lucidcube

VARIABLE = "NUMBA_CACHE_DIR"
AT_IMPORT = "fft._passes-"
"""Prefix of the files of the C function of the simd transforms, which an import compiles."""


def compiled_kernels() -> bool:
    """Return whether there are compiled kernels where numba of this process keeps them.

    That is in the folder that the environment names; without one, next to the package, or where that cannot
    be written to, in the cache folder of the user. Compiled kernels are pickles, which run code when they are
    read. So numba's own folders are used and none that may have come with data, such as a work folder. What
    is compiled when the package is imported does not count: the client has just done that.
    """
    package, named = Path(lucidcube.__path__[0]).absolute(), os.environ.get(VARIABLE)
    if not named and os.access(package, os.W_OK) and any(map(_compiled_by_a_call, package.rglob("*.nbi"))):
        return True
    cache = Path(named or _user_cache() / "numba")
    folders = (folder for folder in package.rglob("*") if folder.is_dir())
    files = (index for folder in folders for index in (cache / _name(folder)).glob("*.nbi"))
    return any(map(_compiled_by_a_call, files))


def _compiled_by_a_call(index: Path) -> bool:
    """Return whether a function was compiled because it was called, given its index file."""
    return not index.name.startswith(AT_IMPORT)


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser())


def _name(folder: Path) -> str:
    """Return the name of numba's folder for the modules of a folder."""
    # A name as numba makes it, in `numba.core.caching`, and not a matter of security.
    return f"{folder.name}_{hashlib.sha1(str(folder).encode(), usedforsecurity=False).hexdigest()}"

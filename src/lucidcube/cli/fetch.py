"""Download the public example data of the reference program from Zenodo."""

import json
import logging
import re
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

from dask.utils import format_bytes

from lucidcube import __version__
from lucidcube.errors import UserError, did_you_mean, printable
from lucidcube.io.output_path import expanded

SERVER, RECORD = "https://zenodo.org", "13384454"
TIMEOUT = 60.0
"""Seconds without an answer after which a connection is given up."""
LARGEST_ANSWER = 1 << 24
"""Largest number of bytes of a list of files."""


class RemoteFile(NamedTuple):
    """A file of the record: its name, its size in bytes, its checksum as ``md5:...``, and its address."""

    name: str
    size: int
    checksum: str
    url: str


def list_record(server: str = SERVER, record: str = RECORD) -> list[RemoteFile]:
    """Ask the server for the files of a record and their checksums.

    UserError is raised if it cannot be reached, or if its answer is not that of the API of Zenodo.
    """
    url = f"{server.rstrip('/')}/api/records/{record}"
    if not re.match(r"https?://", url):
        raise UserError(f"--server {server}: give an address that begins with https://")
    agent = {"User-Agent": f"lucidcube/{__version__}", "Accept": "application/json"}
    try:
        with urlopen(Request(url, headers=agent), timeout=TIMEOUT) as answer:  # noqa: S310  http(s), checked
            content = answer.read(LARGEST_ANSWER)
    except HTTPError as error:
        with error:
            raise UserError(f"{url} cannot be read: {error.code} {error.reason}") from None
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{url} cannot be reached: {reason}; is there a connection to the internet?"
        ) from None
    try:
        return sorted(_remote_file(entry, url) for entry in json.loads(content)["files"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{url}: the answer is not a list of files as of Zenodo ({error!r})") from None


def _remote_file(entry: dict[str, Any], url: str) -> RemoteFile:
    name, checksum = str(entry["key"]), str(entry["checksum"])
    if name != Path(name).name or name.startswith(".") or name != printable(name):
        raise ValueError(f"{name!r} is not the name of a file")
    if not re.fullmatch(r"(md5:[0-9a-f]{32}|sha256:[0-9a-f]{64})", checksum):
        raise ValueError(f"{checksum!r} is not a checksum")
    return RemoteFile(name, int(entry["size"]), checksum, f"{url}/files/{quote(name)}/content")


def fetch_files(
    files: Sequence[RemoteFile],
    names: Sequence[str],
    folder: Path | None,
    *,
    overwrite: bool,
    message: Callable[[str], None],
) -> list[Path]:
    """Download files into a folder, by default the cache of the user, and return their paths.

    A file that is there already and has the right checksum is not downloaded again; one with another checksum
    is replaced in the cache, and elsewhere only with `overwrite`. A file gets its name after its checksum was
    verified. UserError is raised for an unknown name, and if a download fails.
    """
    try:
        import pooch
    except ImportError:
        raise UserError("downloads need pooch: pip install 'lucidcube[fetch]'") from None
    known = {file.name: file for file in files}
    for name in names:
        if name not in known:
            raise UserError(f"the record has no file {name!r}{did_you_mean(name, known)}")
    place = Path(pooch.os_cache("lucidcube")) if folder is None else expanded(folder)
    pooch.get_logger().setLevel(logging.WARNING)
    paths = []
    for file in (known[name] for name in names):
        path = place / file.name
        algorithm, _, digest = file.checksum.partition(":")
        if path.exists() and not path.is_file():
            raise UserError(f"{path} is not a regular file; give another folder")
        there = path.is_file() and pooch.file_hash(str(path), alg=algorithm) == digest
        if path.exists() and not there and not overwrite and folder is not None:
            raise UserError(f"{path} exists and is another file; give another folder, or --overwrite")
        if not there:
            message(f"downloading {file.name} ({format_bytes(file.size)}) from {file.url}")
        agent = {"User-Agent": f"lucidcube/{__version__}"}
        downloader = pooch.HTTPDownloader(timeout=TIMEOUT, headers=agent)
        try:
            paths.append(
                Path(pooch.retrieve(file.url, file.checksum, file.name, place, downloader=downloader))
            )
        except ValueError:  # pooch has removed what it downloaded
            raise UserError(f"{file.name}: its checksum is not that of the record; try again") from None
        except OSError as error:  # of the disk, and of requests
            raise UserError(f"{file.name} cannot be downloaded: {' '.join(str(error).split())}") from None
    return paths


def record_text(files: Sequence[RemoteFile]) -> str:
    """Return a line for each file."""
    width = max((len(file.name) for file in files), default=0)
    return "\n".join(
        f"{file.name:<{width}}  {format_bytes(file.size):>10}  {file.checksum}" for file in files
    )

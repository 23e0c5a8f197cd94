"""The command fetch, against a local server that answers like Zenodo."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from commands import call

pytest.importorskip("pooch")

FILES = {"obs.fits": b"SIMPLE  = " * 50, "a star.fits": b"star" * 100}
RECORD = "/api/records/13384454"


class Zenodo(ThreadingHTTPServer):
    """A server with one record; `served` lists the paths that were asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.served: list[str] = []
        self.contents = dict(FILES)
        self.names = {name: name for name in FILES}
        self.answer: bytes | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answers(BaseHTTPRequestHandler):
    server: Zenodo

    def do_GET(self) -> None:
        self.server.served.append(self.path)
        contents = {
            f"{RECORD}/files/{n.replace(' ', '%20')}/content": c for n, c in self.server.contents.items()
        }
        if self.path == RECORD:
            entries = [
                {"key": self.server.names[n], "size": len(c), "checksum": f"md5:{hashlib.md5(c).hexdigest()}"}
                for n, c in FILES.items()
            ]
            body = self.server.answer or json.dumps({"id": 13384454, "files": entries}).encode()
        elif self.path in contents:
            body = contents[self.path]
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def zenodo() -> Iterator[Zenodo]:
    with Zenodo() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def test_list_and_download(zenodo: Zenodo, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "fetch", "--server", zenodo.url)
    assert code == 0
    assert [line.split("  ")[0] for line in out.splitlines()] == ["a star.fits", "obs.fits   ".rstrip()]
    assert "md5:" in out
    code, out, err = call(capsys, "fetch", "--all", "--server", zenodo.url, "-o", "data")
    assert code == 0
    assert [Path(line).read_bytes() for line in out.splitlines()] == [FILES["a star.fits"], FILES["obs.fits"]]
    assert err.count("downloading") == 2
    before = len(zenodo.served)
    assert call(capsys, "fetch", "obs.fits", "--server", zenodo.url, "-o", "data")[1:] == (
        f"{folder}/data/obs.fits\n",
        "",
    )
    assert zenodo.served[before:] == [RECORD]  # it is there already
    code, out, _ = call(capsys, "fetch", "obs.fits", "--server", zenodo.url)
    assert Path(out.strip()).is_relative_to(folder / "cache")


def test_a_damaged_download_is_refused(
    zenodo: Zenodo, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zenodo.contents["obs.fits"] = b"something else"
    code, _, err = call(capsys, "fetch", "obs.fits", "--server", zenodo.url, "-o", "data")
    assert code == 2
    assert "checksum" in err.splitlines()[-1]
    assert not [path for path in Path("data").iterdir() if path.is_file()]
    del zenodo.contents["obs.fits"]
    code, _, err = call(capsys, "fetch", "obs.fits", "--server", zenodo.url, "-o", "data")
    assert (code, "404" in err) == (2, True)


def test_files_of_the_user_are_kept(zenodo: Zenodo, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("obs.fits").write_bytes(b"my own")
    code, _, err = call(capsys, "fetch", "obs.fits", "--server", zenodo.url, "-o", ".")
    assert (code, "another file" in err) == (2, True)
    assert Path("obs.fits").read_bytes() == b"my own"
    assert call(capsys, "fetch", "obs.fits", "--server", zenodo.url, "-o", ".", "--overwrite")[0] == 0
    assert Path("obs.fits").read_bytes() == FILES["obs.fits"]


@pytest.mark.parametrize("name", ["../obs.fits", "/etc/obs.fits", ".bashrc", "a\x1b[2J.fits"])
def test_names_that_leave_the_folder_are_refused(
    zenodo: Zenodo, folder: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    zenodo.names["obs.fits"] = name
    code, _, err = call(capsys, "fetch", "--all", "--server", zenodo.url, "-o", "data")
    assert (code, "is not the name of a file" in err) == (2, True)
    assert not Path("data").exists()


def test_mistakes(zenodo: Zenodo, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = call(capsys, "fetch", "obs.fit", "--server", zenodo.url)
    assert (code, "did you mean 'obs.fits'" in err) == (2, True)
    for answer in (
        b"<html>",
        b"[]",
        b'{"files": [{"key": "a"}]}',
        b'{"files": [{"key": "a", "size": 1, "checksum": "md5:1"}]}',
    ):
        zenodo.answer = answer
        code, _, err = call(capsys, "fetch", "--server", zenodo.url)
        assert (code, err.count("\n")) == (2, 1)
        assert "list of files" in err
    for server, expected in (
        ("http://127.0.0.1:9", "cannot be reached"),
        ("file:///etc", "https://"),
        (zenodo.url + "/x", "404"),
    ):
        code, _, err = call(capsys, "fetch", "--server", server)
        assert (code, err.count("\n")) == (2, 1)
        assert expected in err

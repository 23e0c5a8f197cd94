"""Serve the page to this machine only, and only to those who know the token in its address."""

import hmac
import logging
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import panel as pn
from bokeh.server.auth_provider import AuthProvider
from tornado.ioloop import IOLoop
from tornado.web import HTTPError

from lucidcube.config.load import load
from lucidcube.errors import UserError
from lucidcube.tune.choices import Choices
from lucidcube.tune.live import live_plane
from lucidcube.tune.page import TunePage
from lucidcube.tune.save import ConfigFile

HOST = "127.0.0.1"
TOKEN = "token"  # noqa: S105  a name, no secret
"""Name of the token in the address of the page, and of the cookie that holds it afterwards."""


class OnlyWithToken(AuthProvider):  # type: ignore[misc]
    """Answer 403 to requests without the token in the address or in the cookie."""

    def __init__(self, token: str, port: int) -> None:
        self._token = token
        self._cookie = f"{TOKEN}-{port}"  # cookies do not tell ports apart
        super().__init__()

    @property
    def get_user(self) -> Callable[[Any], str]:
        """Return the function that lets a request pass, or raises an error."""
        return self._user

    @property
    def login_url(self) -> str:
        """Return an address that is never reached, because `get_user` raises an error."""
        return "/"

    def _user(self, handler: Any) -> str:
        given = handler.get_query_argument(TOKEN, "")
        if hmac.compare_digest(given.encode(), self._token.encode()):
            if not handler.request.headers.get("Upgrade"):
                handler.set_cookie(self._cookie, self._token, httponly=True, samesite="Strict")
            return "user"
        kept = handler.get_cookie(self._cookie, "")
        if not hmac.compare_digest(kept.encode(), self._token.encode()):
            raise HTTPError(403)
        return "user"


def serve(
    path: Path, sets: list[str], port: int, opened: Callable[[str], None], *, trust_profile: bool = False
) -> None:
    """Serve the page about a config until the process is interrupted.

    `port` is 0 for any free one. `opened` is called with the address once the page can be loaded. UserError
    is raised for a wrong config, and for a port that is not free.
    """
    config, file = load([path], sets, trust_profile=trust_profile), ConfigFile(path)
    Choices.of(config)
    if config.where.kind == "slurm_runner":
        raise UserError("lucidcube tune cannot use a profile of the kind slurm_runner: --set profile=threads")
    token, port = secrets.token_urlsafe(24), _free(port)
    logging.getLogger("tornado.access").setLevel(logging.ERROR)  # it would print each answer of 403
    with live_plane(config) as live:
        server = pn.serve(
            {"/": lambda: TunePage(file, sets, config, live, trust_profile=trust_profile).view()},
            port=port,
            address=HOST,
            websocket_origin=[f"{HOST}:{port}", f"localhost:{port}"],
            show=False,
            start=False,
            title="lucidcube tune",
            verbose=False,
            auth_provider=OnlyWithToken(token, port),
        )
        server.start()
        loop = IOLoop.current()
        loop.add_callback(opened, f"http://{HOST}:{port}/?{TOKEN}={token}")
        try:
            loop.start()
        finally:
            server.stop()


def _free(port: int) -> int:
    """Return a port that is free, which is the given one unless that is 0."""
    with socket.socket() as tried:
        try:
            tried.bind((HOST, port))
        except OSError as error:
            raise UserError(f"--port {port}: {error.strerror}; leave it out for any free one") from error
        return int(tried.getsockname()[1])

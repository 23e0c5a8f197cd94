"""A headless Chromium for tests of pages, driven through pipes with the DevTools protocol."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-extensions", "--remote-debugging-pipe", "about:blank",
)  # fmt: skip


class Browser:
    """A page in a browser, with the requests and the messages of its console since the last `open`."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = os.fdopen(commands, "wb", 0), os.fdopen(answers, "rb", 0)
        self._number, self._rest, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []

    def start(self) -> None:
        """Open an empty page."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol, and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = self._answers.read(1 << 20)
            assert more, "the browser has ended"
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def open(self, path: Path, *, width: int = 1280, height: int = 900, script: bool = True) -> Self:
        """Open a file, and wait until it is loaded."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(e.get("method") == "Page.loadEventFired" for e in self.events):
            self.events.append(self._receive())
        return self

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in JavaScript."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def press(self, key: str, code: int = 0, text: str = "") -> None:
        """Press and release a key."""
        key_down = {"text": text} if text else {}
        for kind in ("keyDown", "keyUp"):
            extra = key_down if kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **extra
            )

    def click(self, selector: str, across: float = 0.5) -> None:
        """Click into an element, at a fraction of its width."""
        script = f"(() => {{ const e = document.querySelector({selector!r}); e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; }})()"
        x, y, width, height = self.evaluate(script)
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=x + across * width,
                y=y + height / 2,
                button="left",
                clickCount=1,
            )

    def screenshot(self, path: Path) -> Path:
        """Write a picture of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    @property
    def requests(self) -> list[str]:
        """The addresses that were requested, without data URIs."""
        events = [e for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        urls = [str(e["params"]["request"]["url"]) for e in events]
        return [url for url in urls if not url.startswith("data:")]

    @property
    def complaints(self) -> list[dict[str, Any]]:
        """The messages of the console, exceptions, and entries of the log."""
        kinds = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded")
        return [e for e in self.events if e.get("method") in kinds]

    def close(self) -> None:
        """End the browser."""
        with suppress(OSError, AssertionError):
            self._session = ""
            self.call("Browser.close")
        self._commands.close()
        self._answers.close()


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser; skip the test if there is none."""
    program = next((p for p in PROGRAMS if shutil.which(p)), None)
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command_in, command_out = os.pipe()
        answer_in, answer_out = os.pipe()
        line = f'exec "$@" 3<&{command_in} 4>&{answer_out}'
        process = subprocess.Popen(
            ["bash", "-c", line, "bash", program, f"--user-data-dir={profile}", *OPTIONS],
            pass_fds=(command_in, answer_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_in)
        os.close(answer_out)
        browser = Browser(command_out, answer_in)
        try:
            browser.start()
            yield browser
        finally:
            browser.close()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

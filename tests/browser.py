"""A headless Chromium for tests of pages, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


class Browser:
    """A page in a browser, with the requests and the messages of its console since the last `open`."""

    def __init__(self, browser: Any) -> None:
        self._browser = browser
        self.page: Any = None
        self.requests: list[str] = []
        """The addresses that were requested, without data URIs."""
        self.complaints: list[str] = []
        """The messages of the console, and exceptions."""

    def open(self, path: Path | str, *, width: int = 1280, height: int = 900, script: bool = True) -> Self:
        """Open a file or an address, and wait until it is loaded."""
        if self.page is not None:
            self.page.context.close()
        size: Any = {"width": width, "height": height}
        self.page = self._browser.new_context(viewport=size, java_script_enabled=script).new_page()
        self.requests.clear()
        self.complaints.clear()
        self.page.on("request", lambda request: self._requested(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(path if isinstance(path, str) else path.resolve().as_uri())
        return self

    def another(self) -> Browser:
        """Return another window of the same browser, in which nothing is open."""
        return Browser(self._browser)

    def _requested(self, url: str) -> None:
        if not url.startswith("data:"):
            self.requests.append(url)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in JavaScript."""
        return self.page.evaluate(expression)

    def press(self, key: str) -> None:
        """Press and release a key."""
        self.page.keyboard.press(key)

    def click(self, selector: str, across: float = 0.5) -> None:
        """Click into an element, at a fraction of its width."""
        box = self.page.locator(selector).bounding_box()
        self.page.locator(selector).click(position={"x": across * box["width"], "y": box["height"] / 2})

    def screenshot(self, path: Path) -> Path:
        """Write a picture of the whole page."""
        self.page.screenshot(path=path, full_page=True)
        return path


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser; skip the test if there is none."""
    program = next((found for p in PROGRAMS if (found := shutil.which(p))), None)
    if program is None:
        pytest.skip("no Chromium: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
    with playwright.sync_playwright() as started:
        # Chromium refuses to run in its sandbox as root, as in containers.
        browser = started.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield Browser(browser)
        finally:
            browser.close()

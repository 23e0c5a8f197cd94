"""The page of `lucidcube tune` in a browser, served by the command in a process of its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

if find_spec("panel") is None:
    pytest.skip("no Panel: pip install lucidcube[gui]", allow_module_level=True)

from browser import Browser, chromium
from commands import call
from lucidcube.config.load import load
from lucidcube.errors import UserError
from lucidcube.io.regions import const_regions
from lucidcube.simulate import Scene, write_scene

UP_TO_DATE = "The images are up to date"
HOSTILE = "<img src=x onerror=alert(1)>.yaml"
CONFIG = """\
# second night
target:
  input: FOLDER/target.fits   # the object
  stages: [noise, {artefacts: {method: ssa}}, mask: {cut: 5, grow: null}, {interpolate: {method: linear}}]
star: {psf: {model: moffat, fwhm: 3}}
deconvolve: {method: lucy_richardson, n_iter: 8}   # quick
output: {path: FOLDER/sharp.fits}
profile: synchronous
"""


class Served(NamedTuple):
    """A running command: its config, its address and its process."""

    config: Path
    address: str
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small scene."""
    folder = tmp_path_factory.mktemp("tune")
    write_scene(Scene(shape=(8, 31, 31), seed=4, wavelength_step=1e-9), folder)
    return folder


@contextmanager
def serving(scene: Path, folder: Path, text: str = CONFIG) -> Iterator[Served]:
    """Serve the page about a scene with a config in another folder, which has a hostile name."""
    config = folder / HOSTILE
    config.write_text(text.replace("FOLDER/sharp", f"{folder}/sharp").replace("FOLDER", str(scene)))
    command = [sys.executable, "-m", "lucidcube", "tune", str(config), "--no-open"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    timer = threading.Timer(120, process.kill)
    timer.start()
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:"), process.communicate()
        yield Served(config, address, process)
    finally:
        timer.cancel()
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def served(scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve a page whose config no test changes."""
    with serving(scene, tmp_path_factory.mktemp("served")) as running:
        yield running


@pytest.fixture
def own(scene: Path, tmp_path: Path) -> Iterator[Served]:
    """Serve a page for one test, which may change its config."""
    with serving(scene, tmp_path) as running:
        yield running


@contextmanager
def opened(served: Served) -> Iterator[Browser]:
    """Open the page in a browser."""
    with chromium() as browser:
        yield shown(browser, served)


def shown(browser: Browser, served: Served) -> Browser:
    """Open the page, and wait for its first result."""
    browser.open(served.address, width=1400)
    wait_for(browser, UP_TO_DATE)
    browser.page.wait_for_function("Bokeh.documents[0].get_model_by_name('outline') !== null")
    return browser


@pytest.fixture
def page(served: Served) -> Iterator[Browser]:
    with opened(served) as browser:
        yield browser


@pytest.fixture
def own_page(own: Served) -> Iterator[Browser]:
    with opened(own) as browser:
        yield browser


def wait_for(browser: Browser, text: str) -> None:
    browser.page.locator("#status", has_text=text).wait_for(timeout=60_000)


def source(browser: Browser, name: str) -> Any:
    """Return the data of a source of the images, without their pixels."""
    script = f"""(() => {{ const d = Bokeh.documents[0].get_model_by_name({name!r}).data;
        return Object.fromEntries(['xs', 'ys', 'x', 'y', 'width', 'height'].filter(k => k in d)
            .map(k => [k, [...d[k]].map(v => v.length ? [...v] : v)])); }})()"""
    return browser.evaluate(script)


def wait_for_another(get: Callable[[], Any], before: Any, browser: Browser) -> None:
    for _ in range(100):
        if get() != before:
            return
        browser.page.wait_for_timeout(200)
    raise AssertionError("the page is still the same")


def write_into_config(browser: Browser, served: Served) -> None:
    """Press the button, and wait for the file: a result that comes later replaces what the page says about it."""
    before = served.config.read_text()
    browser.page.get_by_text("Write these values").click()
    wait_for_another(served.config.read_text, before, browser)


def wait_for_another_outline(browser: Browser, before: Any) -> None:
    wait_for_another(lambda: source(browser, "outline"), before, browser)


def pixels(browser: Browser, name: str) -> Any:
    """Return the values of an image."""
    return browser.evaluate(f"[...Bokeh.documents[0].get_model_by_name('pixels {name}').data.value[0]]")


def status_of(address: str, **headers: str) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers)) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def status_of_websocket(address: str, origin: str) -> int:
    """Return the status with which a request for a websocket is answered; 101 accepts it."""
    host, _, path = address.removeprefix("http://").partition("/")
    name, _, port = host.partition(":")
    lines = [
        f"GET /{path} HTTP/1.1", f"Host: {host}", f"Origin: {origin}", "Upgrade: websocket", "Connection: Upgrade",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13",
    ]  # fmt: skip
    with socket.create_connection((name, int(port)), timeout=10) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        return int(connection.recv(1000).split()[1])


@pytest.mark.slow
def test_the_token_is_needed(served: Served) -> None:
    base, token = served.address.split("?token=")
    assert len(token) >= 32
    assert status_of(served.address) == 200
    port = base.rstrip("/").rpartition(":")[2]
    for path in ("", "?token=", f"?token={token[:-1]}x", f"?x={token}"):
        assert status_of(base + path) == 403, path
        assert status_of(base + path, Cookie=f"token-{port}=wrong") == 403
        assert status_of_websocket(f"{base}ws{path}", base.rstrip("/")) == 403, path
    assert status_of(base + "autoload.js?bokeh-autoload-element=a&bokeh-absolute-url=b") == 403
    assert status_of(base, Cookie=f"token-{port}={token}") == 200
    assert status_of_websocket(f"{base}ws?token={token}", "http://example.org") == 403


@pytest.mark.slow
def test_other_machines_cannot_connect(served: Served) -> None:
    port = int(served.address.split(":")[2].split("/")[0])
    with socket.socket() as other:
        other.settimeout(2)
        assert other.connect_ex(("127.0.0.2", port)) != 0  # also a loopback address, and not the one served


@pytest.mark.slow
def test_the_page_loads_nothing_from_elsewhere_and_escapes_names(page: Browser, served: Served) -> None:
    base = served.address.split("/?")[0]
    assert all(url.startswith((base, base.replace("http", "ws"), "blob:")) for url in page.requests)
    assert not [text for text in page.complaints if "rror" in text]
    assert page.page.locator("h1").inner_text() == f"Tune {HOSTILE}"
    assert page.page.locator("img[src='x']").count() == 0
    for label in ("Plane", "Cut (standard deviations)", "Method", "Region file", "iterations (n_iter)"):
        assert page.page.get_by_text(label).first.is_visible(), label
    assert page.page.locator("#numbers").inner_text().startswith("marked pixels")


@pytest.mark.slow
def test_the_cut_moves_the_outline_and_the_result_follows(page: Browser, tmp_path: Path) -> None:
    before, after = source(page, "outline"), pixels(page, "after")
    field = page.page.locator(".bk-input").first
    field.fill("1.5")
    field.press("Enter")
    wait_for_another_outline(page, before)
    wait_for(page, UP_TO_DATE)
    assert source(page, "outline")["xs"] != before["xs"]
    assert pixels(page, "after") != after
    assert page.screenshot(tmp_path / "page.png").stat().st_size > 30_000


def drag(browser: Browser, x: float, y: float) -> None:
    """Drag by 60 and 40 pixels from a place, in parts of the first image, with shift held."""
    mouse, keyboard = browser.page.mouse, browser.page.keyboard
    left, top = place(browser, x, y)
    keyboard.down("Shift")
    mouse.move(left, top)
    mouse.down()
    mouse.move(left + 30, top + 20)
    mouse.move(left + 60, top + 40, steps=4)
    mouse.up()
    keyboard.up("Shift")


def place(browser: Browser, x: float, y: float) -> tuple[float, float]:
    """Return the position on the page of a place in the first image."""
    box = browser.page.locator(".bk-Figure").first.bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def draw_triangle(browser: Browser) -> None:
    """Draw a polygon as the page says: a long press, a click, a long press."""
    mouse = browser.page.mouse
    for corner, milliseconds in (((0.2, 0.6), 500), ((0.4, 0.6), 0), ((0.3, 0.8), 500)):
        mouse.move(*place(browser, *corner), steps=3)
        mouse.down()
        browser.page.wait_for_timeout(milliseconds)
        mouse.up()
        browser.page.wait_for_timeout(400)  # two clicks would be a double-click


@pytest.mark.slow
def test_regions_are_drawn_saved_and_marked(own_page: Browser, own: Served) -> None:
    own_page.page.locator("[title*='Draw boxes']").click()
    drag(own_page, 0.4, 0.4)
    own_page.page.locator("[title*='Draw ellipses']").click()
    drag(own_page, 0.2, 0.2)
    own_page.page.locator("[title*='Draw polygons']").click()
    draw_triangle(own_page)
    box, ellipse, polygon = (source(own_page, name) for name in ("boxes", "ellipses", "polygons"))
    assert [len(box["x"]), len(ellipse["x"]), len(polygon["xs"])] == [1, 1, 1]
    before = source(own_page, "outline")
    own_page.page.get_by_text("Save drawn regions").click()
    wait_for_another_outline(own_page, before)
    wait_for(own_page, UP_TO_DATE)
    path = own.config.with_suffix(".reg")
    areas = [
        box["width"][0] * abs(box["height"][0]),
        np.pi / 4 * ellipse["width"][0] * abs(ellipse["height"][0]),
        _area(polygon["xs"][0], polygon["ys"][0]),
    ]
    assert min(areas) > 5
    (group,) = const_regions([path])
    assert group.mask(0, (31, 31)).sum() == pytest.approx(sum(areas), rel=0.2)
    write_into_config(own_page, own)
    assert load(own.config).stages("target")[2].flat()["const_regions"] == [str(path)]


def _area(x: list[float], y: list[float]) -> float:
    return float(abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2)


@pytest.mark.slow
def test_a_cut_by_channel_has_a_slider_for_each(scene: Path, tmp_path: Path) -> None:
    by_channel = CONFIG.replace("cut: 5", "cut: [[0, 5], [3, 6]]")
    with serving(scene, tmp_path, by_channel) as own, opened(own) as page:
        before = source(page, "outline")
        assert page.page.get_by_text("Cut at channel 3 (standard deviations)").is_visible()
        field = page.page.locator(".bk-input").nth(1)
        field.fill("1")
        field.press("Enter")
        wait_for_another_outline(page, before)
        wait_for(page, UP_TO_DATE)
        write_into_config(page, own)
        assert load(own.config).stages("target")[2].flat()["cut"] == [[0, 5], [3, 1]]


@pytest.mark.slow
def test_values_are_written_with_comments_kept_and_wrong_ones_are_refused(
    own_page: Browser, own: Served
) -> None:
    before = own.config.read_text()
    iterations = own_page.page.get_by_label("iterations (n_iter)")
    iterations.fill("13")
    iterations.press("Enter")
    wait_for(own_page, UP_TO_DATE)
    own_page.page.get_by_label("Method").select_option("map")
    wait_for(own_page, UP_TO_DATE)
    smoothness = own_page.page.get_by_label("mu", exact=True)
    smoothness.fill("-1")
    smoothness.press("Enter")
    wait_for(own_page, "deconvolve.mu")
    own_page.page.get_by_text("Write these values").click()
    wait_for(own_page, "deconvolve.mu")
    assert own.config.read_text() == before
    smoothness.fill("0.2")
    smoothness.press("Enter")
    wait_for(own_page, UP_TO_DATE)
    write_into_config(own_page, own)
    made, text = load(own.config).deconvolve, own.config.read_text()
    assert made is not None
    assert (made.flat()["method"], made.flat()["mu"]) == ("map", 0.2)
    assert "# second night" in text
    assert "# the object" in text


@pytest.mark.slow
def test_two_tabs_have_results_of_their_own(page: Browser, served: Served) -> None:
    """A tab that is waiting gets its result, although another one asks for planes meanwhile."""
    other = shown(page.another(), served)
    before = pixels(page, "after")
    for tab, cut in ((page, "1.5"), (other, "2.0"), (other, "1.2")):
        field = tab.page.locator(".bk-input").first
        field.fill(cut)
        field.press("Enter")
    for tab in (page, other):
        wait_for_another(lambda tab=tab: pixels(tab, "after"), before, tab)  # type: ignore[misc]
    assert pixels(page, "after") != pixels(other, "after")


@pytest.mark.slow
def test_interruption_ends_quietly_after_the_changes_were_printed(own_page: Browser, own: Served) -> None:
    iterations = own_page.page.get_by_label("iterations (n_iter)")
    iterations.fill("13")
    iterations.press("Enter")
    wait_for(own_page, UP_TO_DATE)
    write_into_config(own_page, own)
    own.process.send_signal(signal.SIGINT)
    out, err = own.process.communicate(timeout=30)
    assert own.process.returncode == 0
    assert "n_iter" in out
    assert not err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("target: {input: a.fits, stages: [noise]}", "there is nothing to tune"),
        ("target: [", "not YAML"),
        ("target: {input: /nowhere/a.fits, stages: [{artefacts: {method: ssa}}, mask]}\nstar: {psf: {model: moffat, fwhm: 3}}\ndeconvolve: {}", "no folder /nowhere"),
    ],
)  # fmt: skip
def test_a_bad_config_is_one_line(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    code, _, err = call(capsys, "tune", path)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert message in err


def test_a_port_that_is_in_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(CONFIG)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        code, _, err = call(capsys, "tune", path, "--port", other.getsockname()[1])
    assert code == 2
    assert len(err.splitlines()) == 1
    assert "leave it out" in err


@pytest.mark.parametrize("kind", ["file", "folder", "pipe", "link"])
def test_regions_replace_no_file_that_was_there(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("panel")
    from lucidcube.tune.page import TunePage

    path, other = tmp_path / "bad.reg", tmp_path / "other"
    other.write_text("mine")
    makers: dict[str, Callable[[], object]] = {
        "file": lambda: path.write_text("mine"),
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to(other),
    }
    makers[kind]()
    page = SimpleNamespace(_images=object(), _region_file=SimpleNamespace(value=str(path)), _written=set())
    with pytest.raises(UserError, match="bad.reg (exists; give another name$|is )") as caught:
        TunePage._write_regions(page)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    assert other.read_text() == "mine"


def test_without_panel_the_extra_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "panel", None)
    code, _, err = call(capsys, "tune", tmp_path / "run.yaml")
    assert code == 2
    assert err == 'lucidcube: lucidcube tune needs more packages: pip install "lucidcube[gui]"\n'

"""Build the site of the documentation, which runs its examples, and look at its pages."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from browser import chromium
from locations import ROOT
from lucidcube.stages.base import REGISTRY

DOCS = ROOT / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.md"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site as `make docs` does: warnings are errors, and so are cells of examples that fail.

    All examples are executed, because the cache notices changes of their text only, and not of the program.
    """
    pytest.importorskip("sphinx", reason="the site needs lucidcube[docs]")
    folder = tmp_path_factory.mktemp("site")
    options = ["--fail-on-warning", "--keep-going", "--quiet", "--doctree-dir", str(folder / "doctrees")]
    options += ["--define", f"nb_execution_cache_path={folder / 'executed'}"]
    command = [sys.executable, "-m", "sphinx", *options, str(DOCS), str(folder / "html")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder / "html"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_site_is_complete(site: Path) -> None:
    files = (page for page in site.rglob("*.html") if "_static" not in page.parts)
    pages = {page.relative_to(site).with_suffix("").as_posix(): page.read_text() for page in files}
    assert {f"stages/{name}" for name in REGISTRY} < pages.keys()
    for name, page in pages.items():
        article = page.partition("<article")[2].partition("</article>")[0]
        assert name in ("search", "genindex") or len(re.sub("<.*?>", "", article)) > 100, f"{name} is empty"
        for image in re.findall("<img .*?>", article):
            said = re.search(r'alt="[^"]{12,}(?<!\.png)"', image)
            assert said or name.startswith("notebooks/"), f"{name}: {image}"
        assert "https://cdn" not in page, f"{name} needs a network"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_check_their_numbers_and_show_pictures(site: Path, notebook: Path) -> None:
    """A cell that fails ends the build."""
    assert "assert" in notebook.read_text()
    page = (site / "notebooks" / f"{notebook.stem}.html").read_text()
    assert page.count("<img") >= 3


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) >= 2


def test_texts_about_methods_belong_to_stages() -> None:
    for path in (DOCS / "methods").glob("*.md"):
        assert path.stem in REGISTRY
        assert path.read_text().startswith(f"# {path.stem}: ")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_pages_fit_into_a_window_and_need_no_network(site: Path) -> None:
    names = (
        "index",
        "stages/fit_psf",
        "quality",
        "troubleshooting",
        "examples/planet",
        "reference/variables",
    )
    with chromium() as browser:
        for name in names:
            for width in (400, 1280):
                page = browser.open(site / f"{name}.html", width=width)
                wide = page.evaluate("document.documentElement.scrollWidth")
                assert wide <= width, f"{name} is {wide} pixels wide in a window of {width}"
                assert all(url.startswith("file:") for url in page.requests)

"""Check that the pages of the repository agree with each other and with the program."""

import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml

from locations import ROOT
from lucidcube import __version__, load_config
from lucidcube.cli.app import app

RECORDS = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "example_data").glob("*.md")]
GUIDE = ROOT / "docs" / "adding-a-stage.md"
HEADINGS = ["Context", "Decision", "Alternatives", "Consequences", "Evidence"]
FOLDERS = "benchmarks|configs|deploy|docs|example_data|src|tests"

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


def fenced(page: Path, language: str = "") -> list[str]:
    """Return the code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)


@every_page
def test_links_point_to_existing_files(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#\s]*)[^)]*\)", text):
        if target and not target.startswith(("http:", "https:")):
            assert (page.parent / target).exists(), target


@every_page
def test_named_files_exist(page: Path) -> None:
    for name in re.findall(rf"`((?:{FOLDERS})/[\w./-]*)", page.read_text()):
        assert "flatten" in name or (ROOT / name).exists(), name


@pytest.mark.parametrize("record", RECORDS, ids=lambda p: p.stem)
def test_decision_records_have_one_form_and_are_short(record: Path) -> None:
    text = record.read_text()
    number = int(record.name[:4])
    assert [r.name[:4] for r in RECORDS].count(record.name[:4]) == 1
    assert text.startswith(f"# {number}. ")
    assert re.search(r"^- Status: (proposed|accepted|replaced by \d+)$", text, re.M)
    assert re.search(r"^- Date: \d{4}-\d\d-\d\d", text, re.M)
    assert re.findall(r"^## (.*)", text, re.M) == HEADINGS
    assert len(text.splitlines()) <= 60


def test_the_index_lists_every_record_with_its_title() -> None:
    listed = re.findall(
        r"^\| \[\d{4}\]\((.*?)\) \| (.*) \|$", (RECORDS[0].parent / "README.md").read_text(), re.M
    )
    titles = [(r.name, r.read_text().splitlines()[0].partition(". ")[2]) for r in RECORDS]
    assert listed == titles


def commands() -> list[str]:
    blocks = [block for page in PAGES if page != GUIDE for block in fenced(page)]
    return [line for block in blocks for line in block.splitlines() if line.startswith("lucidcube ")]


@pytest.mark.parametrize("line", commands())
def test_commands_on_the_pages_are_valid(line: str) -> None:
    words = shlex.split(line.partition(" > ")[0], comments=True)  # without what the shell does
    app.parse_args(words[1:], exit_on_error=False, print_error=False)


def test_the_configs_in_the_readme_are_valid(tmp_path: Path) -> None:
    # The second names a region file, which is read with the stage and not with the config.
    for text in fenced(ROOT / "README.md", "yaml"):
        (tmp_path / "my.yaml").write_text(text)
        assert load_config([tmp_path / "my.yaml"]).target.stages


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    sections = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert sections[0] == "Unreleased"
    assert __version__ in sections


@pytest.mark.slow
def test_the_guide_to_adding_a_stage_works(tmp_path: Path) -> None:
    for folder in ("kernels", "stages"):
        (tmp_path / folder).mkdir()
    kernel, test, stage, _ = fenced(GUIDE, "python")
    (tmp_path / "kernels" / "flatten.py").write_text(kernel)
    (tmp_path / "stages" / "flatten.py").write_text(stage)
    script = textwrap.dedent("""
        import sys, numpy, lucidcube.kernels, lucidcube.stages
        lucidcube.kernels.__path__.append(sys.argv[1] + "/kernels")
        lucidcube.stages.__path__.append(sys.argv[1] + "/stages")
        from lucidcube.cube import from_arrays
        from lucidcube.stages.flatten import Flatten
        plane = numpy.full((3, 20, 30), 7, numpy.float32)
        flat = Flatten(sigma=2.0)(from_arrays(plane, [1e-6, 2e-6, 3e-6], variance=plane))
        numpy.testing.assert_allclose(flat["data"], 1, rtol=1e-6)
        assert "variance" not in flat
        """)
    script += test + "\n\ntest_a_constant_plane_becomes_one()\n"
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr

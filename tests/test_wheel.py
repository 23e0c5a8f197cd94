"""The wheel and the sdist are complete: the program works from an installed wheel, without the repository."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from astropy.io import fits

from commands import call
from locations import ROOT
from lucidcube.report.citation import bibtex, citation

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RECIPE = ROOT / "deploy" / "conda" / "recipe.yaml"
CONDA_NAMES = {"dask[array]": "dask-core", "matplotlib": "matplotlib-base"}
"""Names that differ between PyPI and conda-forge."""


def split(requirement: str) -> tuple[str, str]:
    """Return the name, with its extras, and the bound of a requirement."""
    found = re.fullmatch(r"([\w.-]+(?:\[[\w,]+\])?)\s*(.*)", requirement)
    assert found, requirement
    return found[1], found[2]


class Installed:
    """A fresh environment in which the wheel is installed, beside the packages of this one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        build(folder, "build_wheel")
        (wheel,) = folder.glob("*.whl")
        venv.create(folder / "venv", with_pip=False)
        self.python = folder / "venv" / "bin" / "python"
        pip = [sys.executable, "-m", "pip", "--python", self.python]
        options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", *options, wheel], check=True)
        (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
        # Paths in it are searched after those of the environment itself; .pth files in them are not read.
        (site / "others.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")

    def run(self, *arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run the command that was installed, in a folder without the repository."""
        command = [self.folder / "venv" / "bin" / "lucidcube", *map(str, arguments)]
        hidden = ("PYTHONPATH", "DISPLAY", "WAYLAND_DISPLAY")
        clean = {key: value for key, value in os.environ.items() if key not in hidden}
        done = subprocess.run(
            command, cwd=self.folder, env=clean, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done


def build(folder: Path, hook: str) -> None:
    """Build in a process of its own, because the backend reads the working directory."""
    program = f"import sys, hatchling.build as b; b.{hook}(sys.argv[1])"
    subprocess.run([sys.executable, "-c", program, folder], cwd=ROOT, check=True, capture_output=True)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    return Installed(tmp_path_factory.mktemp("wheel"))


@pytest.mark.slow
def test_it_is_the_installed_package(installed: Installed) -> None:
    program = "import lucidcube; print(lucidcube.__file__)"
    done = subprocess.run(
        [installed.python, "-c", program], cwd=installed.folder, capture_output=True, text=True, check=True,
        env={key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
    )  # fmt: skip
    assert done.stdout.startswith(str(installed.folder))


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel(installed: Installed) -> None:
    done = installed.run("demo", "--quiet")
    product, page = (installed.folder / line for line in done.stdout.splitlines())
    assert (product.name, page.suffix) == ("deconvolved.fits", ".html")
    with fits.open(product) as hdus:
        assert hdus["DECONVOLVED"].shape[1:] == (61, 61)
    assert "<html" in page.read_text()
    again = installed.run("demo", "--no-open")
    assert again.stdout == done.stdout
    (installed.folder / "lucidcube-demo" / "quickstart.yaml").write_text("target: mine.fits\n")
    assert "exists and is not that of the demo" in installed.run("demo", code=2).stderr
    assert (installed.folder / "lucidcube-demo" / "quickstart.yaml").read_text() == "target: mine.fits\n"


@pytest.mark.slow
def test_configs_come_with_the_wheel(installed: Installed) -> None:
    assert len(installed.run("config", "presets").stdout.splitlines()) > 8
    data = ROOT / "example_data"
    text = installed.run("config", "new", "planet", data / "target.fits", data / "star.fits").stdout
    (installed.folder / "my.yaml").write_text(text)
    assert installed.run("config", "check", "my.yaml").stdout == "no errors found\n"


@pytest.mark.slow
def test_the_sdist_has_what_the_wheel_needs(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="hatchling is not installed")
    build(tmp_path, "build_sdist")
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {
        "configs/planet.yaml",
        "example_data/star.fits",
        "deploy/conda/recipe.yaml",
        "CITATION.cff",
    } <= names


def test_the_demo_explains_a_folder_that_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    code, out, err = call(capsys, "demo", tmp_path / "file", "--no-open")
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert str(tmp_path / "file") in err


def test_how_to_cite(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "cite") == (0, f"{citation()}\n\n{bibtex()}\n", "")
    assert call(capsys, "cite", "--bibtex")[1] == f"{bibtex()}\n"


def test_the_recipe_has_the_requirements_of_the_package() -> None:
    recipe = yaml.safe_load(RECIPE.read_text())
    assert recipe["context"]["version"] in (ROOT / "src" / "lucidcube" / "__init__.py").read_text()
    needed = [split(text) for text in PROJECT["dependencies"]]
    wanted = [f"{CONDA_NAMES.get(name, name)} {bound}".strip() for name, bound in needed]
    assert recipe["requirements"]["run"] == ["python >=${{ python_min }}", *wanted]
    assert recipe["context"]["python_min"] == PROJECT["requires-python"].removeprefix(">=")
    assert recipe["build"]["noarch"] == "python"
    assert recipe["build"]["python"]["entry_points"] == [f"lucidcube = {PROJECT['scripts']['lucidcube']}"]
    assert recipe["about"]["license"] == PROJECT["license"]


def test_the_extra_all_has_everything_that_a_user_may_want() -> None:
    extras = PROJECT["optional-dependencies"]
    (of_all,) = extras["all"]
    assert {*re.fullmatch(r"lucidcube\[(.*)\]", of_all)[1].split(",")} == {*extras} - {
        "all", "crosscheck", "dev", "docs", "gpu", "test",
    }  # fmt: skip


def test_every_import_is_a_declared_requirement() -> None:
    """Of the package or of an extra; requirements of these do not count."""
    listed = [
        *PROJECT["dependencies"],
        *(r for group in PROJECT["optional-dependencies"].values() for r in group),
    ]
    declared = {"pydantic-core"}  # of which pydantic wants one version
    declared |= {split(text)[0].partition("[")[0].lower().replace("_", "-") for text in listed}
    distributions = packages_distributions()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            for name in {name.partition(".")[0] for name in names} - {*sys.stdlib_module_names, "lucidcube"}:
                of = {d.lower().replace("_", "-") for d in distributions.get(name, [name])}
                assert of & declared, f"{path}: {name}"

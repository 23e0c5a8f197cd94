"""Sphinx extension: pages that are made from the stages, the variables, and the files of the repository.

- A page for each stage, in the folder ``stages`` (not under version control): its description and parameters
  from the registry, with the text about its method from ``methods/NAME.md`` if there is one.
- A page for each public function, in ``reference/functions`` (not under version control).
- The page ``stages`` is the table of the stages, where the repository has one long page for all.
- The page ``reference/api`` gets the public functions and the stages as classes, from `lucidcube.__all__`.
- The page ``reference/commands`` gets the help of the commands.
- The page ``reference/variables`` gets the table of the variables of a cube, and the index of the decision
  records a list of them for the navigation.
- The pages of `COPIES` are those of the root of the repository, with their links as they are from here.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

import lucidcube
from lucidcube.cli.app import app
from lucidcube.config.describe import TEMPLATE_TRACKS, description, parameter_tables, stages_table
from lucidcube.cube import VARIABLES
from lucidcube.stages.base import REGISTRY, Stage

DOCS = Path(__file__).parents[1]
COPIES = {"contributing": "CONTRIBUTING.md", "security": "SECURITY.md", "changelog": "CHANGELOG.md"}
IN_A_RUN = [name for _, names in TEMPLATE_TRACKS.values() for name in names]
"""Stages in the order of the template; the others follow."""


def setup(sphinx: Sphinx) -> dict[str, Any]:
    """Connect this extension to Sphinx."""
    sphinx.connect("builder-inited", write_pages)
    sphinx.connect("source-read", replace_source)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def write_pages(sphinx: Sphinx) -> None:
    """Write the pages of the stages and of the public functions."""
    _write(DOCS / "stages", {f"{name}.md": stage_page(cls) for name, cls in REGISTRY.items()})
    pages = {f"{name}.md": function_page(name) for name in _functions()}
    _write(DOCS / "reference" / "functions", pages)


def _write(folder: Path, pages: Mapping[str, str]) -> None:
    """Write the pages that have changed into a folder, and remove those of former builds."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def stage_page(cls: type[Stage]) -> str:
    """Return the page of a stage."""
    lines = [f"# {cls.name}", description(cls), _names("Needs", cls.requires), _names("Makes", cls.produces)]
    method = DOCS / "methods" / f"{cls.name}.md"
    if method.exists():
        lines.append(method.read_text().partition("\n")[2].strip())
    lines.append("## Parameters")
    tables = [*parameter_tables(cls)]
    for title, table in tables:
        if len(tables) > 1:
            lines.append(f"### {title.rstrip(':')}")
        if table:
            lines.append(table)
    lines.append(
        f"`lucidcube {cls.name} --help` explains the same parameters as options of a command; in Python the "
        f"stage is `lucidcube.{cls.__name__}`."
    )
    return "\n\n".join(lines) + "\n"


def _names(verb: str, variables: tuple[str, ...]) -> str:
    """Return a line that lists variables."""
    return f"{verb}: {', '.join(f'`{v}`' for v in variables)}."


def replace_source(sphinx: Sphinx, page: str, source: list[str]) -> None:
    """Replace the text of a page that is made when the site is built."""
    if page == "stages":
        source[0] = stages_index()
    elif page == "reference/variables":
        source[0] += "\n" + variables_table()
    elif page == "reference/api":
        source[0] = source[0].replace("FUNCTIONS", functions()).replace("STAGES", classes())
    elif page == "reference/commands":
        source[0] += "\n" + commands()
    elif page == "decisions/README":
        source[0] += "\n```{toctree}\n:hidden:\n:glob:\n\n0*\n```\n"
    elif page in COPIES:
        source[0] = from_root(DOCS.parent / COPIES[page])


def stages_index() -> str:
    """Return the page that lists the stages."""
    pages = "\n".join(f"stages/{name}" for name in dict.fromkeys((*IN_A_RUN, *REGISTRY)))
    return (
        "# Stages\n\nA run applies stages to the target and to the star. Each is also a command on FITS "
        "files and a class in Python, with the same parameters and the same numbers.\n\n"
        f"{stages_table('stages/{}.md')}\n\n```{{toctree}}\n:hidden:\n\n{pages}\n```\n"
    )


def function_page(name: str) -> str:
    """Return the page of a public function."""
    return f"# lucidcube.{name}\n\n```{{eval-rst}}\n.. autofunction:: lucidcube.{name}\n```\n"


def functions() -> str:
    """Return a table of the public functions, and the pages of these."""
    table = ".. currentmodule:: lucidcube\n\n.. autosummary::\n   :nosignatures:\n\n   "
    names = "\n   ".join(_functions())
    pages = "\n".join(f"functions/{name}" for name in _functions())
    return f"```{{eval-rst}}\n{table}{names}\n```\n\n```{{toctree}}\n:hidden:\n\n{pages}\n```"


def _functions() -> list[str]:
    return [name for name in lucidcube.__all__ if name not in _stage_classes()]


def classes() -> str:
    """Return a table of the stages as classes."""
    rows = (
        f"| `lucidcube.{n}` | [{cls.name}](../stages/{cls.name}.md) | {description(cls).partition('.')[0]} |"
        for n, cls in _stage_classes().items()
    )
    return "\n".join(("| class | stage | what it does |\n|---|---|---|", *rows))


def _stage_classes() -> dict[str, type[Stage]]:
    return {cls.__name__: cls for cls in REGISTRY.values() if cls.__name__ in lucidcube.__all__}


def commands() -> str:
    """Return the help of each command, except for those of the stages, which have pages of their own."""
    sections = re.split("^(?=## )", app.generate_docs(usage_name="lucidcube"), flags=re.M)[1:]
    hidden = {"## Table of Contents", *(f"## lucidcube {name}" for name in REGISTRY)}
    shown = [s for s in sections if s.partition("\n")[0].strip() not in hidden]
    return "".join(shown).replace("](AXES)", "\\](AXES)")  # no link


def variables_table() -> str:
    """Return a table of the variables that a cube may have."""
    rows = (f"| `{n}` | {', '.join(v.dims)} | {v.meaning} |" for n, v in VARIABLES.items())
    return "\n".join(("| variable | dimensions | meaning |\n|---|---|---|", *rows)) + "\n"


def from_root(path: Path) -> str:
    """Return a page of the root of the repository, with links relative to the folder of the documentation."""

    def link(found: re.Match[str]) -> str:
        target = found[1]
        copied = {name: f"{page}.md" for page, name in COPIES.items()}.get(target)
        if target.startswith(("http:", "https:", "#", "docs/")) or copied:
            return f"]({copied or target.removeprefix('docs/')}"
        return f"](../{target}"

    return re.sub(r"\]\(([^)\s]+)", link, path.read_text())

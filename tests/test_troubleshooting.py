"""Check that the messages in `docs/troubleshooting.md` are those of the program."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from locations import ROOT

SOURCE = sorted((ROOT / "src" / "lucidcube").rglob("*.py"))
GAP = "\0"
"""Stands for a value that is put into a text."""


def text_of(node: ast.AST) -> str | None:
    """Return the text of a string in the source, with gaps for its values, or None if it is no string."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or GAP for part in node.values)
    return None


def texts(path: Path) -> Iterator[str]:
    yield from filter(None, map(text_of, ast.walk(ast.parse(path.read_text()))))


def documented() -> list[str]:
    """Return the messages in the first column of the tables."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    return re.findall(r"^\| `(.*?)` \|", page, re.M)


def pattern(message: str) -> re.Pattern[str]:
    return re.compile(".*".join(re.escape(part.strip()) for part in message.split("...")), re.S)


@pytest.fixture(scope="module")
def every_text() -> list[str]:
    return [text for path in SOURCE for text in texts(path)]


@pytest.mark.parametrize("message", documented())
def test_a_documented_message_occurs_in_the_source(message: str, every_text: list[str]) -> None:
    assert any(pattern(message).search(text) for text in every_text), message


def warnings_of_stages() -> list[str]:
    trees = (ast.parse(path.read_text()) for path in SOURCE if path.parent.name == "stages")
    yields = (n.value for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Yield) and n.value)
    return [text for text in map(text_of, yields) if text]


@pytest.mark.parametrize("warning", warnings_of_stages())
def test_every_warning_of_a_stage_is_documented(warning: str) -> None:
    assert any(pattern(message).search(warning) for message in documented()), warning

"""Call the command line in the process of the tests."""

from __future__ import annotations

from typing import Any

import pytest

from lucidcube.cli.app import main


def call(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Run a command, and return its exit code and what it wrote to stdout and stderr."""
    code: Any = 0
    try:
        main([str(a) for a in arguments])
    except SystemExit as done:
        code = done.code
    out, err = capsys.readouterr()
    return code, out, err

"""Where the tests find the files of the repository and the shared data."""

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
ORACLE = TESTS / "oracle"
"""Recorded outputs of the reference program."""
SHARED = Path(os.environ.get("LUCIDCUBE_SHARED", ROOT.parent / "shared"))
"""Real and recorded data beside the repository; tests that need them are skipped where they are absent."""

"""Paths of the repository and of the shared data."""

import os
from pathlib import Path

TESTS = Path(__file__).resolve().parent
ROOT = TESTS.parent
ORACLE = TESTS / "oracle"
"""Recorded outputs of the reference program."""
SHARED = Path(os.environ.get("LUCIDCUBE_SHARED", ROOT.parent / "shared"))
"""Real and recorded data next to the repository; tests that need them are skipped if they are absent."""

"""Damaged files of every kind: an answer or one line each, within limits of time, memory and disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hostile.fuzz import KINDS, SECONDS


def fuzz(kind: str, seed: int, count: int, folder: Path) -> None:
    tests = Path(__file__).parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*sys.path, str(tests)]),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(tests / "hostile" / "fuzz.py"), kind, str(seed), str(count), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["failures"] == []
    assert found["cases"] == count
    assert found["seconds"] < SECONDS + 5
    assert found["memory"] < 1024
    assert found["disk"] < 4


def test_some_damaged_files(tmp_path: Path) -> None:
    fuzz("fits", 0, 10, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, *(pytest.param(s, marks=pytest.mark.exhaustive) for s in (2, 3, 4))])
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files(tmp_path: Path, kind: str, seed: int) -> None:
    fuzz(kind, seed, 60 if seed == 1 else 100, tmp_path)

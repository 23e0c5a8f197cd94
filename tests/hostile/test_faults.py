"""Disks that fail at any call: one line, a documented exit code, no half-written product, and a restart that works."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from lucidcube.simulate import Scene, write_scene

pytestmark = pytest.mark.slow  # each run has a process of its own

CALLS = ("open", "write", "fsync", "rename", "unlink", "read")
SHIM = Path(__file__).with_name("failing_calls.c")
FORK_SERVER = """
import ctypes, json, os, sys
from lucidcube.cli import app as cli
from lucidcube.runner import pipeline
import lucidcube.runner.compute, lucidcube.cli.console, lucidcube.cli.stage_commands, lucidcube.cli.run_command
faults = ctypes.CDLL(os.environ["LD_PRELOAD"])
for line in sys.stdin:
    order = json.loads(line)
    child = os.fork()
    if not child:
        os.chdir(order["folder"])
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(os.open("../log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        faults.faults_set(order["folder"].encode(), *order["fault"])
        try:
            cli.main(["run", "../run.yaml", "--quiet", "--no-report", "--profile", "synchronous"])
            code = 0
        except SystemExit as done:
            code = done.code or 0
        except BaseException:
            import traceback
            traceback.print_exc()
            code = 99
        counts = [faults.faults_count(call) for call in range(6)]
        faults.faults_set(b"", -1, 0, 0, 0)
        with open("../counts.json", "w") as file:
            json.dump(counts, file)
        sys.stderr.flush()
        os._exit(code)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""
"""A program that imports everything once, and then makes each run in a process of its own."""


class Faults(NamedTuple):
    """Runs with a call that fails, of files in a folder of their own; and what they make without a failure."""

    process: subprocess.Popen[str]
    folder: Path
    counts: dict[str, int]
    product: bytes

    def run(self, *fault: int) -> int:
        """Run the config with a fault: the call, its number, the error, and whether it lasts."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        order = {"folder": str(self.folder / "in"), "fault": fault or (-1, 0, 0, 0)}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def said(self) -> list[str]:
        return (self.folder / "log.txt").read_text().splitlines()

    def begin(self) -> None:
        """Put the inputs into an empty folder."""
        shutil.rmtree(self.folder / "in", ignore_errors=True)
        shutil.copytree(self.folder / "files", self.folder / "in")


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faults]:
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("calls are made to fail by a library that needs a C compiler and Linux")
    folder = tmp_path_factory.mktemp("faults")
    library = folder / "failing_calls.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, SHIM, "-ldl"], check=True)
    write_scene(Scene(shape=(4, 21, 21), seed=3, wavelength_step=0.5e-9), folder / "files")
    values: dict[str, Any] = {
        "target": {"input": "target.fits", "stages": [{"interpolate": {"method": "linear"}}]},
        "star": {"input": "star.fits", "stages": ["normalise_psf"]},
        "deconvolve": {"method": "lucy_richardson", "n_iter": 3},
        "output": {"path": "out.fits"},
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(values))
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", FORK_SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True, env=os.environ | {"LD_PRELOAD": str(library)},
    ) as process:  # fmt: skip
        made = Faults(process, folder, {}, b"")
        made.begin()
        assert made.run() == 0, made.said()
        counts = json.loads((folder / "counts.json").read_text())
        yield made._replace(
            counts=dict(zip(CALLS, counts, strict=True)), product=(folder / "in" / "out.fits").read_bytes()
        )
        assert process.stdin is not None
        process.stdin.close()


def check(faults: Faults, call: str, fraction: float, error: int, *, lasting: bool) -> int:
    """Let a call fail, as a fraction of those that a run makes; return the exit code of that run."""
    number = 1 + round(fraction * (faults.counts[call] - 1))
    faults.begin()
    code = faults.run(CALLS.index(call), number, error, lasting)
    said, product = faults.said(), faults.folder / "in" / "out.fits"
    assert code in (0, 1, 2), said
    assert not any("Traceback" in line for line in said), said
    begins = "target.work/in-use cannot be removed" if (code, call) == (0, "unlink") else "lucidcube: "
    assert all(line.startswith(begins) for line in said), said
    if code == 0:
        assert product.read_bytes() == faults.product
    else:
        assert 1 <= len(said) <= 2, said
        assert os.strerror(error) in said[0]
        assert not product.exists() or product.read_bytes() == faults.product
        product.unlink(missing_ok=True)
        assert faults.run() == 0, faults.said()
        assert product.read_bytes() == faults.product
        assert not [p.name for p in (faults.folder / "in").iterdir() if p.name.endswith(".part")]
    return code


def test_the_calls_of_a_run_are_seen(faults: Faults) -> None:
    """Otherwise the tests below would prove nothing."""
    assert all(count > 0 for count in faults.counts.values()), faults.counts
    faults.begin()
    assert faults.run(CALLS.index("write"), 1, errno.EIO, 1) == 2


FAULTS = [
    ("write", 0.3, errno.EIO, False),
    ("rename", 0.5, errno.ENOSPC, True),
    ("unlink", 1, errno.EIO, False),
    ("open", 0.5, errno.EMFILE, True),
    ("write", 0.7, errno.ENOSPC, True),
    ("fsync", 1, errno.EIO, True),
    ("rename", 1, errno.EIO, True),
    ("unlink", 0.3, errno.EIO, True),
    ("read", 0, errno.EIO, False),
]


@pytest.mark.parametrize(("call", "fraction", "error", "lasting"), FAULTS)
def test_a_call_that_fails(faults: Faults, call: str, fraction: float, error: int, lasting: bool) -> None:
    check(faults, call, fraction, error, lasting=lasting)


def test_a_log_that_cannot_be_written(faults: Faults) -> None:
    """The last thing that a run writes is its log; without it the product is complete."""
    assert check(faults, "write", 1, errno.EIO, lasting=False) == 0

"""What a first run compiles: a bound on the number of functions, so that it does not grow unnoticed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from astropy.io import fits

from locations import ROOT

MOST_OURS, MOST = 24, 48
"""Limits of the compiled specialisations: of functions of lucidcube, and with those of numba that they call."""

COUNTED = """
import json, sys
from numba.core import event

class Listener(event.Listener):
    made = []
    def on_start(self, event): pass
    def on_end(self, event):
        function = event.data["dispatcher"].py_func
        self.made.append([f"{function.__module__}.{function.__name__}", str(event.data["args"])])

event.register("numba:compile", Listener())
from lucidcube.cli.app import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print(json.dumps([code or 0, Listener.made]))
"""


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_quickstart_compiles_few_functions(tmp_path: Path) -> None:
    for name in ("target", "star"):
        with fits.open(ROOT / "example_data" / f"{name}.fits") as hdus:
            middle = hdus["DATA"].shape[1] // 2
            for hdu in hdus[1:]:  # a quarter of the planes, of 25 x 25 pixels, for speed
                hdu.data = hdu.data[:16, middle - 12 : middle + 13, middle - 12 : middle + 13].copy()
            hdus.writeto(tmp_path / f"{name}.fits")
    settings = {f"{name}.input": f"{tmp_path / name}.fits" for name in ("target", "star")}
    settings |= {"output.path": tmp_path / "d.fits", "checkpoints.dir": tmp_path / "work"}
    arguments = ["run", str(ROOT / "configs" / "quickstart.yaml"), "--no-report", "--profile", "synchronous"]
    arguments += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    counts = []
    for _ in range(2):
        command = [sys.executable, "-c", COUNTED, *arguments, "--set", "output.overwrite=true"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=170)
        code, made = json.loads(done.stdout.splitlines()[-1])
        assert code == 0, done.stderr
        counts.append(len(made))
        ours = [name for name, _ in made if name.startswith("lucidcube")]
        assert len(ours) <= MOST_OURS, sorted(ours)
        assert len(made) <= MOST, sorted(made)
        # Each function has one form only: the layouts and types of its arguments do not vary.
        assert len(set(ours)) == len(ours), sorted(made)
        arguments[-1] = f"checkpoints.dir={tmp_path / 'again'}"
    assert counts[0] > 10
    assert counts[1] == 0  # a second run finds everything in the cache

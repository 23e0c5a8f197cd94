"""The command line: its start-up time, and a whole run."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from lucidcube.simulate import write_scene

from .scenes import scene

PROGRAM = str(Path(sys.executable).with_name("lucidcube"))
CONFIG = """\
target:
  input: {folder}/target.fits{{DATA}}
  stages: [rebin, artefacts, mask: {{max_dilation: 3}}, interpolate]
star:
  input: {folder}/star.fits{{DATA}}
  stages: [rebin, normalise_psf, fit_psf: {{model: radial}}]
deconvolve: {{method: clean_modified, threshold: 0.3, n_iter: 100}}
output: {{path: {folder}/deconvolved.fits}}
checkpoints: {{dir: {folder}/work, after: [rebin, artefacts, interpolate, fit_psf, deconvolve]}}
profile: laptop
"""


class StartUp:
    """Start commands that compute nothing."""

    timeout = 60.0

    def time_help(self) -> None:
        subprocess.run([PROGRAM, "--help"], check=True, stdout=subprocess.DEVNULL)

    def time_stages(self) -> None:
        """Import everything that a run needs."""
        subprocess.run([PROGRAM, "stages"], check=True, stdout=subprocess.DEVNULL)


class WholeRun:
    """Run all stages from two raw cubes to the product, with 100 iterations of CLEAN."""

    params = (61, 341)
    param_names = ("side",)
    timeout = 600.0
    repeat = 2

    def setup(self, side: int) -> None:
        self.folder = Path(tempfile.mkdtemp())
        write_scene(scene(side, 8), self.folder)
        (self.folder / "run.yaml").write_text(CONFIG.format(folder=self.folder))

    def teardown(self, side: int) -> None:
        shutil.rmtree(self.folder)

    def time_run(self, side: int) -> None:
        shutil.rmtree(self.folder / "work", ignore_errors=True)
        (self.folder / "deconvolved.fits").unlink(missing_ok=True)
        command = [PROGRAM, "run", str(self.folder / "run.yaml"), "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

"""The command line: its start-up time, and a whole run."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from lucidcube.simulate import write_scene

from .scenes import scene
from .whole_run import PROGRAM, run, write_config


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
        write_config(self.folder, "target.fits", 100)

    def teardown(self, side: int) -> None:
        shutil.rmtree(self.folder)

    def time_run(self, side: int) -> None:
        run(self.folder)

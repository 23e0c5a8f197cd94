"""Whole runs of the command line, from two raw cubes to the product, with checkpoints."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

PROGRAM = str(Path(sys.executable).with_name("lucidcube"))
CONFIG = """\
target:
  input: {folder}/{target}{{DATA}}
  stages:
    - rebin
    - artefacts: {{method: ssa}}
    - mask
    - interpolate: {{method: linear}}
star:
  input: {folder}/star.fits{{DATA}}
  stages: [rebin, normalise_psf, fit_psf: {{model: radial}}]
deconvolve: {{method: clean_modified, threshold: 0.3, n_iter: {iterations}}}
output: {{path: {folder}/out/deconvolved.fits}}
checkpoints: {{dir: {folder}/out/work, after: [rebin, artefacts, interpolate, fit_psf, deconvolve]}}
profile: laptop
"""
RECOMMENDED = """\
preset: recommended
target: {folder}/{target}{{DATA}}
star: {folder}/star.fits{{DATA}}
output: {{path: {folder}/out/deconvolved.fits}}
checkpoints: {{dir: {folder}/out/work}}
profile: laptop
"""


def write_config(folder: Path, target: str, iterations: int | None) -> None:
    """Write the config of a run on the cubes `target` and ``star.fits`` of a folder.

    `iterations` are those of CLEAN, after the methods of the reference program; None stands for the
    recommended stages.
    """
    text = RECOMMENDED if iterations is None else CONFIG
    (folder / "run.yaml").write_text(text.format(folder=folder, target=target, iterations=iterations))


def run(folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """Run the config of a folder without checkpoints and products of earlier runs."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    command = [PROGRAM, "run", str(folder / "run.yaml"), "--quiet"]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)

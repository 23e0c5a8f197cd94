"""Runs of lucidcube itself, for the methods that are ours."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lucidcube.config.load import from_plain
from lucidcube.runner.pipeline import run

from .prepare import config_of, suitable
from .scene import images


def deconvolved(scene: Path, prepared: Path, work: Path, **deconvolve: Any) -> dict[str, Any]:
    """Run lucidcube on the files of a scene; the parameters are those of the stage `deconvolve`.

    The stages before it are not computed again, because their checkpoints are those of the preparation.
    """
    shutil.copytree(prepared / "work", work / "work", dirs_exist_ok=True)
    output = {"products": ["deconvolved", "error"]}
    values = config_of(scene, work / "product.fits", suitable(scene), deconvolve=deconvolve, output=output)
    made = images(run(from_plain(values)).path)
    return {"RESULT": made["DECONVOLVED"], **{k: made[k] for k in ("ERROR",) if k in made}}

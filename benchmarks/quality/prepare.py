"""Prepare a scene for all methods: our stages before the deconvolution.

Other programs neither find artefacts nor model a star, so they get the filled cube, the noise and the PSF
that our own deconvolution gets: the comparison is between deconvolutions.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from lucidcube.config.load import from_plain, merge
from lucidcube.kernels.holes import Filled
from lucidcube.runner.pipeline import run

from .scene import images

CONFIGS = Path(__file__).parents[2] / "configs"


def config_of(scene: Path, product: Path, config: str | None, **others: Any) -> dict[str, Any]:
    """Return a config for the scene in a folder: two inputs, and the stages of a shipped config, if any."""
    values = {} if config is None else merge([CONFIGS / config])[0]
    for name in ("target", "star"):
        values[name] = {**values.get(name, {}), "input": str(scene / f"{name}.fits")}
    values["checkpoints"] = {"dir": str(product.parent / "work")}
    values["output"] = {"path": str(product), **others.pop("output", {})}
    return values | {"profile": "synchronous"} | others


def suitable(scene: Path) -> str | None:
    """Return the name of the config that suits a scene."""
    return json.loads((scene / "facts.json").read_text())["config"]


def prepare(scene: Path, folder: Path) -> float:
    """Write ``prepared.fits`` and ``inputs.fits`` for a scene; return the CPU seconds per plane.

    The first is the product of our stages. The second is what methods get that know planes only: DATA, which
    is zero outside the field, SIGMA, which is NaN where the data are not to be trusted, and PSF.
    """
    folder.mkdir(parents=True, exist_ok=True)
    products = ["deconvolved", "psf", "filled", "mask", "variance", "provenance"]
    start = time.process_time()
    values = config_of(
        scene, folder / "prepared.fits", suitable(scene), deconvolve=None, output={"products": products}
    )
    run(from_plain(values))
    spent = time.process_time() - start
    made = images(folder / "prepared.fits")
    data = made["DATA"]
    trusted = np.isfinite(data) & (made["FILLED"] == Filled.NO) & (made["STAT"] > 0)
    sigma = np.sqrt(np.where(trusted, made["STAT"], np.nan))
    hdus = [
        fits.ImageHDU(a.astype(np.float32), name=n)
        for n, a in (("DATA", np.nan_to_num(data)), ("SIGMA", sigma))
    ]
    hdus.append(fits.ImageHDU(np.nan_to_num(made["PSF"]).astype(np.float32), name="PSF"))
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(folder / "inputs.fits", overwrite=True)
    return spent / len(data)


def main() -> None:
    """Make a scene and prepare it: ``python -m benchmarks.quality.prepare OUT SCENE SIZE``."""
    from .scenes import SCENES

    out, name, size = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    for part in ("scenes", "prepared", "results"):
        shutil.rmtree(out / part / name, ignore_errors=True)
    SCENES[name](size=size).write(out / "scenes" / name)
    seconds = prepare(out / "scenes" / name, out / "prepared" / name)
    (out / "prepared" / name / "cpu.json").write_text(json.dumps(seconds))


if __name__ == "__main__":
    main()

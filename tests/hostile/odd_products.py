"""A small product, and products with another provenance."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from astropy.io import fits

from lucidcube.cli.app import main
from lucidcube.simulate import Scene, write_scene

ODD = "\x1b]0;x\x07\u009b31m\u202ea\nb"
"""Commands to a terminal, also as one character (C1), a reversal of the order of letters, a line break."""


def make_product(folder: Path) -> Path:
    """Run a short chain on a small scene, and return the product."""
    write_scene(Scene(shape=(3, 21, 21), seed=4, wavelength_step=1e-9), folder)
    config = folder / "run.yaml"
    config.write_text(
        f"target: {{input: {folder}/target.fits, stages: [noise]}}\n"
        f"output: {{path: {folder}/made.fits}}\nprofile: synchronous\n"
    )
    main(["run", str(config), "-q", "--no-report"])
    return folder / "made.fits"


def with_provenance(product: Path, path: Path, rows: Mapping[str, bytes]) -> Path:
    """Write a product with some rows of its provenance replaced, or added."""
    with fits.open(product) as hdus:
        table = hdus["PROVENANCE"].data
        old = {str(k): str(v).encode() for k, v in zip(table["KEY"], table["VALUE"], strict=True)}
        both = {**old, **rows}
        columns = [
            fits.Column(name, f"{max(map(len, values)) or 1}A", array=np.array(values, "S"))
            for name, values in (("KEY", [k.encode() for k in both]), ("VALUE", [*both.values()]))
        ]
        hdus["PROVENANCE"] = fits.BinTableHDU.from_columns(columns, name="PROVENANCE")
        hdus.writeto(path, overwrite=True)
    return path

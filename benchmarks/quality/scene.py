"""A scene: the files that a method gets, the truth, and what is to be measured.

The folder of a scene has ``target.fits`` and ``star.fits`` (DATA and STAT, the variance that the user is
told), ``truth.fits`` (TRUTH, BLURRED, PSF, ARTEFACTS, VARIANCE, and the maps OBJECT and SKY) and
``facts.json``. This module needs nothing but NumPy and Astropy, so that methods can run in environments of
their own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

Array = NDArray[Any]
CUBES = ("truth", "blurred", "psf", "artefacts", "variance", "object", "sky")


@dataclass(frozen=True)
class Scene:
    """One scene. Cubes are (wavelength, y, x), maps (y, x).

    `variance` is the true variance of `data`; `stat` is the one that the file of the target has. `artefacts`
    has the codes of `lucidcube.simulate.ArtefactKind`. `object` is the region in which errors are measured,
    and `sky` is empty. `facts` has the entries "disc" (y, x, radius, flattening, pole, in pixels and
    radians), "points" (lists y, x), and "lines" (first, separation, width in channels, and velocity per
    channel in km/s), each only where the scene has the thing. `config` names the file in `configs` that suits
    the object; None is the default.
    """

    name: str
    title: str
    wavelengths: Array
    data: Array
    stat: Array
    star: Array
    star_variance: Array
    truth: Array
    blurred: Array
    psf: Array
    artefacts: Array
    variance: Array
    object: Array
    sky: Array
    facts: dict[str, Any] = field(default_factory=dict)
    config: str | None = None

    def write(self, folder: Path) -> None:
        """Write the files of the scene into a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        for file, data, stat in (("target", self.data, self.stat), ("star", self.star, self.star_variance)):
            self._write(folder / f"{file}.fits", {"DATA": data, "STAT": stat})
        self._write(folder / "truth.fits", {name.upper(): getattr(self, name) for name in CUBES})
        known = {"name": self.name, "title": self.title, "config": self.config, "facts": self.facts}
        (folder / "facts.json").write_text(json.dumps(known, indent=1))

    def _write(self, path: Path, images: dict[str, Array]) -> None:
        cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CUNIT1": "deg", "CUNIT2": "deg"}
        cards |= {"CRVAL1": 53.21, "CRVAL2": 18.47, "CDELT1": -0.025 / 3600, "CDELT2": 0.025 / 3600}
        step = self.wavelengths[1] - self.wavelengths[0] if len(self.wavelengths) > 1 else 1e-9
        spectral = {
            "CTYPE3": "WAVE",
            "CUNIT3": "m",
            "CRPIX3": 1.0,
            "CRVAL3": self.wavelengths[0],
            "CDELT3": step,
        }
        hdus = [fits.PrimaryHDU()]
        for name, image in images.items():
            stored = image.astype(np.float32 if image.dtype.kind == "f" else np.uint8)
            centre = {f"CRPIX{axis}": (stored.shape[-axis] + 1) / 2 for axis in (1, 2)}
            header = fits.Header(cards | centre | (spectral if image.ndim == 3 else {}))
            hdus.append(fits.ImageHDU(stored, header, name=name))
        fits.HDUList(hdus).writeto(path, overwrite=True)


def read(folder: Path) -> Scene:
    """Read a scene that was written by `Scene.write`."""
    known = json.loads((folder / "facts.json").read_text())
    target, star, truth = (images(folder / f"{name}.fits") for name in ("target", "star", "truth"))
    with fits.open(folder / "target.fits") as hdus:
        first, step, count = (hdus["DATA"].header[key] for key in ("CRVAL3", "CDELT3", "NAXIS3"))
    cubes = {name: truth[name.upper()] for name in CUBES}
    cubes |= {name: cubes[name] > 0 for name in ("object", "sky")}
    observed = {
        "data": target["DATA"],
        "stat": target["STAT"],
        "star": star["DATA"],
        "star_variance": star["STAT"],
    }
    return Scene(wavelengths=first + step * np.arange(count), **known, **observed, **cubes)


def images(path: Path) -> dict[str, Array]:
    """Return the images of a FITS file by name, in native byte order."""
    with fits.open(path, memmap=False) as hdus:
        arrays = {h.name: h.data for h in hdus if h.is_image and h.data is not None}
        return {name: array.astype(array.dtype.newbyteorder("=")) for name, array in arrays.items()}

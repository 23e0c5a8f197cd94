"""What a method is, and how it is found.

A method is a module in `methods` with a docstring, and one of two functions:

``deconvolve(plane, **setting)``
    gets a `Plane` and returns the deconvolved image (y, x).
``deconvolve_scene(scene, prepared, work, **setting)``
    gets the folder of a scene, the folder with the prepared files and an empty folder, and returns a mapping
    with the cube "RESULT" and perhaps "ERROR", its standard deviation at a resolution of one pixel.

It may have ``SETTINGS``, keyword arguments of which the best against the truth are taken for each scene, and
``PLANES``, the largest number of planes that it is given because it is slow. A module imports other packages
inside the function, so that it can be listed where they are not installed; then an ImportError, or
`NotInstalled`, means that the method is skipped.
"""

from __future__ import annotations

import importlib
import pkgutil
from types import ModuleType
from typing import Any, NamedTuple

from numpy.typing import NDArray

from . import methods


class NotInstalled(Exception):
    """The program of a method is not installed; the text says what to do."""


class Plane(NamedTuple):
    """What a method gets of one wavelength, float32.

    `data` are without NaN: artefacts and holes are filled, and zero is outside the field. `sigma` is the
    standard deviation of the noise, NaN where `data` were not observed. `psf` is odd, centred, of unit sum.
    """

    data: NDArray[Any]
    psf: NDArray[Any]
    sigma: NDArray[Any]


def names() -> list[str]:
    """Return the names of all methods."""
    return sorted(m.name for m in pkgutil.iter_modules(methods.__path__))


def load(name: str) -> ModuleType:
    """Return the module of a method."""
    return importlib.import_module(f"{methods.__name__}.{name}")


def title(name: str) -> str:
    """Return the first line of the docstring of a method."""
    return (load(name).__doc__ or name).strip().partition("\n")[0].rstrip(".")

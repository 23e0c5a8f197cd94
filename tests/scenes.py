"""Small simulated scenes for the tests of the stages: made once, as arrays and as cubes."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from lucidcube.cube import from_arrays
from lucidcube.simulate import Scene

SHAPE = (12, 41, 41)
UNIT = "10**(-20)*erg/s/cm**2/Angstrom"


class SceneArrays(NamedTuple):
    """Stacked planes of a scene, read-only, (wavelength, y, x); see `ScenePlane` and `StarPlane`."""

    wavelengths: NDArray[np.float64]
    truth: NDArray[np.float32]
    psf: NDArray[np.float32]
    blurred: NDArray[np.float32]
    observed: NDArray[np.float32]
    variance: NDArray[np.float32]
    artefact_kind: NDArray[np.uint8]
    artefact_flux: NDArray[np.float32]
    star: NDArray[np.float32]
    star_variance: NDArray[np.float32]


@cache
def scene(shape: tuple[int, int, int] = SHAPE, seed: int = 11) -> Scene:
    """Return a scene with steps of 0.5 nm from 716.5 nm; plane `scene().empty_plane` is all NaN."""
    return Scene(shape=shape, seed=seed, wavelength_step=0.5e-9)


@cache
def arrays(shape: tuple[int, int, int] = SHAPE, seed: int = 11) -> SceneArrays:
    """Return all planes of `scene(shape, seed)` as read-only arrays; copy an array to change it."""
    made = scene(shape, seed)
    planes = [made.plane(index) for index in range(shape[0])]
    stars = [made.star_plane(index) for index in range(shape[0])]
    stacks = [np.stack(images) for images in zip(*planes, strict=True)]
    stacks += [np.stack([star.observed for star in stars]), np.stack([star.variance for star in stars])]
    for stack in stacks:
        stack.flags.writeable = False
    return SceneArrays(made.wavelengths, *stacks)


def target_cube(shape: tuple[int, int, int] = SHAPE, seed: int = 11) -> xr.Dataset:
    """Return the target as a cube: `data` and `variance`, float32."""
    made = arrays(shape, seed)
    return from_arrays(made.observed, made.wavelengths, variance=made.variance, units=UNIT)


def star_cube(shape: tuple[int, int, int] = SHAPE, seed: int = 11) -> xr.Dataset:
    """Return the standard star as a cube: `data` and `variance`, float32."""
    made = arrays(shape, seed)
    return from_arrays(made.star, made.wavelengths, variance=made.star_variance, units=UNIT)

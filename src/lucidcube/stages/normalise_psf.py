"""Stage `normalise_psf`: turn the image of a star into a point spread function."""

from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import xarray as xr
from pydantic import field_validator

from lucidcube.cube import DATA, STAR_NUMBERS, UNITS, VARIANCE, X, Y
from lucidcube.kernels.psf.normalise import normalise_psf
from lucidcube.lift.blocks import Output, over_planes
from lucidcube.stages.base import Stage, parameter

MASKS = ("outlier", "background", "star_region")


class NormalisePSF(Stage):
    """Turn the star into a PSF: odd shape, no outliers, no background, centred, sum of one.

    The steps for each plane, in order:
    (1) The last row or column is dropped where a side is even, so that there is a central pixel.
    (2) Pixels further than `n_sigma` standard deviations from the mean become missing, except for the
    largest connected group of them, which is the star.
    (3) The level of the background is subtracted. It is measured outside the largest connected region above
    `background_threshold` times the maximum.
    (4) The star is shifted by a fraction of a pixel, so that the centre of mass of its region of interest is
    at the central pixel.
    (5) The plane is trimmed and divided by its sum.
    Missing pixels become NaN. The variance goes through the same steps; the uncertainty of the background
    level is not included.
    """

    name: ClassVar[str] = "normalise_psf"
    optional: ClassVar[tuple[str, ...]] = (VARIANCE,)
    produces: ClassVar[tuple[str, ...]] = (DATA, VARIANCE, *MASKS, *STAR_NUMBERS)
    version: ClassVar[int] = 2
    copies: ClassVar[float] = 6.3
    scratch: ClassVar[float] = 23
    tag: ClassVar[str] = "_normalised"

    n_sigma: float = parameter(
        5.0, "standard deviations", "distance from the mean beyond which a pixel is an outlier", gt=0
    )
    background_threshold: float = parameter(
        1e-3, "", "fraction of the maximum above which pixels belong to the star", gt=0, lt=1
    )
    background_noise_model: Literal["gennorm", "norm", "none"] = parameter(
        "gennorm", "", "distribution that is fitted to the background; none subtracts no background"
    )
    n_largest_regions: int = parameter(
        1, "", "number of connected regions, the largest first, in the region of interest", ge=1
    )
    threshold: float = parameter(
        1e-2, "", "fraction of the maximum above which pixels belong to the region of interest", gt=0, lt=1
    )
    trim_to_shape: tuple[int, int] | None = parameter(
        None, "pixel", "sides (y, x) to which the star is trimmed, both odd; not trimmed if not given"
    )

    @field_validator("trim_to_shape")
    @classmethod
    def _odd(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and any(n < 1 or n % 2 == 0 for n in value):
            raise ValueError("both sides must be odd, so that there is a central pixel")
        return value

    def apply(self, cube: xr.Dataset) -> xr.Dataset:
        sides = [n - 1 + n % 2 for n in (cube.sizes[Y], cube.sizes[X])]
        if self.trim_to_shape is not None:
            sides = [min(n, m) for n, m in zip(sides, self.trim_to_shape, strict=True)]
        flux = str(cube[DATA].attrs.get(UNITS, ""))
        outputs = {DATA: Output(attrs={UNITS: ""})}
        if VARIANCE in cube:
            outputs[VARIANCE] = Output(attrs={UNITS: ""})
        outputs |= {name: Output(dtype="uint8", blank=0, attrs={UNITS: ""}) for name in MASKS}
        for name in STAR_NUMBERS:
            unit = "pixel" if name.startswith("offset") else flux
            outputs[name] = Output(dims=(), attrs={UNITS: unit})
        kernel = partial(_prepared, **self.model_dump())
        made = over_planes(
            cube, self.name, kernel, [DATA], outputs, optional=[VARIANCE], sizes={Y: sides[0], X: sides[1]}
        )
        return xr.Dataset(made, coords=cube.coords, attrs=dict(cube.attrs))


def _prepared(plane: np.ndarray, variance: np.ndarray | None, **settings: Any) -> tuple[Any, ...]:
    return tuple(part for part in normalise_psf(plane, variance, **settings) if part is not None)

"""The planes of a star at the wavelengths of a target."""

from __future__ import annotations

import numpy as np
import xarray as xr

from lucidcube.cube import PSF, from_arrays
from lucidcube.stages.attach_psf import attach_psf


def cube(wavelength: list[float]) -> xr.Dataset:
    """Return planes whose values are the wavelength in nanometres."""
    planes = np.array(wavelength, np.float32)[:, None, None] * np.ones((3, 3), np.float32)
    return from_arrays(planes, 1e-9 * np.array(wavelength))


def test_planes_in_between_are_interpolated_also_on_descending_axes() -> None:
    target = cube([510.0, 505.0, 517.5])
    for star in (cube([500.0, 510.0, 520.0]), cube([520.0, 510.0, 500.0])):
        made = attach_psf(target, star)[PSF].values
        np.testing.assert_allclose(made[:, 0, 0], [510, 505, 517.5], rtol=1e-6)


def test_a_neighbour_without_a_psf_does_not_matter_at_the_wavelength_of_a_plane() -> None:
    target = cube([510.0, 510.0 + 1e-9, 515.0])
    for gap in (0, 2):
        star = cube([500.0, 510.0, 520.0])
        star["data"][gap] = np.nan
        made = attach_psf(target, star)[PSF].values
        np.testing.assert_allclose(made[:2, 0, 0], 510, rtol=1e-6)
        assert np.isnan(made[2]).all() == (gap == 2)

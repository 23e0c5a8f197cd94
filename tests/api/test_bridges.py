"""Cubes as objects of ndcube and specutils, and back."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import xarray as xr
from astropy import units as u
from astropy.nddata import InverseVariance, StdDevUncertainty, UnknownUncertainty

import lucidcube as lc
from locations import ROOT
from lucidcube.errors import CubeError, UserError

EXAMPLE = ROOT / "example_data" / "target.fits"


@pytest.fixture(scope="module")
def cube() -> xr.Dataset:
    made = lc.open_cube(f"{EXAMPLE}[10:14]").load()
    mask = np.zeros(made["data"].shape, np.uint8)
    mask[1, 30, 20:25] = 1
    return made.assign(mask=(made["data"].dims, mask))


def test_an_ndcube_and_back(cube: xr.Dataset) -> None:
    ndcube = pytest.importorskip("ndcube")
    there = lc.to_ndcube(cube)
    assert isinstance(there, ndcube.NDCube)
    assert there.unit == 1e-20 * u.erg / u.s / u.cm**2 / u.AA
    assert there.uncertainty.uncertainty_type == "var"
    assert there.mask.sum() == np.isnan(cube["data"]).sum() + 5
    assert there.meta["header"]["OBJECT" if "OBJECT" in there.meta["header"] else "CTYPE1"]
    sky = there.wcs.pixel_to_world_values(10, 20, 2)
    np.testing.assert_allclose(sky, cube.lucid.wcs.pixel_to_world_values(10, 20, 2))
    back = lc.from_ndcube(there)
    for name in ("data", "variance", "mask"):
        np.testing.assert_array_equal(back[name], cube[name])
    np.testing.assert_allclose(back["wavelength"], cube["wavelength"], rtol=1e-12)
    assert back["wavelength"].attrs["ctype"] == cube["wavelength"].attrs["ctype"] == "AWAV"
    assert u.Unit(back["data"].attrs["units"]) == there.unit
    np.testing.assert_allclose(back.lucid.wcs.pixel_to_world_values(10, 20, 2), sky, rtol=1e-12)
    filled = lc.Interpolate(method="linear")(back)
    assert (filled["filled"].values[1, 30, 20:25] > 0).all()


@pytest.mark.parametrize("grid", [5e-7 * 1.01 ** np.arange(4), np.array([5e-7, 5.1e-7, 5.4e-7, 6e-7])])
def test_other_grids_survive(grid: np.ndarray) -> None:
    pytest.importorskip("ndcube")
    cube = lc.from_arrays(np.ones((4, 5, 6), np.float32), grid)
    np.testing.assert_allclose(lc.from_ndcube(lc.to_ndcube(cube))["wavelength"], grid, rtol=1e-9)


def test_an_ndcube_is_lazy(nothing_computes: None) -> None:
    pytest.importorskip("ndcube")
    there = lc.to_ndcube(lc.open_cube(EXAMPLE))
    assert lc.from_ndcube(there)["data"].chunks


def test_an_image_has_two_axes() -> None:
    pytest.importorskip("ndcube")
    image = lc.from_arrays(np.arange(30, dtype=np.float32).reshape(5, 6), [np.nan])
    there = lc.to_ndcube(image)
    assert there.data.shape == (5, 6)
    np.testing.assert_array_equal(lc.from_ndcube(there)["data"], image["data"])


def test_axes_in_another_order_are_found(cube: xr.Dataset) -> None:
    ndcube = pytest.importorskip("ndcube")
    from astropy.wcs import WCS

    swapped = WCS(cube.lucid.wcs.to_header()).sub([3, 1, 2])
    data = np.transpose(cube["data"].values, (1, 2, 0))
    made = lc.from_ndcube(ndcube.NDCube(data, swapped))
    np.testing.assert_array_equal(made["data"], cube["data"])
    np.testing.assert_allclose(made["wavelength"], cube["wavelength"])


@pytest.mark.parametrize(("kind", "power"), [(StdDevUncertainty, 2), (InverseVariance, -1)])
def test_uncertainties_become_variances(cube: xr.Dataset, kind: type, power: int) -> None:
    ndcube = pytest.importorskip("ndcube")
    values = np.full(cube["data"].shape, 4.0)
    values[0, 0, 0] = 0.0
    made = lc.from_ndcube(ndcube.NDCube(cube["data"].values, cube.lucid.wcs, uncertainty=kind(values)))
    assert (made["variance"].values[1:] == 4.0**power).all()
    assert np.isnan(made["variance"].values[0, 0, 0]) == (power < 0)


def test_what_cannot_be_converted(cube: xr.Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    ndcube = pytest.importorskip("ndcube")
    odd = ndcube.NDCube(
        cube["data"].values, cube.lucid.wcs, uncertainty=UnknownUncertainty(cube["data"].values)
    )
    with pytest.raises(CubeError, match="the uncertainty UnknownUncertainty; it must be"):
        lc.from_ndcube(odd)
    for package, function in (("ndcube", lc.to_ndcube), ("specutils", lc.to_spectrum1d)):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UserError, match=rf"needs {package}: pip install 'lucidcube\[bridges\]'"):
            function(cube)


def test_a_spectrum_and_a_cube_of_specutils(cube: xr.Dataset) -> None:
    pytest.importorskip("specutils")
    spectrum = cube.lucid.spectrum()
    made = lc.to_spectrum1d(spectrum)
    np.testing.assert_array_equal(made.flux.value, spectrum["data"])
    np.testing.assert_array_equal(made.uncertainty.array, spectrum["variance"])
    np.testing.assert_allclose(made.spectral_axis.to_value(u.m), cube["wavelength"])
    assert made.flux.unit == 1e-20 * u.erg / u.s / u.cm**2 / u.AA
    whole = lc.to_spectrum1d(cube)
    axis = getattr(whole, "spectral_axis_index", 2)
    np.testing.assert_array_equal(np.moveaxis(whole.flux.value, axis, 0), cube["data"])
    assert np.count_nonzero(whole.mask) == np.isnan(cube["data"]).sum() + 5
    with pytest.raises(CubeError, match="the planes have no wavelengths"):
        lc.to_spectrum1d(lc.from_arrays(np.ones((5, 6), np.float32), [np.nan]))
    with pytest.raises(CubeError, match="to_spectrum1d: 'data' has the dimensions .'y', 'x'."):
        lc.to_spectrum1d(cube.isel(wavelength=0))
    with pytest.raises(CubeError, match="to_spectrum1d needs the variable 'data'"):
        lc.to_spectrum1d(xr.Dataset())

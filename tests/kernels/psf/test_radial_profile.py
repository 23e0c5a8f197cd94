"""Radial profiles: centre and its errors, means in annuli, continuation where there are no data."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucidcube.kernels.psf.models import MODELS
from lucidcube.kernels.psf.radial_profile import fit_radial_profile, radial_model
from star_kernels import fit, relative_l2, simulate, star

X, Y = MODELS["radial"].parameters


@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_radial_profile_finds_centre_and_profile_anywhere_between_pixels(x, y):
    plane, _, _ = simulate("gaussian", 1e7, 7, size=41, x=x, y=y, sky_noise=0.5)
    found = fit_radial_profile(plane, None, x=X, y=Y, n_annuli=50)
    np.testing.assert_allclose(found.centre, (y, x), atol=0.01)
    truth = star("gaussian", (41, 41), 20, 20).image
    assert relative_l2(found.image, truth) < 0.01


def test_profile_keeps_the_mean_of_every_annulus():
    plane, _, _ = simulate("turbulence", 1e7, 8, size=61, x=0.0, y=0.0, sky_noise=0.0)
    found = fit_radial_profile(plane, None, x=X._replace(free=False), y=Y._replace(free=False), n_annuli=20)
    assert found.centre == (0.0, 0.0)
    model = radial_model(found, plane.shape)
    radius = np.hypot(*(np.indices(plane.shape) - 30))
    edges = np.geomspace(0.5, radius.max() + 1.0, 20)
    for low, high in pairwise(edges[8:-2]):
        annulus = (radius >= low) & (radius < high) & found.used
        assert model[annulus].mean() == pytest.approx(plane[annulus].mean(), rel=4e-3)


def test_profile_continues_where_there_are_no_data():
    y, x = np.indices((61, 61)) - 30
    plane = (1.0 + 0.2 * (x**2 + y**2)) ** -1.8
    holed = np.where(np.hypot(y, x) < 20, plane, np.nan).astype(np.float32)
    holed[30, 30] = np.nan
    image = fit(holed).image
    truth = plane / plane.sum()
    outside = np.hypot(y, x) > 20
    np.testing.assert_allclose(image[outside], truth[outside], rtol=0.15)
    assert image[30, 30] == pytest.approx(truth[30, 30], rel=0.12)


def test_errors_of_the_radial_centre_are_its_scatter():
    centres, errors = [], []
    for seed in range(60):
        plane, variance, _ = simulate("gaussian", 1e5, seed, size=31, x=0.1, y=0.05)
        found = fit(plane, variance=variance)
        centres.append(found.values)
        errors.append(found.errors)
    np.testing.assert_allclose(np.std(centres, axis=0), np.mean(errors, axis=0), rtol=0.4)
    np.testing.assert_allclose(np.mean(centres, axis=0), (0.1, 0.05), atol=0.005)

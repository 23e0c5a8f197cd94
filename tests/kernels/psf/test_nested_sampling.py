"""Nested sampling against least squares."""

import numpy as np
import pytest

from lucidcube.kernels.psf.fit import FitStatus
from star_kernels import fit, simulate

pytest.importorskip("ultranest")


@pytest.mark.slow
@pytest.mark.parametrize("weighted", [True, False])
def test_nested_sampling_agrees_with_least_squares(weighted):
    plane, variance, truth = simulate("gaussian", 1e4, seed=10, size=21)
    settings = {name: {"start": truth[i], "free": False} for i, name in enumerate(("x", "y"))}
    settings |= {"const": {"start": 0.0, "free": False}, "variance": variance if weighted else None}
    reference = fit(plane, "gaussian", **settings)
    settings |= {"method": "ultranest", "live_points": 50, "max_calls": 50_000, "seed": 3}
    found = fit(plane, "gaussian", **settings)
    assert found.status is FitStatus.FINE
    assert np.isfinite(found.reduced_chi2) == weighted
    free = np.isfinite(reference.errors)
    assert (np.abs(found.values - reference.values)[free] < 0.3 * reference.errors[free]).all()
    np.testing.assert_allclose(found.errors[free], reference.errors[free], rtol=0.3)
    np.testing.assert_array_equal(found.values, fit(plane, "gaussian", **settings).values)


def test_the_global_random_generator_keeps_its_state():
    plane, variance, _ = simulate("gaussian", 1e4, seed=10, size=21)
    fixed = {name: {"start": 0.0, "free": False} for name in ("x", "y", "const")}
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    fit(plane, "gaussian", variance=variance, method="ultranest", live_points=30, max_calls=500, **fixed)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002

"""Principal components of the error of the PSF: an analytic covariance, and the scatter of fits."""

import numpy as np
import pytest

from config_scenes import moffat
from lucidcube.kernels.psf.effective import effective_psf
from lucidcube.kernels.psf.modes import principal_modes
from lucidcube.kernels.psf.polar_basis import PolarBasis


def test_all_modes_make_up_the_variance() -> None:
    """The variance is that of PSFs with random coefficients, to first order."""
    rng = np.random.default_rng(0)
    basis = PolarBasis(0.81, 12.0, 6.0)
    dy, dx = (a.ravel() - 8.0 for a in np.indices((17, 17)))
    design = basis.design(dy, dx)
    coefficients = np.zeros(basis.n_columns)
    coefficients[: basis.n_radial] = np.exp(-0.7 * np.arange(basis.n_radial))
    root = 1e-4 * rng.normal(size=(basis.n_columns, basis.n_columns)) / np.sqrt(basis.n_columns)
    image = design.evaluate(coefficients)
    modes = principal_modes(design, root @ root.T, 1e-5, image, count=basis.n_columns + 1)
    draws = image + (design.evaluate(root @ rng.normal(size=(basis.n_columns, 4000)))).T
    draws += 1e-5 * rng.normal(size=(4000, 1))
    psfs = draws / draws.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(np.square(modes).sum(axis=0), psfs.var(axis=0), rtol=0.2)
    np.testing.assert_allclose(modes.sum(axis=1), 0, atol=1e-12)
    inner = modes @ modes.T
    np.testing.assert_allclose(inner - np.diag(np.diag(inner)), 0, atol=1e-9 * inner[0, 0])
    assert (np.diff(np.diag(inner)) <= 1e-12 * inner[0, 0]).all()


@pytest.mark.slow
@pytest.mark.parametrize(("flux", "planes"), [(1e6, 1), (2e4, 1), (2e4, 5)])
def test_modes_are_as_large_as_the_scatter_of_fits(flux: float, planes: int) -> None:
    rng = np.random.default_rng(1)
    star = np.broadcast_to(flux * moffat((30, 32), 3.5, (14.3, 16.6)) + 50, (planes, 30, 32))
    fits = [
        effective_psf(
            star + rng.normal(size=star.shape) * np.sqrt(star),
            star.astype(float),
            np.linspace(6e-7, 6.1e-7, planes),
            wanted=slice(planes // 2, planes // 2 + 1),
            shape=(27, 27),
            smoothing=15.0,
            modes=4,
        )
        for _ in range(8)
    ]
    images, modes = (np.array([fit[i][0] for fit in fits]) for i in (0, -1))
    y, x = np.indices((27, 27)) - 13
    core = np.hypot(y, x) < 3
    expected = np.sqrt(np.square(modes).sum(axis=1).mean(axis=0)[core].sum())
    assert np.sqrt(images.var(axis=0, ddof=1)[core].sum()) == pytest.approx(expected, rel=0.5)


def test_there_are_as_many_modes_as_asked_for() -> None:
    star = np.full((2, 20, 20), np.nan)
    star[1] = 1e4 * moffat((20, 20), 3.5, (9.0, 10.0)) + np.random.default_rng(0).normal(size=(20, 20))
    options = {"wanted": slice(0, 2), "shape": (19, 19), "smoothing": 15.0}
    none, some = (effective_psf(star, None, np.arange(1.0, 3), modes=n, **options) for n in (0, 3))
    assert none.modes.shape == (2, 0, 19, 19)
    assert some.modes.shape == (2, 3, 19, 19)
    np.testing.assert_array_equal(none.image, some.image)
    assert np.isnan(some.modes[0]).all()
    assert np.isfinite(some.modes[1]).all()

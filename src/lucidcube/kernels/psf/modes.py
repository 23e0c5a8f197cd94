"""Principal components of the uncertainty of a point spread function."""

import numpy as np

from lucidcube.kernels.psf import Doubles
from lucidcube.kernels.psf.polar_basis import Design


def principal_modes(
    design: Design, covariance: Doubles, background: float, image: Doubles, *, count: int
) -> Doubles:
    """Return the principal components of the errors of a PSF, each for one standard deviation.

    The PSF is ``image / sum(image)``, where `image` (pixel,) is the sum of the functions of a design.
    `covariance` is that of their coefficients, and `background` the standard deviation of a constant that the
    star may contain. The sum of each component over the pixels is zero. The result is (count, pixel), the
    strongest component first; the sum of the squares of all of them is the variance of each pixel.
    """
    values, vectors = np.linalg.eigh(covariance)
    factors = vectors * np.sqrt(np.maximum(values, 0.0))
    ones = np.ones(design.n_pixels)
    total = float(image.sum())
    psf = image / total
    products, sums = design.normal_equations(ones, ones)
    _, overlap = design.normal_equations(ones, psf)
    # Inner products of the errors of the image that the factors make, and of a constant.
    inner = np.block(
        [
            [factors.T @ products @ factors, factors.T @ sums[:, None] * background],
            [background * sums[None] @ factors, np.full((1, 1), background**2 * ones.size)],
        ]
    )
    light = np.append(factors.T @ sums, background * ones.size)
    along = np.append(factors.T @ overlap, background)
    # An error changes the PSF by itself less the PSF times its sum, over the total.
    inner += np.outer(light, light) * float(psf @ psf) - np.outer(light, along) - np.outer(along, light)
    _, directions = np.linalg.eigh(inner / total**2)
    directions = directions[:, ::-1][:, :count]
    made = design.evaluate(factors @ directions[:-1]) + background * directions[-1]
    made = (made - psf[:, None] * made.sum(axis=0)) / total
    modes = np.zeros((count, ones.size))
    modes[: made.shape[1]] = (made * np.where(made[ones.size // 2] < 0, -1.0, 1.0)).T
    return modes

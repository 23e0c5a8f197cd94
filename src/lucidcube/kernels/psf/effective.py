"""Effective PSF: the star as it is, described by smooth functions that vary smoothly with wavelength."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from lucidcube.kernels.noise import fit_noise
from lucidcube.kernels.psf import Doubles, Floats, Mask, Reals
from lucidcube.kernels.psf.effective_fit import CORE, MODEL_ERROR, Pixels, Ring, fit_plane
from lucidcube.kernels.psf.fit import FitStatus
from lucidcube.kernels.psf.modes import principal_modes
from lucidcube.kernels.psf.polar_basis import ANGULAR_REACH, PolarBasis
from lucidcube.kernels.psf.smoothing import local_polynomials, spectral_positions
from lucidcube.kernels.psf.star_position import SIGMA_TO_FWHM, find_stars
from lucidcube.kernels.psf.wing import Rings, fit_wing, ring_edges, ring_medians

SCALE = 0.81
"""Pixels; the scale of a star with a full width at half maximum of about 3 pixels."""
FIT_REACH, MAX_FIT_REACH = 32.0 / 3.0, 64.0
"""Radius of the pixels that are fitted, in units of the scale, and its limit in pixels."""
PERSISTENT = 0.3
"""A pixel that is an outlier in a larger fraction of the planes is left out of all."""
WING_CORE = 2.5
"""Usual core radius of the wing in units of the scale."""
FLOOR = 1e-6
"""Smallest noise as a fraction of the peak."""
_PASSES = 2
_MAX_STEP, _LOST = 0.3, 0.1  # pixels


class EffectivePSF(NamedTuple):
    """Point spread functions of some planes, and the star in each of them."""

    image: Floats
    """(plane, y, x): centred, not negative, unit sum; NaN where the status is NO_DATA."""
    values: Doubles
    """(plane, 4): x and y of the star as offsets from the central pixel of the output in pixels, its flux,
    and the background."""
    errors: Doubles
    """(plane, 4): one standard deviation."""
    reduced_chi2: Doubles
    """(plane,) chi squared per degree of freedom; NaN without a variance."""
    status: NDArray[np.uint8]
    """(plane,) `FitStatus`."""
    modes: Floats
    """(plane, mode, y, x): principal components of the error of the image, each for one standard deviation
    and of sum zero, the strongest first; NaN where the image is."""


def effective_psf(
    star: Reals,
    variance: Reals | None,
    wavelength: Reals,
    *,
    wanted: slice,
    shape: tuple[int, int],
    smoothing: float,
    modes: int,
) -> EffectivePSF:
    """Fit smooth functions to a star in a window of planes, and return the PSF of the wanted ones.

    Plane i of the star is ``flux_i * P_i(y - y_i, x - x_i) + background_i``, where P is a sum of cubic
    B-splines of the logarithm of the radius and, near the core, of harmonics of the angle up to the fourth. P
    describes the star sampled by the pixels (Anderson & King 2000, PASP 112, 1360), so it needs no assumption
    about optics or pixels. The scale of the functions follows the width of the star.

    Parameters
    ----------
    star
        (plane, y, x), any shape, the star anywhere, in any units; NaN = no data.
    variance
        Variance, same shape, or None to estimate it from the star. Pixels without a positive one are not
        used.
    wavelength
        (plane,) in any unit; the planes count as equidistant if it is not finite or not monotonic.
    wanted
        Planes of the window for which a result is returned. The others improve these.
    shape
        Sides (y, x) of the PSF in pixels, both odd, otherwise ValueError is raised.
    smoothing
        Number of planes on either side over which P is smoothed along wavelength, 0 to fit each plane alone.
    modes
        Number of principal components of the error of the PSF.

    Returns
    -------
    EffectivePSF
        The status is NO_DATA where no star is found.

    Notes
    -----
    The weights are inverse variances, where 0.3 % of the star are added to its noise. Pixels
    outside of the core lose weight where they deviate, and all of it beyond 8 standard deviations. Far from
    the star, medians in rings take the place of the pixels. The background is the constant in a fit of a
    Moffat wing plus a constant to the rings, with one shape of the wing for all planes. The functions are
    penalised by their third difference relative to the radial profile, the harmonics by their size. The
    position is where the first harmonic vanishes in the core; it is a locally linear function of wavelength.
    The coefficients divided by the flux are smoothed by locally quadratic functions of wavelength.
    """
    if any(n % 2 == 0 for n in shape):
        raise ValueError(f"the shape of the PSF must be odd, not {shape}")
    fitted = fit_window(star, variance, wavelength, shape=shape, smoothing=smoothing)
    return fitted.draw(range(*wanted.indices(len(star))), modes)


def fit_window(
    star: Reals, variance: Reals | None, wavelength: Reals, *, shape: tuple[int, int], smoothing: float
) -> "FittedWindow":
    """Fit the star in all planes of a window; the arguments are those of `effective_psf`."""
    # The last bits of sums must not depend on the number of threads that BLAS may use.
    with threadpool_limits(1, user_api="blas"):
        window = FittedWindow(star, variance, np.asarray(wavelength, dtype=np.float64), shape, smoothing)
        for number in range(_PASSES if window.index.size else 0):
            if number:
                window.move()
            window.improve()
    return window


class FittedWindow:
    """Star in a window of planes.

    Arrays are for the planes that have a star: their numbers are in `index`.
    """

    def __init__(
        self,
        star: Reals,
        variance: Reals | None,
        wavelength: Doubles,
        shape: tuple[int, int],
        smoothing: float,
    ) -> None:
        self.frame, self.shape, self.weighted = star.shape[1:], shape, variance is not None
        stars = find_stars(star)
        self.index = np.array([found.plane for found in stars], dtype=np.intp)
        positions, widest = spectral_positions(wavelength)
        self.position, self.half_width = positions[self.index], min(smoothing + 1.0, widest)
        self.centre = np.array([(found.position.y, found.position.x) for found in stars]).reshape(-1, 2)
        if not stars:
            return
        self.centring = self._smoother(np.ones(self.index.size), degree=1)
        self.centre = self.centring @ self.centre
        scale = _scale(np.array([found.position.sigma for found in stars]))
        extent = _farthest(star.shape[1:], self.centre)
        self.fit_reach = min(FIT_REACH * scale, MAX_FIT_REACH)
        reach = max(extent, 0.5 * float(np.hypot(*shape))) + 3.0
        self.basis = PolarBasis(scale, reach, ANGULAR_REACH / FIT_REACH * self.fit_reach)
        self.pixels: list[Pixels] = []
        edges, rows = ring_edges(extent, self.fit_reach, scale), []
        for found, centre in zip(stars, self.centre, strict=True):
            plane = star[found.plane]
            known = None if variance is None else variance[found.plane]
            radius = _radii(plane.shape, centre)
            finite = np.isfinite(plane)
            floor = FLOOR * float(np.nanmax(plane) - found.level)
            self.pixels.append(_near(plane, known, finite & (radius < self.fit_reach), floor))
            rows.append(ring_medians(plane[finite].astype(np.float64), radius[finite], edges, floor))
        self.rings = Rings(*(np.array(column) for column in zip(*rows, strict=True)))
        self.trust = [np.ones(pixels.y.size) for pixels in self.pixels]
        aperture = zip(self.pixels, self.centre, stars, strict=True)
        self.flux = np.array([p.light_within(CORE * scale, c, s.level) for p, c, s in aperture])

    def _smoother(self, weight: Doubles, degree: int) -> Doubles:
        """Return the matrix that smooths values along wavelength."""
        return local_polynomials(self.position, weight, half_width=self.half_width, degree=degree)

    def improve(self) -> None:
        """Fit the backgrounds and then all planes, and mark outliers."""
        wing, self.background, self.background_error = fit_wing(
            self.rings, self.flux, WING_CORE * self.basis.scale
        )
        self.fits = []
        for i, (pixels, trust) in enumerate(zip(self.pixels, self.trust, strict=True)):
            rings = Ring(self.rings.radius[i], self.rings.level[i], self.rings.error[i])
            used = np.isfinite(rings.level) & (rings.radius > self.fit_reach)
            fit = fit_plane(
                pixels,
                trust,
                Ring(*(column[used] for column in rings)),
                self.basis,
                centre=self.centre[i],
                flux=float(self.flux[i]),
                background=float(self.background[i]),
                wing=wing,
            )
            self.fits.append(fit)
        self.flux = np.maximum([fit.flux for fit in self.fits], 0.1 * self.flux)
        for i, (fit, level) in enumerate(zip(self.fits, self.background, strict=True)):
            self.pixels[i] = self.pixels[i].follow(fit.model + level)
        self._leave_out_persistent_outliers()

    def _leave_out_persistent_outliers(self) -> None:
        """Take the weight from pixels that are outliers in many planes."""
        size = tuple(1 + max(int(getattr(p, axis).max()) for p in self.pixels) for axis in "yx")
        outliers, number = np.zeros(size), np.ones(size)
        for pixels, fit in zip(self.pixels, self.fits, strict=True):
            outliers[pixels.y, pixels.x] += fit.trust == 0.0
            number[pixels.y, pixels.x] += 1.0
        lasting = outliers > PERSISTENT * number
        self.trust = [
            np.where(lasting[pixels.y, pixels.x], 0.0, fit.trust)
            for pixels, fit in zip(self.pixels, self.fits, strict=True)
        ]

    def move(self) -> None:
        """Move the star to where the fits found it."""
        steps = np.clip([fit.step for fit in self.fits], -_MAX_STEP, _MAX_STEP)
        self.centre = self.centring @ (self.centre + steps)

    def draw(self, planes: range, modes: int) -> EffectivePSF:
        """Return the PSF of some planes of the window, and the modes of its error."""
        with threadpool_limits(1, user_api="blas"):
            return self._drawn(planes, modes)

    def _drawn(self, planes: range, modes: int) -> EffectivePSF:
        """See `draw`."""
        shape = self.shape
        n = len(planes)
        made = EffectivePSF(
            image=np.full((n, *shape), np.nan, dtype=np.float32),
            values=np.full((n, 4), np.nan),
            errors=np.full((n, 4), np.nan),
            reduced_chi2=np.full(n, np.nan),
            status=np.full(n, FitStatus.NO_DATA, dtype=np.uint8),
            modes=np.full((n, modes, *shape), np.nan, dtype=np.float32),
        )
        if not self.index.size:
            return made
        flux_error = np.array([fit.flux_error for fit in self.fits])
        step_error = np.array([fit.step_error for fit in self.fits])
        weight = 1.0 / ((flux_error / self.flux) ** 2 + MODEL_ERROR**2)
        smoother = self._smoother(weight, degree=2)
        table = np.array([fit.coefficients / flux for fit, flux in zip(self.fits, self.flux, strict=True)])
        moved = np.sqrt(self.centring**2 @ step_error**2)
        dy, dx = (a.ravel().astype(np.float64) for a in np.indices(shape))
        design = self.basis.design(dy - shape[0] // 2, dx - shape[1] // 2)
        for i in np.flatnonzero(np.isin(self.index, planes)):
            row = planes.index(self.index[i])
            image = np.maximum(design.evaluate(smoother[i] @ table), 0.0)
            total = float(image.sum())
            if not total > 0.0:
                continue
            made.image[row] = (image / total).reshape(shape)
            y, x = self.centre[i] - np.array(self.frame) // 2
            made.values[row] = x, y, self.flux[i] * total, self.background[i]
            light = np.hypot(flux_error[i] * total, self.background_error[i] * image.size)
            made.errors[row] = moved[i, 1], moved[i, 0], light, self.background_error[i]
            if modes:
                shares = (smoother[i] / self.flux) ** 2
                covariance = np.tensordot(shares, [fit.covariance for fit in self.fits], 1)
                level = float(np.sqrt(shares @ self.background_error**2))
                errors = principal_modes(design, covariance, level, image, count=modes)
                made.modes[row] = errors.reshape(modes, *shape)
            if self.weighted:
                made.reduced_chi2[row] = self.fits[i].reduced_chi2
            lost = np.abs(self.fits[i].step) > np.maximum(_LOST, 5.0 * step_error[i])
            made.status[row] = FitStatus.NOT_CONVERGED if lost.any() else FitStatus.FINE
        return made


def _scale(sigma: Doubles) -> float:
    """Return the scale of the basis in pixels, which is proportional to the width of the star."""
    return SCALE * SIGMA_TO_FWHM * float(np.median(sigma))


def _farthest(frame: tuple[int, ...], centre: Doubles) -> float:
    """Return the largest distance of a pixel from the star."""
    y, x = (np.maximum(c, n - 1 - c) for c, n in zip(centre.T, frame, strict=True))
    return float(np.hypot(y, x).max())


def _radii(frame: tuple[int, ...], centre: Doubles) -> Doubles:
    """Return the distance of each pixel from the star."""
    return np.hypot(np.arange(frame[0])[:, None] - centre[0], np.arange(frame[1]) - centre[1])


def _near(plane: Reals, variance: Reals | None, chosen: Mask, floor: float) -> Pixels:
    """Return the chosen pixels that have a variance; it is estimated if there is none."""
    rows, columns = (np.flatnonzero(chosen.any(axis=axis)) for axis in (1, 0))
    stamp = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    known = (
        chosen & np.isfinite(variance) & (variance > 0.0) if variance is not None else np.zeros_like(chosen)
    )
    chosen = known if 2 * known.sum() >= chosen.sum() else chosen
    y, x = np.nonzero(chosen[stamp])
    values = plane[stamp][y, x].astype(np.float64)
    noise = None
    if variance is not None and known.any():
        squared = np.maximum(variance[stamp][y, x].astype(np.float64), floor**2)
    else:
        noise = fit_noise(plane[stamp])
        noise = noise._replace(constant=max(noise.constant, floor**2))
        squared = noise.variance(values)
    return Pixels(y + rows[0], x + columns[0], values, squared, noise)

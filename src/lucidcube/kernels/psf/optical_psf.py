"""Radially symmetric long-exposure images of a star: transfer function, radial profile, pixel integration.

The long-exposure image of a star through a circular telescope has the transfer function
``T(rho) exp(-D(rho) / 2)``. T is the overlap of the pupil with its copy displaced by rho, and D is the
structure function of the phase after turbulence and adaptive optics (Roddier 1981, Progress in Optics
19, 281). Both depend only on the length of rho, so that the image is a one-dimensional Hankel transform: it
needs no two-dimensional grid, does not wrap around, and can be centred anywhere between pixels.

Radii are in units of lambda/D. They are float64 because fits take differences of these functions.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.special import gammaincc, j0, j1

from lucidcube.kernels.psf import Doubles
from lucidcube.kernels.psf.turbulence import unit_nodes

StructureFunction = Callable[[Doubles], Doubles]
"""Structure function (rad**2) of the separation in the pupil (m)."""

ZONE_RADIUS = 32.0  # lambda/D; each further zone reaches twice as far
_N_ZONE_STEPS = 512
_N_NODES = 256
# Beyond the first zone the transfer function is multiplied by Q(9, 50 s**2), with s = 1 at its last node.
# This taper is flat to 17th order at the origin and 2e-13 at s = 1; its transform is below 1e-13 in the zone.
_TAPER_ORDER, _TAPER_SCALE = 9, 50.0


class Optics(NamedTuple):
    """Telescope and detector: diameter in metres, that of the central obscuration as a fraction (< 1) of it,
    and arcseconds per pixel."""

    telescope_diameter: float
    central_obscuration: float
    pixel_scale: float

    def resolution(self, wavelength: float) -> float:
        """Return lambda/D in pixels for a wavelength in metres."""
        return wavelength / self.telescope_diameter / np.deg2rad(self.pixel_scale / 3600.0)


class Grid(NamedTuple):
    """Pixel grid of an image and the centre of the star on it, in pixel indices."""

    shape: tuple[int, int]
    centre_y: float
    centre_x: float

    def largest_radius(self) -> float:
        """Return the distance in pixels from the centre to the furthest corner."""
        far_y = max(abs(self.centre_y), abs(self.shape[0] - 1 - self.centre_y))
        far_x = max(abs(self.centre_x), abs(self.shape[1] - 1 - self.centre_x))
        return float(np.hypot(far_y, far_x))


class RadialProfile(NamedTuple):
    """Star of unit flux as a function of radius, tabulated in zones with equal numbers of steps.

    `value` (zone, step) is the flux per pixel area, at points in zone 0 and averaged over pixels elsewhere,
    and `slope` is its derivative with respect to the radius in pixels. `resolution` is lambda/D in pixels,
    and zone k ends at the radius ``ZONE_RADIUS * 2**k`` times this.
    """

    value: Doubles
    slope: Doubles
    resolution: float


class StarImage(NamedTuple):
    """Star of unit flux on a pixel grid, and its derivatives with respect to the position of its centre."""

    image: Doubles
    by_y: Doubles
    by_x: Doubles


def long_exposure(structure: StructureFunction, wavelength: float, optics: Optics, grid: Grid) -> StarImage:
    """Return the image of a star of unit flux, integrated over pixels; see `radial_profile`."""
    return star_image(radial_profile(structure, wavelength, optics, grid.largest_radius()), grid)


def radial_profile(
    structure: StructureFunction, wavelength: float, optics: Optics, largest_radius: float
) -> RadialProfile:
    """Return the radial profile of a star at a wavelength in metres, out to `largest_radius` pixels at least.

    Far from the star the image is determined by the transfer function at small separations, so that a zone
    that starts twice as far out needs only half of its range. Diffraction rings are neglected beyond 32
    lambda/D, where they are below 1e-5 of the peak.
    """
    resolution = optics.resolution(wavelength)
    n_zones = 2
    while ZONE_RADIUS * resolution * 2.0 ** (n_zones - 1) < largest_radius:
        n_zones += 1
    node, weight = unit_nodes(_N_NODES)
    taper = gammaincc(_TAPER_ORDER, _TAPER_SCALE * node**4)
    (value_kernel, slope_kernel), value, slope = _hankel_kernels(), [], []
    for zone in range(n_zones):
        scale = 2.0**-zone
        separation = scale * node**2
        transfer = telescope_transfer(separation, optics.central_obscuration)
        transfer *= np.exp(-0.5 * structure(separation * optics.telescope_diameter))
        if zone > 0:
            transfer *= taper * _pixel_transfer(separation / resolution)
        transfer *= 2.0 * node * weight * scale
        value.append(value_kernel @ (transfer * separation) * (2.0 * np.pi / resolution**2))
        slope.append(slope_kernel @ (transfer * separation**2) * (-((2.0 * np.pi) ** 2) / resolution**3))
    return RadialProfile(np.array(value), np.array(slope), resolution)


def star_image(profile: RadialProfile, grid: Grid) -> StarImage:
    """Integrate a profile over square pixels; the flux beyond the grid is missing from the image."""
    n_points = int(np.ceil(2.0 + 2.0 / profile.resolution))
    node, weight = np.polynomial.legendre.leggauss(n_points)
    return StarImage(*_integrate_pixels(profile, grid, 0.5 * node, 0.5 * weight))


def telescope_transfer(separation: Doubles, obscuration: float) -> Doubles:
    """Return the transfer function of an annular pupil (O'Neill 1956, J. Opt. Soc. Am. 46, 285).

    The separation is in units of the diameter of the pupil, and the function is zero from 1 on. The
    obscuration is the ratio of the inner to the outer diameter, 0 <= obscuration < 1.
    """
    outer = _overlap(separation, 0.5, 0.5)
    if obscuration == 0.0:
        return outer / (0.25 * np.pi)
    inner = 0.5 * obscuration
    area = outer + _overlap(separation, inner, inner) - 2.0 * _overlap(separation, 0.5, inner)
    return np.asarray(area / (0.25 * np.pi * (1.0 - obscuration**2)))


def _overlap(separation: Doubles, radius_1: float, radius_2: float) -> Doubles:
    """Return the common area of two circles (radius_1 >= radius_2) at the given separations."""
    low, high = radius_1 - radius_2, radius_1 + radius_2
    between = (separation > low) & (separation < high)
    d = np.where(between, separation, 0.5 * (low + high))
    angle_1 = np.arccos((d**2 + radius_1**2 - radius_2**2) / (2.0 * d * radius_1))
    angle_2 = np.arccos((d**2 + radius_2**2 - radius_1**2) / (2.0 * d * radius_2))
    lens = radius_1**2 * (angle_1 - 0.5 * np.sin(2.0 * angle_1))
    lens += radius_2**2 * (angle_2 - 0.5 * np.sin(2.0 * angle_2))
    return np.asarray(np.where(between, lens, np.where(separation <= low, np.pi * radius_2**2, 0.0)))


def _pixel_transfer(frequency: Doubles) -> Doubles:
    """Return the transfer function of a square pixel (cycles per pixel), averaged over all directions."""
    node, weight = unit_nodes(16)
    angle = 0.25 * np.pi * node
    along, across = np.cos(angle), np.sin(angle)
    return np.asarray((np.sinc(frequency[:, None] * along) * np.sinc(frequency[:, None] * across)) @ weight)


@lru_cache(maxsize=1)
def _hankel_kernels() -> tuple[Doubles, Doubles]:
    """Return J0 and J1 of 2 pi r s at the radii of a zone (rows) and the nodes; the same for all zones."""
    radius = np.linspace(0.0, ZONE_RADIUS, _N_ZONE_STEPS + 1)
    phase = 2.0 * np.pi * radius[:, None] * unit_nodes(_N_NODES)[0] ** 2
    kernels = j0(phase), j1(phase)
    kernels[0].flags.writeable = kernels[1].flags.writeable = False
    return kernels


@njit(cache=True, nogil=True)
def _integrate_pixels(
    profile: RadialProfile, grid: Grid, node: Doubles, weight: Doubles
) -> tuple[Doubles, Doubles, Doubles]:
    """Average the profile and its gradient over pixels: by quadrature in zone 0, at pixel centres beyond."""
    (value, slope, resolution), (shape, centre_y, centre_x) = profile, grid
    height, width = shape
    image, by_y, by_x = np.empty(shape), np.empty(shape), np.empty(shape)
    n_steps = value.shape[1] - 1
    step = ZONE_RADIUS * resolution / n_steps
    zone_end = ZONE_RADIUS * resolution
    for y in range(height):
        for x in range(width):
            dy, dx = y - centre_y, x - centre_x
            radius = np.sqrt(dy * dy + dx * dx)
            if radius < zone_end - 1.0:
                total, total_y, total_x = 0.0, 0.0, 0.0
                for j in range(node.size):
                    sub_y = dy + node[j]
                    for i in range(node.size):
                        sub_x = dx + node[i]
                        distance = np.sqrt(sub_y * sub_y + sub_x * sub_x)
                        point, gradient = _hermite(value, slope, 0, distance, step)
                        share = weight[j] * weight[i]
                        total += share * point
                        if distance > 0.0:
                            total_y -= share * gradient * sub_y / distance
                            total_x -= share * gradient * sub_x / distance
                image[y, x], by_y[y, x], by_x[y, x] = total, total_y, total_x
            else:
                zone, end, zone_step = 1, 2.0 * zone_end, 2.0 * step
                while radius > end and zone < value.shape[0] - 1:
                    zone, end, zone_step = zone + 1, 2.0 * end, 2.0 * zone_step
                point, gradient = _hermite(value, slope, zone, radius, zone_step)
                image[y, x] = point
                by_y[y, x], by_x[y, x] = -gradient * dy / radius, -gradient * dx / radius
    return image, by_y, by_x


@njit(cache=True, nogil=True)
def _hermite(value: Doubles, slope: Doubles, zone: int, radius: float, step: float) -> tuple[float, float]:
    """Return the cubic Hermite interpolation and its derivative; the value is constant beyond the table."""
    n_steps = value.shape[1] - 1
    position = min(radius / step, float(n_steps))
    k = min(int(position), n_steps - 1)
    t = position - k
    low, high = value[zone, k], value[zone, k + 1]
    low_slope, high_slope = slope[zone, k] * step, slope[zone, k + 1] * step
    change = high - low
    quadratic = 3.0 * change - 2.0 * low_slope - high_slope
    cubic = low_slope + high_slope - 2.0 * change
    point = low + t * (low_slope + t * (quadratic + t * cubic))
    return point, (low_slope + t * (2.0 * quadratic + 3.0 * t * cubic)) / step

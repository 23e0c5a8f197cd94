"""Point spread function of a large telescope behind adaptive optics (AO), for any wavelength.

The model is that of Fetick et al. 2019 (A&A 628, A99), reduced to circular symmetry. The long-exposure
optical transfer function at angular frequency v is

    OTF(v) = T(wavelength v) exp(-S(wavelength v) / 2)

with T the transfer function of the annular pupil and S the structure function of the residual phase. The
power spectrum of that phase is a Moffat function plus a constant inside the AO cut-off, where the deformable
mirror corrects, and the uncorrected von Karman turbulence outside. The phase is proportional to
1 / wavelength, so S is tabulated once against the baseline in metres and scaled by (500 nm / wavelength)**2:
the core sharpens towards the red while the edge of the halo, at wavelength times cut-off, moves outwards.

The model has circular symmetry, so a PSF costs one matrix-vector product (a Hankel transform) and one table
look-up per pixel. The square pixel is replaced by a disc of the same area, which preserves the symmetry.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

ARCSEC = np.pi / 648000.0
REFERENCE_WAVELENGTH = 500e-9


@dataclass(frozen=True)
class AdaptiveOptics:
    """Telescope, turbulence and correction; lengths are in metres, phases in radians at 500 nm.

    `obstruction` is the diameter of the central hole as a fraction of that of the pupil, and `cutoff` the
    spatial frequency (1/m) up to which the mirror corrects. The corrected spectrum consists of a Moffat
    function with the integral `core_variance` (rad^2), the width `core_width` (1/m) and the exponent
    `core_slope`, and of the constant `floor` (rad^2 m^2).
    """

    diameter: float = 8.0
    obstruction: float = 0.14
    r0: float = 0.17
    outer_scale: float = 25.0
    cutoff: float = 2.5
    core_variance: float = 20.0
    core_width: float = 0.04
    core_slope: float = 1.6
    floor: float = 0.05

    def turbulence(self, frequency: Doubles) -> Doubles:
        """Return the von Karman power spectrum of the uncorrected phase (rad^2 m^2) at `frequency` (1/m)."""
        return 0.0229 * self.r0 ** (-5 / 3) * (frequency**2 + self.outer_scale**-2.0) ** (-11 / 6)

    def corrected(self, frequency: Doubles) -> Doubles:
        """Return the power spectrum that remains inside the cut-off (rad^2 m^2) at `frequency` (1/m)."""
        slope, squared_width = self.core_slope, self.core_width**2
        enclosed = 1.0 - (1.0 + self.cutoff**2 / squared_width) ** (1.0 - slope)
        peak = self.core_variance * (slope - 1.0) / (np.pi * squared_width * enclosed)
        return peak * (1.0 + frequency**2 / squared_width) ** -slope + self.floor

    def structure_function(self, baseline: Doubles) -> Doubles:
        """Return the structure function of the residual phase (rad^2 at 500 nm) at `baseline` (m).

        The part of the turbulence has a closed form; the effect of the mirror is integrated numerically.
        """
        scaled = np.maximum(2 * np.pi * baseline / self.outer_scale, 1e-9)
        shape = special.gamma(5 / 6) / 2 ** (1 / 6) - scaled ** (5 / 6) * special.kv(5 / 6, scaled)
        scale = (self.outer_scale / self.r0) ** (5 / 3) * 2 ** (1 / 6) * special.gamma(11 / 6)
        open_loop = scale / np.pi ** (8 / 3) * (24 / 5 * special.gamma(6 / 5)) ** (5 / 6) * shape
        # Both spectra are steep near zero, so the nodes are denser there.
        position, weight = special.roots_legendre(400)
        frequency = self.cutoff * (0.5 + 0.5 * position) ** 3
        weight = weight * 1.5 * self.cutoff * (0.5 + 0.5 * position) ** 2
        removed = (self.corrected(frequency) - self.turbulence(frequency)) * frequency * weight
        oscillation = 1.0 - special.j0(2 * np.pi * baseline[:, None] * frequency)
        return np.maximum(open_loop + 4 * np.pi * (oscillation @ removed), 0.0)

    def pupil_transfer(self, baseline: Doubles) -> Doubles:
        """Return the normalised autocorrelation of the annular pupil at `baseline` (m)."""
        outer, inner = self.diameter / 2, self.obstruction * self.diameter / 2
        overlap = _overlap(outer, outer, baseline)
        if inner > 0:
            overlap = overlap - 2 * _overlap(outer, inner, baseline) + _overlap(inner, inner, baseline)
        return overlap / (np.pi * (outer**2 - inner**2))


def _overlap(large: float, small: float, distance: Doubles) -> Doubles:
    """Return the common area of two discs with radii `large` >= `small` and a `distance` of their centres."""
    apart = np.clip(distance, max(large - small, 1e-12), large + small)
    angle_large = np.arccos(np.clip((apart**2 + large**2 - small**2) / (2 * apart * large), -1, 1))
    angle_small = np.arccos(np.clip((apart**2 + small**2 - large**2) / (2 * apart * small), -1, 1))
    total = large + small
    kite = (total - apart) * (apart + small - large) * (apart - small + large) * (apart + small + large)
    lens = large**2 * angle_large + small**2 * angle_small - 0.5 * np.sqrt(np.maximum(kite, 0.0))
    return np.where(distance <= large - small, np.pi * small**2, lens)


@dataclass(frozen=True)
class RadialLookUp:
    """Position of each pixel of a grid between the radial nodes, which is the same for all wavelengths."""

    index: NDArray[np.intp]
    fraction: Floats

    def paint(self, profile: Doubles) -> Floats:
        """Return the image (y, x) of a radial `profile` by linear interpolation between its nodes."""
        value, slope = profile.astype(np.float32), np.diff(profile).astype(np.float32)
        return slope.take(self.index) * self.fraction + value.take(self.index)


class RadialPsf:
    """Radial profiles of the PSF, averaged over pixels, at any wavelength from `shortest` (m) up.

    They reach to a radius of `reach` pixels of `pixel_scale` arcseconds.
    """

    def __init__(self, optics: AdaptiveOptics, pixel_scale: float, reach: float, shortest: float) -> None:
        self._optics = optics
        # Fine steps in the core, coarse ones in the smooth halo: r = 4 sinh(u) pixels.
        self._node_step = 0.0125
        count = int(np.arcsinh(reach / 4.0) / self._node_step) + 3
        radius = 4.0 * np.sinh(self._node_step * np.arange(count)) * pixel_scale
        # Gaussian quadrature with five nodes per oscillation at the largest radius. Equal steps would cause a
        # ring of light at a radius of 1 / step, with wings inside it.
        highest = optics.diameter / shortest * ARCSEC
        panels = int(highest * reach * pixel_scale) + 1
        position, weight = special.roots_legendre(5)
        self._frequency = (np.arange(panels)[:, None] + 0.5 + 0.5 * position).ravel() * (highest / panels)
        step = np.tile(0.5 * weight, panels) * (highest / panels)
        argument = 2 * np.sqrt(np.pi) * self._frequency * pixel_scale
        pixel_response = 2 * special.j1(argument) / argument
        weight = pixel_response * 2 * np.pi * self._frequency * step * pixel_scale**2
        self._hankel = special.j0(2 * np.pi * radius[:, None] * self._frequency) * weight
        self._baseline = np.linspace(0.0, optics.diameter, 1601)
        self._structure = optics.structure_function(self._baseline)
        self._transfer = optics.pupil_transfer(self._baseline)

    def profile(self, wavelength: float) -> Doubles:
        """Return the fraction of the light in a pixel at each radial node for `wavelength` (m)."""
        baseline = wavelength / ARCSEC * self._frequency
        structure = np.interp(baseline, self._baseline, self._structure)
        transfer = np.interp(baseline, self._baseline, self._transfer, right=0.0)
        transfer = transfer * np.exp(-0.5 * (REFERENCE_WAVELENGTH / wavelength) ** 2 * structure)
        return self._hankel @ transfer

    def look_up(self, shape: tuple[int, int], centre: tuple[float, float]) -> RadialLookUp:
        """Prepare images of profiles on a (y, x) grid about `centre` (y, x), in pixels from zero."""
        y, x = np.ogrid[: shape[0], : shape[1]]
        node = np.arcsinh(np.hypot(y - centre[0], x - centre[1]) / 4.0) / self._node_step
        index = node.astype(np.intp)
        return RadialLookUp(index, (node - index).astype(np.float32))

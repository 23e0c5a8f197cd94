"""The noise of a plane: its variance, and the correlation of neighbouring pixels."""

from lucidcube.kernels.noise.calibrate import Calibration, Measurement, calibrate, measure_factor
from lucidcube.kernels.noise.correlation import correlated_pixels, noise_width
from lucidcube.kernels.noise.estimate import NoiseModel, estimate_variance, fit_noise, known_variance
from lucidcube.kernels.noise.filters import MAD_TO_SIGMA

__all__ = [
    "MAD_TO_SIGMA",
    "Calibration",
    "Measurement",
    "NoiseModel",
    "calibrate",
    "correlated_pixels",
    "estimate_variance",
    "fit_noise",
    "known_variance",
    "measure_factor",
    "noise_width",
]

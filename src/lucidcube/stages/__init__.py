"""The stages, which are registered when this package is imported."""

import lucidcube.stages.deconvolution_methods  # noqa: F401
from lucidcube.stages.artefacts import Artefacts
from lucidcube.stages.broaden_psf import BroadenPSF
from lucidcube.stages.deconvolve import Deconvolve
from lucidcube.stages.fit_psf import FitPSF
from lucidcube.stages.fitted_models import FitParameter  # noqa: F401  registers the models
from lucidcube.stages.interpolate import Interpolate
from lucidcube.stages.mask import Mask
from lucidcube.stages.model_psf import ModelPSF
from lucidcube.stages.noise import Noise
from lucidcube.stages.normalise_psf import NormalisePSF
from lucidcube.stages.rebin import Rebin
from lucidcube.stages.resample_psf import ResamplePSF

__all__ = [
    "Artefacts",
    "BroadenPSF",
    "Deconvolve",
    "FitPSF",
    "Interpolate",
    "Mask",
    "ModelPSF",
    "Noise",
    "NormalisePSF",
    "Rebin",
    "ResamplePSF",
]

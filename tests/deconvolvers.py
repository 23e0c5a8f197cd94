"""The kernels of the deconvolution with the parameters of the reference program."""

from typing import Any

import numpy as np

from lucidcube.kernels.deconvolution import clean
from lucidcube.kernels.deconvolution import lucy_richardson as richardson
from lucidcube.kernels.deconvolution.common import Deconvolution
from lucidcube.stages.deconvolution_methods import CleanModified, LucyRichardson
from lucidcube.stages.deconvolve import Deconvolve

CLEAN, LUCY = (
    {name: field.default for name, field in model.model_fields.items() if name not in model.stage_only}
    for model in (CleanModified, LucyRichardson)
)
CLEAN |= {"noise_std": 0.1, "chi2_target": None}
LUCY |= {
    "strength": 0.1,
    "nudge_factor": 1e-2,
    "weighted": False,
    "accelerate": False,
    "chi2_target": None,
}


def clean_modified(plane: np.ndarray, psf: np.ndarray, **options: Any) -> Deconvolution:
    return clean.clean_modified(plane, psf, **{**CLEAN, **options})


def lucy_richardson(plane: np.ndarray, psf: np.ndarray, **options: Any) -> Deconvolution:
    return richardson.lucy_richardson(plane, psf, **{**LUCY, **options})


def by_default(method: str, plane: np.ndarray, psf: np.ndarray, **given: Any) -> Deconvolution:
    """Deconvolve with the defaults of the stage; `given` are fields of the stage or arguments of the kernel."""
    arguments = {key: given.pop(key) for key in ("variance", "filled", "observer") if key in given}
    return Deconvolve(method=method, **given).deconvolve_plane(plane, psf, **arguments)

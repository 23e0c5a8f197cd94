"""The kernels of the deconvolution with the defaults that the fields of their stage declare."""

from typing import Any

import numpy as np

from lucidcube.kernels.deconvolution import clean
from lucidcube.kernels.deconvolution import lucy_richardson as richardson
from lucidcube.kernels.deconvolution.common import Deconvolution
from lucidcube.stages.deconvolve import CleanModified, LucyRichardson

CLEAN, LUCY = (
    {name: field.default for name, field in model.model_fields.items() if name != "method"}
    for model in (CleanModified, LucyRichardson)
)


def clean_modified(plane: np.ndarray, psf: np.ndarray, **options: Any) -> Deconvolution:
    return clean.clean_modified(plane, psf, **{**CLEAN, **options})


def lucy_richardson(plane: np.ndarray, psf: np.ndarray, **options: Any) -> Deconvolution:
    return richardson.lucy_richardson(plane, psf, **{**LUCY, **options})

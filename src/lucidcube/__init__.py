"""Sharpen astronomical integral-field cubes, lazily, in bounded memory.

The names of `__all__` are imported when they are first used, so that importing this package is quick.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lucidcube.api.bridges import from_ndcube, to_ndcube, to_spectrum1d
    from lucidcube.api.psf import gaussian_psf, moffat_psf, muse_ao_psf
    from lucidcube.api.sharpen import sharpen
    from lucidcube.config.load import load as load_config
    from lucidcube.cube import from_arrays
    from lucidcube.io.reader import open_cube
    from lucidcube.runner.pipeline import run
    from lucidcube.stages import (
        Artefacts,
        BroadenPSF,
        Deconvolve,
        FitPSF,
        Interpolate,
        Mask,
        ModelPSF,
        Noise,
        NormalisePSF,
        Rebin,
        ResamplePSF,
    )

__version__ = "0.1.0"
__all__ = [
    "Artefacts", "BroadenPSF", "Deconvolve", "FitPSF", "Interpolate", "Mask", "ModelPSF", "Noise",
    "NormalisePSF", "Rebin", "ResamplePSF", "from_arrays", "from_ndcube", "gaussian_psf", "load_config",
    "moffat_psf", "muse_ao_psf", "open_cube", "run", "sharpen", "to_ndcube", "to_spectrum1d",
]  # fmt: skip

_FUNCTIONS = {
    **{name: ("lucidcube.api.bridges", name) for name in ("from_ndcube", "to_ndcube", "to_spectrum1d")},
    **{name: ("lucidcube.api.psf", name) for name in ("gaussian_psf", "moffat_psf", "muse_ao_psf")},
    "sharpen": ("lucidcube.api.sharpen", "sharpen"),
    "from_arrays": ("lucidcube.cube", "from_arrays"),
    "load_config": ("lucidcube.config.load", "load"),
    "open_cube": ("lucidcube.io.reader", "open_cube"),
    "run": ("lucidcube.runner.pipeline", "run"),
}

_ACCESSOR = "lucidcube.api.accessor"
"""Module that registers the accessor `lucid` with xarray."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module(_ACCESSOR)
    module, attribute = _FUNCTIONS.get(name, ("lucidcube.stages", name))
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "xarray" in sys.modules:  # otherwise the accessor is registered when a name is first used
    import_module(_ACCESSOR)

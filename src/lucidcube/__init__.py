"""Sharpen astronomical integral-field cubes, lazily, in bounded memory.

The names of `__all__` are imported when they are first used, so that importing this package is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lucidcube.config.load import load as load_config
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
    "NormalisePSF", "Rebin", "ResamplePSF", "load_config", "open_cube", "run",
]  # fmt: skip

_FUNCTIONS = {
    "load_config": ("lucidcube.config.load", "load"),
    "open_cube": ("lucidcube.io.reader", "open_cube"),
    "run": ("lucidcube.runner.pipeline", "run"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _FUNCTIONS.get(name, ("lucidcube.stages", name))
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

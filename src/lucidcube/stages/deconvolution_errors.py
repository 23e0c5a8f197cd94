"""How the stage `deconvolve` measures the errors of its result."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from lucidcube.stages.base import Parameters, parameter


class Errors(Parameters):
    """How to measure the errors of the components."""

    draws: int = parameter(8, "", "number of times that simulated data are deconvolved", ge=2)
    smoothing: float | None = parameter(
        None,
        "pixel",
        "standard deviation of the Gaussian under which the components have these errors; null is that of "
        "the resolution, or 1 without one",
        gt=0,
    )
    psf_width: float = parameter(
        0.02,
        "",
        "standard deviation of the width of the PSF of the target, relative to it: the seeing, or the "
        "correction, is rarely the same for star and target",
        ge=0,
        lt=0.5,
    )


def _errors(value: Any) -> Any:
    """Return the parameters of the errors, given them, or true for the defaults, or false for none."""
    return ({} if value else None) if isinstance(value, bool) else value


ErrorOptions = Annotated[Errors | None, BeforeValidator(_errors, json_schema_input_type=Errors | bool | None)]
"""The parameters of the errors, or None to measure none; true is short for the defaults."""

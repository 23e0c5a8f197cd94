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


def _errors(value: Any) -> Any:
    """Return the parameters of the errors, given them, or true for the defaults, or false for none."""
    return ({} if value else None) if isinstance(value, bool) else value


ErrorOptions = Annotated[Errors | None, BeforeValidator(_errors, json_schema_input_type=Errors | bool | None)]
"""The parameters of the errors, or None to measure none; true is short for the defaults."""

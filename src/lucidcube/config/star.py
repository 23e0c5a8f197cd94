"""Define what takes the part of the star in a config: a file, a place in the target, or a formula."""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, ConfigDict, Field, PlainValidator, model_validator

from lucidcube.config.track import PSFStage, Stages, Track
from lucidcube.stages.base import Parameters
from lucidcube.stages.lengths import Length


def _coordinate(value: Any) -> float | str:
    """Return a number of pixels, or the text of an angle."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:  # an integer beyond the range of float64
            return math.inf
    from astropy.coordinates import Angle  # imported here because it takes long
    from astropy.units import UnitsError

    try:
        Angle(value)
    except (TypeError, ValueError, UnitsError) as error:
        message = f"{value!r} is neither a number of pixels nor an angle such as '5h34m32s' or '-12.5deg'"
        raise ValueError(message) from error
    return str(value)


Coordinate = Annotated[float | str, BeforeValidator(_coordinate, json_schema_input_type=float | str)]
"""A position on an axis in pixels, or the text of an angle on the sky."""


class Place(Parameters):
    """A star in the field of the target."""

    model_config = ConfigDict(populate_by_name=True)

    source: Literal["target"] = Field(
        alias="from",
        description="the word target, for a star in the field of the target, instead of an input",
    )
    x: Coordinate = Field(description="with from: position of the star in pixels from 0, or right ascension")
    y: Coordinate = Field(description="with from: position of the star in pixels from 0, or declination")
    radius: Length = Field(
        description="with from: half of the side of the square around the star, in pixels or as an angle"
    )

    @model_validator(mode="after")
    def _both_alike(self) -> Self:
        if isinstance(self.x, str) != isinstance(self.y, str):
            raise ValueError("x and y must both be pixels, or both angles")
        return self


class StarInTarget(Place):
    """A star that is cut out of the target, and the stages that are applied to it."""

    stages: Stages = ()


class PartOfTarget(Track):
    """The input of the target around a star."""

    place: Place


class ModelledStar(Parameters):
    """A PSF that is made from a formula, in place of a star."""

    psf: PSFStage = Field(
        description="formula of the PSF in place of an input: {model: moffat, fwhm: 0.08arcsec}, or gaussian "
        "or muse_ao, with the parameters of the stage model_psf"
    )


STAR_KINDS: Mapping[str, type[Parameters]] = {"psf": ModelledStar, "from": StarInTarget, "input": Track}
"""What takes the part of the star, by the key that chooses it."""


def _star(values: Any) -> Any:
    """Return what takes the part of the star, as its keys say."""
    if isinstance(values, tuple(STAR_KINDS.values())):
        return values
    chosen = [key for key in STAR_KINDS if isinstance(values, Mapping) and key in values]
    if len(chosen) > 1:
        raise ValueError(f"has both {' and '.join(chosen)}: give one of a file, a formula or a place")
    return STAR_KINDS[chosen[0] if chosen else "input"].model_validate(values)


_Star = Track | StarInTarget | ModelledStar
Star = Annotated[_Star, PlainValidator(_star, json_schema_input_type=_Star | str)]
"""What the PSF is made from; a text is its input, see `lucidcube.config.presets.with_inputs`."""

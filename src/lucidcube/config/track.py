"""Define the tracks of a config: an input, and the stages that are applied to it."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Union

from pydantic import BeforeValidator, Field, PlainValidator, ValidationInfo, create_model, field_validator

import lucidcube.stages  # noqa: F401  registers the stages
from lucidcube.errors import ConfigError, did_you_mean
from lucidcube.io.specifier import Specifier, parse_specifier
from lucidcube.stages.base import REGISTRY, Parameters, Stage

DECONVOLVE = "deconvolve"
"""The stage that joins the tracks; it is a section of its own in a config, not an item of a track."""

MODEL_PSF = "model_psf"
"""The stage that makes a PSF without a star; in a config it is the key `psf` of the star."""

IN_TRACKS = {name: cls for name, cls in REGISTRY.items() if name not in (DECONVOLVE, MODEL_PSF)}


def known_stage(name: Any) -> Any:
    """Return the name of a stage; raise a validation error for any other value."""
    if not isinstance(name, str) or name not in REGISTRY:
        raise ValueError(f"there is no stage {name!r}{did_you_mean(str(name), REGISTRY)}")
    return name


def _stage_of_item(item: Any) -> Stage:
    """Return the stage of an item of `stages`: a name, or a mapping of a name to parameters."""
    if isinstance(item, Stage):
        return item
    if isinstance(item, str):
        item = {item: {}}
    if not isinstance(item, Mapping) or len(item) != 1:
        raise ValueError(f"{item!r} is neither the name of a stage nor 'name: {{parameter: value}}'")
    ((name, values),) = item.items()
    if name == DECONVOLVE:
        raise ValueError(f"{name} joins the tracks: give it at the top level, as '{name}: {{}}'")
    if name == MODEL_PSF:
        raise ValueError(f"{name} takes the place of the star: give its parameters as 'star: {{psf: ...}}'")
    return REGISTRY[known_stage(name)].parse({} if values is None else values)


_parameters: dict[str, Any] = {name: (cls.union(), ...) for name, cls in IN_TRACKS.items()}
_items = [create_model(n, __base__=Parameters, **{n: field}) for n, field in _parameters.items()]
StageItem = Annotated[
    Stage, PlainValidator(_stage_of_item, json_schema_input_type=Union[Literal[tuple(IN_TRACKS)], *_items])
]
"""A stage in a track."""

_last = REGISTRY[DECONVOLVE]
LastStage = Annotated[Stage, PlainValidator(_last.parse, json_schema_input_type=_last.union())]
"""The deconvolution."""

_model = REGISTRY[MODEL_PSF]
PSFStage = Annotated[Stage, PlainValidator(_model.parse, json_schema_input_type=_model.union())]
"""The formula of a PSF."""


class Input(Parameters):
    """A cube on disk, and how to read it where its header is incomplete."""

    input: str = Field(description="file, as PATH{EXT}[SLICE](AXES)")
    ext: str | int | None = Field(None, description="name or number of the HDU")
    slice: str | None = Field(None, description="part to read, in NumPy order: '100:200,:,3:-3'")
    wave: str | None = Field(None, description="range of wavelengths to read: '0.55:0.60um'")
    axes: str | None = Field(None, description="NumPy axis numbers: 'spectral=0,celestial=1,2'")
    wave_start: float | None = Field(None, description="wavelength of the first plane, if not in the header")
    wave_step: float | None = Field(None, description="wavelength between planes, if not in the header")
    wave_unit: str | None = Field(None, description="unit of wave_start and wave_step, such as 'nm'")

    def specifier(self) -> Specifier:
        """Return the array to read; raise ConfigError if the fields contradict each other."""
        return parse_specifier(self.input).with_options(
            ext=self.ext, slice=self.slice, wave=self.wave, axes=self.axes
        )

    @field_validator("input", "ext", "slice", "wave", "axes")
    @classmethod
    def _is_specifier(cls, value: Any, info: ValidationInfo) -> Any:
        key, file = str(info.field_name), str(info.data.get("input", "file"))
        try:
            parse_specifier(value) if key == "input" else parse_specifier(file).with_options(**{key: value})
        except ConfigError as error:
            raise ValueError("; ".join(error.problems)) from None
        return value


Stages = Annotated[
    tuple[StageItem, ...],
    Field(
        description="names, or 'name: {parameter: value}'; those of the preset if the config names a preset, "
        "or names no stage in either track"
    ),
]
"""The stages of a track, in order."""


class Track(Input):
    """An input and the stages that are applied to it, in order."""

    stages: Stages = ()


Target = Annotated[Track, BeforeValidator(lambda values: values, json_schema_input_type=Track | str)]
"""The target; a text is its input."""

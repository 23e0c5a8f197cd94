"""Define the schema of a config: pydantic models, from which the JSON schema and the template are made."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, Union, get_args

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    create_model,
    field_validator,
    model_validator,
)

import lucidcube.stages  # noqa: F401  registers the stages
from lucidcube.cluster import Profile, load_profile
from lucidcube.config.presets import TRACKS, Preset
from lucidcube.cube import PSF
from lucidcube.errors import ConfigError, did_you_mean
from lucidcube.io.specifier import Specifier, parse_specifier
from lucidcube.stages.base import REGISTRY, Parameters, Stage
from lucidcube.stages.lengths import Length

DECONVOLVE = "deconvolve"
"""The stage that joins the tracks; it is a section of its own in a config, not an item of a track."""

MODEL_PSF = "model_psf"
"""The stage that makes a PSF without a star; in a config it is the key `psf` of the star."""

IN_TRACKS = {name: cls for name, cls in REGISTRY.items() if name not in (DECONVOLVE, MODEL_PSF)}

Product = Literal[
    "deconvolved",
    "restored",
    "points",
    "model",
    "error",
    "bias",
    "residual",
    "psf",
    "log",
    "fit",
    "filled",
    "mask",
    "badness",
    "variance",
    "provenance",
]

Codec = Literal["none", "lz4", "zstd"]
"""Compression of checkpoints."""


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


def _loadable(profile: str) -> str:
    try:
        load_profile(profile)
    except ConfigError as error:
        raise ValueError("; ".join(p.removeprefix("profile: ") for p in error.problems)) from None
    return profile


def _expanded(path: str) -> str:
    """Return a path with ``~`` expanded."""
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise ValueError(str(error)) from None


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
        "or names stages in neither track"
    ),
]
"""The stages of a track, in order."""


class Track(Input):
    """An input and the stages that are applied to it, in order."""

    stages: Stages = ()


def _coordinate(value: Any) -> float | str:
    """Return a number of pixels, or the text of an angle."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
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

Target = Annotated[Track, BeforeValidator(lambda values: values, json_schema_input_type=Track | str)]
"""The target; a text is its input."""


class Output(Parameters):
    """The product of a run."""

    path: str = Field("deconvolved.fits", description="FITS file to write")
    products: tuple[Product, ...] = Field(
        tuple(p for p in get_args(Product) if p not in ("model", "mask", "badness")),
        description="what the file contains",
    )
    overwrite: bool = Field(False, description="replace a file even if lucidcube did not make it")

    @field_validator("path")
    @classmethod
    def _is_path(cls, value: str) -> str:
        if not Path(_expanded(value)).name:
            raise ValueError(f"{value!r} is not the name of a file")
        return _expanded(value)


class Checkpoints(Parameters):
    """Where checkpoints are kept, and after which stages."""

    dir: Annotated[str, AfterValidator(_expanded)] | None = Field(
        None, description="folder; '<target>.work' beside the product if not given"
    )
    after: tuple[Annotated[str, AfterValidator(known_stage)], ...] = Field(
        ("rebin", "model_psf", "artefacts", "interpolate", "fit_psf", "deconvolve"),
        description="names of stages",
    )
    codec: Codec = Field("none", description="compression; none is fastest on a local disk")


class Config(Parameters):
    """A whole run."""

    target: Target = Field(description="the object to sharpen")
    star: Star | None = Field(None, description="a star, a PSF that needs no stages, or the formula of one")
    deconvolve: LastStage | None = Field(None, description="parameters of the deconvolution")
    preset: Preset | None = Field(
        None,
        description="methods and parameters where the config gives none: recommended (the same as none), or "
        "reference, those of the program aopp_deconv_tool",
    )
    output: Output = Output()
    checkpoints: Checkpoints = Checkpoints()
    profile: Annotated[str, AfterValidator(_loadable)] = Field(
        "laptop", description="where to run: a built-in name, the address of a scheduler, or a YAML file"
    )

    @field_validator("deconvolve")
    @classmethod
    def _needs_a_psf(cls, stage: Stage | None, info: ValidationInfo) -> Stage | None:
        if stage is not None and "star" in info.data and info.data["star"] is None:
            raise ValueError("needs a PSF: give a star: a cube of a star, a PSF without stages, or a formula")
        return stage

    @cached_property
    def where(self) -> Profile:
        """The profile."""
        return load_profile(self.profile)

    def tracks(self) -> dict[str, Track]:
        """Return the tracks of this config that have an input, by name."""
        tracks = {"target": self.target}
        if isinstance(self.star, Track):
            tracks["star"] = self.star
        elif isinstance(self.star, StarInTarget):
            place = Place(**self.star.model_dump(exclude={"stages"}))
            stages = {"stages": self.star.stages, "place": place}
            tracks["star"] = PartOfTarget(**self.target.model_dump(exclude={"stages"}), **stages)
        return tracks

    def stages(self, name: str) -> tuple[Stage, ...]:
        """Return the stages of a track.

        Those of the target end with the deconvolution. A PSF without a star is made before the first of them
        that requires one.
        """
        stages: tuple[Stage, ...] = getattr(self, name).stages
        if name != "target":
            return stages
        if self.deconvolve is not None:
            stages = (*stages, self.deconvolve)
        first = next((n for n, stage in enumerate(stages) if PSF in stage.requires), len(stages))
        made = (self.star.psf,) if isinstance(self.star, ModelledStar) and first < len(stages) else ()
        return (*stages[:first], *made, *stages[first:])

    def work(self) -> Path:
        """Return the folder of the checkpoints."""
        if self.checkpoints.dir is not None:
            return Path(self.checkpoints.dir)
        # Named after the target and not after the product, so that runs that compare methods share it.
        stem = self.target.specifier().file.name.partition(".")[0] or "target"
        return Path(self.output.path).parent / f"{stem}.work"

    def plain(self) -> dict[str, Any]:
        """Return plain data from which `from_plain` makes the same config."""
        values = self.model_dump(mode="json", exclude={*TRACKS, DECONVOLVE})
        for name, track in (("target", self.target), ("star", self.star)):
            if isinstance(track, (Track, StarInTarget)):
                kept = track.model_dump(mode="json", exclude={"stages"}, exclude_none=True, by_alias=True)
                values[name] = kept | {"stages": [{s.name: s.flat()} for s in track.stages]}
            elif track is not None:
                values[name] = {"psf": track.psf.flat()}
        if self.deconvolve is not None:
            values[DECONVOLVE] = self.deconvolve.flat()
        return values

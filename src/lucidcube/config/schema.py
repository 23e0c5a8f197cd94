"""Define the schema of a config: pydantic models, from which the JSON schema and the template are made."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args

from pydantic import AfterValidator, Field, PlainValidator, ValidationInfo, create_model, field_validator

import lucidcube.stages  # noqa: F401  registers the stages
from lucidcube.cluster import Profile, load_profile
from lucidcube.config.presets import Preset
from lucidcube.errors import ConfigError, did_you_mean
from lucidcube.io.specifier import Specifier, parse_specifier
from lucidcube.stages.base import REGISTRY, Parameters, Stage

TRACKS = ("target", "star")
DECONVOLVE = "deconvolve"
"""The stage that joins the tracks; it is a section of its own in a config, not an item of a track."""

IN_TRACKS = {name: cls for name, cls in REGISTRY.items() if name != DECONVOLVE}

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


class Track(Input):
    """An input and the stages that are applied to it, in order."""

    stages: tuple[StageItem, ...] = Field(
        (),
        description="names, or 'name: {parameter: value}'; those of the preset if the config names a preset, "
        "or names stages in neither track",
    )


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
        ("rebin", "artefacts", "interpolate", "fit_psf", "deconvolve"), description="names of stages"
    )
    codec: Codec = Field("none", description="compression; none is fastest on a local disk")


class Config(Parameters):
    """A whole run."""

    target: Track = Field(description="the object to sharpen")
    star: Track | None = Field(None, description="a star, or a PSF that needs no stages")
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
            raise ValueError("needs a PSF: give a star, which is a cube of a star or a PSF without stages")
        return stage

    @cached_property
    def where(self) -> Profile:
        """The profile."""
        return load_profile(self.profile)

    def tracks(self) -> dict[str, Track]:
        """Return the tracks of this config by name."""
        return {name: track for name in TRACKS if (track := getattr(self, name)) is not None}

    def stages(self, name: str) -> tuple[Stage, ...]:
        """Return the stages of a track; those of the target end with the deconvolution."""
        stages: tuple[Stage, ...] = getattr(self, name).stages
        return (*stages, self.deconvolve) if name == "target" and self.deconvolve is not None else stages

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
        for name, track in self.tracks().items():
            kept = track.model_dump(mode="json", exclude={"stages"}, exclude_none=True)
            values[name] = kept | {"stages": [{s.name: s.flat()} for s in track.stages]}
        if self.deconvolve is not None:
            values[DECONVOLVE] = self.deconvolve.flat()
        return values

"""Define the schema of a config: pydantic models, from which the JSON schema and the template are made."""

from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from lucidcube.cluster import Profile, load_profile, profile_name
from lucidcube.config.presets import TRACKS, Preset
from lucidcube.config.star import ModelledStar, PartOfTarget, Place, Star, StarInTarget
from lucidcube.config.track import DECONVOLVE, LastStage, Target, Track, known_stage
from lucidcube.cube import PSF
from lucidcube.errors import ConfigError
from lucidcube.stages.base import Parameters, Stage

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

TRUST_PROFILE = "trust_profile"
"""Key of the validation context that allows profiles which can run commands."""

Codec = Literal["none", "lz4", "zstd"]
"""Compression of checkpoints."""


def _loadable(profile: str, info: ValidationInfo) -> str:
    try:
        load_profile(profile, trust=bool((info.context or {}).get(TRUST_PROFILE)))
    except ConfigError as error:
        raise ValueError("; ".join(p.removeprefix("profile: ") for p in error.problems)) from None
    return profile


def _expanded(path: str) -> str:
    """Return a path with ``~`` expanded."""
    try:
        expanded = str(Path(path).expanduser())
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    if "\0" in expanded:
        raise ValueError("a path cannot contain a null character")
    return expanded


class Output(Parameters):
    """The product of a run."""

    path: str = Field("deconvolved.fits", description="FITS file to write")
    products: tuple[Product, ...] = Field(
        tuple(p for p in get_args(Product) if p not in ("model", "mask", "badness")),
        description="what the file contains, besides the provenance, and the errors if deconvolve has any",
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
        "laptop",
        description="where to run: laptop, processes, synchronous or gpu; --profile also takes a YAML file "
        "or the address of a scheduler",
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
        return load_profile(self.profile, trust=True)  # it was judged when the config was made

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
        """Return plain data from which `from_plain` makes the same config.

        A profile that is not built in is only named: neither the path of its file nor an address is returned.
        """
        values = self.model_dump(mode="json", exclude={*TRACKS, DECONVOLVE})
        values["profile"] = profile_name(self.profile)
        for name, track in (("target", self.target), ("star", self.star)):
            if isinstance(track, (Track, StarInTarget)):
                kept = track.model_dump(mode="json", exclude={"stages"}, exclude_none=True, by_alias=True)
                values[name] = kept | {"stages": [{s.name: s.flat()} for s in track.stages]}
            elif track is not None:
                values[name] = {"psf": track.psf.flat()}
        if self.deconvolve is not None:
            values[DECONVOLVE] = self.deconvolve.flat()
        return values

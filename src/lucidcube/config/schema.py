"""The config of a run: one schema, files merged left to right, then ``--set``; all errors at once."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, InstanceOf, ValidationError
from pydantic_core import ErrorDetails

import lucidcube.stages  # noqa: F401  registers the stages
from lucidcube.cluster import load_profile
from lucidcube.config.raw import did_you_mean, merge, override, read_yaml
from lucidcube.errors import ConfigError, UserError
from lucidcube.io.specifier import Specifier, parse_specifier
from lucidcube.stages.base import REGISTRY, Parameters, Stage

TRACKS = ("target", "star")
DECONVOLVE = "deconvolve"
LAST_STAGES = {DECONVOLVE}
"""Stages that join the tracks, and so stand in none of them."""

Product = Literal[
    "deconvolved", "residual", "psf", "log", "fit", "filled", "mask", "badness", "variance", "provenance"
]


Codec = Literal["none", "lz4", "zstd"]
"""Compression of checkpoints."""


class Input(Parameters):
    """A cube on disk, and how to read it where its header does not say enough."""

    input: str = Field(description="file, as PATH{EXT}[SLICE](AXES)")
    ext: str | int | None = Field(None, description="name or number of the HDU")
    slice: str | None = Field(None, description="part to read, in numpy order: '100:200,:,3:-3'")
    wave: str | None = Field(None, description="range of wavelengths to read: '0.55:0.60um'")
    axes: str | None = Field(None, description="numpy axis numbers: 'spectral=0,celestial=1,2'")
    wave_start: float | None = Field(
        None, description="wavelength of the first plane, where the header has none"
    )
    wave_step: float | None = Field(None, description="wavelength between planes, likewise")
    wave_unit: str | None = Field(None, description="unit of wave_start and wave_step, as 'nm'")

    def specifier(self) -> Specifier:
        """The array to read.

        Raises
        ------
        ConfigError
            If the text is not a specifier.
        """
        return parse_specifier(self.input).with_options(
            ext=self.ext, slice=self.slice, wave=self.wave, axes=self.axes
        )


class Track(Input):
    """An input and the ordered stages it goes through."""

    stages: tuple[InstanceOf[Stage], ...] = Field((), description="names, or name: {parameter: value}")


class Output(Parameters):
    """Where the products go."""

    path: str = Field("deconvolved.fits", description="FITS file to write")
    products: tuple[Product, ...] = Field(
        ("deconvolved", "residual", "psf", "log", "fit", "filled", "variance", "provenance"),
        description="what goes into it",
    )
    overwrite: bool = Field(True, description="replace the file if it is there")


class Checkpoints(Parameters):
    """Where intermediates are kept, and after which stages."""

    dir: str | None = Field(
        None, description="folder; by default '<target>.work' in the folder of the product"
    )
    after: tuple[str, ...] = Field(
        ("rebin", "artefacts", "interpolate", "fit_psf", "deconvolve"), description="names of stages"
    )
    codec: Codec = Field(
        "none", description="compression of new checkpoints; none is fastest on a local disk"
    )


class Config(Parameters):
    """A whole run."""

    target: Track = Field(description="the object to sharpen")
    star: Track | None = Field(None, description="the star, or a ready-made PSF")
    deconvolve: InstanceOf[Stage] | None = Field(None, description="parameters of the deconvolution")
    output: Output = Output()
    checkpoints: Checkpoints = Checkpoints()
    profile: str = Field("laptop", description="where to run: a built-in name, an address, or a YAML file")

    def tracks(self) -> dict[str, Track]:
        """The tracks that there are."""
        return {name: track for name in TRACKS if (track := getattr(self, name)) is not None}

    def stages(self, name: str) -> tuple[Stage, ...]:
        """The stages of a track; the target's end with the deconvolution."""
        stages: tuple[Stage, ...] = getattr(self, name).stages
        return (*stages, self.deconvolve) if name == "target" and self.deconvolve is not None else stages

    def work(self) -> Path:
        """Folder of the checkpoints."""
        if self.checkpoints.dir is not None:
            return Path(self.checkpoints.dir).expanduser()
        # Named after the target and not after the product, so that runs that compare methods share it.
        stem = self.target.specifier().file.name.partition(".")[0] or "target"
        return Path(self.output.path).expanduser().with_name(f"{stem}.work")

    def plain(self) -> dict[str, Any]:
        """The config as plain data that gives the same config when loaded."""
        text = self.model_dump(mode="json", exclude={"target", "star", DECONVOLVE})
        for name, track in self.tracks().items():
            kept = track.model_dump(mode="json", exclude={"stages"}, exclude_none=True)
            text[name] = kept | {"stages": [{s.name: s.flat()} for s in track.stages]}
        if self.deconvolve is not None:
            text[DECONVOLVE] = self.deconvolve.flat()
        return text


def load(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> Config:
    """Read config files, merge them left to right, apply overrides, validate all.

    Parameters
    ----------
    files
        YAML files; a later one wins, mappings are merged, lists replaced.
    overrides
        ``target.rebin.bin_step=1nm``, ``deconvolve.n_iter=300``, ``output.path=out.fits``: the value is
        YAML.

    Returns
    -------
    Config
        Frozen.

    Raises
    ------
    ConfigError
        With every problem there is, one line each.
    """
    merged: Any = {}
    for file in files:
        merged = merge(merged, read_yaml(Path(file)))
    label = ", ".join(str(f) for f in files)
    problems: list[str] = []
    for text in overrides:
        problems += override(merged, text, TRACKS)
    return from_plain(merged, label, problems)


def from_plain(values: Any, label: str = "config", problems: Sequence[str] = ()) -> Config:
    """Validate a config given as plain data; see `load`."""
    problems = list(problems)
    values = dict(values)
    for name in TRACKS:
        track = values.get(name)
        if isinstance(track, Mapping):
            stages = list(_stages(track.get("stages") or [], f"{name}", problems))
            values[name] = {**track, "stages": stages}
    if values.get(DECONVOLVE) is not None:
        values[DECONVOLVE] = _stage(DECONVOLVE, values[DECONVOLVE], DECONVOLVE, problems)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        found = [line for e in error.errors() if (line := _line(e, _model_at(e["loc"])))]
        raise ConfigError(*(f"{label}: {p}" for p in [*problems, *found])) from None
    problems += _semantic(config)
    if problems:
        raise ConfigError(*(f"{label}: {p}" for p in problems))
    return config


def _stages(items: Any, where: str, problems: list[str]) -> Iterator[Stage]:
    if not isinstance(items, Sequence) or isinstance(items, str):
        problems.append(f"{where}.stages: must be a list of names or of 'name: {{parameter: value}}'")
        return
    for item in items:
        if isinstance(item, str):
            name: Any = item
            values: Any = {}
        elif isinstance(item, Mapping) and len(item) == 1:
            name, values = next(iter(item.items()))
        else:
            problems.append(f"{where}.stages: {item!r} is neither a name nor 'name: {{parameter: value}}'")
            continue
        if name in LAST_STAGES:
            problems.append(f"{where}.stages: {name} joins the tracks: give it at the top, as '{name}: {{}}'")
        elif (stage := _stage(name, values or {}, where, problems)) is not None:
            yield stage


def stage_of(name: str, values: Mapping[str, Any]) -> Stage:
    """A stage of plain values.

    Raises
    ------
    ConfigError
        With every problem there is.
    """
    problems: list[str] = []
    stage = _stage(name, values, name, problems)
    if stage is None:
        raise ConfigError(*problems)
    return stage


def _stage(name: Any, values: Any, where: str, problems: list[str]) -> Stage | None:
    """One stage of raw values; what is wrong goes to `problems`."""
    where = where if where == name else f"{where}.{name}"
    if name not in REGISTRY:
        problems.append(f"{where}: there is no stage {name!r}{did_you_mean(str(name), REGISTRY)}")
        return None
    if not isinstance(values, Mapping):
        problems.append(f"{where}: must be a mapping of parameters, not {values!r}")
        return None
    cls = REGISTRY[name]
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        chosen = {k: v for k in cls.choices() if isinstance(v := values.get(k), str)}
        known = cls.settings(chosen)
        for e in error.errors():
            names = set(itertools.chain.from_iterable(cls.choices().values()))
            loc = [str(p) for p in e["loc"] if str(p) not in names]
            loc = loc[1:] if len(loc) > 1 and loc[0] in cls.choices() else loc
            place = f"{where}.{'.'.join(loc)}" if loc else where
            problems.append(_sentence(place, e, known if len(loc) == 1 else {}))
        return None


def _line(error: ErrorDetails, model: type[BaseModel] | None) -> str | None:
    if error["type"] == "is_instance_of":
        return None  # a stage that failed its own validation, and was reported there
    return _sentence(".".join(map(str, error["loc"])), error, model.model_fields if model else {})


def _sentence(where: str, error: ErrorDetails, known: Mapping[str, Any]) -> str:
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key{did_you_mean(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"{where}: must be given"
    message = error["msg"].removeprefix("Value error, ")
    context = error.get("ctx", {})
    given = context.get("tag", error.get("input"))
    names = re.findall(r"'([^']*)'", str(context.get("expected_tags", context.get("expected", ""))))
    if names and isinstance(given, str):
        message = f"must be one of {', '.join(names)}{did_you_mean(given, names, others=False)}"
    shown = "" if given is None or isinstance(given, Mapping) else f" (not {given!r})"
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"


def _model_at(loc: Sequence[Any]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = Config
    for part in loc[:-1]:
        field = model.model_fields.get(str(part)) if model else None
        types = (field.annotation, *get_args(field.annotation)) if field else ()
        model = next((a for a in types if isinstance(a, type) and issubclass(a, BaseModel)), None)
    return model


def _semantic(config: Config) -> Iterator[str]:
    """What a schema cannot say."""
    if config.deconvolve is not None and config.star is None:
        yield "deconvolve: needs a PSF: give a star (a cube of a star, or a ready-made PSF with no stages)"
    for name in config.checkpoints.after:
        if name not in REGISTRY:
            yield f"checkpoints.after: there is no stage {name!r}{did_you_mean(name, REGISTRY)}"
    for name, track in config.tracks().items():
        try:
            track.specifier()
        except UserError as error:
            yield from (f"{name}.input: {p}" for p in error.problems)
    try:
        load_profile(config.profile)
    except ConfigError as error:
        yield from error.problems

"""The config of a run: one schema, files merged left to right, then ``--set``; all errors at once."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, InstanceOf, ValidationError
from pydantic_core import ErrorDetails

import lucidcube.stages  # noqa: F401  registers the stages
from lucidcube.cluster import load_profile
from lucidcube.errors import ConfigError, UserError
from lucidcube.io.specifier import Specifier, parse_specifier
from lucidcube.stage import REGISTRY, Parameters, Stage

TRACKS = ("target", "star")
DECONVOLVE = "deconvolve"
LAST_STAGES = {DECONVOLVE}
"""Stages that join the tracks, and so stand in none of them."""

Product = Literal[
    "deconvolved", "residual", "psf", "log", "fit", "filled", "mask", "badness", "variance", "provenance"
]


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

    dir: str | None = Field(None, description="folder; without one, '<output>.work' beside the product")
    after: tuple[str, ...] = Field(
        ("rebin", "artefacts", "interpolate", "fit_psf", "deconvolve"), description="names of stages"
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

    def work(self) -> Path:
        """Folder of the checkpoints."""
        if self.checkpoints.dir is not None:
            return Path(self.checkpoints.dir).expanduser()
        out = Path(self.output.path).expanduser()
        return out.with_name(out.stem + ".work")

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
        merged = _merge(merged, read_yaml(Path(file)))
    label = ", ".join(str(f) for f in files)
    problems: list[str] = []
    for override in overrides:
        problems += _override(merged, override)
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


def read_yaml(path: Path) -> dict[str, Any]:
    """A mapping from a YAML file; nothing but plain data comes out of it."""
    try:
        text = path.expanduser().read_text()
    except FileNotFoundError as error:
        near = get_close_matches(path.name, [p.name for p in path.parent.glob("*.y*ml")], 1)
        hint = f"; did you mean {path.parent / near[0]}?" if near else ""
        raise ConfigError(f"{path}: there is no such config file{hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from error
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a config is a mapping with the keys {', '.join(Config.model_fields)}")
    return values


def _merge(below: Any, above: Any) -> Any:
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {k: _merge(below.get(k), above[k]) if k in above else below[k] for k in {**below, **above}}
    return above


def _override(values: dict[str, Any], text: str) -> Iterator[str]:
    """Apply one ``key=value`` to the raw config; yields what is wrong with it."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        yield f"--set {text}: write it as key=value, e.g. --set deconvolve.n_iter=300"
        return
    try:
        new = yaml.safe_load(value)
    except yaml.YAMLError:
        yield f"--set {text}: the value is not YAML"
        return
    if parts[0] in TRACKS and len(parts) == 3:
        yield from _override_stage(values, parts[0], parts[1], parts[2], new, text)
        return
    place: Any = values
    for part in parts[:-1]:
        if place.get(part) is None:
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            yield f"--set {text}: {part} has no keys of its own"
            return
    place[parts[-1]] = new


def _override_stage(
    values: dict[str, Any], track: str, stage: str, parameter: str, new: Any, text: str
) -> Iterator[str]:
    found = re.fullmatch(r"(\w+)(?:\[(\d+)\])?", stage)
    stages = (values.get(track) or {}).get("stages") or []
    name, index = (found[1], found[2]) if found else (stage, None)
    places = [i for i, item in enumerate(stages) if name == item or (isinstance(item, dict) and name in item)]
    if not places:
        there = [item if isinstance(item, str) else next(iter(item), "") for item in stages]
        yield f"--set {text}: {track} has no stage {name!r}{_did_you_mean(name, there)}"
        return
    if index is None and len(places) > 1:
        yield f"--set {text}: {track} has {len(places)} stages {name!r}: say which, as {name}[0]"
        return
    if int(index or 0) >= len(places):
        yield f"--set {text}: {track} has only {len(places)} stages {name!r}; the first is {name}[0]"
        return
    place = places[int(index or 0)]
    old = {} if isinstance(stages[place], str) else stages[place][name] or {}
    values[track] = {**values[track], "stages": [*stages]}
    values[track]["stages"][place] = {name: {**old, parameter: new}}


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
        problems.append(f"{where}: there is no stage {name!r}{_did_you_mean(str(name), REGISTRY)}")
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
        return f"{where}: unknown key{_did_you_mean(str(error['loc'][-1]), known)}"
    if error["type"] == "missing":
        return f"{where}: must be given"
    message = error["msg"].removeprefix("Value error, ")
    context = error.get("ctx", {})
    given = context.get("tag", error.get("input"))
    names = re.findall(r"'([^']*)'", str(context.get("expected_tags", context.get("expected", ""))))
    if names and isinstance(given, str):
        message = f"must be one of {', '.join(names)}{_did_you_mean(given, names, others=False)}"
    shown = "" if given is None or isinstance(given, Mapping) else f" (not {given!r})"
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"


def _model_at(loc: Sequence[Any]) -> type[BaseModel] | None:
    model: type[BaseModel] | None = Config
    for part in loc[:-1]:
        field = model.model_fields.get(str(part)) if model else None
        types = (field.annotation, *get_args(field.annotation)) if field else ()
        model = next((a for a in types if isinstance(a, type) and issubclass(a, BaseModel)), None)
    return model


def _did_you_mean(name: str, known: Sequence[str] | Mapping[str, Any], *, others: bool = True) -> str:
    near = get_close_matches(name, list(known), 1, 0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are: {', '.join(known)}" if others and known else ""


def _semantic(config: Config) -> Iterator[str]:
    """What a schema cannot say."""
    if config.deconvolve is not None and config.star is None:
        yield "deconvolve: needs a PSF: give a star (a cube of a star, or a ready-made PSF with no stages)"
    for name in config.checkpoints.after:
        if name not in REGISTRY:
            yield f"checkpoints.after: there is no stage {name!r}{_did_you_mean(name, REGISTRY)}"
    for name, track in config.tracks().items():
        try:
            track.specifier()
        except UserError as error:
            yield from (f"{name}.input: {p}" for p in error.problems)
    try:
        load_profile(config.profile)
    except ConfigError as error:
        yield from error.problems

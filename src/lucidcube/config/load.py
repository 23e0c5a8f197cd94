"""Load configs: merge YAML files from left to right, apply ``--set`` overrides, report all errors at once."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lucidcube.cluster import PROFILES
from lucidcube.config.presets import TRACKS, with_chains, with_defaults, with_inputs
from lucidcube.config.schema import TRUST_PROFILE, Config
from lucidcube.config.star import STAR_KINDS
from lucidcube.config.track import DECONVOLVE, MODEL_PSF, Track
from lucidcube.errors import ConfigError, closest, did_you_mean
from lucidcube.io.output_path import expanded, files_replaced
from lucidcube.io.yaml_text import parse_yaml, read_yaml_text
from lucidcube.stages.base import REGISTRY, Stage
from lucidcube.stages.problems import problem, stage_problem, stage_problems

_ELSEWHERE = "profile: {0!r}: a config can only name a built-in profile ({names}); type --profile {typed}"


def load(
    files: str | Path | Sequence[str | Path], overrides: Sequence[str] = (), *, trust_profile: bool = False
) -> Config:
    """Read config files, merge them from left to right, apply overrides and validate the result.

    Values of later files replace those of earlier ones; mappings are merged, lists are not. The overrides are
    ``target.rebin.bin_step=1nm``, ``deconvolve.n_iter=300``, ``output.path=out.fits``, ...; their values are
    YAML. ConfigError is raised if anything is wrong, with one line for each problem.

    A file can only name a built-in profile, and an override any; one that can run commands is refused unless
    `trust_profile` is True.

    Examples
    --------
    >>> import lucidcube as lc
    >>> from pathlib import Path
    >>> _ = Path("my.yaml").write_text("target: obs.fits\\nstar: star.fits\\n")
    >>> lc.load_config("my.yaml", ["deconvolve.method=clean_modified"]).deconvolve.method
    'clean_modified'
    """
    files = [files] if isinstance(files, (str, Path)) else files
    values, problems = merge(files, overrides)
    config = from_plain(values, ", ".join(str(f) for f in files), problems, trust_profile=trust_profile)
    read = dict.fromkeys(map(Path, files), "the config")
    for found in files_replaced(Path(config.output.path), read):
        raise ConfigError(f"output.path: {found}; give another name")
    return config


def merge(files: Sequence[str | Path], overrides: Sequence[str] = ()) -> tuple[dict[str, Any], list[str]]:
    """Return the raw config of files and overrides as plain data, and the problems of the overrides."""
    merged: Any = {}
    for file in files:
        merged = _merge(merged, _read_yaml(Path(file)))
    problems: list[str] = []
    profile = merged.get("profile")
    if isinstance(profile, str) and _elsewhere(profile) and not any(_key(o) == "profile" for o in overrides):
        names = ", ".join(PROFILES)
        problems.append(_ELSEWHERE.format(merged.pop("profile"), names=names, typed=shlex.quote(profile)))
    # The chain of stages depends on the preset and on the inputs, and its parameters can be changed as well.
    first = [text for text in overrides if not _is_of_stage(text)]
    for text in (*first, *(text for text in overrides if _is_of_stage(text))):
        try:
            if _is_of_stage(text):
                merged = with_chains(merged)
            _override(merged, text)
        except ConfigError as error:
            problems += [f"--set {text}: {p}" for p in error.problems]
    return merged, problems


def of_product(values: Any) -> dict[str, Any]:
    """Return the config that a product records without its profile, unless that is a built-in one.

    ConfigError is raised if it is no mapping.
    """
    if not isinstance(values, Mapping):
        raise ConfigError("the product records no config: its table PROVENANCE is damaged")
    return {k: v for k, v in values.items() if k != "profile" or v in tuple(PROFILES)}


def from_plain(
    values: Any, label: str = "config", problems: Sequence[str] = (), *, trust_profile: bool = False
) -> Config:
    """Validate a config given as plain data, with any profile; see `load`."""
    problems = list(problems)
    if isinstance(values, Mapping):
        values = with_defaults(with_inputs(values))
    try:
        config = Config.model_validate(values, context={TRUST_PROFILE: trust_profile})
    except ValidationError as error:
        problems += [_config_problem(e, values) for e in error.errors()]
    if problems:
        raise ConfigError(*(f"{label}: {p}" for p in problems))
    return config


def stage_of(name: str, values: Mapping[str, Any]) -> Stage:
    """Return the stage with these parameters; raise ConfigError with all problems."""
    try:
        return REGISTRY[name].parse(values)
    except ValidationError as error:
        raise ConfigError(*stage_problems(REGISTRY[name], error)) from None


def input_of(values: Mapping[str, Any]) -> Track:
    """Return a track without stages; raise ConfigError with all problems."""
    try:
        return Track.model_validate(values)
    except ValidationError as error:
        raise ConfigError(*(problem(e, Track, e["loc"]) for e in error.errors())) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping of plain data from a YAML file."""
    try:
        values = parse_yaml(read_yaml_text(expanded(path)))
    except FileNotFoundError as error:
        near = closest(path.name, (p.name for p in path.parent.glob("*.y*ml")), files=True)
        hint = f"; did you mean {path.parent / near}?" if near else ""
        raise ConfigError(f"{path}: there is no such config file{hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as text: {error}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: a config is a mapping of keys, such as target, star and output")
    return with_inputs(values)


def _merge(below: Any, above: Any) -> Any:
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {k: _merge(below.get(k), above[k]) if k in above else below[k] for k in {**below, **above}}
    return above


def _key(text: str) -> str:
    """Return the key of ``key=value``."""
    return text.partition("=")[0].strip()


def _elsewhere(profile: str) -> bool:
    """Return whether this is the name of no built-in profile, and not a misspelt one either."""
    return profile not in PROFILES and (
        "/" in profile or "." in profile or closest(profile, PROFILES) is None
    )


def _is_of_stage(text: str) -> bool:
    """Return whether ``key=value`` is a parameter of a stage."""
    track, *rest = _key(text).split(".")
    return track == DECONVOLVE or _is_of_item(track, rest)


def _is_of_item(track: str, rest: Sequence[str]) -> bool:
    """Return whether a key is a parameter of a stage of a track, and not of the formula of a PSF."""
    return track in TRACKS and len(rest) == 2 and [track, rest[0]] != ["star", "psf"]


def _override(values: dict[str, Any], text: str) -> None:
    """Apply one ``key=value`` to the raw config."""
    key, equals, value = text.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError("write it as key=value, e.g. --set deconvolve.n_iter=300")
    try:
        new = parse_yaml(value)
    except ConfigError as error:
        raise ConfigError(str(error).replace("not YAML", "the value is not YAML")) from None
    place: Any = values
    if _is_of_item(parts[0], parts[1:]):
        place = _parameters(values, parts[0], parts[1])
        parts = parts[2:]
    for part in parts[:-1]:
        if place.get(part) is None:
            place[part] = {}
        place = place[part]
        if not isinstance(place, dict):
            raise ConfigError(f"{part} has no keys of its own")
    place[parts[-1]] = new
    values.update(with_inputs(values))


def _parameters(values: dict[str, Any], track: str, stage: str) -> dict[str, Any]:
    """Return the parameters of a stage such as ``rebin`` or ``rebin[1]`` in the raw config, to be changed."""
    name, _, index = stage.rstrip("]").partition("[")
    entry = values.get(track)
    stages = entry.get("stages") if isinstance(entry, dict) else None
    stages = [*stages] if isinstance(stages, list) else []  # a copy, because YAML aliases share lists
    names = [_name(item) for item in stages]
    places = [i for i, other in enumerate(names) if other == name]
    if not places:
        raise ConfigError(f"{track} has no stage {name!r}{did_you_mean(name, names)}")
    if not index and len(places) > 1:
        raise ConfigError(f"{track} has {len(places)} stages {name!r}: say which, as {name}[0]")
    if index and not (index.isdecimal() and int(index) < len(places)):
        raise ConfigError(f"{track} has only {len(places)} stages {name!r}; the first is {name}[0]")
    place = places[int(index or 0)]
    given = None if isinstance(stages[place], str) else stages[place][name]
    parameters = {**given} if isinstance(given, dict) else {}
    stages[place] = {name: parameters}
    values[track] = {**values[track], "stages": stages}
    return parameters


def _name(item: Any) -> str:
    """Return the name of the stage in an item of `stages`, and ``stages`` for one that has no name."""
    if isinstance(item, Mapping) and len(item) == 1:
        return str(*item)
    return item if isinstance(item, str) else "stages"


def _config_problem(error: ErrorDetails, values: Mapping[str, Any]) -> str:
    """Describe a validation error of a config in one line."""
    key, *rest = error["loc"] or ("",)
    if key == DECONVOLVE:
        return stage_problem(error, DECONVOLVE, DECONVOLVE, rest)
    if key == "star" and rest and rest[0] == "psf" and error["type"] != "missing":
        return stage_problem(error, MODEL_PSF, "star.psf", rest[1:])
    if key in TRACKS and len(rest) > 1 and rest[0] == "stages":
        name = _name(values[str(key)]["stages"][rest[1]])
        return stage_problem(error, name, f"{key}.{name}", rest[2:])
    if key == "star" and rest and isinstance(values[key], Mapping):
        kind = next((k for word, k in STAR_KINDS.items() if word in values[key]), Track)
        return problem(error, kind, rest, "star")
    return problem(error, Config, error["loc"])

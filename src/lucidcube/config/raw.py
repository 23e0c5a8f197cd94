"""Raw configs: YAML files merged left to right, and ``--set`` overrides."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from lucidcube.errors import ConfigError


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
        raise ConfigError(f"{path}: a config is a mapping of keys, such as target, star and output")
    return values


def merge(below: Any, above: Any) -> Any:
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        return {k: merge(below.get(k), above[k]) if k in above else below[k] for k in {**below, **above}}
    return above


def override(values: dict[str, Any], text: str, tracks: Sequence[str]) -> Iterator[str]:
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
    if parts[0] in tracks and len(parts) == 3:
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
        yield f"--set {text}: {track} has no stage {name!r}{did_you_mean(name, there)}"
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


def did_you_mean(name: str, known: Sequence[str] | Mapping[str, Any], *, others: bool = True) -> str:
    near = get_close_matches(name, list(known), 1, 0.5)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; there are: {', '.join(known)}" if others and known else ""

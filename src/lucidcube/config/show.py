"""Print a complete config as YAML, with where each value comes from."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from lucidcube.config.origins import settings
from lucidcube.config.presets import TRACKS
from lucidcube.config.schema import Config
from lucidcube.config.track import DECONVOLVE
from lucidcube.errors import printable

COMMENT_COLUMN = 56
"""Column at which comments start, unless the value is longer."""


def show(config: Config, origins: Mapping[str, str] | None = None) -> str:
    """Return a config as YAML with a line for each value, from which `load` makes the same config.

    `origins` are those of `lucidcube.config.origins.origins`; they become comments behind the values.
    """
    plain = config.plain()
    values = {name: plain[name] for name in (*TRACKS, DECONVOLVE, *plain) if name in plain}
    keys, lines = iter(settings(values)), []
    for line, is_setting in _lines(values):
        origin = (origins or {}).get(next(keys)) if is_setting else None
        lines.append(f"{line:{COMMENT_COLUMN}} # {printable(origin)}" if origin else line)
    return "\n".join(lines) + "\n"


def one_line(value: Any) -> str:
    """Return a value as YAML on one line, with escapes where it has control characters."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True)
    text = text.strip().removesuffix("...").strip()
    # JSON is YAML, and its escapes and those of `printable` are known to both.
    return text if text.isprintable() else printable(json.dumps(value, ensure_ascii=False))


def _lines(values: Mapping[str, Any], indent: str = "") -> Iterator[tuple[str, bool]]:
    """Yield the lines, and whether each is one of the `settings`, in the same order."""
    for key, value in values.items():
        if key == "stages" and value:
            yield f"{indent}stages:", True
            for item in value:
                ((name, parameters),) = item.items()
                yield from _stage(name, parameters, f"{indent}  ")
        elif isinstance(value, Mapping) and value and (not indent or key == "psf"):
            yield f"{indent}{key}:", False
            yield from _lines(value, f"{indent}  ")
        else:
            yield f"{indent}{key}: {one_line(value)}", True


def _stage(name: str, parameters: Mapping[str, Any], indent: str) -> Iterator[tuple[str, bool]]:
    yield f"{indent}- {name}:" if parameters else f"{indent}- {name}", False
    for key, value in parameters.items():
        yield f"{indent}    {key}: {one_line(value)}", True

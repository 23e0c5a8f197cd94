"""Tell where each value of a config comes from: a file, an option, a preset, or the default."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lucidcube.config.load import merge
from lucidcube.config.presets import TRACKS, with_defaults, with_inputs
from lucidcube.config.schema import Config
from lucidcube.io.yaml_text import Located, parse_located, read_yaml_text

DEFAULT, OPTION = "default", "--set"


def settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a config, given as plain data, by the keys that ``--set`` takes.

    ``target.rebin.bin_step`` is a parameter of a stage; stages that occur more than once in a track have
    numbers, ``target.rebin[0].bin_step``. The value of ``target.stages`` are the names of the stages.
    """
    found: dict[str, Any] = {}
    for section, entry in with_inputs(values).items():
        if not isinstance(entry, Mapping):
            found[section] = entry
        for key, value in entry.items() if isinstance(entry, Mapping) else ():
            if section in TRACKS and key == "stages":
                found |= _stages(section, value)
            elif section in TRACKS and isinstance(value, Mapping):  # the formula of a PSF
                found |= {f"{section}.{key}.{inner}": v for inner, v in value.items()}
            else:
                found[f"{section}.{key}"] = value
    return found


def origins(config: Config, files: Sequence[str | Path], overrides: Sequence[str] = ()) -> dict[str, str]:
    """Return where each of the `settings` of a config comes from.

    `config` is what `lucidcube.config.load.load` returned for these files and overrides. An origin is the
    name of a file and a line, such as ``my.yaml:7``, ``--set``, ``preset`` and its name (for stages and
    parameters that the config leaves open, and that are chosen to suit it), or ``default``.
    """
    given = {key: origin for file in files for key, origin in _places(Path(file))}
    of_files, _ = merge(files)
    changed = [text.partition("=")[0].strip() for text in overrides]
    written, chosen = settings(of_files), settings(with_defaults(with_inputs(merge(files, overrides)[0])))

    def origin(key: str) -> str:
        if any(f"{key}.".startswith(f"{c}.") for c in changed):
            return OPTION
        if key in written:
            return given[key]
        return f"preset {config.preset or 'recommended'}" if key in chosen else DEFAULT

    return {key: origin(key) for key in settings(config.plain())}


def _places(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the name and the line of a file for each of its settings."""
    for key, value in settings(parse_located(read_yaml_text(file.expanduser()))).items():
        first = value[0] if type(value) is list and value else value  # the stages of a track
        yield key, f"{file.name}:{first.line}" if isinstance(first, Located) else file.name


def _stages(track: str, items: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Yield the names of the stages of a track, then the parameters of each."""
    pairs = [(i, {}) if isinstance(i, str) else next(iter(i.items())) for i in items]
    names = [name for name, _ in pairs]
    yield f"{track}.stages", names
    for place, (name, parameters) in enumerate(pairs):
        number = f"[{names[:place].count(name)}]" if names.count(name) > 1 else ""
        for key, value in (parameters or {}).items():
            yield f"{track}.{name}{number}.{key}", value

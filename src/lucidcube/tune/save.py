"""Write chosen values into a config file; its comments and its layout are kept."""

import os
import stat
from collections.abc import Iterable
from io import StringIO
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from ruamel.yaml.util import load_yaml_guess_indent

from lucidcube.config.load import load
from lucidcube.config.presets import TRACKS, with_chains, with_inputs
from lucidcube.config.schema import Config
from lucidcube.config.track import DECONVOLVE
from lucidcube.errors import ConfigError, UserError
from lucidcube.io.atomic import atomic_file
from lucidcube.stages.base import REGISTRY
from lucidcube.tune.choices import MASK, Choices

BACKUP = ".bak"
"""Suffix of the copy of the config as it was before the first change."""


class ConfigFile:
    """A config file that is changed while it is open elsewhere, for instance in an editor."""

    def __init__(self, path: Path) -> None:
        """Read the file; ConfigError is raised if it is not a valid config in a regular file."""
        load(path)
        self.path = path.expanduser()
        if not self.path.is_file():
            raise ConfigError(f"{path} is not a regular file, and cannot be changed")
        self._text = self.path.read_text()
        self._original = self._text

    def save(self, choices: Choices) -> list[str]:
        """Write the values that differ from those of the file; return them as arguments of ``--set``.

        The first time, a copy of the file is kept beside it, under a name that no file has. The new file is
        only written if it gives the config with these values. A symbolic link is followed, and the file keeps
        its permissions. UserError is raised if the file was changed meanwhile, or cannot be written.
        """
        config = load(self.path)
        changes = choices.overrides(config)
        if not changes:
            return []
        wanted = load(self.path, changes)
        if self.path.read_text() != self._text:
            raise UserError(f"{self.path} was changed meanwhile, and is not overwritten: start again")
        text = _changed(self._text, choices, Choices.of(config), self.path)
        try:
            same = ({**c.plain(), "preset": None} for c in (_load_text(text), wanted))
            if next(same) != next(same):
                raise UserError(f"{self.path} cannot be changed automatically; add {' '.join(changes)}")
            file = self.path.resolve()
            mode = stat.S_IMODE(file.stat().st_mode)
            if self._text == self._original:
                _write(_unused_backup(file), self._original, mode)
            _write(file, text, mode)
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror or error}") from error
        self._text = text
        return changes


def _load_text(text: str) -> Config:
    """Return the config of a text."""
    with TemporaryDirectory(prefix="lucidcube-") as folder:
        trial = Path(folder) / "config.yaml"
        trial.write_text(text, encoding="utf-8")
        return load(trial)


def _unused_backup(file: Path) -> Path:
    """Return a path beside a file, for a copy of it, that does not exist yet."""
    names = (file.name + BACKUP + (f"-{number}" if number > 1 else "") for number in count(1))
    return next(path for path in map(file.with_name, names) if not os.path.lexists(path))


def _write(path: Path, text: str, mode: int) -> None:
    """Write a file with these permissions."""
    with atomic_file(path, durable=True) as file:
        os.fchmod(file.fileno(), mode)
        file.write(text.encode())


def _changed(text: str, choices: Choices, before: Choices, path: Path) -> str:
    """Return the text of a config with other values."""
    yaml, out = YAML(), StringIO()
    yaml.preserve_quotes, yaml.width = True, 4096
    try:
        values = yaml.load(text)
        _, indent, offset = load_yaml_guess_indent(text)
    except YAMLError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from error
    mask = {k: v for k, v in choices.mask.items() if v != before.mask[k]}
    if mask:
        _mask_of(values).update(mask)
    _change_deconvolution(values, choices, before)
    yaml.indent(mapping=2, sequence=indent or 4, offset=2 if offset is None else offset)
    yaml.dump(values, out)
    return out.getvalue()


def _change_deconvolution(values: Any, choices: Choices, before: Choices) -> None:
    section = values.get(DECONVOLVE) or {}
    if choices.method != before.method:
        for name in [name for name in section if name not in _shared(section)]:
            del section[name]
        section |= {"method": choices.method, **choices.deconvolve}
    else:
        section |= {k: v for k, v in choices.deconvolve.items() if v != before.deconvolve[k]}
    if section:
        values[DECONVOLVE] = section


def _shared(section: Iterable[str]) -> set[str]:
    """Return the keys that all methods have."""
    shared = REGISTRY[DECONVOLVE].model_fields.keys() - {"n_iter", "chi2_target"}
    return {name for name in section if name in shared}


def _mask_of(values: Any) -> Any:
    """Return the parameters of the mask in the values of a file, which are added if they are not there."""
    target = values["target"]
    if not isinstance(target, dict):
        target = values["target"] = {"input": target}
    if "stages" not in target:
        # A list of stages in one track would leave the other one without any, unless a preset is named.
        filled = with_chains(with_inputs(values))
        target["stages"] = [*filled[TRACKS[0]]["stages"]]
        values.setdefault("preset", "recommended")
        if isinstance(target, CommentedMap):
            target.fa.set_block_style()  # all stages in one line could not be read
    for number, item in enumerate(target["stages"]):
        if item == MASK or (isinstance(item, dict) and MASK in item):
            given = None if item == MASK else item[MASK]
            if not isinstance(given, dict):
                given = {}
                target["stages"][number] = {MASK: given}
            return given
    raise ConfigError("the target has no stage 'mask'")

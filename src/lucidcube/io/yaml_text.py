"""Parse YAML, refuse mappings in which a key is given twice, and tell the lines of values."""

from pathlib import Path
from typing import Any, Self

import yaml

from lucidcube.errors import ConfigError
from lucidcube.io.limits import open_regular

MOST_ALIASES = 100
"""Number of aliases (``*name``) above which a text is refused: nested ones multiply what it holds."""
LARGEST_TEXT = 1 << 20
"""Number of characters above which a text is refused."""


class _Loader(yaml.SafeLoader):
    """The loader of `yaml.safe_load`, which would silently use the last one of equal keys."""

    aliases = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            self.aliases += 1
            if self.aliases > MOST_ALIASES:
                raise ConfigError(f"more than {MOST_ALIASES} aliases (*name)")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        lines: dict[tuple[str, str], tuple[int, int]] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                place = key.start_mark.line + 1, key.start_mark.column
                first = lines.setdefault((key.tag, key.value), place)
                if first != place:
                    before = f"was given already in line {first[0]}"
                    raise ConfigError(f"line {place[0]}: the key {key.value!r} {before}")
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Return the plain data in a text of YAML; raise ConfigError, with one line, if that is impossible."""
    if len(text) > LARGEST_TEXT:
        raise ConfigError(f"longer than {LARGEST_TEXT} characters")
    try:
        return yaml.load(text, _Loader)  # noqa: S506  a subclass of SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # such as the date 2024-13-45
        raise ConfigError(f"not YAML: {' '.join(str(error).split())}") from None


def read_yaml_text(path: Path) -> str:
    """Return the text of a regular file that is not too long for a text of YAML.

    OSError or UnicodeDecodeError is raised if it cannot be read, and ConfigError if it is too long.
    """
    with open_regular(path) as file:
        content = file.read(LARGEST_TEXT + 1)
    if len(content) > LARGEST_TEXT:
        raise ConfigError(f"longer than {LARGEST_TEXT} bytes")
    return content.decode()


class Located:
    """A part of a YAML text that knows its line, counted from 1."""

    line: int

    def at(self, line: int) -> Self:
        """Set the line and return the part."""
        self.line = line
        return self


class LocatedText(Located, str):
    """A scalar, as text; an empty one for null."""


class LocatedList(Located, list[Any]):
    """A sequence."""


class LocatedDict(Located, dict[Any, Any]):
    """A mapping."""


class _LocatingLoader(_Loader):
    """A loader that keeps the lines of all values."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        value, line = super().construct_object(node, deep=True), node.start_mark.line + 1
        if isinstance(node, yaml.MappingNode):
            return LocatedDict(value).at(line)
        if isinstance(node, yaml.SequenceNode):
            return LocatedList(value).at(line)
        return LocatedText("" if value is None else node.value).at(line)


def parse_located(text: str) -> Any:
    """Return what `parse_yaml` returns, as `LocatedText`, `LocatedList` and `LocatedDict`."""
    return yaml.load(text, _LocatingLoader)  # noqa: S506  a subclass of SafeLoader

"""Parse the text that names an array in a file, ``PATH{EXT}[SLICE](AXES)``, and the same options."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Self

from lucidcube.errors import ConfigError

FORM = "PATH{EXT}[SLICE](AXES)"
_OPENER = {"}": "{", "]": "[", ")": "("}
_GROUPS = ("EXT", "SLICE", "AXES")
_FITS_NAME_THEN_GROUP = re.compile(r"\.(?:fits?|fts|fz)(?:\.(?:gz|bz2|xz|Z))?\s*[{\[(]", re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?\d{1,17}", re.ASCII)
_LIST = r"-?\d{1,4}(?:\s*,\s*-?\d{1,4})*"
_NUMBERS = re.compile(rf"{_LIST}\s*,?", re.ASCII)
_AXES_WORDS = re.compile(r"\s*[({]?\s*(?:celestial|spectral)\s*[:=]", re.IGNORECASE)
_AXES_ITEM = re.compile(
    rf"\s*(?P<word>[A-Za-z]+)\s*[:=]\s*(?P<numbers>\(\s*{_LIST}\s*,?\s*\)|{_LIST})\s*(?:[,;\s]|$)", re.ASCII
)
_FLOAT = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_WAVE = re.compile(
    rf"\s*(?P<low>{_FLOAT})?\s*(?P<low_unit>[^\d\s:][^:]*?)?\s*:\s*(?P<high>{_FLOAT})?\s*(?P<unit>[^\d\s:].*?)?\s*",
    re.ASCII,
)

AxisSlice = tuple[int | None, int | None, int | None]
"""Start, stop and step of a Python slice (`slice` itself cannot be hashed before Python 3.12)."""


class WaveRange(NamedTuple):
    """A closed range of the spectral axis in the unit `unit`; an end that is None is open."""

    low: float | None
    high: float | None
    unit: str


@dataclass(frozen=True)
class Specifier:
    """An array in a file; `str` returns text that parses to the same choices (without `wave`).

    `path` is as typed, and `ext` the name (``SCI`` or ``SCI,2``) or number of the HDU. `index` has an integer
    or an `AxisSlice` for each NumPy axis of the array; missing ones mean "all". `celestial` holds the NumPy
    axis numbers of y and x and `spectral` that of the wavelength; what is None is told by the CTYPEs. `wave`
    is the part of the spectral axis to keep.
    """

    path: str
    ext: str | int | None = None
    index: tuple[int | AxisSlice, ...] = ()
    celestial: tuple[int, int] | None = None
    spectral: int | None = None
    wave: WaveRange | None = None

    @property
    def file(self) -> Path:
        """Path of the file, ``~`` expanded; an unknown ``~user`` stays as typed."""
        path = Path(self.path)
        try:
            return path.expanduser()
        except RuntimeError:
            return path

    def with_options(
        self,
        *,
        ext: str | int | None = None,
        slice: str | None = None,
        wave: str | None = None,
        axes: str | None = None,
    ) -> Self:
        """Add the options of the command line, which need no shell quoting.

        Examples are the ext ``DATA`` or ``1``, the slice ``100:200,:,3:-3``, the wave ``0.55:0.60um`` (either
        end may be left out) and the axes ``spectral=0,celestial=1,2``. An option that is invalid or
        contradicts the specifier raises ConfigError.
        """
        choices: dict[str, Any] = {}
        if ext is not None:
            choices["ext"] = _parse_ext(str(ext), f"ext {str(ext)!r}")
        if slice is not None:
            choices["index"] = _parse_slices(slice.strip().removeprefix("[").removesuffix("]"), slice)
        if axes is not None:
            choices["celestial"], choices["spectral"] = _parse_axes(axes, axes)
        if wave is not None:
            choices["wave"] = parse_wave(wave)
        choices = {name: value for name, value in choices.items() if value is not None}
        for name, value in choices.items():
            before = getattr(self, name)
            if before not in (None, (), value):
                raise ConfigError(f"{self}: {name} is given twice, as {before} and as {value}; leave one out")
        return replace(self, **choices)

    def __str__(self) -> str:
        text = _quoted(self.path)
        if self.ext is not None:
            text += f"{{{self.ext}}}"
        if self.index:
            text += f"[{','.join(_slice_text(i) for i in self.index)}]"
        if self.celestial is not None and self.spectral is None:
            text += f"({self.celestial[0]},{self.celestial[1]})"
        elif self.celestial is not None:
            text += f"{{CELESTIAL:({self.celestial[0]},{self.celestial[1]}),SPECTRAL:({self.spectral})}}"
        elif self.spectral is not None:
            text += f"({self.spectral})"
        return text


def parse_specifier(text: str) -> Specifier:
    """Parse ``PATH{EXT}[SLICE](AXES)``.

    Only groups at the very end count, so a path may hold brackets and spaces; one that itself ends in a group
    is put in quotes: ``'odd name (1)'{DATA}``, a quote inside doubled. Neither the file nor its extensions
    need exist. EXT is a name or a number; SLICE holds Python slices or integers in NumPy order; AXES is
    ``(1,2)`` (y and x), ``(0)`` (spectral) or ``{CELESTIAL:(1,2),SPECTRAL:(0)}``. Other text raises
    ConfigError with the piece that cannot be read, its place, and the form to type.
    """
    if "\0" in text:
        raise ConfigError(f"{text!r}: a path cannot hold a null character")
    path, tail = _split_quoted(text)
    pieces: dict[str, str] = {}
    while tail.rstrip().endswith(tuple(_OPENER)):
        tail = tail.rstrip()
        start = _opening(tail, text)
        body = tail[start + 1 : -1]
        kind = "SLICE" if tail[-1] == "]" else "AXES" if tail[-1] == ")" or _AXES_WORDS.match(body) else "EXT"
        if pieces and _GROUPS.index(kind) >= _GROUPS.index([*pieces][-1]):
            _refuse(text, tail[start:], f"the order is {FORM}, each at most once")
        pieces[kind] = body
        tail = tail[:start]
    if path is None:
        path = tail.rstrip() if pieces else tail
        unclosed = _FITS_NAME_THEN_GROUP.search(path)
        if unclosed:
            _refuse(text, path[unclosed.end() - 1 :], "it is never closed")
    elif tail.strip():
        _refuse(text, tail.strip(), f"only groups may follow the quoted path: the form is {FORM}")
    if not path.strip():
        raise ConfigError(f"{text!r} names no file: the form is {FORM}")
    celestial, spectral = _parse_axes(pieces["AXES"], text) if "AXES" in pieces else (None, None)
    return Specifier(
        path,
        _parse_ext(pieces["EXT"], text) if "EXT" in pieces else None,
        _parse_slices(pieces["SLICE"], text) if "SLICE" in pieces else (),
        celestial,
        spectral,
    )


def parse_wave(text: str) -> WaveRange:
    """Parse a range of the spectral axis such as ``0.55:0.60um``, ``550nm:`` or ``:115GHz``.

    ConfigError is raised for other text than two increasing numbers, one of them optional, and a unit.
    """
    advice = "type for example 0.55:0.60um"
    match = _WAVE.fullmatch(text)
    if match is None or (match["low"] is None and match["high"] is None):
        raise ConfigError(f"wave {text!r} is not LOW:HIGH and a unit; {advice}")
    units = {unit for unit in (match["low_unit"], match["unit"]) if unit}
    if len(units) != 1:
        problem = "has two units" if units else "has no unit"
        raise ConfigError(f"wave {text!r} {problem}; {advice}")
    unit = units.pop()
    low, high = (None if match[end] is None else float(match[end]) for end in ("low", "high"))
    if low is not None and high is not None and low > high:
        raise ConfigError(f"wave {text!r} ends before it starts; type {match['high']}:{match['low']}{unit}")
    return WaveRange(low, high, unit)


def _parse_ext(body: str, text: str) -> str | int:
    name = body.strip()
    if not name or any(c in name for c in "{}[]()") or _AXES_WORDS.match(name):
        raise ConfigError(
            f"{text!r}: {body!r} is not an extension; type its name or number, as in {{DATA}} or {{1}}"
        )
    return int(name) if name[0] not in "+-" and _INTEGER.fullmatch(name) else name


def _parse_slices(body: str, text: str) -> tuple[int | AxisSlice, ...]:
    index: list[int | AxisSlice] = []
    for piece in map(str.strip, body.split(",")):
        parts = [part.strip() for part in piece.split(":")]
        if not piece or len(parts) > 3 or not all(part == "" or _INTEGER.fullmatch(part) for part in parts):
            raise ConfigError(
                f"{text!r}: {piece!r} is not a slice; type slices in NumPy order, as in [100:200,:,3:-3]"
            )
        start, stop, step = (*(int(part) if part else None for part in parts), None, None)[:3]
        if step == 0:
            raise ConfigError(f"{text!r}: the step of the slice {piece!r} is zero")
        index.append(int(piece) if len(parts) == 1 else (start, stop, step))
    return tuple(index)


def _slice_text(index: int | AxisSlice) -> str:
    if isinstance(index, int):
        return str(index)
    start, stop, step = ("" if n is None else str(n) for n in index)
    return f"{start}:{stop}:{step}" if step else f"{start}:{stop}"


def _parse_axes(body: str, text: str) -> tuple[tuple[int, int] | None, int | None]:
    """Return the celestial and spectral axes; a bare pair is celestial and a bare number is spectral."""
    inside = body.strip()
    if _AXES_WORDS.match(inside):
        inside = inside[1:-1] if inside[0] in "({" and inside[-1] in ")}" else inside
        items = list(_AXES_ITEM.finditer(inside))
        given = {item["word"].lower(): _integers(item["numbers"].strip("()")) for item in items}
        valid = len(given) == len(items) and given.keys() <= {"celestial", "spectral"}
        valid = valid and "".join(item[0] for item in items) == inside
    else:
        inside = inside.removeprefix("(").removesuffix(")").strip()
        valid = _NUMBERS.fullmatch(inside) is not None
        numbers = _integers(inside) if valid else ()
        given = {"celestial" if len(numbers) == 2 else "spectral": numbers}
    celestial, spectral = given.get("celestial", ()), given.get("spectral", ())
    repeated = len({*celestial, *spectral}) != len(celestial) + len(spectral)
    if not valid or len(celestial) not in (0, 2) or len(spectral) not in (0, 1) or repeated:
        raise ConfigError(
            f"{text!r}: {body!r} does not name axes; type NumPy axis numbers, as in (1,2) for y and x, "
            "(0) for the spectral axis, {CELESTIAL:(1,2),SPECTRAL:(0)}, or the option spectral=0"
        )
    return (celestial[0], celestial[1]) if celestial else None, spectral[0] if spectral else None


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.strip())


def _refuse(text: str, piece: str, why: str) -> NoReturn:
    column = text.rfind(piece) + 1
    raise ConfigError(
        f"{text!r}: cannot read {piece!r} at column {column}: {why} "
        "(a path that ends like this must be quoted: 'PATH'{EXT})"
    )


def _split_quoted(text: str) -> tuple[str | None, str]:
    """Split off a quoted path at the start; return None and the whole text if there is none."""
    if text[:1] not in ("'", '"'):
        return None, text
    quote = text[0]
    match = re.match(rf"{quote}((?:[^{quote}]|{quote}{quote})*){quote}(?!{quote})", text, re.DOTALL)
    if match is None:
        raise ConfigError(f"{text!r}: the quote at column 1 is never closed")
    return match[1].replace(quote * 2, quote), text[match.end() :]


def _quoted(path: str) -> str:
    plain = path == path.rstrip() and path[0] not in "'\"" and not path.endswith(tuple(_OPENER))
    plain = plain and not _FITS_NAME_THEN_GROUP.search(path)
    return path if plain else "'" + path.replace("'", "''") + "'"


def _opening(tail: str, text: str) -> int:
    """Return the position at which the last group of `tail` begins."""
    closer, opener, depth = tail[-1], _OPENER[tail[-1]], 0
    for i in range(len(tail) - 1, -1, -1):
        depth += (tail[i] == closer) - (tail[i] == opener)
        if depth == 0:
            return i
    _refuse(text, closer, f"no {opener!r} opens it")

"""The pieces of a FITS specifier, as they stand in it or in options of their own."""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn

from lucidcube.errors import ConfigError

AXES_WORDS = re.compile(r"\s*[({]?\s*(?:celestial|spectral)\s*[:=]", re.IGNORECASE)
_LIST = r"-?\d{1,4}(?:\s*,\s*-?\d{1,4})*"
_NUMBERS = re.compile(rf"{_LIST}\s*,?", re.ASCII)
_AXES_ITEM = re.compile(
    rf"\s*(?P<word>[A-Za-z]+)\s*[:=]\s*(?P<numbers>\(\s*{_LIST}\s*,?\s*\)|{_LIST})\s*(?:[,;\s]|$)", re.ASCII
)
_INTEGER = re.compile(r"[+-]?\d+", re.ASCII)
_FLOAT = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_WAVE = re.compile(
    rf"\s*(?P<low>{_FLOAT})?\s*(?P<low_unit>[^\d\s:][^:]*?)?\s*:\s*(?P<high>{_FLOAT})?\s*(?P<unit>[^\d\s:].*?)?\s*",
    re.ASCII,
)
_MANY_DIGITS = 18


AxisSlice = tuple[int | None, int | None, int | None]
"""Start, stop and step of a Python slice (`slice` itself cannot be hashed before Python 3.12)."""


class WaveRange(NamedTuple):
    """A closed range of the spectral axis.

    Attributes
    ----------
    low, high
        Its ends in `unit`; None where it is open.
    unit
        As typed.
    """

    low: float | None
    high: float | None
    unit: str


def parse_wave(text: str) -> WaveRange:
    """Read a range of the spectral axis such as ``0.55:0.60um``, ``550nm:`` or ``:115GHz``.

    Raises
    ------
    ConfigError
        If it is not two numbers and a unit, or empty, or the wrong way round.
    """
    advice = "type for example 0.55:0.60um"
    match = _WAVE.fullmatch(text)
    if match is None or (match["low"] is None and match["high"] is None):
        raise ConfigError(f"wave {text!r} is not LOW:HIGH and a unit; {advice}")
    units = {unit for unit in (match["low_unit"], match["unit"]) if unit}
    if len(units) != 1:
        problem = "has two units" if units else "has no unit"
        raise ConfigError(f"wave {text!r} {problem}; {advice}")
    low, high = (None if match[end] is None else float(match[end]) for end in ("low", "high"))
    if low is not None and high is not None and low > high:
        raise ConfigError(
            f"wave {text!r} ends before it starts; type {match['high']}:{match['low']}{units.pop()}"
        )
    return WaveRange(low, high, units.pop())


def parse_ext(body: str, text: str) -> str | int:
    name = body.strip()
    if not name or any(c in name for c in "{}[]()") or AXES_WORDS.match(name):
        raise ConfigError(
            f"{text!r}: {body!r} is no extension; type its name or number, as in {{DATA}} or {{1}}"
        )
    if name.isascii() and name.isdigit() and len(name) < _MANY_DIGITS:
        return int(name)
    return name


def parse_slices(body: str, text: str) -> tuple[int | AxisSlice, ...]:
    return tuple(_parse_slice(piece.strip(), text) for piece in body.split(","))


def _parse_slice(piece: str, text: str) -> int | AxisSlice:
    parts = [part.strip() for part in piece.split(":")]
    legible = all(part == "" or (_INTEGER.fullmatch(part) and len(part) < _MANY_DIGITS) for part in parts)
    if not legible or not piece or len(parts) > 3:
        raise ConfigError(
            f"{text!r}: {piece!r} is no slice; type Python slices in numpy order, as in [100:200,:,3:-3]"
        )
    numbers = [int(part) if part else None for part in parts]
    if len(numbers) == 1 and numbers[0] is not None:
        return numbers[0]
    start, stop, step = (*numbers, None)[:3]
    if step == 0:
        raise ConfigError(f"{text!r}: the step of the slice {piece!r} is zero")
    return start, stop, step


def slice_text(index: int | AxisSlice) -> str:
    if isinstance(index, int):
        return str(index)
    start, stop, step = ("" if n is None else str(n) for n in index)
    return f"{start}:{stop}:{step}" if step else f"{start}:{stop}"


def parse_axes(body: str, text: str) -> tuple[tuple[int, int] | None, int | None]:
    """Celestial and spectral axes; a bare pair is celestial, a bare number spectral."""
    inside = body.strip()
    if AXES_WORDS.match(inside):
        inside = inside[1:-1] if inside[0] in "({" and inside[-1] in ")}" else inside
        given = _axes_by_word(inside, text)
    else:
        inside = inside.removeprefix("(").removesuffix(")").strip()
        if not _NUMBERS.fullmatch(inside):
            _refuse_axes(body, text)
        numbers = _integers(inside)
        given = {"celestial" if len(numbers) == 2 else "spectral": numbers}
    celestial, spectral = given.get("celestial", ()), given.get("spectral", ())
    repeated = len({*celestial, *spectral}) != len(celestial) + len(spectral)
    if len(celestial) not in (0, 2) or len(spectral) not in (0, 1) or repeated:
        _refuse_axes(body, text)
    return (celestial[0], celestial[1]) if celestial else None, spectral[0] if spectral else None


def _axes_by_word(inside: str, text: str) -> dict[str, tuple[int, ...]]:
    given: dict[str, tuple[int, ...]] = {}
    place = 0
    while place < len(inside):
        match = _AXES_ITEM.match(inside, place)
        word = match["word"].lower() if match else ""
        if match is None or word not in ("celestial", "spectral") or word in given:
            _refuse_axes(inside, text)
        given[word] = _integers(match["numbers"].strip("()"))
        place = match.end()
    return given


def _integers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.strip())


def _refuse_axes(body: str, text: str) -> NoReturn:
    raise ConfigError(
        f"{text!r}: {body!r} names no axes; type numpy axis numbers, as in (1,2) for y and x, "
        "(0) for the spectral axis, {CELESTIAL:(1,2),SPECTRAL:(0)}, or the option spectral=0"
    )

"""Naming an array in a file: ``PATH{EXT}[SLICE](AXES)`` as text, and the same choices as options."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from lucidcube.errors import ConfigError
from lucidcube.io.specifier_parts import (
    AXES_WORDS,
    AxisSlice,
    WaveRange,
    parse_axes,
    parse_ext,
    parse_slices,
    parse_wave,
    slice_text,
)

FORM = "PATH{EXT}[SLICE](AXES)"
_OPENER = {"}": "{", "]": "[", ")": "("}
_GROUPS = ("EXT", "SLICE", "AXES")
_FITS_NAME_THEN_GROUP = re.compile(r"\.(?:fits?|fts|fz)(?:\.(?:gz|bz2|xz|Z))?\s*[{\[(]", re.IGNORECASE)


@dataclass(frozen=True)
class Specifier:
    """An array in a file. `str` of it is text that parses to the same choices (less `wave`).

    Attributes
    ----------
    path
        As typed; `file` has ``~`` expanded.
    ext
        Name (``SCI`` or ``SCI,2``) or number of the HDU; None for the default.
    index
        Per numpy axis of the array an integer or an `AxisSlice`; missing ones mean "all".
    celestial
        Numpy axis numbers of y and x; None to tell them by their CTYPE.
    spectral
        Numpy axis number of the wavelength; None to tell it by its CTYPE.
    wave
        Part of the spectral axis to keep.
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
    ) -> Specifier:
        """Add the choices of the command line, which need no shell quoting.

        Parameters
        ----------
        ext
            ``DATA`` or ``1``.
        slice
            ``100:200`` or ``100:200,:,3:-3``.
        wave
            ``0.55:0.60um``; either end may be left out.
        axes
            ``spectral=0``, ``celestial=1,2``, or both.

        Returns
        -------
        Specifier

        Raises
        ------
        ConfigError
            If one cannot be read, or says something else than the specifier does.
        """
        found = self
        if ext is not None:
            found = _merge(found, ext=parse_ext(str(ext), f"ext {str(ext)!r}"))
        if slice is not None:
            found = _merge(
                found, index=parse_slices(slice.strip().removeprefix("[").removesuffix("]"), slice)
            )
        if axes is not None:
            celestial, spectral = parse_axes(axes, axes)
            found = _merge(found, celestial=celestial, spectral=spectral)
        if wave is not None:
            found = _merge(found, wave=parse_wave(wave))
        return found

    def __str__(self) -> str:
        text = _quoted(self.path)
        if self.ext is not None:
            text += f"{{{self.ext}}}"
        if self.index:
            text += f"[{','.join(slice_text(i) for i in self.index)}]"
        if self.celestial is not None and self.spectral is None:
            text += f"({self.celestial[0]},{self.celestial[1]})"
        elif self.celestial is not None:
            text += f"{{CELESTIAL:({self.celestial[0]},{self.celestial[1]}),SPECTRAL:({self.spectral})}}"
        elif self.spectral is not None:
            text += f"({self.spectral})"
        return text


def parse_specifier(text: str) -> Specifier:
    """Read ``PATH{EXT}[SLICE](AXES)``.

    Only groups at the very end count, so a path may hold brackets and spaces; one that itself ends in a group
    is put in quotes: ``'odd name (1)'{DATA}``, a quote inside doubled.

    Parameters
    ----------
    text
        What the user typed. EXT is a name or a number; SLICE Python slices or integers in numpy order; AXES
        ``(1,2)`` (y and x), ``(0)`` (spectral) or ``{CELESTIAL:(1,2),SPECTRAL:(0)}``.

    Returns
    -------
    Specifier
        Nothing is looked up: neither the file nor its extensions need exist.

    Raises
    ------
    ConfigError
        Naming the piece that cannot be read, its place, and the form to type.
    """
    if "\0" in text:
        raise ConfigError(f"{text!r}: a path cannot hold a null character")
    path, tail = _split_quoted(text)
    kinds: list[str] = []
    pieces: dict[str, str] = {}
    while tail.rstrip().endswith(tuple(_OPENER)):
        tail = tail.rstrip()
        start = _opening(tail, text)
        body = tail[start + 1 : -1]
        kind = "SLICE" if tail[-1] == "]" else "AXES" if tail[-1] == ")" or AXES_WORDS.match(body) else "EXT"
        if kind in kinds or (kinds and _GROUPS.index(kind) > _GROUPS.index(kinds[-1])):
            _refuse(text, tail[start:], f"the order is {FORM}, each at most once")
        kinds.append(kind)
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
    celestial, spectral = parse_axes(pieces["AXES"], text) if "AXES" in pieces else (None, None)
    return Specifier(
        path,
        parse_ext(pieces["EXT"], text) if "EXT" in pieces else None,
        parse_slices(pieces["SLICE"], text) if "SLICE" in pieces else (),
        celestial,
        spectral,
    )


def _merge(found: Specifier, **choices: Any) -> Specifier:
    for name, value in choices.items():
        before = getattr(found, name)
        if before not in (None, (), value) and value is not None:
            raise ConfigError(f"{found}: {name} is given twice, as {before} and as {value}; leave one out")
    return replace(found, **{name: value for name, value in choices.items() if value is not None})


def _refuse(text: str, piece: str, why: str) -> NoReturn:
    column = text.rfind(piece) + 1
    raise ConfigError(
        f"{text!r}: cannot read {piece!r} at column {column}: {why} "
        "(a path that ends so goes in quotes: 'PATH'{EXT})"
    )


def _split_quoted(text: str) -> tuple[str | None, str]:
    """Take a quoted path off the front; None and the whole text where there is no quote."""
    if text[:1] not in ("'", '"'):
        return None, text
    quote = text[0]
    match = re.match(rf"{quote}((?:[^{quote}]|{quote}{quote})*){quote}(?!{quote})", text, re.DOTALL)
    if match is None:
        raise ConfigError(f"{text!r}: the quote at column 1 is never closed")
    return match[1].replace(quote * 2, quote), text[match.end() :]


def _quoted(path: str) -> str:
    plain = (
        not path.rstrip().endswith(tuple(_OPENER))
        and path[0] not in "'\""
        and path == path.rstrip()
        and not _FITS_NAME_THEN_GROUP.search(path)
    )
    return path if plain else "'" + path.replace("'", "''") + "'"


def _opening(tail: str, text: str) -> int:
    """Where the group that ends `tail` begins."""
    closer, opener, depth = tail[-1], _OPENER[tail[-1]], 0
    for i in range(len(tail) - 1, -1, -1):
        depth += (tail[i] == closer) - (tail[i] == opener)
        if depth == 0:
            return i
    _refuse(text, closer, f"no {opener!r} opens it")

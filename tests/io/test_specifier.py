"""Parsing of the text that names an array in a file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lucidcube.errors import ConfigError
from lucidcube.io.specifier import Specifier, WaveRange, parse_specifier, parse_wave

ALL = (None, None, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cube.fits", Specifier("cube.fits")),
        ("cube.fits{DATA}", Specifier("cube.fits", "DATA")),
        ("cube.fits{1}", Specifier("cube.fits", 1)),
        ("cube.fits{SCI,2}", Specifier("cube.fits", "SCI,2")),
        ("cube.fits[100:200,:,3:-3]", Specifier("cube.fits", None, ((100, 200, None), ALL, (3, -3, None)))),
        ("cube.fits[::2, 5]", Specifier("cube.fits", None, ((None, None, 2), 5))),
        ("cube.fits(1,2)", Specifier("cube.fits", celestial=(1, 2))),
        ("cube.fits(0)", Specifier("cube.fits", spectral=0)),
        ("cube.fits(0,)", Specifier("cube.fits", spectral=0)),
        ("cube.fits(-2, -1)", Specifier("cube.fits", celestial=(-2, -1))),
        (
            "a.fits{SCI}[1:2]{CELESTIAL:(1,2),SPECTRAL:(0)}",
            Specifier("a.fits", "SCI", ((1, 2, None),), (1, 2), 0),
        ),
        ("a.fits(SPECTRAL:(2),CELESTIAL:(0,1))", Specifier("a.fits", celestial=(0, 1), spectral=2)),
        ("a.fits({celestial: (0, 1)})", Specifier("a.fits", celestial=(0, 1))),
        (
            "my dir (old)/{x}[y]/cube.fits {DATA} [0]",
            Specifier("my dir (old)/{x}[y]/cube.fits", "DATA", (0,)),
        ),
        ("'odd name (1)'{DATA}", Specifier("odd name (1)", "DATA")),
        ("'it''s (1)'", Specifier("it's (1)")),
        ("cube{DATA}.fits", Specifier("cube{DATA}.fits")),
    ],
)
def test_valid_text_is_parsed(text: str, expected: Specifier) -> None:
    assert parse_specifier(text) == expected
    assert parse_specifier(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("cube.fits{DATA", "'{DATA' at column 10"),
        ("cube.fits[1:2", "'[1:2' at column 10"),
        ("cube.fits DATA}", "no '{' opens it"),
        ("cube.fits[1:2]{DATA}", "the order is"),
        ("cube.fits{DATA}{SCI}", "each at most once"),
        ("cube.fits{}", "is not an extension"),
        ("cube.fits[1:2:3:4]", "'1:2:3:4' is not a slice"),
        ("cube.fits[]", "'' is not a slice"),
        ("cube.fits[a]", "'a' is not a slice"),
        ("cube.fits[::0]", "is zero"),
        ("cube.fits(1,2,3)", "'1,2,3' does not name axes"),
        ("cube.fits(1,1)", "does not name axes"),
        ("cube.fits(copy)", "does not name axes"),
        ("cube.fits{CELESTIAL:(1),SPECTRAL:(0)}", "does not name axes"),
        ("{DATA}", "names no file"),
        ("", "names no file"),
        ("'cube.fits", "never closed"),
        ("'cube.fits'x", "only groups may follow"),
        ("cube\0.fits", "null character"),
    ],
)
def test_errors_name_the_position(text: str, piece: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_specifier(text)
    assert piece in str(error.value)
    assert "\n" not in str(error.value)


def test_options_are_equivalent_to_the_text() -> None:
    options = parse_specifier("c.fits").with_options(
        ext="DATA", slice="100:200", axes="spectral=0,celestial=1,2"
    )
    assert options == parse_specifier("c.fits{DATA}[100:200]{CELESTIAL:(1,2),SPECTRAL:(0)}")
    assert parse_specifier("c.fits{1}").with_options(ext=1, slice="[3:4]").index == ((3, 4, None),)
    assert parse_specifier("c.fits").with_options(wave="0.55:0.60um").wave == WaveRange(0.55, 0.60, "um")


def test_options_that_contradict_the_text_are_errors() -> None:
    for options in ({"ext": "SCI"}, {"slice": "1:3"}, {"axes": "spectral=1"}):
        with pytest.raises(ConfigError, match="given twice"):
            parse_specifier("c.fits{DATA}[0:2]{SPECTRAL:(0)}").with_options(**options)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("550nm:600nm", WaveRange(550, 600, "nm")),
        ("550:600 nm", WaveRange(550, 600, "nm")),
        (":1.5e-6m", WaveRange(None, 1.5e-6, "m")),
        ("115.2:GHz", WaveRange(115.2, None, "GHz")),
        ("-10:20km/s", WaveRange(-10, 20, "km/s")),
    ],
)
def test_wave_range(text: str, expected: WaveRange) -> None:
    assert parse_wave(text) == expected


@pytest.mark.parametrize("text", ["", "5", "1:2", "2:1um", "1um:2nm", ":", ":um", "a:bum"])
def test_bad_wave_range(text: str) -> None:
    with pytest.raises(ConfigError, match="wave"):
        parse_wave(text)


def test_home_is_expanded_in_the_file_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    specifier = parse_specifier("~/cube.fits{1}")
    assert specifier.file == Path("/somewhere/cube.fits")
    assert str(specifier) == "~/cube.fits{1}"


NUMBER = st.none() | st.integers(-10_000, 10_000)
AXIS_SLICE = st.tuples(NUMBER, NUMBER, NUMBER.filter(lambda step: step != 0))
EXT = st.none() | st.integers(0, 99) | st.from_regex(r"[A-Z][A-Z0-9_.\- ]{0,8}[A-Z0-9]", fullmatch=True)
AXES = st.none() | st.permutations([0, 1, 2])


@given(
    st.text(min_size=1).filter(lambda path: path.strip() and "\0" not in path),
    EXT,
    st.lists(AXIS_SLICE | st.integers(-99, 99), max_size=4),
    AXES,
)
def test_any_specifier_round_trips_through_text(
    path: str, ext: str | int | None, index: list[object], axes: list[int] | None
) -> None:
    celestial, spectral = (None, None) if axes is None else ((axes[0], axes[1]), axes[2])
    specifier = Specifier(path, ext, tuple(index), celestial, spectral)  # type: ignore[arg-type]
    assert parse_specifier(str(specifier)) == specifier


@given(st.text(alphabet=st.sampled_from("a.fits{}[](),:'\"=0123-CELESTIALSPECTRAL \0\n~é"), max_size=40))
def test_any_text_is_parsed_or_is_a_config_error(text: str) -> None:
    try:
        specifier = parse_specifier(text)
    except ConfigError:
        return
    assert parse_specifier(str(specifier)) == specifier


@given(st.text(alphabet=st.sampled_from("0123456789.:eE+-num GHz/s"), max_size=16))
def test_any_wave_text_is_parsed_or_is_a_config_error(text: str) -> None:
    try:
        wave = parse_wave(text)
    except ConfigError:
        return
    assert wave.unit
    assert wave.low is not None or wave.high is not None

"""Make a config for the files of the user from one of those that come with lucidcube."""

import re
import shlex
import textwrap
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from lucidcube.cli.info_text import facts
from lucidcube.config.shipped import config_text
from lucidcube.config.show import one_line
from lucidcube.errors import ConfigError, UserError, printable
from lucidcube.io.inspection import inspect_file
from lucidcube.io.specifier import parse_specifier

FWHM_PIXELS = 3.0
"""Width of the PSF that is written where it is unknown, in pixels of the target."""
SPECTRAL_PLANES = 10
"""Number of planes from which artefacts can be found by the spectrum of each pixel."""
WIDTH = 118
"""Longest line of a comment."""


def new_config(preset: str, target: str, star: str | None, message: Callable[[str], None]) -> str:
    """Return the YAML text of a config with the paths of the user, and comments about what they hold.

    `message` is called with a sentence about a preset that hardly suits the files. UserError is raised if a
    file cannot be read, or if the preset needs a star and there is none, or the other way round.
    """
    text = config_text(preset)
    wants_star = "input: star.fits" in text
    if wants_star and star is None:
        raise UserError(
            f"the preset {preset} needs a star: lucidcube config new {preset} {target} star.fits; "
            f"without one, lucidcube config new no-star {target}"
        )
    if star is not None and not wants_star:
        raise UserError(
            f"the preset {preset} has no place for a star: leave out {star}, or see config presets"
        )
    found = {"target": _inspect("target", target, message)}
    if star is not None:
        found["star"] = _inspect("star", star, message)
    _hint(preset, target, found["target"], message)
    lines = [line for line in text.splitlines() if not line.startswith("#   lucidcube run")]
    command = shlex.join(["lucidcube", "config", "new", preset, target, *([star] if star else [])])
    lines[1:1] = [
        f"# Made by: {printable(command)}",
        "# Paths are relative to the folder that lucidcube is called in.",
        "# All parameters are explained by: lucidcube config template, lucidcube stages NAME",
    ]
    made = [_with_inputs(line, {"target": target, "star": star}, found) for line in lines]
    return "\n".join(made) + "\n"


def _inspect(name: str, specifier: str, message: Callable[[str], None]) -> Mapping[str, Any]:
    """Return what the file holds; ConfigError if it cannot be read."""
    try:
        found = inspect_file(specifier, message)
    except UserError as error:
        raise ConfigError(*(f"{name}: {p}" for p in error.problems)) from None
    if found["problems"]:
        raise ConfigError(*(f"{name}: {p}" for p in found["problems"]))
    array: Mapping[str, Any] = found["array"]
    return array


def _hint(preset: str, target: str, array: Mapping[str, Any], message: Callable[[str], None]) -> None:
    if preset in ("image", "no-star"):
        if preset == "image" and array["planes"] >= SPECTRAL_PLANES:
            message(f"{target} is a cube of {array['planes']} planes: another preset uses its spectra")
    elif array["kind"] == "image":
        message(f"{target} is an image: the preset image suits it better")


def _with_inputs(line: str, paths: Mapping[str, str | None], found: Mapping[str, Mapping[str, Any]]) -> str:
    """Return a line of a preset with the paths of the user in it."""
    for name, path in paths.items():
        if path is not None and line == f"  input: {name}.fits":
            return "\n".join([*_comments(found[name]), f"  input: {one_line(path)}", *_unknown(found[name])])
    if line.startswith("  path: "):
        stem = parse_specifier(str(paths["target"])).file.name.partition(".")[0]
        return f"  path: {one_line(f'{stem}-sharp.fits')}"
    if re.fullmatch(r"    fwhm: \S+", line):
        note = f"    # A guess of {FWHM_PIXELS:g} pixels: type the width of your data."
        return f"{note}\n    fwhm: {_fwhm(found['target'])}"
    return line


def _comments(array: Mapping[str, Any]) -> Iterator[str]:
    hdu = "data" if isinstance(array["hdu"], int) else array["hdu"]
    yield f"  # What is read of the HDU {hdu}:" if hdu != "data" else "  # What is read:"
    for name, fact in facts(array):
        start = f"  #   {name}: " if name not in ("cube", "image") else f"  #   {name} of "
        text = printable(f"{start}{fact.partition('; at most')[0]}")
        yield from textwrap.wrap(text, WIDTH, subsequent_indent="  #     ", break_long_words=False)


def _unknown(array: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys for wavelengths that the header does not state."""
    if array["kind"] == "cube" and not array["spectral"]["unit"]:
        yield "  # If you know the wavelengths of the planes:"
        yield from ("  # wave_start: 480", "  # wave_step: 1", "  # wave_unit: nm")


def _fwhm(array: Mapping[str, Any]) -> str:
    """Return a width of `FWHM_PIXELS`, as an angle where the pixels have the same side in both directions."""
    sky = array["sky"]
    if sky is None or abs(sky["pixel_y_arcsec"] - sky["pixel_x_arcsec"]) > 1e-3 * sky["pixel_x_arcsec"]:
        return f"{FWHM_PIXELS:g}"
    return f"{FWHM_PIXELS * sky['pixel_x_arcsec']:.3g}arcsec"

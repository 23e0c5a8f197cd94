"""Compare the target and the star before a run."""

from collections.abc import Iterator, Mapping

import xarray as xr

from lucidcube.config.schema import Config
from lucidcube.config.star import PartOfTarget
from lucidcube.config.track import Track
from lucidcube.cube import PSF
from lucidcube.errors import UserError
from lucidcube.io.reader import find, list_file
from lucidcube.stages.star_checks import swapped, unfit


def star_problems(config: Config, sources: Mapping[str, xr.Dataset]) -> Iterator[str]:
    """Yield a line for each reason why the star of a config cannot give the PSF that the target needs.

    `sources` are the cubes of the tracks, as they are read; those that could not be opened are missing.
    """
    tracks = config.tracks()
    if "star" not in tracks or not _needs_psf(config):
        return
    star = tracks["star"]
    if not isinstance(star, PartOfTarget) and _is_same_array(tracks["target"], star):
        yield (
            f"star.input: {star.specifier().path} is the target as well: give the file of a star, or a "
            "star in the field of the target as 'star: {from: target, x: ..., y: ..., radius: ...}'"
        )
    elif "star" in sources and (found := unfit(star.stages, sources["star"])) is not None and found[1]:
        yield f"star.stages: {found[0]}"


def star_warnings(config: Config, sources: Mapping[str, xr.Dataset]) -> Iterator[str]:
    """Yield warnings about the inputs of a config whose star has stages; see `star_problems`."""
    if "star" not in sources or not _needs_psf(config):
        return
    stages = config.tracks()["star"].stages
    if stages and (text := swapped(sources["target"], sources["star"])) is not None:
        yield f"inputs: {text}"
    if (found := unfit(stages, sources["star"])) is not None:
        yield f"star: {found[0]}"


def _needs_psf(config: Config) -> bool:
    return any(PSF in stage.requires for stage in config.stages("target"))


def _is_same_array(one: Track, other: Track) -> bool:
    """Return whether two tracks read the same part of the same HDU of the same file, whatever its name."""
    try:
        if not one.specifier().file.samefile(other.specifier().file):
            return False
        ours, theirs = (find(list_file(track.specifier())) for track in (one, other))
    except (OSError, UserError):
        return False  # reported when the file is opened
    return ours.data.number == theirs.data.number and ours.selection.kept == theirs.selection.kept

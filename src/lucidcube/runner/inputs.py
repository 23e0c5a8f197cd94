"""Open the inputs of the tracks, and identify their content."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from lucidcube.config.schema import Config
from lucidcube.config.star import PartOfTarget
from lucidcube.config.track import Track
from lucidcube.cube import WAVELENGTH, X, Y
from lucidcube.errors import UserError
from lucidcube.io.reader import open_cube
from lucidcube.io.specifier import Specifier
from lucidcube.lift.blocks import planes_per_block
from lucidcube.lift.lazy_arrays import rechunk_sources
from lucidcube.runner.checkpoint import fingerprint
from lucidcube.runner.input_checksum import input_identity
from lucidcube.runner.monitor import Monitor
from lucidcube.runner.star_in_target import star_in_target


def open_track(
    track: Track, monitor: Monitor, *, scratch: Path | None = None, specifier: Specifier | None = None
) -> xr.Dataset:
    """Open the input of a track, or another array of the same file in the same way; see `open_cube`."""
    cube = open_cube(
        specifier or track.specifier(),
        wave_start=track.wave_start,
        wave_step=track.wave_step,
        wave_unit=track.wave_unit,
        scratch=scratch,
        message=monitor.message,
    )
    return star_in_target(cube, track.place) if isinstance(track, PartOfTarget) else cube


def input_identities(config: Config, *, cached: bool = True) -> dict[str, dict[str, Any]]:
    """Return what identifies the content of the inputs of the tracks.

    Unless `cached`, all of each file is read; see `lucidcube.runner.input_checksum.input_identity`.
    """
    work = config.work() if cached else None
    return {name: input_identity(track, work) for name, track in config.tracks().items()}


def changed_inputs(config: Config, before: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return a line for each input whose content is not what it was; all of each file is read."""
    return [
        f"{name}.input: {track.specifier().file} was changed during the run: there is no product, and the "
        "checkpoints of this run are removed; start again"
        for name, track in config.tracks().items()
        if _identity_now(track) != before[name]
    ]


def _identity_now(track: Track) -> Mapping[str, Any] | None:
    """Return what identifies an input; None if it cannot be read any more."""
    try:
        return input_identity(track, None)
    except (UserError, OSError):
        return None


def track_keys(inputs: Mapping[str, Any]) -> dict[str, str]:
    """Return the keys of the inputs, on which those of the checkpoints depend."""
    return {name: fingerprint(identity) for name, identity in inputs.items()}


def in_blocks(cube: xr.Dataset) -> xr.Dataset:
    """Return a cube in blocks of the size that is aimed for now."""
    return rechunk_sources(cube, planes_per_block(cube.sizes[WAVELENGTH], cube.sizes[Y] * cube.sizes[X]))

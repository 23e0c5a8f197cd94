"""Find the checkpoints of a config without computing anything."""

from dataclasses import replace

import xarray as xr

from lucidcube.config.schema import Config
from lucidcube.runner.checkpoint import Checkpoint
from lucidcube.runner.inputs import input_identities, open_track, track_keys
from lucidcube.runner.monitor import Monitor
from lucidcube.runner.pipeline import check
from lucidcube.runner.plan import planned_blocks
from lucidcube.runner.segments import Segment, raise_first, walk
from lucidcube.runner.work_folder import scratch_folder


def reopen(config: Config) -> dict[str, list[tuple[Segment, bool]]]:
    """Open the inputs and the checkpoints of a run that was made with this config; nothing is computed.

    For each track its segments are returned in order, and whether the checkpoint of each is complete. The
    last cube of a segment has the variables of its checkpoint. Block for block, all others are computed when
    they are used. UserError is raised if an input cannot be opened or the cubes do not fit the stages.
    """
    scratch = scratch_folder(config.work())
    sources = {n: open_track(track, Monitor(), scratch=scratch) for n, track in config.tracks().items()}
    found: dict[str, list[tuple[Segment, bool]]] = {name: [] for name in sources}

    def visit(segment: Segment) -> xr.Dataset:
        checkpoint, cube = Checkpoint(config.work() / segment.name), segment.cube
        complete = not segment.variables or checkpoint.is_complete()
        if segment.variables and complete:
            kept = checkpoint.open()
            cube = cube.assign({name: kept[name].variable for name in segment.variables})
        found[segment.track].append((replace(segment, cubes=(*segment.cubes[:-1], cube)), complete))
        return cube

    _, errors = walk(config, sources, track_keys(input_identities(config)), visit)
    raise_first(errors, Monitor())
    return found


def checkpoints(config: Config) -> list[str]:
    """Return the names of the checkpoints that a run of this config uses; nothing is computed.

    ConfigError is raised if the config cannot be run.
    """
    output = config.output.model_copy(update={"overwrite": True})  # nothing is written
    plan = check(config.model_copy(update={"output": output}))
    names: list[str] = []

    def visit(segment: Segment) -> xr.Dataset:
        names.append(segment.name)
        return segment.cube

    with planned_blocks(plan.block_bytes):
        _, errors = walk(config, plan.sources, track_keys(input_identities(config)), visit)
    raise_first(errors, Monitor())
    return names

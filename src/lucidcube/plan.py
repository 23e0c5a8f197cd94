"""What a run will need, known before it starts: blocks, bytes and memory."""

from __future__ import annotations

from typing import NamedTuple

import xarray as xr

from lucidcube.cube import block_sizes
from lucidcube.stage import Stage

BASELINE = 300 << 20
"""Memory of a worker that has imported everything and done nothing (measured: 230 to 300 MiB)."""


class Step(NamedTuple):
    """One stage of a plan.

    Attributes
    ----------
    track, stage
        Names.
    shape
        (wavelength, y, x) of the stage's product.
    block, blocks
        Planes in a block, and number of blocks.
    written
        Bytes of the variables that the stage makes.
    working
        Bytes alive while one block is worked on.
    checkpoint
        Whether the product is kept.
    """

    track: str
    stage: str
    shape: tuple[int, ...]
    block: int
    blocks: int
    written: int
    working: int
    checkpoint: bool


def step(track: str, stage: Stage, before: xr.Dataset, after: xr.Dataset, *, checkpoint: bool) -> Step:
    """Plan one stage.

    Parameters
    ----------
    track, stage
        Where it stands, and what.
    before, after
        The lazy cubes around it.
    checkpoint
        Whether its product is kept.

    Returns
    -------
    Step
        Numbers; nothing is computed.
    """
    sizes = block_sizes(after)
    made = [after[v] for v in stage.produces if v in after.variables]
    return Step(
        track=track,
        stage=stage.name,
        shape=tuple(after[stage.produces[0]].shape),
        block=max(sizes),
        blocks=len(sizes),
        written=sum(v.nbytes for v in made),
        working=stage.working_bytes(before, after),
        checkpoint=checkpoint,
    )


def peak_memory(steps: list[Step], threads: int) -> int:
    """Largest resident memory of a worker with this many threads, predicted, in bytes."""
    return BASELINE + threads * max((s.working for s in steps), default=0)

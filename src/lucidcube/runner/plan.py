"""Plan a run: blocks, bytes and memory of each stage, without computing anything."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import xarray as xr

from lucidcube.cube import X, Y, block_sizes
from lucidcube.errors import ConfigError
from lucidcube.lift import blocks
from lucidcube.runner.engines import Engines
from lucidcube.runner.segments import Segment
from lucidcube.stages.base import Stage

BASELINE = 322 << 20
"""Memory of a worker process that has loaded all stages, apart from blocks (measured: 314 to 322 MiB)."""
RETAINED = 1.2
"""Memory of a block with what the allocator keeps of the blocks before, relative to the block alone."""
PLANNED = 0.85
"""Fraction of the memory limit of a worker that a plan may use."""
ENDED = 0.95
"""Fraction of its memory limit at which dask ends a worker; see `lucidcube.cluster.jobqueue`."""
DEVICE_BLOCKS = 4
"""Number of blocks into which a cube is divided at least if a device computes them."""
COMPILING = 75 << 20
"""Additional memory of a process that compiles kernels, once on a machine (measured: 35 to 70 MiB)."""

NONE_TOGETHER = Engines()
"""The engines of a profile without an array library."""


class Step(NamedTuple):
    """One stage of a plan."""

    track: str
    stage: str
    shape: tuple[int, ...]
    """(wavelength, y, x) of the stage's product."""
    block: int
    """Number of planes per block."""
    blocks: int
    """Number of blocks; each is a task."""
    read: int
    """Bytes of the variables that the stage reads."""
    written: int
    """Bytes of the variables that the stage produces."""
    working: int
    """Bytes of memory needed to compute one block."""
    checkpoint: bool
    """Whether the result is kept in a checkpoint."""
    device: int = 0
    """Bytes of memory that planes computed together on the processor take in addition, once in a process."""


def plan_segment(segment: Segment, engines: Engines = NONE_TOGETHER) -> list[Step]:
    """Plan the stages of a segment; nothing is computed. For `engines` see `plan_stage`."""
    cubes = zip(segment.cubes, segment.cubes[1:], strict=False)
    return [
        plan_stage(
            segment.track, stage, before, after, checkpoint=stage is segment.stages[-1], engines=engines
        )
        for stage, (before, after) in zip(segment.stages, cubes, strict=True)
    ]


def plan_stage(
    track: str,
    stage: Stage,
    before: xr.Dataset,
    after: xr.Dataset,
    *,
    checkpoint: bool,
    engines: Engines = NONE_TOGETHER,
) -> Step:
    """Plan one stage from the lazy cubes around it; nothing is computed.

    If the engines have an array library, planes are computed together where the stage can.
    """
    together = engines.array_library is not None and stage.computes_together
    sizes = block_sizes(after)
    made = [after[v] for v in stage.produces if v in after.variables]
    used = [before[v] for v in (*stage.requires, *stage.optional) if v in before.variables]
    return Step(
        track=track,
        stage=stage.name,
        shape=tuple(after[stage.produces[0]].shape),
        block=max(sizes),
        blocks=len(sizes),
        read=sum(v.nbytes for v in used),
        written=sum(v.nbytes for v in made),
        working=stage.working_bytes(before, after) + (stage.together_bytes(before, after) if together else 0),
        checkpoint=checkpoint,
        device=engines.host_stack_bytes(before.sizes[Y] * before.sizes[X]) if together else 0,
    )


def peak_memory(steps: Sequence[Step], threads: int) -> int:
    """Return the predicted peak resident memory in bytes of a worker process with `threads` threads."""
    device = max((s.device for s in steps), default=0)
    return BASELINE + device + threads * int(RETAINED * max((s.working for s in steps), default=0))


def least_memory(steps: Sequence[Step], threads: int) -> int:
    """Return the smallest memory limit in bytes of a worker process in which these stages are computed."""
    peak = peak_memory(steps, threads)
    return math.ceil(max(peak / PLANNED, (peak + COMPILING) / ENDED))


def planned_blocks(block_bytes: int) -> AbstractContextManager[None]:
    """Limit blocks to the size in a plan within the context; blocks larger than usual are for a device."""
    return blocks.limit_block_bytes(block_bytes, DEVICE_BLOCKS if block_bytes > blocks.BLOCK_BYTES else None)


def fit_memory(
    build: Callable[[], list[Step]],
    threads: int,
    memory: int,
    block_bytes: int | None = None,
    all_threads: int = 1,
) -> tuple[list[Step], int]:
    """Reduce the size of blocks until they fit into the memory of a worker.

    `build` plans all stages with blocks as limited by `lucidcube.lift.blocks.limit_block_bytes`. A worker
    process has this number of threads, each of which computes a block, and this memory in bytes. Blocks have
    `block_bytes` at most, by default `lift.blocks.BLOCK_BYTES`. Where that is more than the default, for a
    device, they are made smaller until each of the threads of all workers, `all_threads`, has a block. The
    plan and the target size of blocks are returned. ConfigError is raised if not even blocks of one plane
    fit; the message names the stage and the setting to change.
    """
    block_bytes = block_bytes or blocks.BLOCK_BYTES
    while True:
        with planned_blocks(block_bytes):
            steps = build()
        fewest = min((s.blocks for s in steps if s.shape[0] >= all_threads), default=all_threads)
        if fewest < all_threads and block_bytes > blocks.BLOCK_BYTES:
            block_bytes = max(block_bytes // 2, blocks.BLOCK_BYTES)
            continue
        if least_memory(steps, threads) <= memory:
            return steps, block_bytes
        if not steps:
            least = _mebibytes(least_memory(steps, threads))
            raise ConfigError(
                f"profile: a worker has {_mebibytes(memory)} and needs {least}: give the profile more memory"
            )
        if all(s.block == 1 for s in steps):
            break
        block_bytes //= 2
    worst = max(steps, key=lambda s: s.working)
    alone = least_memory(steps, 1)
    remedy = "give the profile more memory" if alone > memory else "give the profile fewer workers or threads"
    raise ConfigError(
        f"profile: {worst.stage} of the {worst.track} needs {_mebibytes(worst.working)} for one plane of "
        f"{worst.shape[-2]} x {worst.shape[-1]} pixels, in each of {threads} threads "
        f"({_mebibytes(peak_memory(steps, threads))} in all); a worker has {_mebibytes(memory)} and needs "
        f"{_mebibytes(least_memory(steps, threads))}: {remedy}"
    )


def _mebibytes(nbytes: int) -> str:
    return f"{nbytes / (1 << 20):.0f} MiB"

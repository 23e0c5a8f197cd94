"""The engines with which blocks are computed: for Fourier transforms, and for planes together on a device."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import NamedTuple

from lucidcube.cluster.profile import Profile
from lucidcube.errors import ConfigError
from lucidcube.kernels.fourier.convolver import EngineName, use_engine
from lucidcube.kernels.stacked.arrays import (
    HOST_BYTES,
    MOST_COPIES,
    ArrayLibrary,
    Unavailable,
    find_arrays,
    use_arrays,
)
from lucidcube.lift.blocks import BLOCK_BYTES
from lucidcube.stages.base import Stage

HERE = frozenset({"threads", "processes", "synchronous"})
"""Kinds of profiles whose workers are on this machine."""
DEVICE_BLOCK_BYTES = 32 << 20
"""Size limit of a block of one float32 variable for a device: 72 planes of 341 x 341 pixels."""
INSTEAD = "planes are computed one by one on the processor"


class Engines(NamedTuple):
    """What a profile says about engines; see `cluster.profile.Profile`."""

    fft: EngineName = "auto"
    array_library: ArrayLibrary | None = None
    device: str | None = None

    @property
    def on_host(self) -> bool:
        """Whether the device of the array library is the processor."""
        return self.array_library == "numpy" or self.device == "cpu"

    def host_stack_bytes(self, pixels: int) -> int:
        """Return the bytes of the memory of a worker that planes on the device take, all threads together.

        That is what the planes of a stack need, or a single one of this number of pixels, if the device is
        the processor.
        """
        return max(HOST_BYTES, 4 * MOST_COPIES * pixels) if self.on_host else 0

    def block_bytes(self, kind: str) -> int | None:
        """Return the size limit of blocks that suits the memory of the device, or None for the usual one.

        A device that is not on this machine is taken to have enough memory for the largest blocks. If it has
        less, it computes a block in parts.
        """
        if self.array_library is None or self.on_host:
            return None
        if kind not in HERE:
            return DEVICE_BLOCK_BYTES
        fitting = find_arrays(self.array_library, self.device).stack_bytes() // MOST_COPIES
        return max(BLOCK_BYTES, min(DEVICE_BLOCK_BYTES, fitting))

    @contextmanager
    def chosen(self) -> Iterator[None]:
        """Use these engines in the current thread within the context.

        If the array library or the device cannot be used here, planes are computed one by one, and the first
        such block of a process warns of it, also in the process that controls a cluster.
        """
        library = self.array_library
        if library is not None:
            try:
                find_arrays(library, self.device)
            except Unavailable as error:
                library = None
                _warn(f"{error}: {INSTEAD}")
        with use_engine(self.fft), use_arrays(library, self.device):
            yield


@cache
def _warn(text: str) -> None:
    import distributed

    distributed.warn(text, RuntimeWarning)


def engines_of(profile: Profile, say: Callable[[str], None] = lambda text: None) -> Engines:
    """Return the engines of a profile; ConfigError is raised if the transforms do not work on this machine.

    If blocks are computed on this machine, and the array library or the device cannot be used here, `say` is
    called with a line about it, and the engines do without.
    """
    try:
        with use_engine(profile.fft):
            pass
    except ValueError as error:
        raise ConfigError(f"profile: {error}") from error
    engines = Engines(profile.fft, profile.array_library, profile.device)
    if engines.array_library is not None and profile.kind in HERE:
        try:
            find_arrays(engines.array_library, engines.device)
        except Unavailable as error:
            say(f"profile: {error}: {INSTEAD}")
            return Engines(profile.fft)
    return engines


def say_where(engines: Engines, stages: Iterable[Stage | None], say: Callable[[str], None]) -> None:
    """Say which stages the device computes, if there is one."""
    if engines.array_library is None:
        return
    on_device = [stage.name for stage in stages if stage is not None and stage.computes_together]
    usual = "the processor" if engines.array_library == "numpy" else "the first GPU"
    where = f"{engines.array_library} on {engines.device or usual}"
    if on_device:
        say(f"{where}: {', '.join(on_device)}; the other stages are computed on the processor")
    else:
        say(f"{where}: no stage of this run can use it with these parameters, and the processor computes all")

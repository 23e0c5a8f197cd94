"""The array library and the device with which the planes of a block are computed together.

The kernels of this package are written against the Python array API standard, so that they run with NumPy,
PyTorch and CuPy. The libraries are imported when one is chosen, and are no dependencies.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import import_module
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

ArrayLibrary = Literal["numpy", "torch", "cupy"]

FRACTION = 0.5
"""Fraction of the free memory of a device that a stack of planes may use."""
HOST_BYTES = 256 << 20
"""Memory of a stack of planes if the device is the processor."""
MOST_COPIES = 130
"""Planes in the memory of a device for each plane of a stack, at most: those of the MAP estimate."""
HOST = "cpu"
INSTALL = {
    "numpy": "pip install array-api-compat",
    "torch": "pip install 'lucidcube[gpu]'",
    "cupy": "pip install array-api-compat cupy-cuda12x, or the package for another version of CUDA",
}
"""How to install what each library needs."""


class Unavailable(ValueError):
    """The array library or the device cannot be used here; the message is a clause that says why."""


@dataclass(frozen=True)
class Arrays:
    """An array library, and the device that holds its arrays.

    Attributes
    ----------
    library
        Name of the library.
    xp
        Its namespace, as `array_api_compat` provides it.
    device
        Device in the form of the library.
    """

    library: ArrayLibrary
    xp: Any
    device: Any
    lock: Lock = field(default_factory=Lock, compare=False)
    """Lock of the device, see `in_use`."""

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Use the device within the context, in which stacks are computed and their size is chosen.

        One thread at a time does, so that its memory is not shared; others prepare. NumPy does not warn of
        divisions by zero and overflows, as the other libraries do not.
        """
        current = self.device if self.library == "cupy" else nullcontext()
        with self.lock, current, np.errstate(all="ignore"):
            yield

    def put(self, array: NDArray[Any]) -> Any:
        """Return a copy of a NumPy array on the device."""
        return self.xp.asarray(np.array(array, order="C"), device=self.device)

    def get(self, array: Any) -> NDArray[Any]:
        """Return an array of the device as a NumPy array."""
        from array_api_compat import to_device

        return np.asarray(to_device(array, HOST))

    def stack_size(self, plane_bytes: int) -> int:
        """Return the number of planes of a stack, each of which needs `plane_bytes`; see `in_use`."""
        return max(1, int(self.stack_bytes() // plane_bytes))

    def stack_bytes(self) -> int:
        """Return the number of bytes that a stack of planes may use."""
        if self.library == "cupy":
            with self.device:
                return int(FRACTION * self.xp.cuda.runtime.memGetInfo()[0])
        if self.library == "torch" and self.device.type == "cuda":
            torch = import_module("torch")
            # What the library keeps for later arrays is free as well.
            kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            return int(FRACTION * (torch.cuda.mem_get_info(self.device)[0] + kept))
        return HOST_BYTES

    def __str__(self) -> str:
        return f"{self.library} on {self.device}"


_chosen: ContextVar[Arrays | None] = ContextVar("lucidcube_arrays", default=None)


def current_arrays() -> Arrays | None:
    """Return the array library of this context; None if planes are computed one by one."""
    return _chosen.get()


@contextmanager
def use_arrays(library: ArrayLibrary | None, device: str | None = None) -> Iterator[Arrays | None]:
    """Choose the array library with which the current thread computes planes together in this context.

    None computes planes one by one. For the device see `find_arrays`, and for `Unavailable`, which is raised.
    """
    token = _chosen.set(None if library is None else find_arrays(library, device))
    try:
        yield _chosen.get()
    finally:
        _chosen.reset(token)


_found: dict[tuple[str, str | None], Arrays | Unavailable] = {}
"""What was found for each library and each name of a device."""
_locks: defaultdict[str, Lock] = defaultdict(Lock)
"""The lock of each device, whatever it is called and whichever library uses it."""
_finding = Lock()


def find_arrays(library: ArrayLibrary, device: str | None = None) -> Arrays:
    """Return an array library with a device: ``cpu``, ``cuda``, ``cuda:1`` or None for the first GPU.

    NumPy has the device ``cpu`` only, which is its default. `Unavailable` is raised if the library is not
    installed or there is no such device. All threads get the same object for the same arguments.
    """
    with _finding:
        if (library, device) not in _found:
            try:
                _found[library, device] = _look_for(library, device)
            except Unavailable as error:
                _found[library, device] = error
        found = _found[library, device]
    if isinstance(found, Unavailable):
        raise Unavailable(str(found))
    return found


def _look_for(library: ArrayLibrary, name: str | None) -> Arrays:
    try:
        xp = import_module(f"array_api_compat.{library}")
    except (ImportError, OSError) as error:
        raise Unavailable(f"{library} cannot be imported ({error}): {INSTALL[library]}") from error
    if library == "numpy":
        if name not in (None, HOST):
            raise Unavailable(f"numpy has no device {name}: choose torch or cupy")
        return Arrays(library, xp, HOST, _locks[HOST])
    find = _torch_device if library == "torch" else _cupy_device
    device, key = find(name or "cuda")
    return Arrays(library, xp, device, _locks[key])


def _torch_device(name: str) -> tuple[Any, str]:
    """Return a device of PyTorch, and its name with its number."""
    torch = import_module("torch")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise Unavailable(f"torch knows no device {name}") from error
    if device.type == HOST:
        return device, HOST
    if device.type != "cuda" or not torch.cuda.is_available():
        raise Unavailable(f"torch finds no device {name}")
    number = device.index or 0
    if number >= torch.cuda.device_count():
        raise Unavailable(f"torch finds {torch.cuda.device_count()} devices and no {name}")
    return torch.device("cuda", number), f"cuda:{number}"


def _cupy_device(name: str) -> tuple[Any, str]:
    """Return a device of CuPy, and its name with its number."""
    cupy = import_module("cupy")
    kind, _, number = name.partition(":")
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise Unavailable(f"cupy finds no device ({error})") from error
    index = int(number) if number.isdecimal() else 0
    if kind != "cuda" or index >= devices:
        raise Unavailable(f"cupy finds {devices} CUDA devices and no {name}")
    return cupy.cuda.Device(index), f"cuda:{index}"

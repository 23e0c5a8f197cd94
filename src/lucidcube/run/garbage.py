"""Garbage is not collected while modules are imported: what they make lives to the end."""

from __future__ import annotations

import atexit
import gc


def postpone() -> None:
    """Collect nothing until `resume`.

    To look again and again through what imports make costs a quarter of a second, and half a second more at
    the exit, where it is therefore left alone.
    """
    gc.disable()
    atexit.register(gc.freeze)


def resume() -> None:
    """Collect from now on, but not among what is there already."""
    gc.freeze()
    gc.enable()

"""Fourier transforms in the vector instructions of this processor; see README.md in this folder."""

import platform

from numba import config

PROCESSORS = ("x86_64", "amd64", "aarch64", "arm64")


def why_unavailable() -> str | None:
    """Return why this engine cannot run here, in words that complete "because ...", or None if it can."""
    if config.DISABLE_JIT:
        return "numba's compiler is switched off (NUMBA_DISABLE_JIT)"
    if platform.machine().lower() not in PROCESSORS:
        return f"it has no code for processors of the type {platform.machine() or 'unknown'}"
    return None

"""The checksums of FITS, in parts that add up in any order."""

from __future__ import annotations

import numpy as np


def checksum(data: bytes | bytearray | memoryview, offset: int = 0) -> int:
    """The 32-bit ones' complement sum of bytes that begin at `offset` in an HDU.

    Sums of parts add up, in any order, to the sum of the whole: `fold` of their plain sum.

    References
    ----------
    FITS standard 4.0, appendix J.
    """
    lead = offset % 4
    raw = np.frombuffer(data, np.uint8)
    head = min(-lead % 4, len(raw))
    tail = (len(raw) - head) // 4 * 4 + head
    total = int(raw[head:tail].view(">u4").sum(dtype=np.uint64))
    total += int.from_bytes((b"\0" * lead + raw[:head].tobytes()).ljust(4, b"\0"), "big")
    total += int.from_bytes(raw[tail:].tobytes().ljust(4, b"\0"), "big")
    return fold(total)


def fold(total: int) -> int:
    """Bring a sum of unsigned words down to 32 bits, carrying around the end."""
    while total >> 32:
        total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def encode(total: int) -> str:
    """The 16 characters for CHECKSUM that make the HDU sum to minus zero.

    References
    ----------
    FITS standard 4.0, appendix J, section J.3.
    """
    columns = []
    for byte in (~total & 0xFFFFFFFF).to_bytes(4, "big"):
        letters = [byte // 4 + 48] * 4
        letters[0] += byte % 4
        for i in (0, 2):
            while any(not chr(letter).isalnum() for letter in letters[i : i + 2]):
                letters[i] += 1
                letters[i + 1] -= 1
        columns.append(letters)
    text = "".join(chr(columns[byte][i]) for i in range(4) for byte in range(4))
    return text[-1] + text[:-1]

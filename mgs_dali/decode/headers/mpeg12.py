"""MPEG-1 and MPEG-2, of which nothing is read but whether packets are damaged."""

from __future__ import annotations

import re

_SLICES = range(0x01, 0xB0)
"""Start codes of slices."""


def _zeros_of(num_before: int) -> bytes:
    """An expression for 23 zero bits: these in one byte, 16 in the next two, the rest in a fourth that is no 1."""
    before = bytes(byte for byte in range(256) if byte % (1 << num_before) == 0)
    num_after = 7 - num_before
    after = bytes(range(1 << (7 - num_after), 1 << (8 - num_after)))
    classes = (b"".join(b"\\x%02x" % byte for byte in found) for found in (before, after))
    return b"[%s]\\0\\0[%s]" % tuple(classes)


_HOLE = re.compile(b"|".join([rb"\0\0\0[^\0\1]", *(_zeros_of(num_before) for num_before in range(1, 8))]), re.DOTALL)


def has_hole(packet: bytes) -> bool:
    """Whether a slice of MPEG-1 or MPEG-2 has 23 zero bits in a row, which none has: the standards keep them for start
    codes (13818-2, 6.2.1). Zeros that nothing but a start code or the end follows fill a packet up.
    """
    for hole in _HOLE.finditer(packet):
        start = packet.rfind(b"\0\0\1", 0, hole.start() + 1)
        if start >= 0 and packet[start + 3] in _SLICES:
            return True
    return False

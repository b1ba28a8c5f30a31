"""The words of a ring's header, and what may stand in them; see `ring`, where the format is told."""

from __future__ import annotations

import mmap
from typing import Final

from tailrace_agent.descriptors import map_kept

__all__ = [
    "BASE",
    "END",
    "HEAD",
    "MAGIC",
    "MIN_BYTES",
    "MOST_SPILLED",
    "PAD",
    "PID",
    "SPILLED",
    "TAIL",
    "UNSPILLED",
    "is_position",
    "map_ring",
]

MAGIC: Final = int.from_bytes(b"tailrace", "little")
BASE: Final = 4096
"""Where the first frame begins."""
END, PID, HEAD, SPILLED, TAIL, UNSPILLED = 2, 3, 8, 9, 16, 17
"""Which word of the header is what."""
PAD: Final = 0xFFFFFFFF
MIN_BYTES: Final = 64 * 1024
MOST_SPILLED: Final = 1 << 48
"""Bytes beyond which a position in the spill file is none."""


def is_position(word: int, end: int) -> bool:
    """Whether a frame may begin or end there, in a ring of `end` bytes."""
    return word % 8 == 0 and BASE <= word <= end


def map_ring(fd: int, size: int) -> mmap.mmap:
    """Maps a ring's file, with all its pages at once where the system can.

    Raises:
        OSError: It cannot be mapped.
    """
    return map_kept(fd, size, mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))

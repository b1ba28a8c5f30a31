"""The words of a ring's header, and what may stand in them; see `ring_writer`, where the format is described."""

from __future__ import annotations

import mmap
from typing import Final

from tailrace_agent.files.descriptors import map_kept

__all__ = [
    "BASE",
    "END",
    "HEAD",
    "MAGIC",
    "MIN_BYTES",
    "PAD",
    "PID",
    "SPILLED",
    "SPILL_BASE",
    "TAIL",
    "UNSPILLED",
    "is_position",
    "is_spill_position",
    "map_ring",
]

MAGIC: Final = int.from_bytes(b"tailrace", "little")
BASE: Final = 4096
"""Where the first frame begins."""
END, PID, HEAD, SPILLED, SPILL_BASE, TAIL, UNSPILLED = 2, 3, 8, 9, 10, 16, 17
"""Which word of the header is what."""
PAD: Final = 0xFFFFFFFF  # no length: a row of more than a quarter of the ring is spilled
MIN_BYTES: Final = 64 * 1024  # a ring shrinks to that where there is little room; a smaller file is none
_MOST_SPILLED: Final = 1 << 48
"""Bytes beyond which a position in what was spilled is believed only a little beyond one that is known."""
_A_LITTLE: Final = 1 << 40


def is_position(word: int, end: int) -> bool:
    """Whether a frame may begin or end there, in a ring of `end` bytes."""
    return word % 8 == 0 and BASE <= word <= end


def is_spill_position(word: int, known: int) -> bool:
    """Whether that many bytes may have been spilled, or read again, where `known` bytes were before."""
    return 0 <= word <= max(_MOST_SPILLED, known + _A_LITTLE)


def map_ring(fd: int, size: int, *, whole: bool) -> mmap.mmap:
    """Maps a ring's file; `whole`: with all its pages at once, where the system can.

    Raises:
        OSError: It cannot be mapped.
    """
    # A page that is mapped at its first use is a page fault inside of a `log()`. macOS has no such flag.
    return map_kept(fd, size, mmap.MAP_SHARED | (getattr(mmap, "MAP_POPULATE", 0) if whole else 0))

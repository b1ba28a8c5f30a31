"""The board: the last system sample, where the training process reads it in microseconds.

One for each monitor, written by the agent; and one the other way, for what only the training process can measure.

A file in shared memory with a sequence number in front. The writer makes it odd, writes, and makes it even again; a
reader that saw it odd, or changed, keeps what it read before. Checked by CRC32 too, so weak memory ordering shows.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

from tailrace_agent.decoding import msgpack_decoder
from tailrace_agent.files.descriptors import map_kept, reserve
from tailrace_agent.files.ownership import open_own

__all__ = ["BoardReader", "BoardWriter", "board_file"]

_SIZE: Final = 64 * 1024
_HEADER: Final = 24  # three words: sequence, length, checksum

_decoder = msgpack_decoder(dict[str, float])


def board_file(shared: Path, run: int, prefix: str, node: str | None) -> Path:
    """Where the board of a run's monitor is."""
    # Prefix and node are the user's, and may hold what a file's name cannot.
    place = crc32(f"{prefix}/{node or ''}".encode())
    return shared / f"{run:016x}-{place:08x}.board"


def _open(path: Path, flags: int) -> mmap.mmap:
    fd = open_own(path, flags)
    try:
        if flags & os.O_CREAT:
            reserve(fd, _SIZE)
        return map_kept(fd, _SIZE)
    finally:
        os.close(fd)


class BoardWriter:
    """The end that writes.

    Args:
        path: The file; taken over as it is when an earlier agent has made it.

    Raises:
        OSError: It cannot be made, or has no room.

    Not thread-safe.
    """

    def __init__(self, path: Path) -> None:
        self._map = _open(path, os.O_RDWR | os.O_CREAT)
        self._words = memoryview(self._map)[:_HEADER].cast("Q")

    def write(self, values: dict[str, float]) -> None:
        """Puts up a sample; one that is too large for the board is left out."""
        body = msgspec.msgpack.encode(values)
        if len(body) > _SIZE - _HEADER:
            return
        # `| 1`, since an earlier agent may have been killed while it wrote, with the number odd.
        sequence = self._words[0] | 1
        self._words[0] = sequence
        self._map[_HEADER : _HEADER + len(body)] = body
        self._words[1], self._words[2] = len(body), crc32(body)
        self._words[0] = sequence + 1


class BoardReader:
    """The end that reads.

    Args:
        path: The file; it need not be there yet.

    Thread safety: any thread.

    Example:
        >>> reader.read()
        {'system/cpu_utilization_percentage': 12.5}
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._map: mmap.mmap | None = None
        self._words: memoryview | None = None
        self._seen = 0
        self._values: dict[str, float] = {}

    def read(self) -> dict[str, float]:
        """The last sample, as a dict of its own; empty while there is none. Below a microsecond if it is not new."""
        if self._words is None and not self._connect():
            return {}
        assert self._words is not None
        sequence = self._words[0]
        if sequence != self._seen and not sequence % 2:
            self._refresh(sequence)
        return self._values.copy()

    @property
    def sequence(self) -> int:
        """Of the sample read last; 0 before the first one."""
        return self._seen

    def _connect(self) -> bool:
        try:
            # Not read-only: `map_kept` maps for writing, and such a descriptor would refuse that.
            self._map = _open(self._path, os.O_RDWR)
        except (OSError, ValueError):  # not there yet, or not of its size yet
            return False
        self._words = memoryview(self._map)[:_HEADER].cast("Q")
        return True

    def _refresh(self, sequence: int) -> None:
        assert self._map is not None
        assert self._words is not None
        size, checksum = self._words[1], self._words[2]
        body = self._map[_HEADER : _HEADER + min(size, _SIZE - _HEADER)]
        # Written meanwhile, or seen out of order: the next call reads it again.
        if self._words[0] != sequence or crc32(body) != checksum:
            return
        self._values, self._seen = _decoder.decode(body), sequence

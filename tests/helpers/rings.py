"""A ring with both ends in this process, and rows that are known again."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tailrace_agent.ipc.ring_format import MIN_BYTES
from tailrace_agent.ipc.ring_reader import Frames, RingReader
from tailrace_agent.ipc.ring_writer import RingWriter

BASE = 4096
HEAD, TAIL = 8, 16
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


class RingRig:
    """A ring with both ends in this process, and what came out of it."""

    def __init__(self, folder: Path, size: int = MIN_BYTES, **hooks: Any) -> None:
        self.path, self.spill = folder / "r.ring", folder / "spill"
        self.writer = RingWriter(self.path, size, self.spill, **hooks)
        self.reader = RingReader(self.path, self.spill)
        self.rows: list[bytes] = []

    def take(self, max_bytes: int = 4 << 20, *, give_up: bool = False) -> Frames:
        frames = self.reader.read(max_bytes, give_up=give_up)
        self.rows += frames.rows
        self.reader.commit(frames.tail, frames.spill)
        return frames

    def take_all(self, *, give_up: bool = False) -> list[bytes]:
        """Everything so far; a reader that does not come to an end fails the test."""
        for _ in range(10_000):
            if not self.take(give_up=give_up).more:
                return self.rows
        pytest.fail("the reader found no end")

    def frame_bytes(self) -> range:
        """Offsets of the file between tail and head, in a ring that has not wrapped since."""
        return range(self.reader.position[0], self.writer.words[HEAD])

    def close(self) -> None:
        self.writer.close()
        self.reader.close()


@contextlib.contextmanager
def new_rig(size: int = MIN_BYTES, **hooks: Any) -> Iterator[RingRig]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        rig = RingRig(Path(folder), size, **hooks)
        try:
            yield rig
        finally:
            rig.close()


def row(number: int, size: int = 8) -> bytes:
    return number.to_bytes(8, "little") + bytes((number + i) & 0xFF for i in range(max(0, min(size, 64) - 8))).ljust(
        max(0, size - 8), b"."
    )


def number_of(body: bytes) -> int:
    return int.from_bytes(body[:8], "little")


def fill(rig: RingRig, size: int = 1000) -> list[bytes]:
    """Rows until the first one has gone to the spill file."""
    rows = []
    while not rig.writer.words[9]:
        rows.append(row(len(rows), size))
        rig.writer.put(rows[-1])
    return rows

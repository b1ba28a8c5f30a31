"""The same channel twice, with a `log` in C and with one in Python, so that a test can hold one against the other."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tailrace._log.channel import Channel
from tailrace._log.log import LogCall, make_log, python_log
from tailrace._log.selection import Selection
from tailrace_agent.ipc.ring_format import MIN_BYTES
from tailrace_agent.ipc.ring_reader import RingReader
from tailrace_agent.ipc.ring_writer import RingWriter


class LogBench:
    """One channel on a ring of its own, one `log` that leads there, and what that `log` could not take."""

    def __init__(
        self,
        folder: Path,
        make: Callable[[Any], LogCall],
        *,
        strict: bool = False,
        selection: Selection | None = None,
        **hooks: Any,
    ) -> None:
        self.writer = RingWriter(folder / "ring", MIN_BYTES, folder / "spill", **hooks)
        self.reader = RingReader(folder / "ring", folder / "spill")
        self.odd: list[tuple[Any, ...]] = []
        self.channel = Channel(7, self.writer.put, self._odd, strict=strict, selection=selection)
        self.channel.lead_to(self.writer)
        self.log = make(types.SimpleNamespace(home=None, own=None, shared=self.channel))

    def _odd(self, values: Any, metrics: Any, step: Any, _now: int, error: BaseException) -> None:
        self.odd.append((values, metrics, step, type(error)))

    def rows(self) -> list[bytes]:
        frames = self.reader.read()
        self.reader.commit(frames.tail, frames.spill)
        assert not frames.damaged
        return frames.rows

    def said(self) -> list[str]:
        """The rows without their times."""
        return [row_said(row) for row in self.rows()]

    def held(self) -> list[str]:
        """What a selection holds back."""
        assert self.channel.selection is not None
        encode = self.channel.selection.encode
        return [row_said(row if isinstance(row, bytes) else encode(row)) for row in self.channel.selection.rest()]


def row_said(row: bytes) -> str:
    """A row without its time, so that 1, 1.0 and True, or 0.0 and -0.0, differ, and NaN is NaN."""
    run, step, _, values = msgspec.msgpack.decode(row)
    return repr((run, step, dict(sorted(values.items(), key=repr))))


class LogPairs:
    """The same channel twice: with a `log` in C, and with one in Python."""

    def __init__(self, folder: Path, *, strict: bool = False, **rules: Any) -> None:
        for name in ("c", "python"):
            (folder / name).mkdir()
        some = [Selection.of(rules.get("every"), rules.get("min_interval")) for _ in range(2)]
        self.c = LogBench(folder / "c", make_log, strict=strict, selection=some[0])
        self.python = LogBench(folder / "python", python_log, strict=strict, selection=some[1])

    def __enter__(self) -> tuple[LogBench, LogBench]:
        return self.c, self.python

    def __exit__(self, *_: object) -> None:
        for bench in (self.c, self.python):
            bench.reader.close()

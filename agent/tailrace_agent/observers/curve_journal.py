"""What the curves of a session have taken in, written down, so that an agent which follows draws on.

An append-only file in the session's directory. What a drain brought is noted before it is committed: if the agent is
killed in between, the next one reads the same from the rings, and a curve that takes in the same twice does not change.
The file is for this: no commit waits for it, nothing is synced. A power cut may cost its end, or all of it, and the
curves alone: best values are in the spool.

Format: records one after the other, each four bytes of length, four of CRC-32, and a `Kept` as MessagePack. Reading
stops at the first that is not whole. When the file has become several times as long as what it tells, it is replaced by
that, and so it is where a write has failed: what cannot be written stops nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from struct import Struct
from typing import Final
from zlib import crc32

import msgspec

from tailrace_agent.decoding import msgpack_decoder
from tailrace_agent.files import whole_files
from tailrace_agent.files.ownership import open_own, read_own
from tailrace_agent.ipc.curves import Curve, Drawn, Point, telling
from tailrace_agent.ipc.stored import UNREADABLE
from tailrace_agent.log import Log
from tailrace_agent.text.utf8 import encoded

__all__ = ["CurveJournal", "Kept"]

_HEAD: Final = Struct("<II")
_GROWS_BY: Final = 1 << 20
"""Bytes beyond three times what it tells, at which it is replaced."""
_REST: Final = 50
"""Drains after a failed write until the next: a full disk is not asked ten times a second."""


class Kept(msgspec.Struct, array_like=True, frozen=True):
    """A part of what is known of a run's curves: what they were, and what came then.

    Attributes:
        run: tailrace's id.
        drawn: Curves as they were.
        points: Points that came after, by key.
        left_out: Metrics that have found no room for a curve.
    """

    run: int
    drawn: dict[str, Drawn] = {}
    points: dict[str, list[Point]] = {}
    left_out: list[str] = []


_decoder = msgpack_decoder(Kept)


class CurveJournal:
    """The journal of one session's curves.

    Args:
        path: The file.
        log: Where operators read.

    Not thread-safe: the drain's thread calls everything.
    """

    def __init__(self, path: Path, log: Log) -> None:
        self._path, self._log = path, log
        self._fd: int | None = None
        self._size = self._told = 0
        self._rest = 0
        self._failing = False

    def read(self) -> Iterator[Kept]:
        """What an earlier agent has noted, in its order; `replace` follows."""
        try:
            body = read_own(self._path)
        except OSError:  # there is none, or it cannot be believed
            return
        at = 0
        while at + _HEAD.size <= len(body):
            length, checksum = _HEAD.unpack_from(body, at)
            at += _HEAD.size
            record = body[at : at + length]
            at += length
            if len(record) < length or crc32(record) != checksum:
                return
            try:
                yield _decoder.decode(record)
            except UNREADABLE:  # of another version
                continue

    def note(
        self,
        changed: Mapping[int, Mapping[str, Curve]],
        points: Mapping[int, Mapping[str, Sequence[Point]]],
    ) -> bool:
        """Notes what curves have taken in; whether `replace` is wanted.

        Args:
            changed: The curves, by run and key.
            points: What came, by run and key, of other metrics, too.
        """
        if self._fd is None:
            self._rest -= 1
            return self._rest < 0
        news = (
            Kept(run, points={key: telling(points[run][key], curve.width) for key, curve in curves.items()})
            for run, curves in changed.items()
        )
        body = b"".join(map(_framed, news))
        try:
            whole_files.write_all(self._fd, body)
        except OSError as error:  # a part may be there, behind which nothing is read
            self._fail(error)
            return False
        self._size += len(body)
        return self._size > 3 * self._told + _GROWS_BY

    def replace(self, kept: Iterable[Kept]) -> None:
        """Has the file tell this, and no more."""
        body = b"".join(map(_framed, kept))
        self.close()
        try:
            whole_files.replace(self._path, body)
            self._fd = open_own(self._path, os.O_WRONLY | os.O_APPEND)
        except OSError as error:
            self._fail(error)
            return
        self._size = self._told = len(body)
        self._failing = False

    def close(self, *, remove: bool = False) -> None:
        """The agent ends; `remove`: nobody is going to read it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if remove:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _fail(self, error: OSError) -> None:
        self.close()
        self._rest = _REST
        if not self._failing:  # once, and not with each drain
            self._log.warning("curves not kept", reason=str(error))
        self._failing = True


def _framed(record: Kept) -> bytes:
    body = encoded(msgspec.msgpack.encode, record)
    return _HEAD.pack(len(body), crc32(body)) + body

"""Callbacks for the values of a run's `log()` calls: `Run.observe`.

What this module promises:

* A run without one has none of this, and its `log()` costs what it did.
* A callback is called in the thread that logs, after the values are where every other call's are. What it raises comes
  out of that `log()`, and is the one exception that can.
* It is called for every call that holds one of its names, also where `every` or `min_interval` leave the values out.

A channel that is observed has an encoder that leaves the call's values at the row that it makes, and a `_Gate` in the
place of its ring: there `log` brings the row when it is done with catching exceptions. So the body of `log` stands as
it is, and the one in C hands over, since neither encoder nor ring are those that it knows.

Thread safety: all of it; a callback may be called by several threads at once.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any

from tailrace._log.faults import as_step
from tailrace._values.numbers import NotANumber, NotReady, to_number
from tailrace_agent.ipc.nested import flat_items

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Iterable, Mapping

    from tailrace._log.channel import Channel, Ring, Row

__all__ = ["Observer", "Observers"]


class Observer:
    """One callback, and the metrics that it is for."""

    def __init__(self, names: Iterable[str], callback: Callable[[int, dict[str, float]], object]) -> None:
        self._names, self._callback = frozenset(names), callback

    def look(self, values: Mapping[str, Any], step: int) -> None:
        """Calls back if one of the names is there. A value on a device is waited for: it was requested."""
        found = {name: number for name in self._names & values.keys() if (number := _number(values[name])) is not None}
        if found:
            self._callback(step, found)


class Observers:
    """Those of one run, for all of its channels."""

    def __init__(self) -> None:
        self._observers: tuple[Observer, ...] = ()
        self._pid = os.getpid()

    def add(self, observer: Observer) -> None:
        """One more."""
        self._observers = (*self._observers, observer)

    def attach(self, channel: Channel) -> None:
        """From now on the calls of this channel are observed."""
        inner, slow = channel.encode, channel.slow

        def encode(row: Row) -> bytes:
            if inner is None:
                raise _Closely
            return _Noted.of(inner(row), row)

        def slowly(values: Mapping[str, Any], metrics: Any, step: Any, time_ns: int, error: BaseException) -> None:
            observed = channel.encode is encode  # the run may have ended, and the values be another one's
            slow(values, metrics, step, time_ns, error)
            if observed:
                self.look(_named(values, metrics), step)

        channel.observe(self)
        channel.slow, channel.encode = slowly, encode

    def gate(self, ring: Ring) -> Ring:
        """What stands in the place of a ring."""
        return _Gate(ring, self.look)

    def look(self, values: Mapping[Any, Any], step: Any) -> None:
        """Calls back for one call's values. In a forked child nobody is there to be called."""
        if os.getpid() != self._pid:
            return
        try:
            at = as_step(step)
        except (NotANumber, NotReady, TypeError, ValueError, OverflowError):
            return  # reported as wrong by then
        flat = dict(flat_items(values))
        for observer in self._observers:
            observer.look(flat, at)


class _Closely(Exception):
    """Raised by the encoder of a run of which only the last values are kept: the slow path keeps them, too."""


class _Noted(bytes):
    """A row with the values that it was made of."""

    values: Mapping[str, Any]
    step: Any

    @classmethod
    def of(cls, encoded: bytes, row: Row) -> _Noted:
        noted = cls(encoded)
        noted.step, noted.values = row[1], row[3]
        return noted


class _Gate:
    """Stands where a channel's ring is; `log` comes to `put_slowly`."""

    off, limit = 0, -1
    words: memoryview[int]
    memory: mmap.mmap

    def __init__(self, ring: Ring, look: Callable[[Mapping[str, Any], Any], None]) -> None:
        self._ring, self._look = ring, look
        self.put_slowly = self.put

    def put(self, row: bytes) -> None:
        if row:  # otherwise a selection has dealt with it
            self._ring.put(row)
        if isinstance(row, _Noted):
            self._look(row.values, row.step)


def _named(values: Mapping[str, Any], metrics: Any) -> Mapping[Any, Any]:
    try:
        return values if metrics is None else {**metrics, **values}
    except Exception:  # noqa: BLE001 - metrics that are no mapping, reported as that by the slow path
        return values


def _number(value: Any) -> float | None:
    try:
        return to_number(value)
    except NotReady:
        with contextlib.suppress(Exception):  # a lost device, say: what is raised here would come out of `log`
            return to_number(value.item())
    except NotANumber:
        pass
    return None

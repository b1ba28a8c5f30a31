"""Rows whose values a device has still to write: kept aside, so that they hold up no others.

A row that names slots (`ipc.device_slots`) is a row like any other when its values are there. Until then it waits in
the spool as a block of a kind of its own, which nothing sends: counted as accepted, and so as pending; a run does not
end before it, and a flush waits for it. The blocks of its values take the ids that it had, so what waits for an id
waits for them. How many rows can be aside is bounded by their slots.

What never lands is given up when the process that had it queued is gone, or when its run has ended and nothing has
landed for `_PATIENCE`: a device that hangs keeps no run open.

Not thread-safe: the drain's thread calls everything.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, NamedTuple

import msgspec

from tailrace_agent.decoding import msgpack_decoder
from tailrace_agent.errors import SessionError
from tailrace_agent.ipc.device_slots import Place, SlotsReader
from tailrace_agent.ipc.reasons import Reason

__all__ = ["DeviceRow", "DeviceRows", "Found", "Landed"]

_PATIENCE: Final = 60.0
"""Seconds after the end of a run, and after the last value of its process that has landed."""
_RECLAIM_EVERY: Final = 5.0
_DAMAGED: Final[Reason] = "damaged in the ring"
_NEVER: Final[Reason] = "not computed by its device"
_MANY: Final = 256
"""Rows of a process, none of which has landed, after which they are looked at more rarely."""
_RARELY: Final = 0.4  # seconds


class DeviceRow(msgspec.Struct, array_like=True, frozen=True):
    """The values of one `log()` call that are on devices.

    Attributes:
        ring: Whose slots they come to.
        run: The run.
        step: Training step.
        time_ns: Of the call.
        places: Where each value is going to be.
        rest: The call had other values, too: their row is on its way.
    """

    ring: str
    run: int
    step: int
    time_ns: int
    places: dict[str, Place]
    rest: bool


class Found(NamedTuple):
    """What a look at some places has found: the values that are there, how many never will be, and whether to wait.

    `unread`: the slots could not be opened now, so some may be there all the same.
    """

    values: dict[str, float]
    lost: int
    waits: bool
    unread: bool = False


class Landed(NamedTuple):
    """A row that is aside no longer: its block, what is there of it, how much is given up and why."""

    block: int
    row: DeviceRow
    found: Found
    given_up: Reason


_decoder = msgpack_decoder(DeviceRow)


class DeviceRows:
    """The rows of one session that are aside.

    Args:
        slots: Opens the slots beside a ring, by its name; raises what `SlotsReader` does.
    """

    def __init__(self, slots: Callable[[str], SlotsReader]) -> None:
        self._open = slots
        self._readers: dict[str, SlotsReader] = {}
        self._rows: dict[str, dict[int, DeviceRow]] = {}  # by ring, and by block
        self._of_run: Counter[int] = Counter()
        self._over: dict[str, float] = {}  # since when; at first unknown
        self._ended: dict[int, float] = {}
        self._landed_at: dict[str, float] = {}
        self._look_at: dict[str, float] = {}
        self._reclaim_at: dict[str, float] = {}
        self._unclaimed: dict[str, set[Place]] = {}

    def resume(self, blocks: Iterable[tuple[int, bytes]]) -> Iterator[int]:
        """What an earlier agent has put aside; the blocks that cannot be read."""
        for block, body in blocks:
            try:
                row = _decoder.decode(body)
            except msgspec.DecodeError:
                yield block
            else:
                self._put(block, row)

    def of_run(self, run: int) -> int:
        """How many rows of a run are aside."""
        return self._of_run[run]

    def find(self, ring: str, places: Mapping[str, Place]) -> Found:
        """Which of these values are there."""
        values: dict[str, float] = {}
        lost = waiting = unread = 0
        for key, place in places.items():
            try:
                value = self._reader(ring).read(place)
            except (LookupError, SessionError, FileNotFoundError):
                lost += 1
            except OSError:  # no descriptor is left, say: that passes
                waiting, unread = waiting + 1, unread + 1
            else:
                if value is None:
                    waiting += 1
                else:
                    values[key] = value
        return Found(values, lost, waiting > 0, unread > 0)

    def look(self, now: float) -> Iterator[Landed]:
        """The rows that are aside no longer: all of their values are there, or will never be. Changes nothing."""
        for ring, rows in self._rows.items():
            over = ring in self._over
            if now < self._look_at.get(ring, now) and not over:
                continue
            if over:
                self._over[ring] = min(self._over[ring], now)
            landed = False
            for block, row in rows.items():
                found = self.find(ring, row.places)
                if not found.waits:
                    landed = True
                    # The slots are gone after a reboot, and with them what there was of the value.
                    yield Landed(block, row, found, _DAMAGED if ring in self._readers else _NEVER)
                elif (over and not (found.unread and now - self._over[ring] <= _PATIENCE)) or self._hopeless(row, now):
                    missing = len(row.places) - len(found.values)
                    yield Landed(block, row, Found(found.values, missing, waits=False), _NEVER)
            if landed:
                self._landed_at[ring] = now
            self._look_at[ring] = now + (_RARELY if len(rows) > _MANY and not landed else 0.0)

    def committed(
        self,
        aside: Iterable[tuple[int, DeviceRow]],
        landed: Iterable[tuple[int, DeviceRow]],
        safe: Mapping[str, list[Place]],
    ) -> None:
        """The spool has written this: rows that are aside from now on, rows that are not any more, values it has."""
        for block, row in aside:
            self._put(block, row)
        for block, row in landed:
            rows = self._rows[row.ring]
            del rows[block]
            self._of_run[row.run] -= 1
            if not rows:
                self._forget(row.ring)
        for ring, places in safe.items():
            for place in places:
                self._reader(ring).free(place)

    def ended(self, run: int, now: float) -> None:
        """This run is over: what does not land is given up one day."""
        self._ended.setdefault(run, now)

    def goes_on(self, run: int) -> None:
        """This run is not over, after all."""
        self._ended.pop(run, None)

    def give_up(self, ring: str) -> bool:
        """The process of this ring is gone, and all of the ring was read; whether something of it is still aside."""
        if ring in self._rows:
            self._over.setdefault(ring, math.inf)
            return True
        reader = self._readers.pop(ring, None)
        if reader is not None:
            reader.close()
        self._unclaimed.pop(ring, None)
        self._reclaim_at.pop(ring, None)
        return False

    def keep_only(self, rings: set[str]) -> None:
        """There are no rings but these: what was to come by another one never will."""
        for ring in self._rows.keys() - rings:
            self._over.setdefault(ring, math.inf)

    def reclaim(self, ring: str, now: float) -> None:
        """Frees slots whose value has landed and that no row names, for some seconds. All of the ring was read."""
        if now < self._reclaim_at.get(ring, 0.0):
            return
        self._reclaim_at[ring] = now + _RECLAIM_EVERY
        try:  # an agent before this one may have left all of them taken: then no row will ever name one
            reader = self._reader(ring)
        except (LookupError, SessionError, OSError):
            return
        known = {place for row in self._rows.get(ring, {}).values() for place in row.places.values()}
        found = reader.landed(known)
        for place in found & self._unclaimed.get(ring, set()):
            reader.free(place)
        self._unclaimed[ring] = found

    def close(self) -> None:
        """Lets go of all slots; what is in them stays."""
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()

    def _put(self, block: int, row: DeviceRow) -> None:
        self._rows.setdefault(row.ring, {})[block] = row
        self._of_run[row.run] += 1

    def _hopeless(self, row: DeviceRow, now: float) -> bool:
        ended = self._ended.get(row.run)
        return ended is not None and now - max(ended, self._landed_at.get(row.ring, ended)) > _PATIENCE

    def _forget(self, ring: str) -> None:
        del self._rows[ring]
        self._over.pop(ring, None)
        self._look_at.pop(ring, None)

    def _reader(self, ring: str) -> SlotsReader:
        reader = self._readers.get(ring)
        if reader is None:
            reader = self._readers[ring] = self._open(ring)
        return reader

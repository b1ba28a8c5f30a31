"""The rings of a session as its agent reads them: which there are, how far each was read, and which are over.

A frame that is not whole stops the reading of its ring alone. It is skipped when its writer is dead, or has not
finished it for `_GIVE_UP_AFTER`. A ring is removed when its process is gone and it was read once more after that.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Final, NamedTuple

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.errors import SessionError
from tailrace_agent.ipc.ring_reader import Frames, RingReader
from tailrace_agent.ipc.session import Session
from tailrace_agent.log import Log
from tailrace_agent.spool.intake import Intake
from tailrace_agent.spool.store import Spool

__all__ = ["Reading", "RingDrain"]

_GIVE_UP_AFTER: Final = 5.0
"""Seconds after which a frame that cannot be believed is skipped though its writer lives."""
_DAMAGED: Final = "damaged in the ring"


class _Source:
    """A ring being drained."""

    def __init__(self, reader: RingReader) -> None:
        self.reader = reader
        self.stuck_since: float | None = None
        self.dead = False

    def gives_up(self, now: float) -> bool:
        """Whether a frame that cannot be believed is to be skipped."""
        return self.dead or (self.stuck_since is not None and now - self.stuck_since > _GIVE_UP_AFTER)


class Reading(NamedTuple):
    """What one look at every ring has brought: the rows are with the intake, the tails have not moved yet."""

    taken: list[tuple[str, RingReader, Frames]]
    more: bool

    @property
    def positions(self) -> list[tuple[str, int, int]]:
        """How far each ring will have been taken over, as the spool writes it."""
        return [(name, frames.tail, frames.spill) for name, _, frames in self.taken]

    def commit(self) -> None:
        """The spool has it all: the rings' room is free again."""
        for _, reader, frames in self.taken:
            reader.commit(frames.tail, frames.spill)


class RingDrain:
    """Reads all rings of one session into an intake.

    Args:
        session: Whose rings.
        spool: Knows how far an earlier agent has taken each over.
        book: Knows whose a damaged frame most likely was.
        intake: Gets the rows.
        alive: Whether a ring's process lives.
        log: Where operators read.

    Not thread-safe: the drain's thread calls everything; `deserted` from any thread.
    """

    def __init__(
        self,
        session: Session,
        spool: Spool,
        book: RunBook,
        intake: Intake,
        alive: Callable[[str], bool],
        log: Log,
    ) -> None:
        self._session, self._spool, self._book = session, spool, book
        self._intake, self._alive, self._log = intake, alive, log
        self._sources: dict[str, _Source] = {}

    @property
    def reading(self) -> bool:
        """Whether there is a ring to read."""
        return bool(self._sources)

    @property
    def found(self) -> Container[str]:
        """Those that are being read."""
        return self._sources.keys()

    @property
    def names(self) -> set[str]:
        """All rings that are not over, also those that were not found yet."""
        return {*self._sources, *self._session.rings()}

    @property
    def deserted(self) -> bool:
        """Whether no process of the session is left, and no ring unread."""
        return not self._sources and not self._session.rings()

    @property
    def exhausted(self) -> bool:
        """Whether every ring that there is was found, and read to its end."""
        found = self._sources.keys() >= set(self._session.rings())
        return found and not any(source.reader.unread for source in self._sources.values())

    @property
    def stuck(self) -> bool:
        """Whether a ring has a frame that is not whole: behind it may stand what was logged long ago."""
        return any(source.stuck_since is not None for source in self._sources.values())

    def find(self) -> None:
        """Takes in the rings that have come since the last call."""
        positions: dict[str, tuple[int, int]] | None = None
        for name in self._session.rings():
            if name in self._sources:
                continue
            try:
                source = _Source(self._session.reader(name))
            except (SessionError, OSError) as error:
                self._log.error("ring cannot be read", ring=name, reason=str(error))
                # After an OSError it is left, and opened once more at the next look.
                if isinstance(error, SessionError) and not self._alive(name):
                    # How many rows it held nobody knows: one, so that the ledger shows it.
                    self._intake.drop(self._run_of(name), _DAMAGED, 1)
                    self._session.remove_ring(name)
                continue
            positions = self._spool.ring_positions() if positions is None else positions
            if name in positions:  # an agent was killed between its commit and the moving of the tail
                source.reader.resume(*positions[name])
            self._sources[name] = source
            self._log.info("ring found", ring=name, pid=source.reader.pid)

    def read(self, now: float) -> Reading:
        """Reads every ring once and feeds the intake; `Reading.commit` follows when the spool has it."""
        reading = Reading([], more=False)
        for name, source in self._sources.items():
            frames = self._read_one(name, source, now)
            if frames is None:
                continue
            if frames.damaged:
                self._log.error("damaged frames skipped", ring=name, frames=frames.damaged)
                self._intake.drop(self._run_of(name), _DAMAGED, frames.damaged)
            if frames.rows or (frames.tail, frames.spill) != source.reader.position:
                try:
                    self._intake.feed(name, frames.rows)
                except BaseException:
                    self._intake.take()  # what was fed so far will be read, and fed, once more
                    raise
                reading.taken.append((name, source.reader, frames))
                reading = reading._replace(more=reading.more or frames.more)
        return reading

    def retire(self, now: float) -> None:
        """Removes the rings of processes that are gone, each after it was read once more."""
        for name, source in list(self._sources.items()):
            read = not source.reader.unread
            if not self._alive(name):
                # A torn frame is skipped by then: see `gives_up`. What devices had not computed is given up first.
                if source.dead and read and not self._intake.devices.give_up(name):
                    self._remove(name, source)
                source.dead = True  # whoever died may have written after the last read: read once more
            elif read:
                self._intake.devices.reclaim(name, now)
        self._intake.devices.keep_only(self.names)

    def close(self) -> None:
        """Lets go of all rings; what is in them stays."""
        for source in self._sources.values():
            source.reader.close()
        self._intake.devices.close()

    def _read_one(self, name: str, source: _Source, now: float) -> Frames | None:
        """What a ring holds; None where it cannot be read now, which is no matter of the other rings."""
        try:
            frames = source.reader.read(give_up=source.gives_up(now))
        except OSError as error:
            if source.stuck_since is None:
                self._log.error("ring cannot be read", ring=name, reason=str(error))
            source.stuck_since = source.stuck_since or now
            return None
        # More, and yet nothing came: it waits at a frame that is not whole.
        stuck = frames.more and not frames.rows and not frames.damaged
        source.stuck_since = (source.stuck_since or now) if stuck else None
        return frames

    def _remove(self, name: str, source: _Source) -> None:
        self._log.info("process gone", ring=name, pid=source.reader.pid)
        source.reader.close()
        del self._sources[name]
        self._spool.forget_ring(name)  # older versions named them after processes, whose ids come back
        self._session.remove_ring(name)

    def _run_of(self, ring: str) -> int:
        return next((state.run for state in reversed(self._book.all()) if state.ring == ring), 0)

"""The files that tailrace keeps of a run by itself: where it comes from, and what it prints.

They are outside of the ledger, and not worth waiting for ever: an artifact store that does not take them in `_TRIES`
does without; one that is away has `_TRIES_AWAY`, in which a server can be restarted. They are small, and several runs'
go at a time, so that runs that end together do not wait for one another; what users log as artifacts goes in `uploads`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from tailrace_agent.delivery.claims import Claims
from tailrace_agent.delivery.deliver import Delivery
from tailrace_agent.delivery.pace import Pace, Turn
from tailrace_agent.delivery.printed_names import set_apart
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.delivery.run_tags import RunTags
from tailrace_agent.errors import TailraceError, Unavailable
from tailrace_agent.ipc import staging
from tailrace_agent.ipc.records import run_hex
from tailrace_agent.log import Log
from tailrace_agent.retry import IDLE
from tailrace_agent.sinks.base import Sink

__all__ = ["RunFiles"]

_NOT_YET: Final = 0.1
"""Seconds until it is looked again whether the store is open, or others may ask it."""
_TRIES: Final = 3
_TRIES_AWAY: Final = 8
"""Half a minute, as pauses grow."""
_TRUSTED: Final = 60.0
"""Seconds for which a store that has shown that it keeps one run's metadata need not show it of the next."""


class RunFiles:
    """Stores the files of all runs that go to one tracking URI.

    Args:
        delivery: The delivery to the same URI; it opens the sink and creates the runs.
        book: The runs.
        artifacts: The session's `artifacts/` directory.
        retry_max_delay: Longest pause between tries in seconds.
        log: Where operators read.
        monotonic: The clock of all deadlines.

    Attributes:
        stored: How often the artifact store has taken some.

    Thread safety: as many threads call `step` as `threads` says.
    """

    def __init__(
        self,
        delivery: Delivery,
        book: RunBook,
        artifacts: Path,
        *,
        retry_max_delay: float,
        log: Log,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stored = 0
        self._delivery, self._book, self._staging = delivery, book, artifacts
        self._log, self._monotonic = log, monotonic
        self._tags = RunTags(log)
        self._pace = Pace(retry_max_delay, 1, lambda _: None)
        self._described_tries: dict[int, int] = {}
        self._printed_tries: dict[int, int] = {}
        self._given_up = False  # the store was away for all tries, and has taken nothing since
        self._trusted_until = 0.0
        self._lock = threading.Lock()  # around `stored`
        self._claims = Claims()

    @property
    def threads(self) -> int:
        """How many threads have something to do."""
        sink = self._delivery.sink
        if sink is None:
            return 0
        return min(sink.limits.at_once, sum(map(_waits, self._book.unfinished(self._delivery.tracking_uri))))

    def step(self, now: float) -> float:
        """Stores what waits of one run; when to be called again (monotonic seconds)."""
        if now < self._pace.ready_at:
            return self._pace.ready_at
        if self._delivery.probing:  # one probe at a time, and no way round a Retry-After
            return now + _NOT_YET
        deadline = now + IDLE
        for state in self._book.unfinished(self._delivery.tracking_uri):
            if not _waits(state):
                continue
            sink = self._delivery.sink
            if sink is None or state.ref is None:
                deadline = min(deadline, now + (IDLE if self._delivery.refused else _NOT_YET))
                continue
            with self._claims.serving(state.run, partial(self._still_waits, state)) as ours:
                if ours:
                    return self._store(sink, state, now)
        return deadline

    def _still_waits(self, state: RunState, others: int) -> bool:
        """Whether no other thread has just stored all, and the store may be asked beside others."""
        return _waits(state) and not (others and self._pace.by_one)

    def _store(self, sink: Sink, state: RunState, now: float) -> float:
        turn = self._pace.turn()
        if _undescribed(state):
            return self._describe(sink, state, turn, now)
        return self._store_printed(sink, state, turn, now)

    def _describe(self, sink: Sink, state: RunState, turn: Turn, now: float) -> float:
        """Stores where a run comes from."""
        assert state.ref is not None
        assert state.description is not None
        tags, staged = {} if state.description.tagged else state.description.tags, state.description.staged
        tries = self._described_tries
        try:
            if tags:
                self._tags.store(sink, state.ref.run_id, tags.items())
            tries[state.run] = tries.get(state.run, 0) + 1  # from here on it is the artifact store's turn
            files = None if staged is None else staging.staged(self._staging, staged)
            if staged is not None and files is not None and files.is_dir():
                # Of a hundred runs that end together a sixth of the requests would only look whether it is there.
                trusted = now < self._trusted_until
                # The staged name begins with that of the folder in MLflow.
                sink.log_artifacts(state.ref.run_id, files, staged.partition("-")[0], confirmed=not trusted)
                if not trusted:
                    self._trusted_until = now + _TRUSTED
                self._took()
        except (TailraceError, OSError) as error:
            if (again := self._again(error, tries.get(state.run, 0), turn)) is not None:
                return again
            self._log.warning("metadata not stored", run=run_hex(state.run), reason=str(error))
        else:
            turn.worked()
        tries.pop(state.run, None)
        self._book.update(state.run, description=msgspec.structs.replace(state.description, done=True))
        if staged is not None:
            staging.discard(self._staging, staged)
        return now

    def _store_printed(self, sink: Sink, state: RunState, turn: Turn, now: float) -> float:
        """Stores what a run has printed. What does not arrive comes with the next, or with its end."""
        assert state.ref is not None
        assert state.printed is not None
        printed, tries, failed = state.printed, self._printed_tries, False
        try:
            if printed.tags:
                self._tags.store(sink, state.ref.run_id, printed.tags.items())
            tries[state.run] = tries.get(state.run, 0) + 1
            files = None if printed.staged is None else staging.staged(self._staging, printed.staged)
            if files is not None and files.is_dir():
                set_apart(sink, self._book, state, files)
                sink.log_artifacts(state.ref.run_id, files, None)
                self._took()
        except (TailraceError, OSError) as error:
            if (again := self._again(error, tries.get(state.run, 0), turn)) is not None:
                return again
            self._log.warning("console not stored", run=run_hex(state.run), reason=str(error))
            failed = True
        else:
            turn.worked()
        tries.pop(state.run, None)
        if state.printed is printed:  # else its program goes on with it, and what is staged then has this name
            if printed.staged is not None:  # first: what is staged as soon as it is done has this name, too
                staging.discard(self._staging, printed.staged)
            self._book.update(state.run, printed=msgspec.structs.replace(printed, done=True, failed=failed))
        return now

    def _again(self, error: TailraceError | OSError, tries: int, turn: Turn) -> float | None:
        """When to try again; None: it is done without, and the next run's are tried."""
        self._trusted_until = 0.0
        if not isinstance(error, Unavailable):
            turn.worked()
            return None
        if tries < (_TRIES_AWAY if error.away and not self._given_up else _TRIES):
            return turn.failed(self._monotonic(), error.retry_after)
        self._given_up = self._given_up or error.away  # the next run's do not wait as long
        turn.worked()
        if error.retry_after is not None:  # kept for the next run's, too
            self._pace.turn().failed(self._monotonic(), error.retry_after)
        return None

    def _took(self) -> None:
        with self._lock:
            self.stored += 1
            self._given_up = False


def _waits(state: RunState) -> bool:
    return not state.gone and (_undescribed(state) or _unprinted(state))


def _undescribed(state: RunState) -> bool:
    """Whether metadata was gathered for it, and is still to be stored."""
    return state.description is not None and not state.described


def _unprinted(state: RunState) -> bool:
    """Whether something that it has printed was staged, and is still to be stored."""
    return state.printed is not None and not state.printed.done

"""The consoles of a session's runs: read every second, made a text, and staged for MLflow when there is something new.

Invariants
----------
1. They are outside of the ledger, which counts what the program has logged: nobody has accepted a promise for a line.
2. What is staged is a copy, which nobody changes any more, and is named in the run's state when it is whole.
3. One copy of a run waits at a time; the last one is made when its program, and whoever prints for it, has nothing more
   to say, a few seconds after its end at most.
4. What an agent knew of them its successor finds out anew from what is on the disk.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tailrace_agent.console.console import Console
from tailrace_agent.delivery.printed_names import printed_name
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_state import Printed, RunState
from tailrace_agent.errors import TailraceError
from tailrace_agent.files.ownership import make_parents, write_own
from tailrace_agent.ipc.console_files import console_file, raw_dirs
from tailrace_agent.ipc.records import run_hex
from tailrace_agent.ipc.staging import discard, make
from tailrace_agent.ipc.tags import LAST_WORDS_TAG
from tailrace_agent.log import Log

__all__ = ["Consoles"]

_LOOK: Final = 1.0
_LOOK_AT_END: Final = 0.02
_EVERY: Final = 30.0
"""Seconds between two uploads of a console that goes on; of a large one more, by its size."""
_LARGE: Final = 1 << 20
_LAST_WORDS: Final = 2.0
"""Seconds after a run's end for which whoever still prints for it is waited for."""
_SHARE: Final = 10
"""Of the time that reading takes, so many times is waited until the next: a program that prints without end is read
with a tenth of a core."""
_TAG: Final = 4900  # characters; MLflow's older versions take 5,000
_RANKS_AT_MOST: Final = 16
"""Ranks whose last words become tags."""


class _Of:
    """What is known of one run's."""

    def __init__(self) -> None:
        self.ranks: dict[int, Console] = {}
        self.changed: set[int] = set()
        self.staged_at = float("-inf")
        self.ended_at: float | None = None
        self.last = False  # the last copy is made


class Consoles:
    """Those of one session.

    Args:
        session_dir: The session's directory.
        staging: Its `artifacts/` directory.
        book: The runs.
        limit: Bytes of each console.
        log: Where operators read.

    Attributes:
        staged: How often something was staged.

    Not thread-safe: one thread calls `step`.
    """

    def __init__(self, session_dir: Path, staging: Path, book: RunBook, limit: int, log: Log) -> None:
        self._dir, self._staging, self._book, self._limit, self._log = session_dir, staging, book, limit, log
        self._of: dict[int, _Of] = {}
        self._next = float("-inf")
        self.staged = 0

    @property
    def wanted(self) -> bool:
        """Whether there is anything to read, or to be looked for."""
        return any(not state.printed_out for state in self._book.all_unfinished())

    def step(self, now: float) -> float:
        """Looks at all of them; when to be called again (monotonic seconds)."""
        going = [state for state in self._book.all_unfinished() if not (state.printed_out or state.gone)]
        # Whoever wakes the workers means runs that end.
        if now < self._next and all(state.end is None for state in going):
            return self._next
        began, soon = time.monotonic(), False
        for state in going:
            try:
                soon = self._look(state, now) or soon
            except (OSError, TailraceError) as error:
                self._log.warning("console not read", run=run_hex(state.run), reason=str(error))
                if state.end is not None:
                    self._staged(state, Printed(last=True, done=True))
        self._of = {state.run: self._of[state.run] for state in going if state.run in self._of}
        self._next = now + (_LOOK_AT_END if soon else max(_LOOK, _SHARE * (time.monotonic() - began)))
        return self._next

    def _look(self, state: RunState, now: float) -> bool:
        """Reads one run's; whether its end is waited for."""
        known = self._of.setdefault(state.run, _Of())
        over = self._read(state, known)
        if state.printed is not None and state.printed.failed:
            known.changed.update(known.ranks)
        if state.end is not None:
            return self._waits(state, known, now, over=over)
        known.ended_at, known.last = None, False
        if known.changed and self._free(state) and now >= known.staged_at + self._pause(known):
            self._stage(state, known, now)
        return False

    def _read(self, state: RunState, known: _Of) -> bool:
        """Takes over what has come; whether nothing more comes."""
        for rank, raw in raw_dirs(self._dir, state.run):
            if rank not in known.ranks:
                known.ranks[rank] = Console(raw, console_file(self._dir, state.run, rank), self._limit)
        over = all(console.done for console in known.ranks.values())  # before they are read to their ends
        known.changed.update([rank for rank, console in known.ranks.items() if console.read()])
        return over

    def _waits(self, state: RunState, known: _Of, now: float, *, over: bool) -> bool:
        """Whether a run that has ended waits for more. If not, its last copy is made, once."""
        if known.last:  # it may have arrived since this step has begun
            return False
        if known.ended_at is None:
            known.ended_at = now
        if not ((over or now > known.ended_at + _LAST_WORDS) and self._free(state)):
            return True
        self._stage(state, known, now, last=True)
        known.last = True
        for console in known.ranks.values():
            console.forget(goes_on=state.spec.job is not None)
        return False

    @staticmethod
    def _free(state: RunState) -> bool:
        return state.printed is None or state.printed.done

    @staticmethod
    def _pause(known: _Of) -> float:
        size = sum(known.ranks[rank].size for rank in known.changed)
        return _EVERY * max(1.0, size / _LARGE)

    def _stage(self, state: RunState, known: _Of, now: float, *, last: bool = False) -> None:
        """Makes a folder of all that is new, as it is to lie in MLflow."""
        name = f"console-{run_hex(state.run)}"
        discard(self._staging, name)
        folder, files = make(self._staging, name), 0
        for rank in sorted(known.changed):
            if known.ranks[rank].spoken:
                known.ranks[rank].copy(_placed(folder, state, rank, "console.log"))
                files += 1
        tags: dict[str, str] = {}
        if last:
            files += _leave_beside(folder, state, known.ranks)
            tags = _last_words(state, known.ranks)
        if not files:
            discard(self._staging, name)
        if files or tags or last:
            printed = Printed(staged=name if files else None, tags=tags, last=last, done=not files and not tags)
            self._staged(state, printed)
        known.changed.clear()
        known.staged_at = now

    def _staged(self, state: RunState, printed: Printed) -> None:
        self._book.update(state.run, printed=printed)
        self.staged += 1


def _placed(folder: Path, state: RunState, rank: int, name: str) -> Path:
    """Where a file of a rank is staged: as it is to lie among the artifacts of its run."""
    placed = folder / printed_name(state.spec, rank, name)
    make_parents(placed.parent)
    return placed


def _leave_beside(folder: Path, state: RunState, ranks: dict[int, Console]) -> int:
    """Tracebacks and what was said of crashes; how many files."""
    files = 0
    for rank, console in ranks.items():
        for name, text in (("traceback.txt", console.traceback), ("crash.txt", console.crash)):
            if text:
                write_own(_placed(folder, state, rank, name), text.encode())
                files += 1
    return files


def _last_words(state: RunState, ranks: dict[int, Console]) -> dict[str, str]:
    """The last lines of those that died, as tags."""
    if state.end is None or state.end.status not in ("FAILED", "KILLED"):
        return {}
    tags = {}
    for rank in sorted(_died(state, ranks))[:_RANKS_AT_MOST]:
        console = ranks[rank]
        lines, crash, error = console.last_lines, console.crash.splitlines(), console.traceback.splitlines()
        # Of an error that nobody has caught Python has printed it already.
        words = _shortened([*lines, *crash, *([] if error[-1:] and error[-1] in lines else error)])
        if words and (console.spoken or crash or error):
            tags[LAST_WORDS_TAG if rank == 0 else f"{LAST_WORDS_TAG}.rank{rank}"] = words
    return tags


def _died(state: RunState, ranks: Iterable[int]) -> set[int]:
    """Which of these processes have ended before their time."""
    if state.spec.job is None:
        return set(ranks)
    fallen = {rank.rank for rank in state.ranks if rank.state in ("gone", "failed")}
    return fallen & set(ranks)


def _shortened(lines: list[str]) -> str:
    """As many of the last lines as a tag holds, whole ones."""
    kept: list[str] = []
    room = _TAG
    for line in reversed(lines[-50:]):
        if len(line) + 1 > room:
            break
        kept.append(line)
        room -= len(line) + 1
    if not kept and lines:
        return lines[-1][-_TAG:]
    return "\n".join(reversed(kept)).strip("\n")

"""Books of runs, and what was saved of them."""

from __future__ import annotations

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.ipc.records import RunSpec, Start
from tailrace_agent.ledger import Ledger
from tailrace_agent.sinks.base import RunRef

REF = RunRef("abc", "0", "name", "http://x/abc")


class Saved(dict[int, bytes]):
    """What is in the spool."""

    def save(self, run: int, state: bytes) -> None:
        self[run] = state

    def book(self) -> RunBook:
        return RunBook(self, self.save)


def spec(run: int = 1, **changes: object) -> RunSpec:
    return RunSpec(run=run, start_time=1000 + run, cwd="/", **changes)  # type: ignore[arg-type]


def started(book: RunBook, run: int = 1, **changes: object) -> None:
    book._save(run, book.start(Start(spec(run, **changes)), "ring"))


def settled(book: RunBook, run: int = 1) -> dict[str, int]:
    return book.status(run, Ledger(), 0.0).settled

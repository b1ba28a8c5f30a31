"""A delivery, with and without its uploads, over a store in memory: what comes on the rings is what the test says."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from helpers.kept_log import KeptLog
from tailrace_agent.delivery.deliver import Delivery
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.delivery.run_files import RunFiles
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.delivery.uploads import Uploads
from tailrace_agent.ipc.records import Artifact, RunSpec, Start, encode, run_hex
from tailrace_agent.ledger import Counts, Ledger
from tailrace_agent.sinks.memory import MemoryRun, MemorySink
from tailrace_agent.spool.intake import Intake
from tailrace_agent.spool.store import Spool

IDLE = 600.0
MS = 1_000_000


class DeliveryRig:
    """One store, one delivery, and a clock that only the test moves."""

    def __init__(self, folder: Path, sink: MemorySink | None = None) -> None:
        self.now = 1000.0
        self.sink: Any = sink or MemorySink()
        self.spool = Spool(folder / "spool.db")
        self.log = KeptLog()
        self.opened = 0
        self.store_error: Exception | None = None
        self.intake = Intake(lambda _name, _text: "staged")
        self._ids = itertools.count()
        self._more: Any = {"retry_max_delay": 30.0, "log": self.log, "monotonic": lambda: self.now}
        self.restart()

    def restart(self) -> None:
        """As a new agent finds it."""
        self.book = RunBook(self.spool.runs(), self.spool.save_run)
        self.delivery = Delivery(None, self.spool, self.book, self._open, flush_interval=0.5, **self._more)
        self.drained()

    def drained(self) -> None:
        """The rings are read to their end."""
        self.book.waiters.set_barriers(self.spool.waiting.last_id())

    def _open(self) -> Any:
        self.opened += 1
        if self.store_error is not None:
            raise self.store_error
        return self.sink

    def say(self, *records: object) -> None:
        self.intake.feed("ring", [encode(record) for record in records])
        changes = self.intake.take()
        states = [(s.spec.run, self.book.start(s, ring)) for s, ring in changes.starts]
        states += [(end.run, state) for end in changes.ends if (state := self.book.end(end))]
        self.spool.ingest(changes.blocks, changes.tallies, states)
        self.book.reopen(changes.runs)
        self.drained()

    def start(self, run: int = 1, **changes: Any) -> None:
        self.say(Start(RunSpec(run=run, start_time=5, cwd="/", **changes)))

    def log_metrics(self, *keys: str, run: int = 1, value: float = 1.0) -> None:
        for key in keys:
            self.log_row({key: value}, run)

    def log_row(self, values: dict[str, float], run: int = 1) -> None:
        self.say((run, 0, (10 + next(self._ids)) * MS, values))

    def step(self) -> float:
        """One step; seconds until the next."""
        return self.delivery.step(self.now) - self.now

    def run(self, seconds: float = IDLE, steps: int = 5000) -> None:
        """Steps, with the clock moved to each deadline, until it idles or the time is over."""
        end = self.now + seconds
        for _ in range(steps):
            wait = self.step()
            if wait > 0 and self.now + wait > end:
                return
            self.now += max(0.0, wait)
        pytest.fail("it does not come to rest")

    def of(self, run: int = 1) -> MemoryRun:
        """What the store has of a run; deleted twins do not count."""
        runs = [r for r in self.sink.runs.values() if r.tags.get("tailrace.run") == run_hex(run) and not r.deleted]
        (found,) = runs
        return found

    def ledger(self, run: int = 1) -> Ledger:
        return self.spool.counts.ledger(run)

    def state(self, run: int = 1) -> RunState:
        state = self.book.get(run)
        assert state is not None
        return state

    def notices(self, run: int = 1) -> list[str]:
        return self.state(run).notices


class UploadRig(DeliveryRig):
    """The same, and what uploads artifacts beside it."""

    def __init__(self, folder: Path) -> None:
        self.staging = folder / "artifacts"
        self.staging.mkdir()
        super().__init__(folder)

    def restart(self) -> None:
        super().restart()
        self.files = RunFiles(self.delivery, self.book, self.staging, **self._more)
        self.uploads = Uploads(self.delivery, self.files, self.spool, self.book, self.staging, **self._more)

    def stage(self, files: dict[str, str], *, run: int = 1, **more: Any) -> Path:
        """Stages files and says so; where they wait."""
        number = next(self._ids)
        entry = self.staging / f"staged-{number:03}"
        for name, text in files.items():
            path = entry / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            os.utime(path, ns=(number * 1000, number * 1000))
        self.say(Artifact(run, entry.name, **more))
        return entry

    def step(self) -> float:
        steps = (self.delivery.step, self.uploads.step, self.files.step)
        return min(step(self.now) for step in steps) - self.now

    def counts(self, run: int = 1) -> Counts:
        return self.ledger(run).of("artifact")


def fails(rig: DeliveryRig, error: Exception, *methods: str, times: int = 10**9, after: bool = False) -> list[str]:
    """Makes the store fail that often, before or after it has taken something; returns the calls made."""
    calls: list[str] = []

    def fail(method: str) -> None:
        if not methods or method in methods:
            calls.append(method)
            if len(calls) <= times:
                raise error

    setattr(rig.sink, "fail_after" if after else "fail", fail)
    return calls

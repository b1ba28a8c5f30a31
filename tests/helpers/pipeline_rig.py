"""A session with rings of this process, an agent whose every step is the test's, and processes that own rings."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.kept_log import KeptLog
from tailrace_agent.ipc import status
from tailrace_agent.ipc.records import RunSpec, Start, encode, run_hex
from tailrace_agent.ipc.ring_format import MIN_BYTES
from tailrace_agent.ipc.ring_writer import RingWriter
from tailrace_agent.ipc.session import Session
from tailrace_agent.ledger import Ledger
from tailrace_agent.pipeline.pipeline import Pipeline
from tailrace_agent.settings.settings import Settings
from tailrace_agent.sinks.memory import MemoryRun, MemorySink

MS = 1_000_000
OWNER = (
    "import sys; from pathlib import Path; from tailrace_agent.ipc.session import Session\n"
    "ring = Session.open(Path(sys.argv[1])).new_ring()\n"
    "for line in sys.stdin:\n"
    "    for row in line.split(): ring.put(bytes.fromhex(row))\n"
    "    print(ring.path.stem, flush=True)\n"
)


class Owner:
    """A process of its own that puts rows on a ring of its own."""

    def __init__(self, session: Session) -> None:
        command = [sys.executable, "-c", OWNER, str(session.dir)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ring = self.put()

    def put(self, *records: object) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(" ".join(encode(record).hex() for record in records) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


class PipelineRig:
    """A session with rings of this process, and an agent whose every step is the test's."""

    def __init__(self, folder: Path, **more: Any) -> None:
        (folder / "shared").mkdir()
        config = {"ring_bytes": MIN_BYTES, "drain_interval": 0.1, "best_metrics": False, **more}
        config |= {"dir": str(folder / "state"), "ring_dir": str(folder / "shared")}
        self.session = Session.create(Settings(**config), cwd=str(folder), program="test")
        self.sink = MemorySink()
        self.log = KeptLog()
        self.now = 1000.0
        self.store_error: Exception | None = None
        self.opened: list[str | None] = []
        self._times = itertools.count(10)
        self.pipeline = self.agent()

    def agent(self, **more: Any) -> Pipeline:
        return Pipeline.open(self.session, self._open, self.log, hosted=True, monotonic=lambda: self.now, **more)

    def restart(self) -> None:
        """As after a kill of the agent: nothing is written any more."""
        self.pipeline.spool.close()
        self.pipeline = self.agent()

    def _open(self, tracking_uri: str | None, cwd: str, *, request_timeout: float) -> MemorySink:
        assert cwd
        assert request_timeout
        self.opened.append(tracking_uri)
        if self.store_error is not None:
            raise self.store_error
        return self.sink

    def ring(self) -> RingWriter:
        return self.session.new_ring()

    def row(self, *keys: str, run: int = 1, step: int = 0) -> tuple[object, ...]:
        return (run, step, next(self._times) * MS, dict.fromkeys(keys, 1.0))

    def run(self, seconds: float = 30.0) -> None:
        """All steps whenever they are due, for that long."""
        end = self.now + seconds
        due: dict[object, float] = {}
        for _ in range(20_000):
            steps: dict[object, Callable[[float], float]] = {"drain": self.pipeline.drain}
            for uri, destination in self.pipeline.by_uri.items():
                steps[uri, "d"] = lambda now, destination=destination: self.pipeline.deliver(destination, now)
                steps[uri, "u"] = lambda now, destination=destination: self.pipeline.upload(destination, now)
                steps[uri, "s"] = lambda now, destination=destination: self.pipeline.store_files(destination, now)
            changed: list[bool] = []
            self.pipeline.on_change = lambda changed=changed: changed.append(True)  # type: ignore[misc]
            for name, step in steps.items():
                if changed or due.get(name, 0.0) <= self.now:
                    due[name] = step(self.now)
            if self.now >= end:
                return
            self.now = min(end, max(self.now, min(due.values()) if not changed else self.now))
        pytest.fail("it does not come to rest")

    def of(self, run: int = 1) -> MemoryRun:
        (found,) = [r for r in self.sink.runs.values() if r.tags.get("tailrace.run") == run_hex(run)]
        return found

    def stored(self, run: int = 1) -> dict[str, int]:
        return self.sink.count_metrics(self.of(run).run_id)

    def status(self, run: int = 1) -> status.RunStatus:
        found = status.read(self.session.shared / status.run_file(run), status.RunStatus)
        assert found is not None
        return found

    def ledger(self, run: int = 1) -> Ledger:
        return self.pipeline.spool.counts.ledger(run)


@contextlib.contextmanager
def owner_of(rig: PipelineRig) -> Iterator[Owner]:
    owner = Owner(rig.session)
    try:
        yield owner
    finally:
        owner.kill()


def put(ring: RingWriter, *records: object) -> None:
    for record in records:
        ring.put(encode(record))


def start(run: int = 1, **more: Any) -> Start:
    return Start(RunSpec(run=run, start_time=1000 + run, cwd="/", **more))

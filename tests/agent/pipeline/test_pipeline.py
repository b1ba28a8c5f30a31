"""The pipeline, driven step by step: from a ring to a store, without a thread, a process or a clock of its own."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.kept_log import KeptLog
from tailrace_agent.delivery.run_phase import Event
from tailrace_agent.errors import StoreRefused, Unavailable
from tailrace_agent.ipc import staging, status
from tailrace_agent.ipc.records import Alert, Artifact, Drop, End, Flush, Params, RunSpec, Start, Tags, encode, run_hex
from tailrace_agent.ipc.ring_format import HEAD, MIN_BYTES, SPILLED
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
        config = {"ring_bytes": MIN_BYTES, "drain_interval": 0.1, **more}
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
            for uri, channel in self.pipeline.channels.items():
                steps[uri, "d"] = lambda now, channel=channel: self.pipeline.deliver(channel, now)
                steps[uri, "u"] = lambda now, channel=channel: self.pipeline.upload(channel, now)
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


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[PipelineRig]:
    rig = PipelineRig(tmp_path)
    yield rig
    rig.pipeline.close()


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


# -- the whole way -----------------------------------------------------------------------------------------------------


def test_what_was_logged_is_delivered_and_the_run_closed_and_everything_settled(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), Params(1, {"lr": "1"}))
    for step in range(100):
        put(ring, rig.row("loss", "acc", step=step))
    put(ring, End(1, "FINISHED", 99))
    assert not rig.pipeline.settled or not rig.pipeline.book.all()
    rig.run()
    assert rig.status().started == 1.001
    assert rig.stored() == {"loss": 100, "acc": 100}
    assert (rig.of().params, rig.of().status, rig.of().end_time) == ({"lr": "1"}, "FINISHED", 99)
    assert rig.pipeline.settled
    told = rig.status()
    assert (told.closed, told.run_id, told.status) == (True, rig.of().run_id, "FINISHED")
    assert (told.ledger.accepted, told.ledger.delivered, told.ledger.pending, told.lag) == (201, 201, 0, 0.0)
    assert json.loads(rig.of().tags["tailrace.ledger"]) == told.ledger.summary()
    assert ring.unread == 0


def test_rings_of_several_processes_and_stores_each_go_their_way(rig: PipelineRig) -> None:
    first, second = rig.ring(), rig.ring()
    put(first, start(1, tracking_uri="http://user@a"), rig.row("x"))
    put(second, start(2, tracking_uri="http://b"), rig.row("y", run=2), rig.row("z", run=1))
    put(first, start(3))
    rig.run()
    assert rig.stored(1) == {"x": 1, "z": 1}
    assert rig.stored(2) == {"y": 1}
    assert set(rig.pipeline.channels) == {"http://user@a", "http://b", None}
    assert set(rig.opened) == {"http://b", "http://user@a", None}
    assert len(rig.opened) == 3


def test_credentials_reach_the_sink_and_no_file(rig: PipelineRig) -> None:
    rig.pipeline.close()
    rig.pipeline = rig.agent(credentials={"http://user@h/x": "user:pa55word"})
    ring = rig.ring()
    put(ring, start(tracking_uri="http://user@h/x"), rig.row("x"), End(1, "FINISHED", 9))
    rig.run()
    assert rig.opened == ["http://user:pa55word@h/x"]
    rig.pipeline.close()
    files = [path for path in rig.session.dir.rglob("*") if path.is_file()] + list(rig.session.shared.glob("*.status"))
    assert len(files) >= 3
    assert all(b"pa55word" not in path.read_bytes() for path in files)
    rig.pipeline = rig.agent(credentials={"http://user@h/x": "user:pa55word"})
    put(ring, rig.row("late"))
    rig.run()
    assert rig.opened[1:] == ["http://user:pa55word@h/x"]


@pytest.mark.parametrize("full", [False, True])
def test_the_ledger_with_a_run_knows_what_came_after_its_end_though_the_agent_was_killed_before_storing_it(
    rig: PipelineRig, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("x"), End(1, "FINISHED", 9))
    rig.run()
    put(ring, Tags(1, {"late": "1"}))
    if full:
        with monkeypatch.context() as disk:
            disk.setattr(rig.pipeline.spool, "ingest", Mock(side_effect=sqlite3.OperationalError("full")))
            with pytest.raises(sqlite3.OperationalError):
                rig.pipeline.drain(rig.now)
    rig.pipeline.drain(rig.now)
    (channel,) = rig.pipeline.channels.values()
    rig.pipeline.deliver(channel, rig.now)
    assert rig.of().tags["late"] == "1"
    assert rig.pipeline.spool.waiting.points == 0
    rig.restart()
    rig.run()
    assert json.loads(rig.of().tags["tailrace.ledger"]) == rig.ledger().summary()
    assert rig.ledger().of("tag").late == 1


def test_the_ledger_with_a_run_knows_what_was_dropped_while_it_was_being_stored(
    rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring, advance = rig.ring(), rig.pipeline.book.advance

    def after_a_drain(run: int, event: Event, **more: Any) -> bool:
        if event is Event.SETTLED and not dropped:
            dropped.append(Drop(1, "metric", "disk full", 7))
            put(ring, *dropped)
            rig.pipeline.drain(rig.now)
        return advance(run, event, **more)

    dropped: list[Drop] = []
    monkeypatch.setattr(rig.pipeline.book, "advance", after_a_drain)
    put(ring, start(), rig.row("x"), End(1, "FINISHED", 9))
    rig.run()
    assert rig.pipeline.settled
    assert rig.ledger().dropped == {"disk full": 7}
    assert json.loads(rig.of().tags["tailrace.ledger"]) == rig.ledger().summary()


def test_a_run_is_not_over_while_its_values_may_stand_behind_a_frame_that_is_not_whole(rig: PipelineRig) -> None:
    ring, other = rig.ring(), rig.ring()
    put(ring, start())
    torn = encode(rig.row("torn"))
    other.words[other.off >> 3] = len(torn)  # and a checksum that is wrong
    other.off += (len(torn) + 15) & -8
    put(other, rig.row("behind"))
    put(ring, End(1, "FINISHED", 9))
    rig.run(3.0)
    assert rig.of().status == "RUNNING"
    rig.run(6.0)
    assert (rig.of().status, rig.stored()) == ("FINISHED", {"behind": 1})
    assert rig.ledger().of("metric").late == 0


def test_artifacts_are_uploaded_when_what_the_store_did_not_take_was_dropped_meanwhile(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start())
    rig.run(2.0)
    (rig.session.artifacts / "staged").mkdir()
    (rig.session.artifacts / "staged" / "model.bin").write_bytes(b"weights")

    def down(_: str) -> None:
        raise Unavailable("away", 5.0, away=True)

    rig.sink.fail = down
    put(ring, rig.row("x"), Artifact(1, "staged"), End(1, "FINISHED", 9))
    rig.run(2.0)
    rig.sink.fail = None
    assert rig.pipeline.spool.waiting.shed(0, "spool at its bound") == {1: 1}
    rig.run(60.0)
    assert rig.of().artifacts == {"model.bin": b"weights"}
    assert rig.of().status == "FINISHED"


def test_a_full_ring_and_its_spill_file_are_taken_over(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start())
    for step in range(5000):
        put(ring, rig.row("loss", step=step))
    assert list(rig.session.dir.glob("spill-*"))
    rig.run()
    assert rig.stored() == {"loss": 5000}
    assert [point.step for point in rig.of().metrics["loss"]] == list(range(5000))


def test_artifacts_and_long_params_are_staged_and_uploaded(rig: PipelineRig) -> None:
    ring = rig.ring()
    (rig.session.artifacts / "s").mkdir()
    (rig.session.artifacts / "s" / "model.txt").write_text("weights")
    put(ring, start(), Artifact(1, "s", "models"), Params(1, {"config": "x" * 20_000}), End(1, "FINISHED", 9))
    rig.run()
    assert rig.of().artifacts == {"models/model.txt": b"weights", "tailrace/params/config.txt": b"x" * 20_000}
    assert len(rig.of().params["config"]) == 6000
    assert rig.pipeline.settled
    assert list(rig.session.artifacts.iterdir()) == []
    assert rig.status().notices == [
        "param 'config' has 20000 characters: cut, whole in the artifact tailrace/params/config.txt"
    ]


# -- flushes -----------------------------------------------------------------------------------------------------------


def test_a_flush_is_answered_only_when_all_before_it_was_delivered(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("a"))
    rig.run(2)
    rig.sink.fail = lambda _: (_ for _ in ()).throw(Unavailable("away"))
    put(ring, rig.row("b"), Flush(1, 1))
    rig.run(20)
    assert rig.status().settled == {}
    rig.sink.fail = None
    rig.run(60)
    assert rig.status().settled == {ring.path.stem: 1}
    assert rig.stored() == {"a": 1, "b": 1}


def test_a_flush_waits_for_rows_of_other_rings_that_were_there_before_it(rig: PipelineRig) -> None:
    first, second = rig.ring(), rig.ring()
    put(first, start())
    rig.run(1)
    put(second, rig.row("a"))
    put(first, Flush(1, 1))
    seen: list[dict[str, int]] = []
    rig.sink.fail = lambda method: seen.append(rig.status().settled) if method == "log_batch" else None
    rig.run(5)
    assert rig.status().settled == {first.path.stem: 1}
    assert {} in seen
    assert {first.path.stem: 1} not in seen


def test_a_flush_does_not_wait_for_what_comes_after_it(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("a"), Flush(1, 1))
    rig.pipeline.drain(rig.now)
    rig.pipeline.drain(rig.now)  # every ring was read once more: the barrier stands
    channel = rig.pipeline.channels[None]
    rig.pipeline.deliver(channel, rig.now)
    put(ring, rig.row("later"))
    rig.pipeline.drain(rig.now)
    for _ in range(3):
        rig.pipeline.deliver(channel, rig.now)
    assert rig.status().settled == {ring.path.stem: 1}


def test_a_flush_with_nothing_before_it_is_answered_at_once(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), Flush(1, 1))
    rig.pipeline.drain(rig.now)
    rig.pipeline.drain(rig.now)
    assert rig.status().settled == {ring.path.stem: 1}


# -- who dies ----------------------------------------------------------------------------------------------------------


def test_a_killed_owner_is_seen_and_its_run_is_killed_with_a_reason_and_all_its_rows(rig: PipelineRig) -> None:
    with owner_of(rig) as owner:
        owner.put(start(), *(rig.row("loss", step=step) for step in range(50)))
        rig.run(5)
        assert rig.status().status == "RUNNING"
        owner.put(*(rig.row("loss", step=step) for step in range(50, 80)))
        last = rig.row("loss", step=80)
        owner.put(last)
        owner.kill()
        rig.run()
        assert rig.stored() == {"loss": 81}
        assert (rig.of().status, rig.of().end_time) == ("KILLED", last[2] // MS)  # type: ignore[operator]
        pid = owner.ring.split("-")[0]
        assert f"process {pid} on {os.uname().nodename} disappeared" in rig.of().tags["tailrace.end_reason"]
        assert rig.session.rings() == []
        assert rig.pipeline.deserted
        assert rig.pipeline.settled
        assert rig.status().closed


def test_another_process_with_the_id_of_the_agents_own_is_seen_to_be_gone(
    rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a container of its own, say, and the agent a thread in one of them."""
    ours = os.getpid()
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(os, "getpid", lambda: ours)
        put(rig.ring(), start(), rig.row("a"))
        os._exit(0)
    os.waitpid(child, 0)
    assert rig.session.rings()[0].startswith(f"{ours}-")
    rig.run()
    assert rig.of().status == "KILLED"
    assert rig.stored() == {"a": 1}
    assert rig.session.rings() == []


def test_an_owner_that_ended_its_run_leaves_no_killed_one(rig: PipelineRig) -> None:
    with owner_of(rig) as owner:
        rig.sink.open_run(start(2).spec, None, find_first=False)
        owner.put(start(1), start(2, owned=False), End(1, "FINISHED", 9))
        owner.kill()
        rig.run()
        assert rig.of(1).status == "FINISHED"
        assert rig.of(2).status == "RUNNING"  # somebody else's
        assert rig.pipeline.deserted


def test_a_run_whose_ring_is_gone_when_the_agent_comes_back_is_killed(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("a"))
    rig.run(2)
    rig.session.remove_ring(ring.path.stem)
    rig.restart()
    rig.run()
    assert rig.of().status == "KILLED"
    assert rig.stored() == {"a": 1}


def test_a_ring_whose_name_comes_back_is_read_from_its_beginning(rig: PipelineRig) -> None:
    with owner_of(rig) as owner:
        owner.put(start(), *(rig.row("old", step=step) for step in range(300)))
        rig.run(2)
        name = owner.ring
    rig.run(5)
    assert rig.session.rings() == []
    ring = rig.ring()
    ring.path.rename(rig.session.shared / f"{name}.ring")  # the same process id, hours later
    put(ring, start(2), *(rig.row("new", run=2, step=step) for step in range(5)))
    rig.run(5)
    assert rig.stored(2) == {"new": 5}
    assert rig.ledger(2).pending == 0


@pytest.mark.parametrize("content", [b"", b"garbage" * 20_000])
def test_a_ring_that_is_none_is_removed_when_it_has_no_owner(rig: PipelineRig, content: bytes) -> None:
    (rig.session.shared / "123-0000.ring").write_bytes(content)
    ring = rig.ring()
    put(ring, start(), rig.row("a"))
    rig.run(5)
    assert rig.session.rings() == [ring.path.stem]
    assert rig.stored() == {"a": 1}
    assert rig.log.events.count("ring cannot be read") == 1


def test_a_damaged_frame_of_a_living_owner_is_skipped_after_a_while(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("a"))
    rig.run(1)
    at = ring.off
    put(ring, rig.row("b"), rig.row("c"))
    ring.memory[at + 12] ^= 1
    rig.run(4)
    assert rig.ledger().accepted == 1
    rig.run(10)
    assert rig.stored() == {"a": 1, "c": 1}
    assert rig.log.events.count("damaged frames skipped") == 1
    assert rig.ledger().dropped == {"damaged in the ring": 1}


def test_a_ring_that_cannot_be_read_stops_no_other_one(rig: PipelineRig) -> None:
    ring, other = rig.ring(), rig.ring()
    put(ring, start(), rig.row("a"))
    rig.run(1)
    ring.words[HEAD] = 3
    ring.words[SPILLED] = 50
    rig.session.spill_path(ring.path.stem).mkdir()
    put(other, start(2), rig.row("b", run=2))
    rig.run(2)
    assert rig.stored(2) == {"b": 1}
    rig.run(10)
    assert rig.stored(2) == {"b": 1}
    put(ring, rig.row("c"))
    rig.run(10)
    assert rig.stored() == {"a": 1, "c": 1}
    assert rig.ledger().dropped == {"damaged in the ring": 2}  # the header's word, and what was to be in the file


# -- agents that die ---------------------------------------------------------------------------------------------------


def test_rows_of_an_agent_killed_between_commit_and_tail_count_once(
    rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = rig.ring()
    put(ring, start(), *(rig.row("loss", step=step) for step in range(3000)))
    with monkeypatch.context() as patch:
        patch.setattr("tailrace_agent.ipc.ring_reader.RingReader.commit", lambda *_: None)
        rig.pipeline.drain(rig.now)
    assert ring.unread > 0
    accepted = rig.ledger().accepted
    assert accepted > 0
    rig.restart()
    rig.run()
    assert rig.ledger().accepted == rig.ledger().delivered == 3000
    assert rig.stored() == {"loss": 3000}


class Killed(BaseException):
    """SIGKILL: nothing is tidied up."""


@settings(max_examples=25, deadline=None)
@given(plan=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=8))
def test_however_often_the_agent_is_killed_every_row_counts_once(
    tmp_path_factory: pytest.TempPathFactory, plan: list[tuple[int, int]]
) -> None:
    rig = PipelineRig(tmp_path_factory.mktemp("kills"))
    ring = rig.ring()
    put(ring, start())
    step = 0
    for rows, fuse in plan:
        for _ in range(rows):
            put(ring, rig.row("loss", step=step))
            step += 1
        calls = itertools.count()

        def tick(*_: object, calls: Iterator[int] = calls, fuse: int = fuse) -> None:
            if next(calls) >= fuse:
                raise Killed

        real = rig.pipeline.spool.database.connection
        patch = pytest.MonkeyPatch()
        patch.setattr(rig.pipeline.spool.database, "connection", Ticking(real, tick))
        rig.sink.fail = rig.sink.fail_after = tick
        with contextlib.suppress(Killed):
            rig.run(3)
        patch.undo()
        rig.sink.fail = rig.sink.fail_after = None
        if real.in_transaction:
            real.rollback()
        rig.restart()
    put(ring, End(1, "FINISHED", 9))
    rig.run()
    assert rig.ledger().accepted == rig.ledger().delivered == step
    assert rig.stored() == {"loss": step}
    assert rig.pipeline.settled
    assert rig.of().status == "FINISHED"
    rig.pipeline.close()
    rig.session.remove()


class Ticking:
    """A connection that may be killed before and after each statement."""

    def __init__(self, db: sqlite3.Connection, tick: Callable[[], None]) -> None:
        self._db, self._tick = db, tick

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql == "ROLLBACK":  # the dead do not tidy up
            return self._db.execute("SELECT 1")
        self._tick()
        cursor = self._db.execute(sql, *args)
        self._tick()
        return cursor

    def executemany(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self._tick()
        return self._db.executemany(sql, *args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


def test_rows_of_a_run_that_was_finalized_outlive_a_kill_of_the_agent_that_took_them_over(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), End(1, "FINISHED", 99))
    rig.run()
    assert rig.pipeline.settled
    put(ring, rig.row("late"))
    rig.pipeline.drain(rig.now)
    rig.restart()
    assert not rig.pipeline.settled
    rig.run()
    assert rig.stored() == {"late": 1}
    assert rig.pipeline.settled


def test_an_end_whose_commit_failed_is_known_to_the_successor(
    rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("a"))
    rig.run(2)

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    put(ring, rig.row("b"), End(1, "FINISHED", 9))
    with monkeypatch.context() as patch:
        patch.setattr(rig.pipeline.spool, "ingest", full)
        for _ in range(3):
            with pytest.raises(sqlite3.OperationalError):
                rig.pipeline.drain(rig.now)
    rig.pipeline.drain(rig.now)
    rig.session.remove_ring(ring.path.stem)
    rig.restart()
    rig.run()
    assert rig.of().status == "FINISHED"
    assert rig.stored() == {"a": 1, "b": 1}


# -- when the disk or the memory is full -------------------------------------------------------------------------------


def test_rows_whose_commit_failed_are_taken_over_later_and_count_once(
    rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("a", "b"), Params(1, {"lr": "1"}))

    def full(*_: object, **__: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(rig.pipeline.spool, "ingest", full)
        for _ in range(3):
            with pytest.raises(sqlite3.OperationalError):
                rig.pipeline.drain(rig.now)
    rig.run()
    assert (rig.ledger().accepted, rig.ledger().delivered) == (3, 3)


def test_a_text_that_cannot_be_staged_costs_time_and_no_count(
    rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = rig.ring(), rig.ring()
    put(first, start(), rig.row("a", "b"), rig.row("c"))
    put(second, rig.row("d"), Params(1, {"config": "x" * 20_000}), rig.row("e"))
    real = staging.make
    failures = itertools.count()

    def full(folder: Path, name: str) -> Path:
        if next(failures) < 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(folder, name)

    monkeypatch.setattr(staging, "make", full)
    for _ in range(3):
        with pytest.raises(OSError, match="No space"):
            rig.pipeline.drain(rig.now)
    rig.run()
    assert rig.ledger().of("metric").accepted == rig.ledger().of("metric").delivered == 5
    assert rig.stored() == dict.fromkeys("abcde", 1)
    assert (rig.ledger().of("param").accepted, rig.ledger().of("artifact").accepted) == (1, 1)


def test_a_status_that_cannot_be_written_is_written_later_and_stops_nothing(
    rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("a"), End(1, "FINISHED", 9), Flush(1, 1))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(status, "write", full)
        rig.run(5)
        assert rig.stored() == {"a": 1}
        assert list(rig.session.shared.glob("*.status")) == []
    rig.run(2)
    assert rig.status().closed
    assert rig.status().settled == {ring.path.stem: 1}


def test_at_its_bound_the_spool_drops_the_oldest_metrics_and_nothing_else(tmp_path: Path) -> None:
    rig = PipelineRig(tmp_path, spool_max_bytes=1 << 20)
    rig.store_error = Unavailable("away")
    ring = rig.ring()
    put(ring, start(), Params(1, {"lr": "1"}))
    for step in range(600):
        put(ring, rig.row(*(f"metric-number-{i:03}" for i in range(100)), step=step))
        if step % 10 == 0:
            rig.run(0.2)
            assert rig.pipeline.spool.waiting.bytes <= 1 << 20
    put(ring, End(1, "FINISHED", 9))
    rig.run(5)
    counts = rig.status().ledger.of("metric")
    assert counts.accepted == 60_000
    assert set(counts.dropped) == {"spool at its bound"}
    assert counts.pending == 60_000 - counts.dropped["spool at its bound"] > 10_000
    assert sum("is at its bound" in text for text in rig.status().notices) == 1
    rig.store_error = None
    rig.run(60)
    assert min(point.step for points in rig.of().metrics.values() for point in points) > 100
    assert max(point.step for points in rig.of().metrics.values() for point in points) == 599
    assert (rig.of().params, rig.of().status) == ({"lr": "1"}, "FINISHED")
    assert rig.ledger().pending == 0
    rig.pipeline.close()


# -- what is told ------------------------------------------------------------------------------------------------------


def test_the_process_of_a_run_is_called_once_for_each_news_of_it(rig: PipelineRig) -> None:
    ring, other = rig.ring(), rig.ring()
    calls, others = (_calls(rig.session.bell(each.path.stem)) for each in (ring, other))
    assert (next(calls), next(others)) == (0, 0)
    put(ring, start(), rig.row("a"))
    put(other, start(2))
    rig.run(2)
    assert (next(calls), rig.status().notices) == (1, [])  # MLflow knows the run
    put(ring, (1, 0, 5, {"text": "x"}), (1, 1, 5, {"text": "x"}))
    rig.run(2)
    assert next(calls) == 1
    assert rig.status().notices == ["metric 'text' was not logged: value is no number but str"]
    put(ring, Drop(1, "metric", "reason", 2, "something was given up"))
    rig.run(2)
    assert (next(calls), next(others)) == (1, 1)
    assert rig.status().ledger.dropped == {"value is no number": 2, "reason": 2}


def _calls(bell: Path) -> Iterator[int]:
    """How often the agent has called since the last look."""
    os.mkfifo(bell)
    end = os.open(bell, os.O_RDWR | os.O_NONBLOCK)
    while True:
        try:
            yield len(os.read(end, 100))
        except BlockingIOError:
            yield 0


def test_trouble_and_its_end_are_told(rig: PipelineRig) -> None:
    rig.store_error = Unavailable("connection refused")
    ring = rig.ring()
    calls = _calls(rig.session.bell(ring.path.stem))
    assert next(calls) == 0
    put(ring, start(), rig.row("a"))
    rig.run(60)
    told = rig.status()
    assert (told.problem, told.run_id, told.ledger.pending) == ("connection refused", None, 1)
    assert told.retry_at > 0
    assert told.lag > 0
    assert next(calls) >= 1
    rig.store_error = None
    rig.run(60)
    assert rig.status().problem is None
    assert rig.status().lag == 0.0


def test_a_store_that_cannot_be_used_is_told_and_the_agent_knows_that_it_is_stuck(rig: PipelineRig) -> None:
    rig.store_error = StoreRefused("no such store")
    ring = rig.ring()
    put(ring, start(), rig.row("a"), End(1, "FINISHED", 9), Flush(1, 1))
    assert rig.pipeline.stuck == (not rig.pipeline.book.all())
    rig.run()
    assert rig.status().refused == "no such store"
    assert rig.pipeline.stuck
    assert not rig.pipeline.settled
    assert "tailrace sync" in rig.status().notices[0]


def test_an_agent_with_an_alert_to_post_has_something_left_to_do(tmp_path: Path) -> None:
    rig = PipelineRig(tmp_path, alert_webhook="http://127.0.0.1:9/hook")
    put(rig.ring(), start(), Alert(1, "odd", "", "warning", 5), End(1, "FINISHED", 99))
    rig.run()
    assert rig.pipeline.book.all()[0].finalized
    assert not rig.pipeline.settled
    assert not rig.pipeline.stuck
    rig.pipeline.close()


def test_the_agent_shows_that_it_lives(rig: PipelineRig) -> None:
    put(rig.ring(), start(), rig.row("a", "b"))
    rig.store_error = Unavailable("away")
    rig.run(5)
    told = status.read(rig.session.shared / "agent.status", status.AgentStatus)
    assert told is not None
    assert (told.pid, told.host, told.pending) == (os.getpid(), "process", 2)
    assert told.spool_bytes == rig.pipeline.spool.waiting.bytes > 0


def test_a_damaged_spool_is_set_aside_and_what_comes_later_is_taken_over(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("a"))
    rig.run(2)
    rig.pipeline.spool.close()
    path = rig.session.dir / "spool.db"
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    rig.pipeline = rig.agent()
    assert rig.log.events.count("spool was unreadable and set aside") == 1
    put(ring, rig.row("b"), start(2), rig.row("c", run=2), End(2, "FINISHED", 9))
    rig.run()
    assert rig.stored(2) == {"c": 1}
    assert rig.of(2).status == "FINISHED"
    assert rig.ledger(1).pending == 1  # whose it is, only the old spool knows, or the run's own last word
    rig.session.remove_ring(ring.path.stem)  # which will not come
    rig.restart()
    rig.run()
    assert rig.ledger(1).pending == 0
    assert rig.stored(1) == {"a": 1, "b": 1}
    assert rig.of(1).status == "RUNNING"  # how it ended is not known


def _write_state(rig: PipelineRig, state: bytes | None, run: int = 1) -> None:
    """Another state of a run in the spool of an agent that was killed, or none."""
    rig.pipeline.spool.close()
    with contextlib.closing(sqlite3.connect(rig.session.dir / "spool.db", isolation_level=None)) as db:
        db.execute("DELETE FROM run WHERE run = ?", (run,))
        if state is not None:
            db.execute("INSERT INTO run VALUES(?, ?)", (run, state))
    rig.pipeline = rig.agent()


@pytest.mark.parametrize("state", [None, b"", b"\xff{", b"[" * 5000, b'{"spec": {"run": 1, "start_time": "?"}}'])
@pytest.mark.parametrize("opened", [True, False], ids=["in the store", "not in the store yet"])
def test_what_waits_for_a_run_whose_record_cannot_be_read_is_delivered_all_the_same(
    rig: PipelineRig, state: bytes | None, *, opened: bool
) -> None:
    rig.store_error = None if opened else Unavailable("down")
    ring = rig.ring()
    put(ring, start(run_name="mine"), rig.row("a"))
    rig.run(2)
    rig.store_error = Unavailable("down")
    put(ring, rig.row("b"))
    rig.pipeline.drain(rig.now)
    _write_state(rig, state)
    rig.store_error = None
    rig.run(5)
    assert rig.ledger().pending == (1 if opened else 2)  # while its program lives, it may say what it is
    rig.session.remove_ring(ring.path.stem)
    rig.restart()
    rig.run(5)
    assert rig.stored() == {"a": 1, "b": 1}
    assert (rig.of().run_name, rig.of().status) == (("mine", "RUNNING") if opened else ("recovered-00000000", "KILLED"))
    assert any("could not be read" in notice for notice in rig.status().notices)
    assert rig.pipeline.settled


def test_a_run_whose_record_was_lost_is_itself_again_when_its_program_says_what_it_is(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(run_name="mine"), rig.row("a"))
    rig.run(2)
    _write_state(rig, b"?")
    put(ring, start(run_name="mine"), rig.row("b"), End(1, "FINISHED", 9))
    rig.run(5)
    assert (rig.of().run_name, rig.of().status, rig.stored()) == ("mine", "FINISHED", {"a": 1, "b": 1})


def test_a_record_with_null_for_a_number_costs_that_number_alone(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start(run_name="mine"), rig.row("a"))
    rig.run(2)
    before = rig.pipeline.book.get(1)
    state = rig.pipeline.spool.runs()[1]
    assert b'"retry_at":0.0' in state
    _write_state(rig, state.replace(b'"retry_at":0.0', b'"retry_at":null'))
    after = rig.pipeline.book.get(1)
    assert before is not None
    assert after is not None
    assert (after.ref, after.notices, after.rebuilt, after.retry_at) == (before.ref, before.notices, False, 0.0)


def test_who_waits_waits_for_the_ring_of_a_child_that_came_between_two_looks(rig: PipelineRig) -> None:
    ring = rig.ring()
    put(ring, start())
    rig.run(0.6)
    child = Owner(rig.session)  # the next look around is 0.4 s away
    child.put(rig.row("of the child"))
    child.kill()
    put(ring, End(1, "FINISHED", 99), Flush(1, 7))
    rig.run(0.25)
    assert rig.stored() == {"of the child": 1}
    assert json.loads(rig.of().tags["tailrace.ledger"])["delivered"] == 1

"""A small run, all of it in one process: what the trainer does on its slow paths, and the agent's pipeline after it.

A fork server: it has all modules loaded, and for each line on its standard input, a JSON object, forks a child that
does the work with the calls library armed; it answers with the child's exit code and how many calls there were. Time
is the test's own (0.1 s a round), and the pipeline's steps come in a fixed order, so the calls of two children are the
same but for what follows from the length of a number or a name.

The store is a `MemorySink` that a file keeps as a whole after each change. It plays the server, which is another
machine: it is neither struck nor cut.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import pickle
import sqlite3
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from faults.oracle import Journal
from tailrace._artifacts.snapshot import snapshot, stage
from tailrace_agent.errors import SessionError, Unavailable
from tailrace_agent.hosts.log_file import open_log
from tailrace_agent.hosts.process import _Agent, _make_durable
from tailrace_agent.ipc.records import Artifact, Drop, End, Params, RunSpec, Start, Tags, encode
from tailrace_agent.ipc.ring_format import MIN_BYTES
from tailrace_agent.ipc.session import Session
from tailrace_agent.pipeline.pipeline import Pipeline
from tailrace_agent.settings.settings import Settings
from tailrace_agent.sinks.memory import MemorySink

RUN = 7
ROUNDS = 12
FAILED_TO_START = 3
"""Exit code of a child that could not begin: what it has done so far is for the next one."""
MARK = "mark"


class KeptSink(MemorySink):
    """A store whose content a file keeps.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        if path.exists():
            self.runs, self.experiments = pickle.loads(path.read_bytes())

    @contextmanager
    def _call(self, method: str) -> Iterator[None]:
        with super()._call(method):
            yield
            body = pickle.dumps((self.runs, self.experiments))
            self._path.with_suffix(".new").write_bytes(body)
            self._path.with_suffix(".new").replace(self._path)


class Clock:
    """Time as the pipeline sees it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Steps:
    """The pipeline's steps, whenever they are due, as workers would call them: what one raises, it is called again."""

    def __init__(self, pipeline: Pipeline, clock: Clock) -> None:
        self._pipeline, self._clock = pipeline, clock
        self._due: dict[object, float] = {}
        self._changed = False
        pipeline.on_change = self._wake
        self.raised: list[str] = []

    def _wake(self) -> None:
        self._changed = True

    def all(self, leave: Callable[[float], bool] = lambda _: False) -> bool:
        """One round; whether the drain's worker may leave."""
        now, pipeline = self._clock.now, self._pipeline
        self._step("drain", pipeline.drain, woken=True)
        try:
            if leave(now):
                return True
        except Exception as error:  # noqa: BLE001 - as a worker does
            self.raised.append(repr(error))
        for _ in range(20):
            woken, self._changed = self._changed, False
            for uri, destination in list(pipeline.by_uri.items()):
                self._step((uri, "deliver"), lambda now, c=destination: pipeline.deliver(c, now), woken=woken)
                self._step((uri, "upload"), lambda now, c=destination: pipeline.upload(c, now), woken=woken)
                self._step((uri, "store"), lambda now, c=destination: pipeline.store_files(c, now), woken=woken)
            if not self._changed:
                break
        self._clock.now += 0.1
        return False

    def _step(self, name: object, step: Callable[[float], float], *, woken: bool) -> None:
        if not woken and self._due.get(name, 0.0) > self._clock.now:
            return
        try:
            self._due[name] = step(self._clock.now)
        except Exception as error:  # noqa: BLE001 - as a worker does
            self.raised.append(repr(error))
            self._due[name] = self._clock.now + 0.5


class Calls:
    """The library in this process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.calls_arm.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int]
        self._library.calls_counted.restype = ctypes.c_long

    def arm(self, plan: dict[str, Any]) -> None:
        """From here on calls count."""
        for name in ("log", "record"):
            path = plan.get(name)
            getattr(self._library, f"calls_{name}")(path.encode() if path else None)
        self._library.calls_arm(*plan.get("strike", [-1, 0, 0, 0]))
        self._library.calls_roots(plan["roots"].encode())

    def disarm(self) -> int:
        """How many there were."""
        self._library.calls_roots(b"")
        return int(self._library.calls_counted())


def run(plan: dict[str, Any], folder: Path) -> None:
    """The trainer and the pipeline, from the session's creation to the run's end, if nothing comes in between."""
    journal, kept = Journal(folder / "journal"), _Kept(folder, plan.get("record"))
    settings = Settings(
        dir=str(folder / "state"), ring_dir=str(folder / "shared"), ring_bytes=MIN_BYTES, best_metrics=False
    )
    try:
        session = Session.create(settings, cwd=str(folder), program="small")
        (folder / "session").write_text(str(session.dir))
        lost: list[str] = []
        ring = session.new_ring(on_drop=lambda _row, reason: lost.append(reason))
    except Exception:  # noqa: BLE001 - the trainer goes on without tracking
        kept.say("no session")
        os._exit(FAILED_TO_START)
    start = Start(RunSpec(run=RUN, start_time=time.time_ns() // 10**6, cwd=str(folder), run_name="small"))
    ring.put(encode(start))
    ring.put(encode(Params(RUN, {"lr": "0.1", "depth": "3"})))
    kept.say("started")
    clock = Clock()
    try:
        _make_durable(session, _log(session))
        sink = KeptSink(folder / "store")
        pipeline = Pipeline.open(session, sink.open, _log(session), hosted=True, monotonic=clock)
    except (OSError, sqlite3.Error):  # the agent dies, and another one is started: here, later
        os._exit(FAILED_TO_START)
    steps = Steps(pipeline, clock)
    for step in range(ROUNDS):
        sink.fail = _away if step < plan.get("away", 0) else None
        _log_round(session, ring, journal, kept, lost, step)
        if step == ROUNDS - 2:
            ring.put(encode(End(RUN, "FINISHED", time.time_ns() // 10**6)))
            kept.say("ended")
        kept.mark(clock.now)
        steps.all()
    for _ in range(60):
        kept.mark(clock.now)
        steps.all()
        if pipeline.settled:
            break
    if plan.get("must_settle") and not pipeline.settled:
        raise AssertionError(f"it does not settle: {steps.raised[-3:]}")


def _away(_: str) -> None:
    raise Unavailable("the store is away")


def _log_round(session: Session, ring: Any, journal: Journal, kept: _Kept, lost: list[str], step: int) -> None:
    if step >= ROUNDS - 2:
        return
    values = {"a/loss": step / 7, "a/speed": float(step)}
    if step in (4, 5):  # too large for the ring: it goes to the spill file, and the next ones after it
        values |= {f"wide/{n:04}{'x' * 60}": float(n) for n in range(240)}
    before = time.time_ns()
    lost.clear()
    ring.put(encode((RUN, step, before, values)))
    if lost:
        kept.say(f"dropped {len(values)}")
        ring.put(encode(Drop(RUN, "metric", lost[0], len(values))))
    else:
        journal.note(step, values, before, time.time_ns())
    if step == 2:
        ring.put(encode(Tags(RUN, {"colour": "blue"})))
        kept.say("tagged")
    if step in (3, 6):
        name = f"notes{step}.txt"
        try:
            if step == 3:
                entry = stage(session.artifacts, name, lambda path: _write(path, _text(name)))
            else:
                source = session.dir.parent.parent.parent / name
                source.write_text(_text(name))
                entry = snapshot(source, session.artifacts)
        except OSError:  # it is told to the caller as such
            return
        ring.put(encode(Artifact(RUN, entry.name, size=entry.size)))
        kept.say(f"artifact {name}")


def _write(path: Path, text: str) -> None:
    path.write_text(text)


def _text(name: str) -> str:
    return name * 2000


class _Kept:
    """What has happened so far, in files that are neither struck nor cut."""

    def __init__(self, folder: Path, record: str | None) -> None:
        self._said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._record = None if record is None else Path(record)
        self._folder = folder

    def say(self, text: str) -> None:
        os.write(self._said, f"{text}\n".encode())

    def mark(self, now: float) -> None:
        """Where the record of calls is at this time, and what was said and logged until then."""
        if self._record is None:
            return
        sizes = {name: _size(self._folder / name) for name in ("said", "journal")}
        self.say(json.dumps({MARK: self._record.stat().st_size, "now": now, **sizes}))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _log(session: Session) -> Any:
    return open_log(session.dir / "agent.log", "info")


def recover(plan: dict[str, Any], folder: Path) -> None:
    """What a new agent does, or `tailrace sync`: everything to its end."""
    path = Path((folder / "session").read_text())
    try:
        session = Session.open(path)
        session.touch_shared()
        lock = session.try_agent_lock()
        if lock is None:  # the lock could not be had: who comes next does it
            raise SessionError("somebody holds the session")
        _make_durable(session, _log(session))
        clock = Clock()
        pipeline = Pipeline.open(session, KeptSink(folder / "store").open, _log(session), monotonic=clock)
        agent = _Agent(pipeline, _log(session), None)
    except (OSError, sqlite3.Error, SessionError) as error:
        print(f"recover: {error!r}", file=sys.stderr)
        os._exit(FAILED_TO_START)
    steps = Steps(pipeline, clock)
    for _ in range(1500):
        if steps.all(agent.may_leave):
            break
    else:
        if plan.get("must_settle"):
            raise AssertionError(f"it does not come to an end: {steps.raised[-3:]}")
    pipeline.drain(clock.now)
    agent.finish()


def main() -> None:
    gc.disable()
    calls = Calls()
    for line in sys.stdin:
        plan = json.loads(line)
        folder = Path(plan["folder"])
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            code = 1
            try:
                errors = os.open(folder / "errors", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
                os.dup2(errors, 2)
                os.chdir(folder)
                calls.arm(plan)
                {"run": run, "recover": recover}[plan["what"]](plan, folder)
                code = 0
            except BaseException:  # noqa: BLE001 - the test reads it
                calls.disarm()
                traceback.print_exc()
            finally:
                os.write(writing, str(calls.disarm()).encode())
                os._exit(code)
        os.close(writing)
        with os.fdopen(reading) as answer:
            counted = answer.read()
        _, status = os.waitpid(child, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status), "calls": int(counted or 0)}), flush=True)


if __name__ == "__main__":
    main()

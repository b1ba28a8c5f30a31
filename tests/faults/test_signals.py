"""Faults 10 and 11: Ctrl-C, SIGTERM, and the interpreter's exit; handlers, and interrupts at every possible point."""

from __future__ import annotations

import contextlib
import dis
import functools
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

from faults.oracle import MlflowDatabase, check, check_ledger, eventually
from faults.program import Program, environment, run_script
from faults.trainer import value_of
from tailrace_agent.ipc import ring_writer as ring
from tailrace_agent.ipc.ring_format import MIN_BYTES
from tailrace_agent.ipc.ring_reader import RingReader
from tailrace_agent.ipc.ring_writer import RingWriter
from tailrace_agent.ipc.session import Session
from tailrace_agent.settings.settings import Settings

# -- the trainer's process group ---------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ctrl_c_ends_the_run_as_failed_and_leaves_the_agent_alive(sqlite_uri: str, tmp_path: Path) -> None:
    store = MlflowDatabase(sqlite_uri)
    with Program(tmp_path / "a", sqlite_uri, tmp_path / "state", pause=0.001) as program:
        agent = program.agent_pid()
        eventually(lambda: (r := program.stored()) and store.count(r.run_id), 30, "rows arrive")
        os.killpg(program.process.pid, signal.SIGINT)
        program.process.wait(40)
        assert program.process.returncode == -signal.SIGINT
        run = program.settled()
        agents = [line for line in (program.session.dir / "agent.log").read_text().splitlines() if "started" in line]
        assert len(agents) == 1, "the agent was interrupted too"
        assert f'"pid": {agent},' in agents[0].replace("}", ",")
    assert "KeyboardInterrupt" in program.log.read_text()
    assert run.status == "FAILED"
    assert run.tags["error.type"] == "KeyboardInterrupt"
    rows = store.rows(run.run_id)
    check(program.journal.read(), rows, cut_short=1, expected=value_of)
    check_ledger(run, len(rows))


@pytest.mark.slow
def test_sigterm_ends_the_run_as_killed_within_five_seconds(sqlite_uri: str, tmp_path: Path) -> None:
    store = MlflowDatabase(sqlite_uri)
    with Program(tmp_path / "a", sqlite_uri, tmp_path / "state", pause=0.001) as program:
        eventually(lambda: (r := program.stored()) and store.count(r.run_id), 30, "rows arrive")
        os.killpg(program.process.pid, signal.SIGTERM)
        assert program.process.wait(10) == -signal.SIGTERM
        eventually(lambda: (r := program.stored()) and r.status == "KILLED", 5, "the run is KILLED")
        run = program.settled()
    rows = store.rows(run.run_id)
    check(program.journal.read(), rows, cut_short=1, expected=value_of)
    check_ledger(run, len(rows))


@pytest.mark.slow
def test_an_agent_told_to_leave_by_sigterm_is_replaced_within_two_seconds_and_nothing_is_lost(
    sqlite_uri: str, tmp_path: Path
) -> None:
    store = MlflowDatabase(sqlite_uri)
    with Program(tmp_path / "a", sqlite_uri, tmp_path / "state", pause=0.001) as program:
        time.sleep(0.3)
        old = program.agent_pid()
        os.kill(old, signal.SIGTERM)
        eventually(lambda: _ended(old), 5, "the agent leaves")
        left = time.monotonic()
        program.agent_pid(besides=old, timeout=2)
        print(f"a new agent {time.monotonic() - left:.2f} s after the old one had left")
        program.finish()
        run = program.settled()
    rows = store.rows(run.run_id)
    check(program.journal.read(), rows)
    check_ledger(run, len(rows))
    assert run.status == "FINISHED"


HANDLERS = """
import signal, sys, threading
mine = {signal.SIGINT: lambda *_: None, signal.SIGTERM: lambda *_: None, signal.SIGUSR1: lambda *_: None}
for number, handler in mine.items():
    signal.signal(number, handler)
before = {n: signal.getsignal(n) for n in signal.valid_signals()}
hooks = sys.excepthook, sys.unraisablehook, threading.excepthook
import tailrace
def same(when):
    changed = [n for n, h in before.items() if signal.getsignal(n) is not h]
    assert not changed, (when, changed)
    assert hooks == (sys.excepthook, sys.unraisablehook, threading.excepthook), when
same("import")
run = tailrace.start_run(tracking_uri=sys.argv[1], quiet=True)
same("start_run")
tailrace.log(step=0, x=1.0)
tailrace.flush()
same("flush")
tailrace.end_run()
same("end_run")
"""


@pytest.mark.slow
def test_the_users_handlers_and_hooks_are_left_alone(sqlite_uri: str) -> None:
    done = run_script(HANDLERS, sqlite_uri)
    assert done.returncode == 0, done.stderr


PREEMPTED = """
import os, signal, sys, time
import tailrace
def leave(*_):
    tailrace.log(step=10**6, preempted=1.0)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
run = tailrace.start_run(tracking_uri=sys.argv[1], quiet=True)
print(run.id, flush=True)
step = 0
while True:
    tailrace.log(step=step, x=step)
    step += 1
    if step % 100 == 0:
        time.sleep(0.005)
        print(step, flush=True)
"""


@pytest.mark.slow
def test_a_handler_that_logs_a_last_row_and_leaves_gets_everything_delivered(sqlite_uri: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PREEMPTED, sqlite_uri], env=environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    time.sleep(0.5)
    process.terminate()
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    run = MlflowDatabase(sqlite_uri).settled(run_id)
    rows = MlflowDatabase(sqlite_uri).rows(run.run_id)
    assert run.status == "FINISHED"
    assert ("preempted", 10**6, 1.0) in [row[:3] for row in rows]
    assert sum(row.key == "x" for row in rows) >= int(said.split()[-1])
    check_ledger(run, len(rows))


# -- exit --------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _hung_server() -> Iterator[str]:
    """Takes connections and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


LEAVES = """
import sys, time
import tailrace
run = tailrace.start_run(tracking_uri=sys.argv[1], agent=sys.argv[2], exit_timeout=1.0)
for step in range(1000):
    tailrace.log(step=step, x=step)
run.log_text("kept", "notes.txt")
time.sleep(0.5)
print(time.time(), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("host", ["process", "thread"])
def test_the_interpreters_exit_is_bounded_when_the_server_hangs(host: str) -> None:
    with _hung_server() as uri:
        done = run_script(LEAVES, uri, host)
        took = time.time() - float(done.stdout)
        assert done.returncode == 0, done.stderr
        left = [line for line in done.stderr.splitlines() if "not delivered" in line]
        assert len(left) == 1, done.stderr
        assert "1,000 points and 1 artifact" in left[0]
        assert "Traceback" not in done.stderr
        print(f"the exit took {took:.2f} s of 1.0 s")
        # The thread-hosted agent gets a second of its own to end its threads, which hang in a request, or in the
        # import of MLflow, which holds the interpreter for seconds on a busy machine.
        assert took < (1.0 if host == "process" else 6.0) + 1.0
        for session in Session.all(Settings(dir=os.environ["TAILRACE_DIR"])):
            _stop_agent(session)


def _stop_agent(session: Session) -> None:
    from tailrace_agent.ipc import status
    from tailrace_agent.ipc.status import AgentStatus

    agent = status.read(session.shared / "agent.status", AgentStatus)
    if agent is not None and not _ended(agent.pid):
        os.kill(agent.pid, signal.SIGKILL)
    session.remove_shared()


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return True


# -- an interrupt at every point ---------------------------------------------------------------------------------------


class _Interrupt(BaseException):
    """Stands for KeyboardInterrupt, or for what a handler raises."""


@functools.cache
def _points(code: CodeType) -> set[int]:
    """Offsets at which CPython may call a signal handler: after calls, at the start, and after a jump back."""
    points, before = set(), ""
    for instruction in dis.get_instructions(code):
        if before.startswith("CALL") or before in ("RESUME", "JUMP_BACKWARD", "JUMP_ABSOLUTE"):
            points.add(instruction.offset)
        before = instruction.opname
    return points


def _interrupt_at(nth: int, call: Callable[[], object]) -> bool:
    """Calls, and raises at the nth point in the ring's code at which a signal could strike; False: it has fewer."""
    seen = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen
        if frame.f_code.co_filename != ring.__file__:
            return None
        frame.f_trace = trace  # before the next line: CPython 3.13 heeds it only then
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and frame.f_lasti in _points(frame.f_code):
            seen += 1
            if seen == nth + 1:
                sys.settrace(None)
                raise _Interrupt
        return trace

    before = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # CPython 3.12 asks before it sets the trace, not when it calls it
    sys.settrace(trace)
    try:
        call()
    except _Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False


class _Ring:
    """A ring with a reader, and everything that its rows must add up to."""

    def __init__(self, folder: Path) -> None:
        self.dropped: list[bytes] = []
        self.sampled: Callable[[], None] = lambda: None
        self.writer = RingWriter(
            folder / "ring",
            MIN_BYTES,
            folder / "spill",
            on_drop=lambda row, _: self.dropped.append(row),
            on_sample=lambda *_: self.sampled(),
        )
        self.reader = RingReader(folder / "ring", folder / "spill")

    def read(self) -> list[bytes]:
        """All that is there, as the agent reads it while the writer lives: it never skips."""
        rows: list[bytes] = []
        for _ in range(100):
            frames = self.reader.read(1 << 20)
            assert not frames.damaged
            rows += frames.rows
            self.reader.commit(frames.tail, frames.spill)
            if not frames.more:
                return rows
        raise AssertionError(f"the reader is stuck after {len(rows)} rows: a frame is torn")


def _fast(box: _Ring) -> Callable[[], object]:
    return lambda: box.writer.put(b"interrupted")


def _slow(box: _Ring) -> Callable[[], object]:
    """Every so often a call takes the slow way, and is timed."""
    while box.writer.off + 24 <= box.writer.limit:
        box.writer.put(b"filling")
    return lambda: box.writer.put(b"interrupted")


def _full(box: _Ring) -> Callable[[], object]:
    """The ring is full: the row goes to the spill file."""
    for _ in range(5):
        box.writer.put(b"x" * 16_000)
    return lambda: box.writer.put(b"interrupted" * 2000)


def _wrapping(box: _Ring) -> Callable[[], object]:
    """The row does not fit behind the last one: it goes to the beginning of the ring."""
    for _ in range(3):
        box.writer.put(b"x" * 15_000)
    box.read()
    box.writer.put(b"x" * 10_000)
    return lambda: box.writer.put(b"interrupted" * 1200)


def _nested(box: _Ring) -> Callable[[], object]:
    """A handler logs while the row is being placed, and is interrupted, or whom it interrupted is."""

    def log_another() -> None:
        box.sampled = lambda: None
        box.writer.put(b"nested")
        noted.append(b"nested")

    noted: list[bytes] = []
    box.sampled = log_another
    box.noted = noted  # type: ignore[attr-defined]
    _slow(box)
    return lambda: box.writer.put(b"interrupted")


@pytest.mark.slow
@pytest.mark.parametrize("scene", [_fast, _slow, _full, _wrapping, _nested])
def test_an_interrupt_at_any_point_of_a_call_costs_no_other_row(
    scene: Callable[[_Ring], Callable[[], object]], tmp_path: Path
) -> None:
    for nth in range(1000):
        folder = tmp_path / str(nth)
        folder.mkdir()
        box = _Ring(folder)
        call = scene(box)
        interrupted = _interrupt_at(nth, call)
        returned = [*getattr(box, "noted", [])]
        late: list[bytes] = []
        # Another thread, so that a lock that was not given back shows.
        thread = threading.Thread(target=lambda box=box, late=late: _put_all(box.writer, late), daemon=True)
        thread.start()
        thread.join(5)
        assert not thread.is_alive(), f"interrupted at point {nth}: the lock was not given back"
        rows = box.read()
        assert [row for row in rows if row.startswith(b"late")] == late, f"interrupted at point {nth}"
        for row in returned:
            assert row in rows, f"interrupted at point {nth}: a returned row is gone"
        assert not box.dropped
        if not interrupted:
            assert nth >= 3, "the fault never happened"
            print(f"{scene.__name__}: {nth} points")
            return
    raise AssertionError("the call never came to its end")


def _put_all(writer: RingWriter, rows: list[bytes]) -> None:
    for i in range(20):
        row = b"late%d" % i
        writer.put(row)
        rows.append(row)

"""Faults 5, 6 and 15: damaged files, full disks, a missing or full /dev/shm, two programs in one state directory."""

from __future__ import annotations

import concurrent.futures
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults.oracle import Journal, MlflowDatabase, check, check_ledger, eventually
from faults.program import Program, environment
from faults.trainer import value_of
from tailrace_agent.hosts.abandoned_sessions import AbandonedSessions, is_abandoned, is_newborn
from tailrace_agent.hosts.log_file import open_log
from tailrace_agent.hosts.spawn import spawn_agent
from tailrace_agent.ipc.session import Session
from tailrace_agent.settings.settings import Settings

# -- fault 6 -----------------------------------------------------------------------------------------------------------


def _in_namespace(mounts: str, source: str, *arguments: str, timeout: float = 100) -> subprocess.CompletedProcess[str]:
    """Runs a program where the given mounts hold, for it and its agent alone."""
    probe = ["unshare", "-Urm", "sh", "-c", "mount -t tmpfs -o size=64k none /dev/shm"]
    if shutil.which("unshare") is None or subprocess.run(probe, capture_output=True, check=False).returncode:
        pytest.skip("no user namespaces here: small file systems cannot be mounted")
    command = f'set -e; {mounts}; exec "$0" -c "$@"'
    return subprocess.run(
        ["unshare", "-Urm", "sh", "-c", command, sys.executable, source, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


PLAIN = """
import sys
from pathlib import Path
import tailrace
from faults.oracle import Journal
from faults.server import log_noted
run = tailrace.start_run(tracking_uri=sys.argv[1], quiet=True)
print(run.id, flush=True)
log_noted(run, Journal(Path(sys.argv[2])), range(2000))
tailrace.end_run()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "mount",
    ["mount -t tmpfs -o size=32k none /dev/shm", "mount -t tmpfs -o ro none /dev/shm"],
    ids=["is too small", "cannot be written"],
)
def test_where_dev_shm(mount: str, sqlite_uri: str, tmp_path: Path) -> None:
    """…rings go to the temporary directory, with one warning, and everything arrives."""
    journal = Journal(tmp_path / "journal")
    done = _in_namespace(mount, PLAIN, sqlite_uri, str(journal.path))
    assert done.returncode == 0, done.stderr
    run = MlflowDatabase(sqlite_uri).settled(done.stdout.strip())
    rows = MlflowDatabase(sqlite_uri).rows(run.run_id)
    check(journal.read(), rows)
    check_ledger(run, 2000)
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "/dev/shm" in done.stderr


FILLS = """
import os, sys, time
from pathlib import Path
import tailrace
from faults.oracle import Journal
from faults.server import log_noted
uri, journal, full = sys.argv[1], Journal(Path(sys.argv[2])), Path(sys.argv[3])
run = tailrace.start_run(tracking_uri=uri, quiet=True, flush_interval=0.1)
print(run.id, flush=True)
log_noted(run, journal, range(100))
assert run.flush(30).settled
with (full / "filler").open("wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(4096))
    except OSError:
        pass
free = os.statvfs(full)
assert free.f_bavail * free.f_frsize < 65536, free
slowest = 0.0
for i in range(20):
    began = time.perf_counter()
    log_noted(run, journal, range(100 + 25 * i, 125 + 25 * i))
    run.log_params({f"long{i}": "x" * 7000})
    slowest = max(slowest, time.perf_counter() - began)
    time.sleep(0.1)
print(slowest, flush=True)
(full / "filler").unlink()
log_noted(run, journal, range(600, 700))
ledger = run.flush(60)
assert ledger.settled, ledger
print(ledger.of("metric").accepted, ledger.of("param").accepted, flush=True)
tailrace.end_run()
"""


@pytest.mark.parametrize("what", ["state", pytest.param("shm", marks=pytest.mark.faults)])
def test_training_goes_on_while_a_disk_is_full_and_nothing_is_lost_or_counted_twice(
    what: str, sqlite_uri: str, tmp_path: Path
) -> None:
    journal = Journal(tmp_path / "journal")
    full = Path(os.environ["TAILRACE_DIR"]) if what == "state" else Path("/dev/shm")
    full.mkdir(exist_ok=True)
    done = _in_namespace(f"mount -t tmpfs -o size=2m none {full}", FILLS, sqlite_uri, str(journal.path), str(full))
    assert done.returncode == 0, done.stderr
    run_id, slowest, counts = done.stdout.splitlines()
    run = MlflowDatabase(sqlite_uri).settled(run_id)
    rows = MlflowDatabase(sqlite_uri).rows(run.run_id)
    check(journal.read(), rows)
    print(f"{what} full: 25 calls and a long param took {float(slowest) * 1000:.1f} ms at most; {done.stderr}")
    assert counts.split() == ["700", "20"]
    check_ledger(run, 700)
    assert len(run.params) == 20
    assert float(slowest) < 0.5


FORKS = """
import os, sys, warnings
from pathlib import Path
import tailrace
run = tailrace.start_run(tracking_uri=sys.argv[1], quiet=True)
print(run.id, flush=True)
tailrace.log(step=0, x=1.0)
assert run.flush(30).settled
with Path("/dev/shm/filler").open("wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(4096))
    except OSError:
        pass
if os.fork() == 0:
    code = 1
    try:
        for step in range(100):
            tailrace.log(step=step, child=1.0)
            tailrace.set_tag("child", "was here")
        code = 0
    finally:
        os._exit(code)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
Path("/dev/shm/filler").unlink()
tailrace.log(step=1, x=1.0)
tailrace.end_run()
"""


@pytest.mark.faults
def test_a_child_forked_while_dev_shm_is_full_goes_on_training(sqlite_uri: str) -> None:
    done = _in_namespace("mount -t tmpfs -o size=1m none /dev/shm", FORKS, sqlite_uri)
    assert done.returncode == 0, done.stderr
    run = MlflowDatabase(sqlite_uri).settled(done.stdout.strip())
    rows = MlflowDatabase(sqlite_uri).rows(run.run_id)
    print(f"{len(rows) - 2} of the child's 100 rows arrived: {done.stderr}")
    assert sum(row.key == "x" for row in rows) == 2
    check_ledger(run, len(rows), dropped=sum(run.ledger["dropped"].values()))


REFUSED = """
import sys
import tailrace
try:
    tailrace.start_run(tracking_uri=sys.argv[1], quiet=True, on_error=sys.argv[2])
except tailrace.StateDirError as error:
    print("refused:", error)
    sys.exit(0)
tailrace.log(step=0, x=1.0)
tailrace.end_run()
print("tracked")
"""


@pytest.mark.slow
def test_a_state_directory_that_cannot_be_written_is_one_clear_error_or_one_warning_and_another_place(
    sqlite_uri: str,
) -> None:
    state = Path(os.environ["TAILRACE_DIR"])
    state.mkdir()
    mount = f"mount -t tmpfs -o ro none {state}"
    done = _in_namespace(mount, REFUSED, sqlite_uri, "raise")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("refused:")
    assert str(state) in done.stdout
    assert "TAILRACE_DIR" in done.stdout
    done = _in_namespace(mount, REFUSED, sqlite_uri, "warn")
    assert done.stdout.strip() == "tracked", done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert str(state) in done.stderr
    (run,) = MlflowDatabase(sqlite_uri).runs()
    assert MlflowDatabase(sqlite_uri).count(run.run_id) == 1


# -- fault 5 -----------------------------------------------------------------------------------------------------------


def _wreck(folder: Path, uri: str) -> Program:
    """A trainer and an agent, both killed, with rows left in the ring."""
    program = Program(folder, uri, folder / "state", pause=0.001)
    store = MlflowDatabase(uri)
    eventually(lambda: (r := program.stored()) and store.count(r.run_id), 30, "rows arrive")
    program.await_agent("write", hold=True)  # what it has read is still in the ring
    program.freeze()
    program.kill_agent()
    program.kill()
    eventually(lambda: not program.session.agent_alive(), 10, "the last thread of the agent is gone")
    return program


_AT_LENGTH = [
    pytest.param(damage, marks=pytest.mark.faults) for damage in ("garbage", "truncated", "empty", "a future version")
]


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["a flipped bit", *_AT_LENGTH])
def test_a_ring_that_is_damaged_does_not_keep_the_rest_of_its_session_from_being_delivered(
    damage: str, sqlite_uri: str, tmp_path: Path
) -> None:
    with _wreck(tmp_path / "a", sqlite_uri) as program:
        session = program.session
        (name,) = session.rings()
        path = session.shared / f"{name}.ring"
        data = bytearray(path.read_bytes())
        if damage == "a flipped bit":
            head, tail = (int.from_bytes(data[at : at + 8], "little") for at in (64, 128))
            assert tail < head, "nothing was left in the ring"
            length = int.from_bytes(data[tail : tail + 4], "little")
            data[random.randrange(tail, tail + 8 + length)] ^= 1 << random.randrange(8)
        elif damage == "garbage":
            data = bytearray(os.urandom(len(data)))
        elif damage == "truncated":
            data = data[:70_000]
        elif damage == "empty":
            data = bytearray()
        else:
            data[8] += 1
        path.write_bytes(data)
        agent = spawn_agent(session, {})
        assert agent is not None
        run = program.settled(40)
        eventually(lambda: not session.agent_alive(), 20, "the agent ends")
        assert "agent leaves" in (session.dir / "agent.log").read_text()
        assert (session.dir / "finished").exists()
        rows = MlflowDatabase(sqlite_uri).rows(run.run_id)
        ledger = run.ledger
        check_ledger(run, len(rows), dropped=sum(ledger["dropped"].values()))
    noted = {(p.key, p.step): p for p in program.journal.read()}
    invented = [row for row in rows if (row.key, row.step) not in noted]
    assert len(invented) <= 3, "what is damaged must not be decoded"
    for row in rows:
        assert row.value != row.value or value_of(row.key, row.step) in (row.value, float("inf"), float("-inf"))
    assert ledger["dropped"] == {"damaged in the ring": 1}  # of a ring that is none, nobody can say how many
    assert run.status == "KILLED"
    print(f"{damage}: {len(noted) - len(rows) + len(invented)} of {len(noted)} points lost; {ledger['dropped']}")
    log = (session.dir / "agent.log").read_text()
    assert "damaged" in log or "cannot be read" in log


# -- fault 15 ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_programs_in_one_state_directory_do_not_get_into_each_others_way(sqlite_uri: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    programs = [Program(tmp_path / str(i), sqlite_uri, state, pause=0.002, prefix=f"p{i}") for i in range(2)]
    try:
        time.sleep(1)
        for program in programs:
            program.finish()
        for i, program in enumerate(programs):
            run = program.settled()
            rows = MlflowDatabase(sqlite_uri).rows(run.run_id)
            assert {row.key.partition("/")[0] for row in rows} == {f"p{i}"}
            check(program.journal.read(), rows)
            check_ledger(run, len(rows))
    finally:
        for program in programs:
            program.close()
    assert len({program.session.id for program in programs}) == 2


@pytest.mark.slow
def test_a_session_that_is_being_born_is_nobodys_leftover() -> None:
    settings = Settings(dir=os.environ["TAILRACE_DIR"])
    session = Session.create(settings, cwd="/", program="newborn")
    try:
        assert is_newborn(session)
        assert is_abandoned(session)
        own = Session.create(settings, cwd="/", program="other")
        log = open_log(own.dir / "agent.log", "info")
        abandoned = AbandonedSessions(own, log)
        abandoned.hurry()
        abandoned.step(1.0)
        assert abandoned.done
        assert not session.agent_alive()
        own.remove()
    finally:
        session.remove()


def _start(directory: str) -> int:
    agent = spawn_agent(Session.open(Path(directory)), {})
    return agent.group if agent is not None else 0


@pytest.mark.slow
def test_however_many_processes_start_an_agent_there_is_one(tmp_path: Path) -> None:
    session = Session.create(Settings(dir=os.environ["TAILRACE_DIR"]), cwd=str(tmp_path), program="many")
    ring = session.new_ring()
    with concurrent.futures.ProcessPoolExecutor(4) as pool:
        groups = [group for group in pool.map(_start, [str(session.dir)] * 16) if group]
    try:
        assert len(groups) == 1
        assert session.agent_alive()
    finally:
        for group in groups:
            os.killpg(group, signal.SIGKILL)
        ring.close()
        session.remove()

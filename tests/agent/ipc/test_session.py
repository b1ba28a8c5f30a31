"""A session: who lives is told by the kernel, who joins late is told so, and what is left behind is found."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from helpers.kept_log import KeptLog
from helpers.other_users import needs_root
from helpers.sdk_tools import eventually
from tailrace_agent.errors import SessionError, StateDirError
from tailrace_agent.hosts import abandoned_sessions as abandoned_module
from tailrace_agent.hosts import spawn as spawn_module
from tailrace_agent.hosts.abandoned_sessions import AbandonedSessions, is_abandoned
from tailrace_agent.hosts.process import _Agent
from tailrace_agent.hosts.spawn import request_exit, spawn_agent
from tailrace_agent.ipc import session as module
from tailrace_agent.ipc import status
from tailrace_agent.ipc.ring_format import MIN_BYTES
from tailrace_agent.ipc.session import Session, sessions_root
from tailrace_agent.pipeline.pipeline import Pipeline
from tailrace_agent.settings.settings import Settings
from tailrace_agent.sinks.memory import MemorySink

LAST_WORDS = "import sys, time; print('ready', flush=True); sys.stdin.read()"
OWNER = (
    "import sys, os; from pathlib import Path; from tailrace_agent.ipc.session import Session\n"
    "session = Session.open(Path(sys.argv[1])); ring = session.new_ring()\n"
    "for number in range(100): ring.put(b'%d' % number)\n"
    "pid = os.fork() if sys.argv[2] == 'fork' else 1\n"  # a data-loader worker, say
    "if pid: print(ring.path.stem, pid, flush=True)\n"
    "sys.stdin.read()"
)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    rings = tmp_path / "shared"
    rings.mkdir()
    return Settings(dir=str(tmp_path / "state"), ring_dir=str(rings), ring_bytes=MIN_BYTES)


@pytest.fixture
def session(settings: Settings) -> Session:
    return Session.create(settings, cwd="/", program="train.py")


def changed(session: Session, **changes: Any) -> Session:
    session.save(**changes)
    return Session.open(session.dir)


@contextlib.contextmanager
def owner(
    session: Session, how: str = "alone", before: tuple[str, ...] = ()
) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """A process that has a ring: the process, the ring's name, and the pid of its fork (or 1)."""
    command = [*before, sys.executable, "-c", OWNER, str(session.dir), how]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        name, pid = process.stdout.readline().split()
        yield process, name, int(pid)
    finally:
        process.kill()
        process.communicate()


# -- making and finding ------------------------------------------------------------------------------------------------


def test_what_a_session_says_of_itself_can_be_read_by_others(session: Session, settings: Settings) -> None:
    again = Session.open(session.dir)
    assert again.info == session.info
    assert (again.id, again.info.pid, again.info.program) == (session.dir.name, os.getpid(), "train.py")
    assert again.here
    assert not again.elsewhere
    assert [found.id for found in Session.all(settings)] == [session.id]


def test_directories_are_0700_and_files_0600(session: Session) -> None:
    session.new_ring()
    for root in (session.dir, session.shared):
        for path in (root, *root.rglob("*")):
            expected = 0o700 if path.is_dir() else 0o600
            assert stat.S_IMODE(path.stat().st_mode) == expected, path


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"id": 3}', "\udcff"])
def test_what_is_no_session_is_refused_and_passed_over(
    session: Session, settings: Settings, content: str | None
) -> None:
    other = sessions_root(settings) / "other"
    other.mkdir()
    if content is not None:
        (other / "session.json").write_bytes(content.encode(errors="surrogateescape"))
    (sessions_root(settings) / "a file").touch()
    with pytest.raises(SessionError, match="no session"):
        Session.open(other)
    assert [found.id for found in Session.all(settings)] == [session.id]


def test_without_any_session_none_is_found(settings: Settings) -> None:
    assert list(Session.all(settings)) == []


def test_a_state_directory_that_cannot_be_written_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateDirError, match="Set TAILRACE_DIR"):
        Session.create(Settings(dir=str(tmp_path / "file" / "x")), cwd="/", program="p")


def test_sessions_of_another_boot_or_host_are_not_here(session: Session) -> None:
    rebooted = changed(session, boot="another")
    assert not rebooted.here
    assert not rebooted.elsewhere
    assert changed(session, hostname="another").elsewhere


# -- rings -------------------------------------------------------------------------------------------------------------


def test_rings_are_named_after_their_process_for_people_and_apart_by_chance(session: Session) -> None:
    first, second = session.new_ring(), session.new_ring()
    names = [ring.path.stem for ring in (first, second)]
    assert session.rings() == sorted(names)
    assert all(re.fullmatch(rf"{os.getpid()}-\d{{4,}}-[0-9a-f]{{16}}", name) for name in names)
    first.put(b"hello")
    reader = session.reader(names[0])
    assert reader.read().rows == [b"hello"]
    reader.close()
    session.remove_ring(names[0])
    session.remove_ring("never there")
    assert session.rings() == [names[1]]


@needs_root
def test_processes_of_two_containers_that_have_the_same_id_do_not_get_into_each_others_way(session: Session) -> None:
    """Each is process 1 of a pid namespace of its own."""
    apart = ("unshare", "--pid", "--fork", "--kill-child")
    with owner(session, before=apart) as (one, first, _), owner(session, before=apart) as (_, second, _):
        assert [name.partition("-")[0] for name in (first, second)] == ["1", "1"]
        assert session.rings() == sorted((first, second))
        one.kill()
        one.wait()
        eventually(lambda: not session.owner_alive(first))
        assert session.owner_alive(second)
        for name in (first, second):
            reader = session.reader(name)
            assert reader.read().rows == [b"%d" % number for number in range(100)]
            reader.close()


def test_what_a_process_has_made_is_not_its_childs(session: Session) -> None:
    ring = session.new_ring().path.stem
    assert session.begun_here
    assert session.is_ring_of_this_process(ring)
    child = os.fork()
    if child == 0:
        os._exit(session.begun_here or session.is_ring_of_this_process(ring))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not session.is_ring_of_this_process(f"{os.getpid()}-0000")


def test_a_process_that_only_has_an_agents_id_is_not_told_to_leave(session: Session) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        said = status.AgentStatus(pid=other.pid, host="process", started=0, seen=0)
        status.write(session.shared / "agent.status", said)
        assert not request_exit(session)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.1)
        other.kill()


def test_hooks_reach_the_ring(session: Session) -> None:
    dropped: list[str] = []
    ring = session.new_ring(on_drop=lambda _, reason: dropped.append(reason))
    ring.close()
    ring.put(b"x")
    assert dropped == ["ring closed"]


@pytest.mark.parametrize(("free", "expected"), [(1 << 40, 1 << 20), (8 << 20, 512 << 10), (1 << 20, MIN_BYTES)])
def test_a_ring_takes_a_small_share_of_what_is_free(
    session: Session, monkeypatch: pytest.MonkeyPatch, free: int, expected: int
) -> None:
    session.info = msgspec.structs.replace(
        session.info, settings=msgspec.structs.replace(session.info.settings, ring_bytes=1 << 20)
    )

    class Room:
        f_bavail, f_frsize = free // 4096, 4096

    monkeypatch.setattr(module.os, "statvfs", lambda _: Room())
    assert session.new_ring().path.stat().st_size == expected


def test_a_ring_shrinks_until_there_is_room(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    real = os.posix_fallocate

    def tight(fd: int, offset: int, size: int) -> None:
        asked.append(size)
        if size > 200_000:
            raise OSError(28, "No space left on device")
        real(fd, offset, size)

    monkeypatch.setattr("tailrace_agent.ipc.ring_writer.os.posix_fallocate", tight)
    session.info = msgspec.structs.replace(
        session.info, settings=msgspec.structs.replace(session.info.settings, ring_bytes=1 << 20)
    )
    ring = session.new_ring()
    assert asked == [1 << 20, 1 << 19, 1 << 18, 1 << 17]
    ring.put(b"x")
    assert session.rings() == [ring.path.stem]


def test_no_room_at_all_is_a_clear_error_and_leaves_no_ring(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tailrace_agent.ipc.ring_writer.os.posix_fallocate", full)
    with pytest.raises(SessionError, match=r"No space left on device.*set ring_dir"):
        session.new_ring()
    assert session.rings() == []


# -- who lives ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_the_death_of_an_owner_is_seen_even_while_its_forked_child_lives(session: Session, how: str) -> None:
    with owner(session, how) as (process, name, child):
        assert session.rings() == [name]
        assert session.owner_alive(name)
        assert session.owner_alive(name)  # asking does not take the lock away
        assert not is_abandoned(session)
        process.kill()
        process.wait()
        assert not session.owner_alive(name)
        assert is_abandoned(session)
        reader = session.reader(name)
        assert reader.read().rows == [b"%d" % number for number in range(100)]
        assert reader.pid == process.pid
        reader.close()
        if child != 1:
            os.kill(child, signal.SIGKILL)


def test_a_ring_without_an_owner_file_has_no_living_owner(session: Session) -> None:
    assert not session.owner_alive("123-0000")


def test_only_one_takes_the_agents_place(session: Session) -> None:
    assert not session.agent_alive()
    lock = session.try_agent_lock()
    assert lock is not None
    assert session.try_agent_lock() is None
    assert session.agent_alive()
    os.close(lock)
    assert not session.agent_alive()


def test_the_death_of_an_agent_wakes_who_waits_for_it(session: Session) -> None:
    lock = session.try_agent_lock()
    assert lock is not None
    command = [sys.executable, "-c", LAST_WORDS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(lock,)) as agent:
        assert agent.stdout is not None
        os.close(lock)  # as `spawn_agent` does: it lives on in the child
        agent.stdout.readline()
        assert session.agent_alive()
        woken = threading.Event()
        waiting = threading.Thread(target=lambda: (session.wait_for_agent_death(), woken.set()))
        waiting.start()
        assert not woken.wait(0.05)
        agent.kill()
        assert woken.wait(5)
        waiting.join()
    assert not session.agent_alive()


def test_an_agent_is_started_once_and_inherits_the_lock(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spawn_module, "_BOOT", LAST_WORDS.replace("sys.stdin.read()", "time.sleep(60)"))
    agent = spawn_agent(session, {"http://x": "user:secret"})
    assert agent is not None
    try:
        assert session.agent_alive()
        assert spawn_agent(session, {}) is None
        assert os.getsid(agent.pid) == agent.pid  # Ctrl-C in the terminal does not reach it
        assert "secret" not in Path(f"/proc/{agent.pid}/cmdline").read_text()
        assert stat.S_IMODE((session.dir / "agent.err").stat().st_mode) == 0o600
    finally:
        os.kill(agent.pid, signal.SIGKILL)
        os.waitpid(agent.pid, 0)
    assert not session.agent_alive()
    assert "secret" not in "".join(p.read_text() for p in session.dir.iterdir() if p.is_file())


def test_an_agent_that_cannot_be_started_leaves_its_place_free(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(OSError, match="nowhere"):
        spawn_agent(session, {})
    assert not session.agent_alive()


TAKES_CREDENTIALS = """
import sys
sys.path[:0] = sys.argv.pop().splitlines()
from tailrace_agent.hosts.spawn import take_credentials
first, again = take_credentials(), take_credentials()
shown = b"".join(open(f"/proc/self/{name}", "rb").read() for name in ("environ", "cmdline"))
print(len(first["http://x"]), again, first["http://x"][:12].encode() in shown, flush=True)
"""


@pytest.mark.parametrize("in_memory", [True, False], ids=["memfd", "file"])
def test_credentials_of_any_length_reach_the_agent_and_nobody_else(
    session: Session, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    monkeypatch.setattr(spawn_module, "_BOOT", TAKES_CREDENTIALS)
    if not in_memory:
        monkeypatch.delattr(os, "memfd_create")
    before = len(list(Path("/proc/self/fd").iterdir()))
    agent = spawn_agent(session, {"http://x": "secret" * 50_000})
    assert agent is not None
    os.waitpid(agent.pid, 0)
    assert (session.dir / "agent.err").read_text() == "300000 {} False\n"
    assert sorted(path.suffix for path in session.shared.iterdir()) == [".lock", ".lock"]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    without = spawn_agent(session, {})
    assert without is not None
    os.waitpid(without.pid, 0)
    assert "KeyError" in (session.dir / "agent.err").read_text()


# -- joining and leaving -----------------------------------------------------------------------------------------------


def test_nobody_joins_a_closed_session(session: Session) -> None:
    assert session.close_if_deserted()
    assert session.closed
    with pytest.raises(SessionError, match="is closed"):
        session.new_ring()
    assert session.rings() == []


def test_a_session_with_a_ring_is_not_closed(session: Session) -> None:
    ring = session.new_ring()
    assert not session.close_if_deserted()
    assert not session.closed
    session.remove_ring(ring.path.stem)
    assert session.close_if_deserted()


def test_nobody_joins_a_session_that_is_gone(session: Session) -> None:
    session.remove_shared()
    with pytest.raises(SessionError, match="is gone"):
        session.new_ring()
    assert not session.agent_alive()
    assert session.rings() == []


def test_of_many_who_join_while_the_agent_leaves_each_is_in_or_knows(settings: Settings) -> None:
    for _ in range(20):
        session = Session.create(settings, cwd="/", program="p")
        joined, refused, closed = [], [], []

        def join(session: Session = session, joined: list[Any] = joined, refused: list[Any] = refused) -> None:
            try:
                joined.append(session.new_ring())
            except SessionError as error:
                refused.append(error)

        threads = [threading.Thread(target=join) for _ in range(3)]
        threads.insert(1, threading.Thread(target=lambda s=session, c=closed: c.append(s.close_if_deserted())))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(joined) + len(refused) == 3
        assert closed == [not joined]


def test_an_agent_whose_shared_directory_is_gone_leaves_and_does_not_call_the_session_finished(
    session: Session,
) -> None:
    shutil.rmtree(session.shared)
    pipeline = Pipeline.open(session, lambda *_, **__: MemorySink(), KeptLog())
    agent = _Agent(pipeline, KeptLog(), None)
    pipeline.drain(0.0)
    assert agent.may_leave(0.0)
    agent.finish()
    assert not (session.dir / "finished").exists()
    assert not (session.dir / "refused").exists()
    assert not session.shared.exists()
    assert is_abandoned(Session.open(session.dir))


def test_removing_leaves_nothing(session: Session) -> None:
    session.new_ring()
    session.remove()
    session.remove()
    assert not session.dir.exists()
    assert not session.shared.exists()


def test_changes_are_saved_as_a_whole(session: Session) -> None:
    session.save(program="other.py")
    assert Session.open(session.dir).info.program == "other.py"
    assert [path.name for path in session.dir.iterdir() if "new" in path.name] == []


# -- what is left behind -----------------------------------------------------------------------------------------------


def test_a_session_whose_programs_and_agent_are_gone_is_a_leftover(session: Session) -> None:
    assert is_abandoned(session)
    lock = session.try_agent_lock()
    assert lock is not None
    assert not is_abandoned(session)
    os.close(lock)
    assert is_abandoned(changed(session, boot="before the reboot"))
    shutil.rmtree(session.shared)  # the reboot took it along
    assert is_abandoned(session)
    assert not is_abandoned(changed(session, hostname="elsewhere"))
    session.save(hostname=os.uname().nodename)
    (session.dir / "finished").touch()
    assert not is_abandoned(session)


class FakeAgent:
    def __init__(self) -> None:
        self.ended = False

    def poll(self) -> int | None:
        return 0 if self.ended else None


def test_leftovers_get_an_agent_one_after_the_other(
    session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [changed(Session.create(settings, cwd="/", program="p"), created=1.0) for _ in range(3)]
    newborn = Session.create(settings, cwd="/", program="p")  # its program is about to make its first ring
    shutil.rmtree(left[1].shared)
    started: list[tuple[str, FakeAgent]] = []

    def spawn(found: Session, credentials: dict[str, str]) -> FakeAgent:
        assert credentials == {}
        assert found.shared.is_dir()
        started.append((found.id, FakeAgent()))
        return started[-1][1]

    monkeypatch.setattr(abandoned_module, "spawn_agent", spawn)
    lock = session.try_agent_lock()
    assert lock is not None
    abandoned = AbandonedSessions(session, KeptLog())
    begin = abandoned.step(100.0)
    assert begin > 100
    assert started == []
    for count in range(1, 4):
        assert abandoned.step(begin) < begin + 60
        assert abandoned.step(begin) < begin + 60
        assert len(started) == count  # not before the last one has ended
        started[-1][1].ended = True
    abandoned.step(begin)
    assert abandoned.step(begin) > begin + 600
    assert abandoned.done
    assert sorted(name for name, _ in started) == sorted(found.id for found in left)
    assert newborn.id not in dict(started)
    os.close(lock)


def test_finished_sessions_are_deleted_after_their_time(session: Session, settings: Settings) -> None:
    young, old = [Session.create(settings, cwd="/", program="p") for _ in range(2)]
    for finished in (young, old):
        (finished.dir / "finished").touch()
    os.utime(old.dir / "finished", (1, 1))
    abandoned = AbandonedSessions(session, KeptLog())
    abandoned.step(abandoned.step(0.0))
    assert not old.dir.exists()
    assert young.dir.exists()


@pytest.mark.parametrize("why", ["set aside", "dead letters"])
def test_a_finished_session_in_which_something_is_left_stays(session: Session, settings: Settings, why: str) -> None:
    kept = Session.create(settings, cwd="/", program="p")
    (kept.dir / "finished").write_text("dead letters" if why == "dead letters" else "")
    os.utime(kept.dir / "finished", (1, 1))
    if why == "set aside":
        (kept.dir / "spool.db.damaged-1").touch()
    abandoned = AbandonedSessions(session, KeptLog())
    abandoned.step(abandoned.step(0.0))
    assert kept.dir.exists()


# -- status files ------------------------------------------------------------------------------------------------------


def test_a_status_file_is_replaced_as_a_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / status.run_file(7)
    assert status.read(path, status.RunStatus) is None
    for notices in (["x" * 100_000], []):
        status.write(path, status.RunStatus(run=7, notices=notices))
        found = status.read(path, status.RunStatus)
        assert found is not None
        assert found.notices == notices
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"run": "x"}', b"\xff"])
def test_a_status_of_another_version_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "s").write_bytes(content)
    assert status.read(tmp_path / "s", status.RunStatus) is None
    assert status.read(tmp_path / "s" / "below", status.RunStatus) is None

"""A session: who lives is told by the kernel, who joins late is told so, and what is left behind is found."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from helpers.forks import ForkedChild
from helpers.other_users import needs_root
from helpers.sdk_tools import eventually
from helpers.sessions import LAST_WORDS, changed, owner
from tailrace_agent.errors import SessionError, StateDirError
from tailrace_agent.hosts.abandoned_sessions import is_abandoned
from tailrace_agent.hosts.spawn import spawn_agent
from tailrace_agent.ipc import session as module
from tailrace_agent.ipc.ring_format import MIN_BYTES
from tailrace_agent.ipc.session import Session, sessions_root
from tailrace_agent.pipeline.owner_watch import owner_alive
from tailrace_agent.settings.settings import Settings

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


def test_an_agent_in_this_process_knows_a_new_ring_for_its_own_from_the_first_moment(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    real = Path.rename

    def looked_at(path: Path, target: Path) -> Path:
        found = real(path, target)
        seen.append(owner_alive(session, True, target.stem))
        return found

    monkeypatch.setattr(Path, "rename", looked_at)
    name = session.new_ring().path.stem
    assert seen == [True]
    child = os.fork()
    if child == 0:
        os._exit(not session.owner_alive(name))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


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


@pytest.mark.parametrize("then", ["looked", "failed"])
def test_a_child_forked_while_the_agents_lock_is_looked_at_does_not_keep_it(
    session: Session, monkeypatch: pytest.MonkeyPatch, then: str
) -> None:
    children: list[ForkedChild] = []
    real = Session.try_agent_lock

    def forking(self: Session) -> int | None:
        lock = real(self)
        children.append(ForkedChild())
        return lock

    with monkeypatch.context() as patch:
        patch.setattr(Session, "try_agent_lock", forking)
        if then == "looked":
            assert not session.agent_alive()
        else:
            patch.setattr(sys, "executable", "/nowhere/python")
            with pytest.raises(OSError, match="nowhere"):
                spawn_agent(session, {})
    assert not session.agent_alive()
    children[0].end()


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

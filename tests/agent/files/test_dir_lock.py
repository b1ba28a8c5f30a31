"""One process at a time in a directory, where its file system knows such a lock."""

from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest

from tailrace_agent.files import dir_lock
from tailrace_agent.files.dir_lock import alone_in
from tailrace_agent.ipc.session import Session


def test_a_session_that_is_kept_by_another_process_is_waited_for_only_so_long(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dir_lock, "_WITHIN", 0.0)
    with dir_lock.alone_in(session.dir), pytest.raises(TimeoutError, match="does not let go"):
        session.touch_shared()
    session.touch_shared()


def test_a_file_system_that_locks_no_directory_is_worked_on_without(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int, _how: int) -> None:
        raise OSError(errno.EBADF, "as NFS says it of a directory")

    monkeypatch.setattr("tailrace_agent.files.dir_lock.fcntl.flock", refuse)
    session.remove_shared()
    session.touch_shared()
    assert session.has_shared


def test_two_threads_are_not_in_there_at_a_time(tmp_path: Path) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(5):
            with alone_in(tmp_path):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_it_is_let_go_of_after_an_error_and_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dir_lock, "_WITHIN", 0.0)
    with pytest.raises(KeyError), alone_in(tmp_path):
        raise KeyError
    with alone_in(tmp_path):
        assert list(tmp_path.iterdir()) == []


def test_a_child_that_was_forked_inside_does_not_keep_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dir_lock, "_WITHIN", 0.0)
    reading, writing = os.pipe()
    with alone_in(tmp_path):
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(0)
    with alone_in(tmp_path):
        pass
    os.close(writing)
    os.close(reading)
    os.waitpid(child, 0)


@pytest.mark.parametrize("what", ["link", "file", "nothing"])
def test_what_is_no_directory_is_an_error(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x"
    if what == "link":
        path.symlink_to(tmp_path)
    elif what == "file":
        path.touch()
    with pytest.raises(OSError), alone_in(path):
        pass

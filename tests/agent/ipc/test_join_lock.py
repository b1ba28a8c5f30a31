"""Joining and closing a session exclude each other, and neither can shut a process out for good."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tailrace_agent.files import dir_lock
from tailrace_agent.ipc.session import Session
from tailrace_agent.settings.settings import Settings


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    settings = Settings(dir=str(tmp_path / "state"), ring_dir=str(tmp_path))
    made = Session.create(settings, cwd=str(tmp_path), program="test")
    yield made
    made.remove()


def test_a_lock_that_cannot_be_let_go_of_shuts_nobody_out(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    original, failed = fcntl.flock, []

    def flock(fd: int, how: int) -> None:
        if how == fcntl.LOCK_UN and not failed:
            failed.append(fd)
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        original(fd, how)

    monkeypatch.setattr(dir_lock, "_WITHIN", 0.5)
    monkeypatch.setattr(dir_lock.fcntl, "flock", flock)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        session.close_if_deserted()
    assert session.close_if_deserted()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(failed[0])


def test_a_lock_that_another_process_keeps_is_waited_for_only_so_long(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dir_lock, "_WITHIN", 0.0)
    fd = os.open(session.shared / "join.lock", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    with pytest.raises(TimeoutError, match="does not let go of it"):
        session.new_ring()
    os.close(fd)
    assert not session.closed
    session.new_ring()
    assert not session.close_if_deserted()

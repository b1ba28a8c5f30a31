"""What may be deleted, and what of it nobody has delivered yet.

A session's directory, or a directory in shared memory whose session is finished or gone. Nothing that lives, nothing
of another host. What is found is looked at again, under the session's agent lock, before it is deleted.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from tailrace_agent.cli._app import count, size
from tailrace_agent.cli._look import glance, look
from tailrace_agent.errors import SessionError
from tailrace_agent.files.dir_lock import let_go
from tailrace_agent.files.ownership import is_private
from tailrace_agent.ipc.finished import finished
from tailrace_agent.ipc.session import Session, sessions_root, shared_root
from tailrace_agent.ipc.shared_dirs import session_of
from tailrace_agent.ipc.status import SessionInfo
from tailrace_agent.ipc.survey import Unreadable, shared_of, survey
from tailrace_agent.settings.settings import Settings

__all__ = ["Litter", "find", "remove"]

_YOUNG: Final = 3600.0
"""Seconds for which a shared directory without a session is let alone: its program may just be starting."""


class Litter(msgspec.Struct, kw_only=True):
    """Something to delete. `undelivered` is what of it MLflow does not have, or None."""

    name: str
    what: str
    paths: list[str]
    bytes: int
    undelivered: str | None = None


def find(settings: Settings, older_than: float) -> list[Litter]:
    """Everything that could go: finished sessions of that age (seconds), leftovers, litter in shared memory."""
    found: list[Litter] = []
    sessions: dict[str, Session | Unreadable] = {}
    for each in survey(settings):
        litter = _of_unreadable(each, settings) if isinstance(each, Unreadable) else _of_session(each, older_than)
        sessions[each.path.name if isinstance(each, Unreadable) else each.id] = each
        found += [litter] if litter is not None else []
    found += [litter for path in _shared(settings) if (litter := _of_shared(path, sessions)) is not None]
    return found


def remove(settings: Settings, litter: Litter) -> str | None:
    """Deletes it, unless it has come to life meanwhile; why it is still there, or None when it is gone."""
    try:
        session = Session.open(sessions_root(settings) / litter.name)
    except SessionError:
        # What is no session can still be held by an agent, in shared memory.
        session = _stranger(shared_of(sessions_root(settings) / litter.name, settings))
    try:
        # -1: without shared memory nobody can hold it.
        lock = session.try_agent_lock() if session.has_shared else -1
        if lock is None:
            return "it is live"
        try:
            _remove_all(litter)
        finally:
            if lock >= 0:
                let_go(lock)
    except OSError as error:
        return f"{error.filename or litter.name}: {error.strerror}"
    return None


def _of_unreadable(found: Unreadable, settings: Settings) -> Litter | None:
    """What lies among the sessions and is none, or cannot be read: nobody knows what it holds."""
    shared = shared_of(found.path, settings)
    left = is_private(shared)
    if left:
        stranger = _stranger(shared)
        if stranger.agent_alive() or any(stranger.owner_alive(ring) for ring in stranger.rings()):
            return None
    paths = [found.path, *([shared] if left else [])]
    return Litter(
        name=found.name,
        what=f"it {found.problem}",
        paths=[str(path) for path in paths],
        bytes=sum(_size(path) for path in paths),
        undelivered="what it may hold",
    )


def _stranger(shared: Path) -> Session:
    """A session of which nothing is known but its shared memory."""
    info = SessionInfo(
        id=session_of(shared) or shared.name, hostname=os.uname().nodename, boot="", pid=0, created=0, program="",
        cwd="/", shared=str(shared), settings=Settings(),
    )  # fmt: skip
    return Session(shared / "nowhere", info)


def _of_session(session: Session, older_than: float) -> Litter | None:
    view = glance(session)
    # Nor `elsewhere`: its locks are on another host.
    if view.state not in ("finished", "leftover", "unreadable") or view.trainer_alive:
        return None
    undelivered = [
        count(view.pending, "entry", "entries") + " pending" if view.pending else "",
        count(view.dead, "dead letter") if view.dead else "",
        f"{size(view.in_ring_bytes)} unread in its ring" if view.in_ring_bytes else "",
        "a damaged spool" if view.state == "unreadable" or view.problem is not None else "",
    ]
    try:
        last = finished(session)
    except OSError:  # it is not for us to read
        last = None
    at = last.at if last is not None else view.created
    if view.state == "finished" and time.time() - at < older_than:
        return None
    text = ", ".join(filter(None, undelivered)) or None
    if view.state == "leftover" and text is None:
        text = "runs that were not ended in MLflow" if view.runs else None
    paths = [session.dir, *([session.shared] if session.has_shared else [])]
    return Litter(
        name=session.id,
        what=f"{view.state} session ({view.program})",
        paths=[str(path) for path in paths],
        bytes=sum(_size(path) for path in paths),
        undelivered=text,
    )


def _of_shared(path: Path, sessions: dict[str, Session | Unreadable]) -> Litter | None:
    """A directory in shared memory: of a finished session, or of one that is gone (or kept elsewhere)."""
    name = session_of(path) or path.name
    session = sessions.get(name)
    if isinstance(session, Unreadable) or (session is not None and not (session.dir / "finished").exists()):
        return None
    try:
        # Before an agent is looked for: that may make the lock's file, and the directory a young one.
        age = time.time() - path.stat().st_mtime
    except FileNotFoundError:  # its program has just given it back
        return None
    if session is None and age < _YOUNG:
        return None
    stranger = _stranger(path)
    if stranger.agent_alive() or any(stranger.owner_alive(ring) for ring in stranger.rings()):
        return None
    unread = look(stranger).in_ring_bytes
    return Litter(
        name=name,
        what="shared memory of a finished session"
        if session is not None
        else "shared memory of a session not found here",
        paths=[str(path)],
        bytes=_size(path),
        undelivered=f"{size(unread)} unread in its ring" if unread else None,
    )


def _shared(settings: Settings) -> list[Path]:
    root = shared_root(settings)
    return sorted(path for path in root.glob(f"tailrace-{os.getuid()}-*") if session_of(path) and is_private(path))


def _remove_all(litter: Litter) -> None:
    """Removes it, also what is ours and whose mode forbids that; what links lead to stays.

    Raises:
        OSError: It stays, whole or in part.
    """
    import shutil

    for path in map(Path, litter.paths):
        if path.is_symlink() or not path.is_dir():
            path.unlink(missing_ok=True)
            continue
        if path.lstat().st_uid != os.geteuid():  # root could delete it, and must not by mistake
            raise PermissionError(errno.EPERM, "it belongs to another user", str(path))
        _unlock(path)
        for folder, names, _ in os.walk(path):
            for name in names:
                _unlock(Path(folder, name))
        shutil.rmtree(path)


def _unlock(folder: Path) -> None:
    with suppress(OSError):  # somebody else's: removing it reports that
        if not folder.is_symlink():
            folder.chmod(0o700)


def _size(directory: Path) -> int:
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with suppress(OSError):
                total += os.stat(os.path.join(folder, name)).st_size  # noqa: PTH116, PTH118 - thousands of files
    return total

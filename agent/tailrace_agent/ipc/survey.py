"""Every session in the state directory, and those that cannot be read: each by itself, so that one stops no other.

What keeps a session from being read is reported together with the mend. Where only its `session.json` is lost, and the
directory is ours, that file can be written anew: what it holds is known from elsewhere, or does not matter once the
programs are gone.
"""

from __future__ import annotations

import os
import pwd
import shlex
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from tailrace_agent.decoding import decode_json
from tailrace_agent.errors import SessionError, StateDirError
from tailrace_agent.files.dir_lock import alone_in
from tailrace_agent.files.ownership import is_private, read_own
from tailrace_agent.ipc import shared_dirs, status
from tailrace_agent.ipc.session import Session, boot_id, make_sessions_root, sessions_root, shared_root
from tailrace_agent.ipc.status import SessionInfo
from tailrace_agent.ipc.stored import UNREADABLE
from tailrace_agent.settings.settings import Settings
from tailrace_agent.text.quoting import printable

__all__ = ["Unreadable", "mend_for", "mended", "shared_of", "survey"]

_BEING_BORN: Final = 60.0
"""Seconds for which a directory may be without its `session.json`: a program may be at that very moment."""


class Unreadable(NamedTuple):
    """What lies among the sessions and cannot be read as one.

    Attributes:
        path: Where.
        problem: What is wrong with it.
        mend: What to do about it.
        ours: A directory of this user of which only `session.json` cannot be read: see `mended`.
        since: When it was changed last (epoch seconds).
    """

    path: Path
    problem: str
    mend: str
    ours: bool
    since: float

    @property
    def name(self) -> str:
        """As it can be printed."""
        return printable(self.path.name)


def survey(settings: Settings) -> Iterator[Session | Unreadable]:
    """Everything among the sessions, oldest first; what begins with a dot is nobody's.

    Raises:
        StateDirError: The directory of all sessions cannot be read, or is another user's; the message says what to do.
    """
    root = sessions_root(settings)
    try:
        names = sorted(os.listdir(root))  # noqa: PTH208 - thousands
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise StateDirError(f"cannot read {root}: {error.strerror}; {_permit(root, error)}") from error
    make_sessions_root(settings)  # else somebody else's: it is not believed
    for name in names:
        path = root / name
        if not name.startswith(".") and (found := _open(path, settings)) is not None:
            yield found


def shared_of(path: Path, settings: Settings) -> Path:
    """Where a session of this directory has, or had, its shared memory if nothing else records that."""
    return shared_dirs.made_by_us(shared_root(settings), path.name)


def mend_for(directory: Path) -> str | None:
    """The command that makes a session usable of which a part is somebody else's, or closed; None where none is."""
    try:
        parts = [directory, *directory.iterdir()]
        if all(part.lstat().st_uid == os.getuid() for part in parts):
            closed = any(not os.access(part, os.R_OK | os.W_OK) for part in parts)
            return f"chmod -R u+rwX {shlex.quote(printable(str(directory)))}" if closed else None
        return _permit(directory, None)
    except PermissionError as error:
        return _permit(directory, error)
    except OSError:  # deleted meanwhile
        return None


def mended(found: Unreadable, settings: Settings) -> Session:
    """The session, with a `session.json` written anew; the one that cannot be read is kept beside it.

    Raises:
        OSError: It cannot be written.
        SessionError: It is not for us to mend.
    """
    if not found.ours:
        raise SessionError(f"{printable(str(found.path))} {found.problem}")
    with alone_in(found.path):
        try:
            return Session.open(found.path)  # another process was quicker, and may be using it
        except SessionError:
            pass
        file = found.path / "session.json"
        if os.path.lexists(file):  # kept: what it held may be read by a person, or by another version
            file.rename(file.with_name(f"session.json.damaged-{time.time_ns()}"))
        info = SessionInfo(
            id=found.path.name,
            hostname=os.uname().nodename,
            boot=boot_id(),
            pid=0,  # unknown, and known as such: no new agent waits for a program that is just beginning (`is_newborn`)
            created=found.since,
            program="?",
            cwd="/",
            shared=str(shared_of(found.path, settings)),
            unguessable=os.urandom(16).hex(),
            settings=settings,
        )
        status.write(file, info, durable=True)
        return Session(found.path, info)


def _open(path: Path, settings: Settings) -> Session | Unreadable | None:
    """What is there, or None when it has gone meanwhile, or is about to come."""
    try:
        if stat.S_ISDIR(path.lstat().st_mode):
            return Session.open(path)
    except SessionError:
        pass
    except OSError:
        return None
    return _unreadable(path, settings)


def _unreadable(path: Path, settings: Settings) -> Unreadable | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    shown = shlex.quote(printable(str(path)))
    mine, since = found.st_uid == os.getuid(), found.st_mtime
    if not stat.S_ISDIR(found.st_mode):
        kind = "a symbolic link, which is not followed" if stat.S_ISLNK(found.st_mode) else "no directory"
        return Unreadable(path, f"is {kind}", f"move it away, or: rm {shown}", False, since)
    try:
        read_own(path / "session.json")
    except FileNotFoundError:
        if time.time() - since < _BEING_BORN:
            return None
        problem = "has no session.json"
    except PermissionError as error:
        owner = "" if mine else f"belongs to {_user(found.st_uid)} and "
        return Unreadable(path, f"{owner}cannot be read ({error.strerror})", _permit(path, error), False, since)
    except OSError as error:
        problem = f"has a session.json that cannot be read ({error.strerror})"
    else:
        problem = f"has a session.json that cannot be read ({_fault(path / 'session.json')})"
    if not mine:
        return Unreadable(path, problem, _permit(path, None), False, since)
    if is_private(shared_of(path, settings)):
        mend = "`tailrace sync` writes that anew and delivers what is there"
    else:
        mend = f"if no other machine uses it: tailrace sync {shlex.quote(printable(path.name))} --force"
    return Unreadable(path, problem, mend, True, since)


def _fault(file: Path) -> str:
    try:
        decode_json(read_own(file), SessionInfo)
    except UNREADABLE as error:
        return str(error) or type(error).__name__
    except OSError as error:
        return str(error.strerror)
    return "it was written meanwhile"


def _permit(path: Path, error: OSError | None) -> str:
    """The command that makes a directory ours to read."""
    shown = shlex.quote(printable(str(path)))
    try:
        mine = path.stat().st_uid == os.getuid()
    except OSError:
        mine = False
    if mine and isinstance(error, PermissionError):
        return f"chmod -R u+rwX {shown}"
    return f"sudo chown -R {_user(os.getuid())} {shown}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # in a container
        return str(uid)

"""A session: one program's directory, and the locks that show who lives.

Two places. What must outlast a reboot is in the state directory: `sessions/<id>/` with `session.json`, `spool.db`,
`agent.log`, `artifacts/` and spill files. What must be fast, and needs only to outlast processes, is in shared memory:
`tailrace-<uid>-<id>/` with rings, locks and status files. Directories are 0700, files 0600, and what is not this
user's alone is not believed (`ownership`): others may have made it, since the first was removed by a reboot.

Who lives is known from the kernel, never from a process id:

* The agent holds an `flock` on `agent.lock`. It is taken by whoever starts the agent and inherited through exec, so
  there is no moment at which a starting agent looks dead, and no two agents.
* The owner of a ring holds a POSIX record lock on `<ring>.owner`. Forked children do not inherit it, so it falls with
  the owner even while data-loader workers live on. It would also fall if the owner closed another descriptor of that
  file: only the agent opens it, and a thread-hosted agent (the same process) does not look.
* `join.lock` orders "a process joins" against "the agent leaves": after `closed` exists, nobody joins.

Lock files are in shared memory because `flock` on a network file system is a record lock in disguise.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tailrace_agent.errors import SessionError, StateDirError
from tailrace_agent.files.descriptors import NONE_LEFT
from tailrace_agent.files.dir_lock import alone_in, let_go, locked
from tailrace_agent.files.ownership import (
    is_own,
    is_own_file,
    is_private,
    make_parents,
    make_private,
    open_own,
    own_directory,
    remove_tree,
)
from tailrace_agent.ipc import shared_dirs, status
from tailrace_agent.ipc.device_slots import SlotsReader
from tailrace_agent.ipc.ring_format import MIN_BYTES
from tailrace_agent.ipc.ring_reader import RingReader
from tailrace_agent.ipc.ring_writer import RingWriter
from tailrace_agent.ipc.shared_dirs import shared_root
from tailrace_agent.ipc.status import SessionInfo
from tailrace_agent.runtime.processes import boot_id
from tailrace_agent.runtime.program import program_name
from tailrace_agent.settings.settings import Settings, state_dir

__all__ = ["Session", "boot_id", "make_sessions_root", "program_name", "sessions_root", "shared_root"]

_ring_numbers = itertools.count()
_rings_here: set[str] = set()
"""Names of the rings that this process has made. Not its id: another process may have the same in its container."""
_begun_here: set[str] = set()
"""Ids of the sessions that this process has begun."""


def _forget_in_child() -> None:
    _rings_here.clear()
    _begun_here.clear()


os.register_at_fork(after_in_child=_forget_in_child)


def sessions_root(settings: Settings) -> Path:
    """The directory that holds the sessions. It need not be there, nor be this user's."""
    return state_dir(settings) / "sessions"


def make_sessions_root(settings: Settings) -> Path:
    """The directory that holds the sessions, made if it is missing, and this user's alone.

    Raises:
        StateDirError: It cannot be made, or belongs to somebody else; the message says what to do.
    """
    root = sessions_root(settings)
    try:
        if settings.dir is None:
            own_directory(root.parent)
        else:  # who names a directory trusts it
            make_parents(root.parent)
        own_directory(root)
    except OSError as error:
        raise _state_dir_error(root, error) from error
    return root


def _state_dir_error(directory: Path, error: OSError) -> StateDirError:
    return StateDirError(
        f"cannot write to {directory}: {error.strerror or error}. "
        "Set TAILRACE_DIR (or the setting `dir`) to a directory that you can write to."
    )


class Session:
    """One program's directory. Create it with `create`, find it again with `open`.

    Attributes:
        dir: The directory in the state directory.
        shared: The directory in shared memory. Whoever wants something from it checks `has_shared` first.
        info: What `session.json` holds.

    Thread safety: all methods from any thread.
    """

    def __init__(self, directory: Path, info: SessionInfo) -> None:
        self.dir = directory
        self.info = info
        self.shared = Path(info.shared)

    @classmethod
    def create(cls, settings: Settings, *, cwd: str, program: str) -> Session:
        """A new session with an id of its own.

        Raises:
            StateDirError: The state directory cannot be written to; the message says what to do.
            SessionError: There is no place for rings and locks; the message says what to do.
        """
        root = make_sessions_root(settings)
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.urandom(3).hex()}"  # sorts by its beginning
        shared_in = shared_root(settings)
        try:
            shared = shared_dirs.make(shared_in, name)
        except OSError as error:
            raise SessionError(
                f"cannot make a directory in {shared_in}: {error.strerror or error}. "
                "Set TAILRACE_RING_DIR (or the setting `ring_dir`) to another one."
            ) from error
        info = SessionInfo(
            id=name,
            hostname=os.uname().nodename,
            boot=boot_id(),
            pid=os.getpid(),
            created=time.time(),
            program=program,
            cwd=cwd,
            shared=str(shared),
            unguessable=os.urandom(16).hex(),
            settings=settings,
        )
        session = cls(root / name, info)
        try:
            session._populate()
        except OSError as error:
            session.remove()
            raise _state_dir_error(root, error) from error
        _begun_here.add(name)
        return session

    @classmethod
    def open(cls, directory: Path) -> Session:
        """A session that exists.

        Raises:
            SessionError: There is none, its `session.json` cannot be read, or somebody else may have written it.
        """
        info = status.read(directory / "session.json", SessionInfo) if is_own(directory) else None
        if info is None:
            raise SessionError(f"{directory} holds no session that this version can read, or not one of this user's")
        # Shared memory is found, and deleted, by the id: for that the word of a file is not enough, its place is.
        return cls(directory, msgspec.structs.replace(info, id=directory.name))

    @classmethod
    def all(cls, settings: Settings) -> Iterator[Session]:
        """Every session in the state directory, oldest first; unreadable ones are passed over (see `survey`).

        Raises:
            StateDirError: The directory of sessions belongs to somebody else.
        """
        root = sessions_root(settings)
        if os.path.lexists(root):
            make_sessions_root(settings)
        try:
            names = sorted(os.listdir(root))  # noqa: PTH208 - thousands
        except OSError:
            return
        for name in names:
            with contextlib.suppress(SessionError):
                yield cls.open(root / name)

    def _populate(self) -> None:
        for directory in (self.dir, self.artifacts):
            make_private(directory)
        self._make_locks()
        # Last: until it is there, the directory counts as just being made. Not durable, since this is in the training
        # process: the agent waits for the disk in its place.
        status.write(self.dir / "session.json", self.info)

    def _make_locks(self) -> None:
        for lock in ("agent.lock", "join.lock"):
            os.close(self._open(lock, os.O_RDWR | os.O_CREAT))

    @property
    def id(self) -> str:
        """The session's id, the name of its directory."""
        return self.info.id

    @property
    def here(self) -> bool:
        """Whether its rings can be read by this machine as it runs now (same host, same boot)."""
        return self.info.hostname == os.uname().nodename and self.info.boot == boot_id()

    @property
    def elsewhere(self) -> bool:
        """Whether it belongs to another host, where it may well be alive."""
        return self.info.hostname != os.uname().nodename

    @property
    def artifacts(self) -> Path:
        """Where artifacts wait for their upload."""
        return self.dir / "artifacts"

    @property
    def begun_here(self) -> bool:
        """Whether this very process has begun it."""
        return self.id in _begun_here

    @property
    def has_shared(self) -> bool:
        """Whether its directory in shared memory is there, and this user's alone."""
        return shared_dirs.is_named(self.shared, self.id) and is_private(self.shared)

    def touch_shared(self) -> None:
        """Makes the shared directory again after a reboot has removed it, under another name: one for all who do.

        Raises:
            OSError: It cannot be made.
        """
        with alone_in(self.dir):
            self._read_again()
            self.shared = Path(self.info.shared)
            if not self.has_shared:
                if not self.info.unguessable:  # begun by an older version
                    self._write(unguessable=os.urandom(16).hex())
                self.shared = shared_dirs.make_again(self._root, self.id, self.info.unguessable)
                self._write(shared=str(self.shared))
            self._make_locks()

    @property
    def _root(self) -> Path:
        """Where it has its shared directory."""
        named = shared_dirs.is_named(self.shared, self.id)
        return self.shared.parent if named else shared_root(self.info.settings)

    def _open(self, name: str, flags: int) -> int:
        """A file in shared memory.

        Raises:
            OSError: It cannot be opened, or it is not this user's.
        """
        if not self.has_shared:
            raise FileNotFoundError(errno.ENOENT, "it is gone, or not this user's alone", str(self.shared))
        return open_own(self.shared / name, flags)

    # -- rings -----------------------------------------------------------------------------------------------------

    def rings(self) -> list[str]:
        """Names of the rings, sorted."""
        if not self.has_shared:
            return []
        return sorted(path.stem for path in self.shared.glob("*.ring") if is_own_file(path))

    def is_ring_of_this_process(self, name: str) -> bool:
        """Whether this very process has made the ring."""
        return name in _rings_here

    def new_ring(self, **hooks: object) -> RingWriter:
        """A ring of this process; it shrinks to what shared memory has room for.

        Args:
            **hooks: `on_drop`, `on_sample` and `on_spill` of `RingWriter`.

        Raises:
            SessionError: The session is closed, or no ring can be made anywhere.
        """
        # The process id is for people. It does not distinguish rings: in another container it is another process's.
        name = f"{os.getpid()}-{next(_ring_numbers):04}-{os.urandom(8).hex()}"
        # Shared: processes may join side by side, but none while the agent leaves.
        with self._join_lock(fcntl.LOCK_SH):
            if self.closed:
                raise SessionError(f"session {self.id} is closed")
            # Before the ring: one that appears without a held lock would be taken for a dead program's.
            owner = self._open(f"{name}.owner", os.O_RDWR | os.O_CREAT | os.O_EXCL)
            fcntl.lockf(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held until this process is gone: never closed
            # Before the ring, too: an agent in this process would look at its lock, and so take it away.
            _rings_here.add(name)
            try:
                return self._make_ring(name, hooks)
            except BaseException:
                _rings_here.discard(name)
                raise

    def reader(self, name: str) -> RingReader:
        """Opens a ring for reading.

        Raises:
            SessionError: It cannot be believed.
            OSError: It cannot be opened.
        """
        return RingReader(self.shared / f"{name}.ring", self.spill_path(name))

    def slots(self, name: str) -> SlotsReader:
        """Opens the slots beside a ring, for values that devices write.

        Raises:
            SessionError: They are none.
            OSError: They cannot be opened; there may be none.
        """
        return SlotsReader(self.slots_path(name))

    def slots_path(self, name: str) -> Path:
        """Where these are."""
        return self.shared / f"{name}.slots"

    def spill_path(self, name: str) -> Path:
        """Where a ring's overflow goes."""
        return self.dir / f"spill-{name}"

    def owner_alive(self, name: str) -> bool:
        """Whether the process that writes to the ring still runs. Not for rings of this process."""
        try:
            fd = self._open(f"{name}.owner", os.O_RDWR)
        except OSError as error:
            return error.errno in NONE_LEFT  # then it is unknown
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False

    def remove_ring(self, name: str) -> None:
        """Deletes a ring that was read to its end and whose owner is gone."""
        self.spill_path(name).unlink(missing_ok=True)
        if not self.has_shared:
            return
        for suffix in ("ring", "owner", "bell", "slots"):
            (self.shared / f"{name}.{suffix}").unlink(missing_ok=True)

    def bell(self, name: str) -> Path:
        """The pipe at whose other end the process that owns a ring listens, if it does."""
        return self.shared / f"{name}.bell"

    def ring_bell(self, name: str) -> None:
        """Notifies the process that owns a ring of something new in the status of its runs."""
        with contextlib.suppress(OSError):  # nobody listens, or it was notified already and has not looked yet
            if not self.has_shared:
                return
            fd = os.open(self.bell(name), os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.write(fd, b"!")
            finally:
                os.close(fd)

    def _make_ring(self, name: str, hooks: dict[str, object]) -> RingWriter:
        settings = self.info.settings
        room = os.statvfs(self.shared)
        free = room.f_bavail * room.f_frsize
        # A sixteenth: a container has 64 MB as a rule, and in it there is more than one process.
        size = max(min(settings.ring_bytes, free // 16), MIN_BYTES)
        path = self.shared / f"{name}.ring"
        while True:
            try:
                ring = RingWriter(
                    path.with_suffix(".new"),
                    size,
                    self.spill_path(name),
                    spill_max=settings.spool_max_bytes // 4,
                    **hooks,  # type: ignore[arg-type]
                )
                # Its name comes last: an agent would find a file without a header to be no ring.
                ring.path.rename(path)
                ring.path = path
                return ring
            except OSError as error:
                path.with_suffix(".new").unlink(missing_ok=True)
                if size <= MIN_BYTES:
                    raise SessionError(
                        f"no room for a ring in {self.shared}: {error.strerror}. Free some, or set ring_dir."
                    ) from error
                size = max(size // 2, MIN_BYTES)  # others may have taken what was free

    # -- who lives -------------------------------------------------------------------------------------------------

    def try_agent_lock(self) -> int | None:
        """Takes the agent's place: a descriptor that holds the lock, or None while an agent lives.

        To give it back takes `let_go`: a child that was forked meanwhile has the descriptor, too.

        Raises:
            OSError: The shared directory is gone, or not this user's: see `touch_shared`.
        """
        fd = self._open("agent.lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(fd)
            return None
        return fd

    def agent_alive(self) -> bool:
        """Whether an agent holds the session."""
        if not self.has_shared:
            return False
        try:
            fd = self.try_agent_lock()
        except FileNotFoundError:  # it has been given back just now
            return False
        if fd is not None:
            let_go(fd)
        return fd is None

    def wait_for_agent_death(self) -> None:
        """Blocks, at no cost, until no agent holds the session.

        Raises:
            OSError: The shared directory is gone.
        """
        fd = self._open("agent.lock", os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)  # shared: the keepers of all processes wake together
            fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough: a child forked meanwhile has the descriptor too
        finally:
            os.close(fd)

    def close_if_deserted(self) -> bool:
        """Closes the session to joiners if no ring is left; the agent's last step. False: somebody joined."""
        with self._join_lock(fcntl.LOCK_EX):
            if self.rings():
                return False
            os.close(self._open("closed", os.O_WRONLY | os.O_CREAT))
            return True

    @property
    def closed(self) -> bool:
        """Whether its agent has left with everything delivered."""
        return self.has_shared and (self.shared / "closed").exists()

    def remove_shared(self) -> None:
        """Gives the shared memory back, if it is this session's."""
        if self.has_shared:
            remove_tree(self.shared)

    def remove(self) -> None:
        """Deletes the session altogether."""
        # Before its directory, by which it is found: so a kill in between leaves nothing that nobody finds.
        self.remove_shared()
        remove_tree(self.dir)

    def save(self, **changes: object) -> None:
        """Rewrites `session.json` with some fields changed; what others have changed meanwhile stays.

        Raises:
            OSError: It cannot be written.
        """
        with alone_in(self.dir):
            self._read_again()
            self._write(**changes)

    def _read_again(self) -> None:
        info = status.read(self.dir / "session.json", SessionInfo)
        if info is not None:
            self.info = msgspec.structs.replace(info, id=self.id)

    def _write(self, **changes: object) -> None:
        self.info = msgspec.structs.replace(self.info, **changes)
        status.write(self.dir / "session.json", self.info, durable=True)

    @contextlib.contextmanager
    def _join_lock(self, how: int) -> Iterator[None]:
        try:
            fd = self._open("join.lock", os.O_RDWR)
        except OSError as error:
            why = f"cannot be joined: {error.strerror}" if error.errno in NONE_LEFT else "is gone"
            raise SessionError(f"session {self.id} {why}") from error
        with locked(fd, how, self.shared / "join.lock"):
            yield

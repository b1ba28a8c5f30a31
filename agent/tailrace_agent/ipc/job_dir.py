"""What the processes of one job share on one node: which session is theirs, who is their parent, and how that ended.

`jobs/<hash>/` in the state directory, with `session` (the directory of the session that the first process has made),
`owner` (the process of `tailrace run`, if that is the parent of all) and `outcome` (how its command ended). The hash is
of the key, the host and its boot: a home directory that several nodes share has one for each of them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from tailrace_agent.decoding import decode_json
from tailrace_agent.errors import StateDirError
from tailrace_agent.files.dir_lock import alone_in
from tailrace_agent.files.ownership import is_own, make_parents, own_directory, read_own, remove_tree, write_own
from tailrace_agent.runtime.processes import Fate, Process, boot_id, is_alive
from tailrace_agent.settings.settings import Settings, state_dir

__all__ = ["JobDir", "Outcome", "Owner"]

_T = TypeVar("_T")
_OLD: Final = 3600.0
"""Seconds after which a directory is deleted that leads nowhere."""


class Owner(msgspec.Struct, frozen=True):
    """The parent of a job: `tailrace run`.

    Attributes:
        process: It.
        command: What it has started, for people.
    """

    process: Process
    command: str


class Outcome(msgspec.Struct, frozen=True):
    """How the owner's command ended, at `time_ms`."""

    fate: Fate
    time_ms: int


class JobDir:
    """A job on this node. It need not exist.

    Args:
        settings: In force: they say where state is kept.
        key: The job's.

    Thread safety: every method from any thread and any process.
    """

    def __init__(self, settings: Settings, key: str) -> None:
        self._root = state_dir(settings) / "jobs"
        known = f"{key}\0{os.uname().nodename}\0{boot_id()}"
        name = hashlib.sha256(known.encode(errors="surrogateescape"))
        self.path = self._root / name.hexdigest()[:16]

    def make(self) -> None:
        """Makes it, and deletes those of jobs that are over.

        Raises:
            StateDirError: It cannot be made, or is somebody else's.
        """
        try:
            make_parents(self._root.parent)
            own_directory(self._root)
            own_directory(self.path)
        except OSError as error:
            raise StateDirError(f"cannot write to {self.path}: {error.strerror or error}") from error
        with contextlib.suppress(OSError):
            self._sweep()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While no other process of the job is in there.

        Raises:
            OSError: Another one does not leave it.
        """
        with alone_in(self.path):
            yield

    @property
    def session(self) -> str | None:
        """The directory of the session that the job's processes share on this node, if one has made it."""
        return self._read("session")

    def note_session(self, directory: Path) -> None:
        """The processes that come later find it.

        Raises:
            OSError: There is no room for it.
        """
        self._write("session", os.fsencode(directory))

    @property
    def owner(self) -> Owner | None:
        """The job's parent, if it has one."""
        return self._decoded("owner", Owner)

    def own(self, owner: Owner) -> None:
        """This process is the parent.

        Raises:
            OSError: There is no room for it.
        """
        (self.path / "outcome").unlink(missing_ok=True)
        self._write("owner", msgspec.json.encode(owner))

    @property
    def owned(self) -> bool:
        """Whether the job has a parent that lives."""
        owner = self.owner
        return owner is not None and is_alive(owner.process)

    @property
    def outcome(self) -> Outcome | None:
        """How the parent's command ended, once it has."""
        return self._decoded("outcome", Outcome)

    def end(self, fate: Fate) -> None:
        """The parent's command has ended.

        Raises:
            OSError: There is no room for it.
        """
        self._write("outcome", msgspec.json.encode(Outcome(fate, time.time_ns() // 1_000_000)))

    def remove(self) -> None:
        """Deletes it."""
        remove_tree(self.path)

    def _sweep(self) -> None:
        now = time.time()
        for other in self._root.iterdir():
            if other == self.path or now - other.stat().st_mtime < _OLD:
                continue
            found = JobDir.__new__(JobDir)
            found._root, found.path = self._root, other
            session = found.session
            if not found.owned and (session is None or not (Path(session) / "session.json").exists()):
                found.remove()

    def _read(self, name: str) -> str | None:
        if not is_own(self.path):
            return None
        try:
            return os.fsdecode(read_own(self.path / name)) or None
        except OSError:
            return None

    def _decoded(self, name: str, kind: type[_T]) -> _T | None:
        text = self._read(name)
        if text is None:
            return None
        try:
            return decode_json(text, kind)
        except (msgspec.DecodeError, UnicodeError):  # damaged: as if it had not been written
            return None

    def _write(self, name: str, data: bytes) -> None:
        new = self.path / f"{name}.{os.getpid()}.new"
        write_own(new, data)
        # By a rename: others read it at any moment.
        new.replace(self.path / name)

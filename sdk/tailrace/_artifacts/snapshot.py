"""Artifacts taken as they are at the call, so that what happens to the file afterwards is nobody's concern.

Invariants:

1. A snapshot appears in the staging root under its final name at once and whole (a rename), or not at all. What a
   crash leaves behind has a name that starts with `PARTIAL`, and may be deleted by whoever owns the directory.
2. A snapshot never changes afterwards, except with `mode="link"` and a writer that changes the file in place.
3. A failure leaves nothing behind.

Layout: `staging_root/<unique name>/<source's name>`. Directories are 0700, files 0600 (a hard link keeps the mode of
the file that it shares).

Thread safety: all functions may be called from any thread and process at once, on the same staging root too.
"""

# Nothing here uses pathlib: a directory of a hundred thousand files is walked in half the time.
# ruff: noqa: PTH100, PTH101, PTH102, PTH103, PTH104, PTH114, PTH116, PTH118, PTH119, PTH208

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

from tailrace._artifacts.file_copy import How, take_file, weaker

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["PARTIAL", "Snapshot", "snapshot", "stage"]

PARTIAL: Final = ".partial-"
"""How the name of an unfinished snapshot begins."""

# The message then names the state directory as well: the file itself is not at fault.
_OF_THE_TARGET: Final = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_NAMED: Final = "_named_by_tailrace"

Mode = Literal["copy", "link"]


class Snapshot(NamedTuple):
    """Something in the staging root, whole and ours.

    Attributes:
        name: Name of the directory in the staging root (`records.Artifact.staged`); it has exactly one entry.
        bytes: Sizes of all files together.
        how: `reflink`, `link` or `copy`: for a directory the dearest that was needed.
        skipped: `path: why` of what a directory held and could not be taken: sockets, pipes, devices, broken links,
            links to a directory above, files that vanished meanwhile.
    """

    name: str
    bytes: int
    how: How
    skipped: tuple[str, ...] = ()

    @property
    def size(self) -> int | None:
        """`bytes` of what nobody can change any more; None where a file is shared with its owner."""
        return None if self.how == "link" else self.bytes


def snapshot(source: Path, staging_root: Path, *, mode: Mode = "copy", contents: bool = False) -> Snapshot:
    """Takes a file or a directory as it is now.

    By reflink where the file system can (Btrfs, XFS, bcachefs): microseconds, whatever the size. Else, with
    `mode="link"`, by hard link: as fast, but safe only when the file is later replaced by a rename, or deleted, never
    written to in place. Else by a copy in the kernel, with the GIL released, holes kept. A file that grows meanwhile
    is taken up to its size at the call; one that shrinks, as far as it goes.

    Args:
        source: A file or a directory; symbolic links are followed.
        staging_root: Where to; created when missing. It is left out when it lies inside `source`.
        mode: `copy`, or `link` to allow hard links.
        contents: `source` must be a directory (`log_artifacts`).

    Returns:
        What was taken.

    Raises:
        OSError: It is missing, unreadable, neither a file nor a directory, or there is no space. The message names
            the path, `errno` gives the reason, and nothing is left behind.

    Example:
        >>> snapshot(Path("model.pt"), session / "artifacts")
        Snapshot(name='18c2f…', bytes=104857600, how='reflink', skipped=())
    """
    path = os.fspath(source)
    try:
        if contents and not stat.S_ISDIR(os.stat(path).st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "it is no directory")
        # `abspath`: of `.` the name is that of the directory. Only `/` has none.
        name = os.path.basename(os.path.abspath(path)) or "root"
        with _Entry(os.fspath(staging_root)) as entry:
            taking = _Taking(mode, entry.root)
            taking.take(path, os.path.join(entry.path, name))
            return Snapshot(entry.keep(), taking.bytes, taking.how or "copy", tuple(taking.skipped))
    except OSError as error:
        raise _named(error, path, into=os.fspath(staging_root)) from error


def stage(staging_root: Path, name: str, write: Callable[[Path], None]) -> Snapshot:
    """Puts a new file or directory into the staging root; it appears there whole, or not at all.

    Args:
        staging_root: Where to; created when missing.
        name: Its own name.
        write: Writes it at the path that it is given. Whatever it raises comes out, and nothing is left behind.

    Returns:
        What was staged.

    Example:
        >>> stage(session / "artifacts", "notes.txt", lambda path: path.write_text("hello"))
        Snapshot(name='18c2f…', bytes=5, how='copy', skipped=())
    """
    from pathlib import Path

    with _Entry(os.fspath(staging_root)) as entry:
        path = Path(entry.path, name)
        write(path)
        # Libraries write with modes of their own; the state directory is this user's alone.
        size = _sealed(entry.path)
        return Snapshot(entry.keep(), size, "copy")


def _sealed(folder: str) -> int:
    """Makes everything below a directory ours alone; its size in all."""
    size = 0
    for path, directories, files in os.walk(folder):
        for name in directories:
            os.chmod(os.path.join(path, name), 0o700)
        for name in files:
            os.chmod(os.path.join(path, name), 0o600)
            size += os.stat(os.path.join(path, name)).st_size
    return size


def _make(directory: str) -> None:
    os.mkdir(directory, 0o700)
    os.chmod(directory, 0o700)  # the umask may have taken some of it


class _Entry:
    """A directory in the staging root that gets its name when it is complete, and vanishes if it never is."""

    def __init__(self, root: str) -> None:
        self.root = root
        # Random: in two containers that share the directory process ids are the same.
        self.name = f"{os.getpid():x}-{os.urandom(8).hex()}"
        self.path = os.path.join(root, PARTIAL + self.name)
        self.kept = False

    def __enter__(self) -> _Entry:
        os.makedirs(self.root, mode=0o700, exist_ok=True)
        _make(self.path)
        return self

    def keep(self) -> str:
        # Within one directory, so on every POSIX file system it is done at once or not at all.
        os.rename(self.path, os.path.join(self.root, self.name))
        self.kept = True
        return self.name

    def __exit__(self, *_: object) -> None:
        if not self.kept:
            import shutil

            # What is left all the same has the prefix, and goes with the session.
            shutil.rmtree(self.path, ignore_errors=True)


class _Taking:
    """One snapshot in the making.

    Args:
        mode: As for `snapshot`.
        root: The staging root, never to be taken itself.
    """

    def __init__(self, mode: Mode, root: str) -> None:
        self._link = mode == "link"
        # By its identity, not its path: a link may lead to it.
        self._root = _identity(os.stat(root))
        self.bytes = 0
        self.how: How | None = None
        self.skipped: list[str] = []

    def take(self, source: str, target: str) -> None:
        """Takes what the user named: here everything that goes wrong is an error."""
        found = os.stat(source)
        if stat.S_ISDIR(found.st_mode):
            self._take_directory(source, target, found)
        elif stat.S_ISREG(found.st_mode):
            self._take_file(source, target)
        else:
            raise OSError(errno.EINVAL, "it is neither a file nor a directory")

    def _take_file(self, source: str, target: str) -> None:
        try:
            size, how = take_file(source, target, link=self._link)
        except OSError as error:
            raise _named(error, source) from error
        self.bytes += size
        self.how = how if self.how is None else weaker(self.how, how)

    def _take_directory(self, source: str, target: str, found: os.stat_result) -> None:
        """Depth first, with the identities of all directories above, so that a link upwards ends there."""
        # A list and not recursion: a tree may be deeper than Python's stack.
        todo = [(source, target, frozenset({_identity(found)}))]
        while todo:
            directory, copy, above = todo.pop()
            _make(copy)
            for name in self._names(directory):
                below = os.path.join(directory, name)
                entered = self._take_entry(below, os.path.join(copy, name), above)
                if entered is not None:
                    todo.append((below, os.path.join(copy, name), above | {entered}))

    def _take_entry(self, path: str, target: str, above: frozenset[tuple[int, int]]) -> tuple[int, int] | None:
        """Takes a file, or gives the identity of a directory that is to be entered."""
        try:
            found = os.stat(path)
            if stat.S_ISREG(found.st_mode):
                self._take_file(path, target)
                return None
        # Checkpoints are deleted while a directory is walked: what goes meanwhile fails nothing.
        except FileNotFoundError:
            broken = os.path.islink(path)
            self.skipped.append(f"{path}: {'a broken link' if broken else 'it vanished meanwhile'}")
            return None
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise _named(error, path) from error
            self.skipped.append(f"{path}: a link to itself")
            return None
        if not stat.S_ISDIR(found.st_mode):
            self.skipped.append(f"{path}: neither a file nor a directory")
            return None
        identity = _identity(found)
        if identity in above:
            self.skipped.append(f"{path}: a link to a directory above")
            return None
        return None if identity == self._root else identity

    def _names(self, directory: str) -> list[str]:
        try:
            # Sorted, so that what is skipped is reported in the same order each time.
            return sorted(os.listdir(directory))
        except FileNotFoundError:
            self.skipped.append(f"{directory}: it vanished meanwhile")
            return []
        except OSError as error:
            raise _named(error, directory) from error


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _named(error: OSError, path: str, into: str = "") -> OSError:
    """The same error with a message that a person understands; its class follows from its errno."""
    # Marked, since it passes several hands on its way up.
    if getattr(error, _NAMED, False):
        return error
    reason = error.strerror or str(error) or type(error).__name__
    place = f" (into {into})" if into and error.errno in _OF_THE_TARGET else ""
    named = OSError(error.errno or errno.EIO, f"cannot take the artifact as it is now{place}: {reason}", path)
    setattr(named, _NAMED, True)
    return named

"""Whose a file or a directory is: what this user may believe, lock in, write to and delete.

What this module promises:

* What this user alone can have made is believed: a *private* directory is a real one (no link), this user's, without
  any permission for others; a file of ours is a regular one, this user's, under one name, that nobody else may write
  to. Everything else is left as it is: not read, not written to, not deleted.
* What is made here is 0700 or 0600, whatever the program's umask is.
* Settings that are found by looking around are believed as git believes a repository: if they and their directory
  belong to this user or to root, and nobody else may write to them. Under sudo the user who called it counts, too.

The same user is trusted everywhere: whoever can write as us can read our tokens, too.

Thread safety: every function from any thread.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from tailrace_agent.files.descriptors import open_kept

__all__ = [
    "is_own",
    "is_own_file",
    "is_private",
    "make_parents",
    "make_private",
    "open_own",
    "own_directory",
    "read_own",
    "remove_tree",
    "why_not_believed",
    "write_own",
]

_OTHERS = 0o077


def is_private(directory: Path) -> bool:
    """Whether it is a real directory, this user's, and closed to everybody else."""
    found = _look(directory)
    return found is not None and _is_our_directory(found) and not found.st_mode & _OTHERS


def is_own(directory: Path) -> bool:
    """Whether it is a real directory, this user's, to which nobody else may write."""
    found = _look(directory)
    return found is not None and _is_our_directory(found) and _other_writer(found) is None


def is_own_file(path: Path) -> bool:
    """Whether it is a regular file, this user's, under one name, to which nobody else may write."""
    found = _look(path)
    return found is not None and _is_our_file(found)


def make_private(directory: Path) -> None:
    """Makes a directory for this user alone. Its parent must be there.

    Raises:
        FileExistsError: There is something of that name, whosever it is.
        OSError: It cannot be made, or its file system keeps no permissions.
    """
    _make(directory)
    if not is_private(directory):
        raise PermissionError(errno.EPERM, "its file system does not keep it from other users", str(directory))


def make_parents(directory: Path) -> None:
    """Makes a directory, and those above it that are missing, each for this user alone. What is there stays as it is.

    Raises:
        OSError: It cannot be made.
    """
    if directory.is_dir():
        return
    make_parents(directory.parent)
    try:
        _make(directory)
    except FileExistsError:
        if not directory.is_dir():  # else another process was quicker
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(directory)) from None


def _make(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    if os.lstat(directory).st_mode & 0o700 != 0o700:  # the umask has taken some of it
        directory.chmod(0o700)


def own_directory(directory: Path) -> None:
    """Makes a directory of this user's, or sees to it that one that is there belongs to nobody else, and closes it.

    A link counts as its target, if this user has made it.

    Raises:
        OSError: It cannot be made, or it belongs to somebody else; the message says so.
    """
    make_parents(directory)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        owners = {found.st_uid, os.lstat(directory).st_uid}
        if owners != {os.geteuid()}:
            owner = next(iter(owners - {os.geteuid()}))
            raise PermissionError(errno.EPERM, f"it belongs to another user ({_user(owner)})", str(directory))
        if found.st_mode & _OTHERS:
            os.fchmod(fd, 0o700)
            # Looked at anew: there are file systems that keep no permissions, and raise no error.
            if (writer := _other_writer(os.fstat(fd))) is not None:
                raise PermissionError(errno.EPERM, f"{writer} may write to it", str(directory))
    finally:
        os.close(fd)


def open_own(path: str | os.PathLike[str], flags: int) -> int:
    """As `open_kept`; the file is this user's, and no link.

    Raises:
        PermissionError: It is somebody else's, or somebody else may write to it.
        OSError: It cannot be opened.
    """
    return _open(path, flags, private=False)


def read_own(path: Path) -> bytes:
    """What a file of this user's holds.

    Raises:
        PermissionError: It is somebody else's, or somebody else may write to it, and come to it.
        OSError: It cannot be read.
    """
    with os.fdopen(_open(path, os.O_RDONLY, private=is_private(path.parent)), "rb") as file:
        return file.read()


def write_own(path: Path, data: bytes) -> None:
    """Makes a file, 0600 whatever the umask is, or writes it anew.

    Raises:
        OSError: It cannot be written.
    """
    with os.fdopen(open_own(path, os.O_WRONLY | os.O_CREAT), "wb") as file:
        file.truncate()  # not before it is known whose it is
        file.write(data)


def _open(path: str | os.PathLike[str], flags: int, *, private: bool) -> int:
    """A file of ours; in a `private` directory also one that others might write to if they could come to it.

    Older versions made such files, as the umask was.
    """
    fd = open_kept(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # a pipe of that name would keep us waiting
    found = os.fstat(fd)
    if _is_our_file(found) or (private and _is_our_only_name(found)):
        return fd
    os.close(fd)
    raise PermissionError(errno.EPERM, "it is no file of this user's alone", os.fspath(path))


def remove_tree(directory: Path) -> None:
    """Deletes a directory of this user's with all that is in it, and nothing that links lead to.

    What is no directory of this user's stays, and so does what cannot be deleted.
    """
    if is_own(directory):
        import shutil  # 8 ms, and not needed while training

        shutil.rmtree(directory, ignore_errors=True)


# ── Settings that are found by looking around ────────────────────────────────────────────────────────────────────────


def why_not_believed(found: os.stat_result) -> str | None:
    """Why a settings file, or a directory that may hold one, is not to be believed; None if it is."""
    if found.st_uid not in _believed_users():
        return f"belongs to another user ({_user(found.st_uid)})"
    writer = _other_writer(found)
    return None if writer is None else f"can be written to by {writer}"


def _believed_users() -> set[int]:
    users = {0, os.geteuid()}
    caller = os.environ.get("SUDO_UID", "")
    if os.geteuid() == 0 and caller.isascii() and caller.isdigit():
        users.add(int(caller))
    return users


# ── Who may write ────────────────────────────────────────────────────────────────────────────────────────────────────


def _look(path: Path) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:  # none, or in a place that may not be entered
        return None


def _is_our_directory(found: os.stat_result) -> bool:
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid()


def _is_our_file(found: os.stat_result) -> bool:
    return _is_our_only_name(found) and _other_writer(found) is None


def _is_our_only_name(found: os.stat_result) -> bool:
    # Under a second name it may be any file of ours: somebody else has linked it to here, to have us write to it.
    ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
    return ours and found.st_nlink < 2  # no name: it was deleted just now


def _other_writer(found: os.stat_result) -> str | None:
    """Who besides its owner may write to it, for a message."""
    if found.st_mode & stat.S_IWOTH:
        return "everybody"
    if found.st_mode & stat.S_IWGRP and not _is_alone_in(found.st_gid, found.st_uid):
        return f"its group ({_group(found.st_gid)})"
    return None


def _is_alone_in(gid: int, uid: int) -> bool:
    """Whether a group has nobody else in it: the one of each user's own, as most systems make it, or root's."""
    import grp
    import pwd

    try:
        group = grp.getgrgid(gid)
        user = pwd.getpwuid(uid).pw_name
    except KeyError:  # no such group or user here, as in a container: by its number it is the user's own
        return gid == uid
    return set(group.gr_mem) <= {user, "root"} and (group.gr_name == user or gid == 0)


def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _group(gid: int) -> str:
    import grp

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"gid {gid}"

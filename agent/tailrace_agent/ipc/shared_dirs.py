"""The directories of sessions in shared memory: where they are made, how they are named, which of them are believed.

Everybody may make directories in `/dev/shm`, under any name. So one of a session is never adopted: it is made anew, or
it is a private one of this user's, named after its session; whatever else has its name stays unread and undeleted.

It is called `tailrace-<uid>-<session>`. After a reboot somebody else may have made that, and may take it away again; so
one that is made again has a suffix that nobody can know beforehand, and that all processes of this user find alike:
`SessionInfo.unguessable` makes it.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tailrace_agent.files.ownership import is_private, make_parents, make_private
from tailrace_agent.runtime.places import absolute
from tailrace_agent.settings.settings import Settings

__all__ = ["is_named", "made_by_us", "make", "make_again", "session_of", "shared_root"]

_NAME: Final = re.compile(r"tailrace-\d+-(?P<session>.+?)(\.[0-9a-f]{16})?")
_TRIES: Final = 100
"""Names that somebody may have taken: after so many, that one is sitting in the way on purpose, and knows them."""


def shared_root(settings: Settings) -> Path:
    """The directory in which sessions make their shared directories: shared memory, where there is any."""
    if settings.ring_dir:
        return absolute(Path(settings.ring_dir).expanduser())
    shm = Path("/dev/shm")  # noqa: S108 - what is made there is 0700
    if os.access(shm, os.W_OK | os.X_OK):
        return shm
    import tempfile  # with shutil 8 ms, and seldom needed

    return Path(tempfile.gettempdir())


def session_of(directory: Path) -> str | None:
    """Id of the session whose shared directory has such a name; None for other names."""
    named = _NAME.fullmatch(directory.name)
    return named["session"] if named is not None else None


def is_named(directory: Path, session: str) -> bool:
    """Whether a session's shared directory may be there."""
    return directory.is_absolute() and session_of(directory) == session


def make(root: Path, session: str) -> Path:
    """A new one.

    Raises:
        OSError: It cannot be made.
    """
    make_parents(root)
    plain = _plain(root, session)
    # Never adopted, not even a private one: the session is new, so nothing that is there can be its own.
    return _first(itertools.chain([plain], _suffixed(plain, os.urandom(16).hex())), adopt=False)


def make_again(root: Path, session: str, unguessable: str) -> Path:
    """One in place of one that is gone, or that somebody else has made: the same for all who need it.

    Its name never is the plain one: that may be somebody else's now, and free a moment later. Two would get two.

    Raises:
        OSError: It cannot be made.
    """
    make_parents(root)
    return _first(_suffixed(_plain(root, session), unguessable), adopt=True)


def made_by_us(root: Path, session: str) -> Path:
    """The one that is there and believed, by whatever name; where there is none, its plain name."""
    plain = _plain(root, session)
    try:
        names = sorted(os.listdir(root))  # noqa: PTH208 - thousands
    except OSError:
        return plain
    there = (root / name for name in names if name.startswith(plain.name) and is_named(root / name, session))
    return next((each for each in there if is_private(each)), plain)


def _first(names: Iterator[Path], *, adopt: bool) -> Path:
    for directory in names:
        if adopt and is_private(directory):  # another process of this user was quicker
            return directory
        try:
            make_private(directory)
        except FileExistsError:  # with `adopt` perhaps by another process, since the look
            if adopt and is_private(directory):
                return directory
            continue
        return directory
    raise FileExistsError(errno.EEXIST, "somebody else has taken every name", str(directory))


def _plain(root: Path, session: str) -> Path:
    return root / f"tailrace-{os.getuid()}-{session}"


def _suffixed(plain: Path, unguessable: str) -> Iterator[Path]:
    import hashlib  # it loads OpenSSL, and is seldom needed

    for number in range(_TRIES):
        suffix = hashlib.sha256(f"{unguessable}:{number}".encode()).hexdigest()[:16]
        yield plain.with_name(f"{plain.name}.{suffix}")

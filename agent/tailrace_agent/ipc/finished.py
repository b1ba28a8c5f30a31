"""The last word on a session: the file `finished`, and what of its spools was set aside as damaged.

`finished` records what there was, so that nobody has to open the spool of a session in which nothing is left. What an
older tailrace wrote is empty, or a text where there were dead letters.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tailrace_agent.files import whole_files
from tailrace_agent.files.ownership import read_own
from tailrace_agent.ipc import status, stored
from tailrace_agent.ipc.session import Session

__all__ = ["Finished", "SetAside", "finished", "mark_finished", "note_set_aside", "set_aside", "still_aside"]


class Finished(msgspec.Struct, kw_only=True):
    """What was there when the last agent left.

    Attributes:
        runs: How many runs; None where an older tailrace wrote the file.
        dead: How many dead letters; None where nobody has counted them.
        at: When (epoch seconds).
    """

    runs: int | None = None
    dead: int | None = None
    at: float = 0.0


class SetAside(msgspec.Struct, kw_only=True):
    """A spool that could not be read.

    Attributes:
        path: Where it is now.
        reason: SQLite's message.
        entries: How many entries that were waiting could be read back, and went on their way.
        lost: How many are known to be lost; None where even that is not known.
        begun: How often it was begun to read it back, and not brought to an end; 0 once it was.
    """

    path: str
    reason: str = ""
    entries: int = 0
    lost: int | None = None
    begun: int = 0

    def __str__(self) -> str:
        if self.begun:
            return (
                "a spool was damaged on disk and set aside; what can be read of it goes on its way when the session is "
                f"opened next ({self.path})"
            )
        lost = "what else it held is lost" if self.lost is None else f"{self.lost:,} are lost"
        return (
            f"a spool was damaged on disk and set aside: of what waited in it, {self.entries:,} entries could be read "
            f"back, {lost} ({self.path})"
        )


def mark_finished(session: Session, *, runs: int, dead: int, at: float) -> None:
    """Everything is delivered or dead.

    Raises:
        OSError: It cannot be written.
    """
    whole_files.replace(session.dir / "finished", msgspec.json.encode(Finished(runs=runs, dead=dead, at=at)))


def finished(session: Session) -> Finished | None:
    """The last word, or None while there is none.

    Raises:
        OSError: It cannot be read.
    """
    path = session.dir / "finished"
    try:
        body = read_own(path)
    except FileNotFoundError:
        return None
    # An older text does not have a number to be read: its length stands for "some".
    found = stored.read(body, Finished) or Finished(dead=len(body) or None)
    # An older tailrace has written no time into it.
    found.at = found.at or path.stat().st_mtime
    return found


def note_set_aside(found: SetAside) -> None:
    """Writes down beside a spool that was set aside what became of it.

    Raises:
        OSError: It cannot be written.
    """
    # As a whole, and not durable: without it the spool is still found, by its name.
    whole_files.replace(Path(f"{found.path}.json"), msgspec.json.encode(found))


def set_aside(session: Session) -> list[SetAside]:
    """Every spool of the session that was set aside, the oldest first.

    Raises:
        OSError: The directory cannot be read.
    """
    return [note or SetAside(path=path) for path, note in _notes(session.dir / "spool.db")]


def still_aside(spool: Path) -> list[SetAside]:
    """Those of them that nobody has read back yet, or not to the end.

    Args:
        spool: The path that they had before.

    Raises:
        OSError: The directory cannot be read.
    """
    return [
        # By its name: the whole session may have been moved since.
        msgspec.structs.replace(note or SetAside(path=path), path=path)
        for path, note in _notes(spool)
        if note is None or note.begun
    ]


def _notes(spool: Path) -> Iterator[tuple[str, SetAside | None]]:
    prefix = f"{spool.name}.damaged-"
    try:
        names = [name for name in os.listdir(spool.parent) if name.startswith(prefix)]  # noqa: PTH208 - thousands
    except FileNotFoundError:  # it had nothing in it, and is gone
        return
    times = [name.removeprefix(prefix) for name in names]
    for time in sorted(filter(str.isdecimal, times), key=int):  # the other names are those of logs and notes
        path = spool.with_name(f"{prefix}{time}")
        yield str(path), status.read(path.with_name(f"{path.name}.json"), SetAside)

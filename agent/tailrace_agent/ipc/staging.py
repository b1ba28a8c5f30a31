"""What waits in a session's `artifacts/` directory: its names, and how it is made and deleted there.

The name of a staged entry comes with a record, and a record is data: it is one plain path component, or it names
nothing. Each entry is a directory of its own; `tables` beside them holds tables that grow.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tailrace_agent.files.ownership import make_private, remove_tree, write_own
from tailrace_agent.files.whole_files import flush

__all__ = ["TABLES", "discard", "is_staged_name", "make", "make_durable", "size_of", "stage_text", "staged"]

TABLES: Final = "tables"
# 200, where file systems take 255: `.compressing` is put behind it.
_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def is_staged_name(name: str) -> bool:
    """Whether a record may name a staged entry so."""
    return _PLAIN.fullmatch(name) is not None and name != TABLES


def staged(staging: Path, name: str) -> Path | None:
    """Where a staged entry is; None if nothing can have been staged under such a name."""
    return staging / name if is_staged_name(name) else None


def make(staging: Path, name: str) -> Path:
    """A new entry, empty.

    Raises:
        OSError: It cannot be made.
    """
    entry = staging / name
    make_private(entry)
    return entry


def stage_text(staging: Path, name: str, text: str) -> str:
    """Puts a text into an entry of its own, under a file name; the entry's name.

    Raises:
        OSError: It cannot be written.
    """
    entry = make(staging, f"text-{uuid.uuid4().hex}")
    write_own(entry / name, text.encode())
    return entry.name


def size_of(source: Path) -> int:
    """Bytes of a file, or of all files in a directory."""
    return sum(path.lstat().st_size for path in _below(source) if not path.is_dir())


def make_durable(staging: Path, name: str) -> None:
    """Has a staged entry survive a power cut. Waits for the disk.

    Raises:
        OSError: The disk does not do it, or the entry is gone.
    """
    entry = staged(staging, name)
    for path in () if entry is None else (*_below(entry), staging):
        flush(path, os.O_NOFOLLOW)


def _below(source: Path) -> Iterator[Path]:
    yield source
    if source.is_dir():
        yield from source.rglob("*")


def discard(staging: Path, name: str) -> None:
    """Deletes a staged entry with all that is in it."""
    entry = staged(staging, name)
    if entry is not None:
        remove_tree(entry)

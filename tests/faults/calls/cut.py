"""What a disk may hold after a power cut, from a record of all calls that changed it.

The model, which is ours (no dm-flakey): each file has what was synced, and the writes since. At a cut all that was
synced is there. Of each later write into it, every page of 4096 bytes by itself is there or not, and one of them may be
torn at a sector of 512 bytes. What the file has grown by since is there up to some page, and its length is that: file
systems write a length when the bytes are there (ext4 in its ordered mode, XFS, Btrfs). Directory entries (creations,
renames, links, removals) come to the disk in the order in which they were made, as in a journal: a sync of any file or
directory takes along all that were made before it, and of the others any number, from the first one on, may be there.
So a rename may be on the disk without what is in the file.

Not modelled: disks that lie about a sync, file systems that show a length before its bytes, reorder directory entries
or lose what was synced, and bytes that go bad (test_store.py and others flip those).
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

__all__ = ["Call", "Disk", "calls"]

_HEAD = struct.Struct("<Ic3xIIIq")
_PAGE, _SECTOR = 4096, 512


class Call(NamedTuple):
    """A call that changed a file, and where its record ends."""

    kind: str
    path: str
    other: str
    offset: int
    data: bytes
    end: int


def calls(record: bytes) -> Iterator[Call]:
    """The calls of a record, in their order."""
    at = 0
    while at + _HEAD.size <= len(record):
        size, kind, path, other, data, offset = _HEAD.unpack_from(record, at)
        start = at + _HEAD.size
        at += size
        body = record[start:at]
        yield Call(
            kind.decode(),
            body[:path].decode(),
            body[path : path + other].decode(),
            offset,
            body[path + other :][:data],
            at,
        )


class _File:
    """A file: what of it is synced, and what was done since."""

    def __init__(self, synced: bytes = b"") -> None:
        self.synced = synced
        self.since: list[tuple[str, int, bytes]] = []

    def sync(self) -> None:
        content = bytearray(self.synced)
        for step in self.since:
            _apply(content, *step)
        self.synced, self.since = bytes(content), []

    def whole(self) -> bytes:
        content = bytearray(self.synced)
        for step in self.since:
            _apply(content, *step)
        return bytes(content)

    def after_cut(self, rng: random.Random, kept: float) -> bytes:
        content, torn = bytearray(self.synced), False
        for kind, offset, data in self.since:
            if kind == "t":
                if rng.random() < kept:
                    _apply(content, kind, offset, data)
                continue
            for start in range(0, len(data), _PAGE):
                if offset + start > len(content):
                    break  # what comes before it is not there
                if rng.random() >= kept:
                    continue
                page = data[start : start + _PAGE]
                if not torn and rng.random() < 0.2:
                    torn, page = True, page[: rng.randrange(len(page)) // _SECTOR * _SECTOR]
                _apply(content, "w", offset + start, page)
        return bytes(content)


def _apply(content: bytearray, kind: str, offset: int, data: bytes) -> None:
    if kind == "t":
        del content[offset:]
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    if kind == "w" and data:
        content[offset : offset + len(data)] = data


class Disk:
    """A disk on which calls are made, below one directory.

    Args:
        root: That directory, or one file. What is in it is on the disk; shared memory is gone after a cut.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._synced: dict[str, _File | None] = {}
        for path in (Path(root), *Path(root).rglob("*")):
            if not path.exists():
                continue
            self._synced[str(path)] = None if path.is_dir() else _File(path.read_bytes())
        self._now = dict(self._synced)
        self._since: list[tuple[str, str, str, _File | None]] = []

    def do(self, call: Call) -> None:
        """One more call."""
        if not call.path.startswith(self._root):
            return
        if call.kind in "wt":
            file = self._now.get(call.path)
            if file is not None:
                file.since.append((call.kind, call.offset, call.data))
        elif call.kind == "s":
            if (file := self._now.get(call.path)) is not None:
                file.sync()
            for entry in self._since:
                _enter(self._synced, *entry)
            self._since.clear()
        else:
            entry = (call.kind, call.path, call.other, _File() if call.kind == "c" else None)
            _enter(self._now, *entry)
            self._since.append(entry)

    def write(self, rng: random.Random | None, kept: float = 0.5) -> None:
        """Makes the files as they may be after a cut; as they are now, without `rng`."""
        names = dict(self._now)
        if rng is not None:
            names = dict(self._synced)
            count = len(self._since)
            for entry in self._since[: rng.choice((0, count, rng.randint(0, count)))]:
                _enter(names, *entry)
        for path, file in sorted(names.items()):
            if file is None:
                Path(path).mkdir(mode=0o700, exist_ok=True)
        for path, file in sorted(names.items(), key=lambda each: each[0]):
            if file is not None:
                Path(path).write_bytes(file.whole() if rng is None else file.after_cut(rng, kept))
                Path(path).chmod(0o600)


def _enter(names: dict[str, _File | None], kind: str, path: str, other: str, file: _File | None) -> None:
    if kind == "c":
        names[path] = file
    elif kind == "m":
        names[path] = None
    elif kind in "ud":
        names.pop(path, None)
    elif kind == "l":
        names[path] = names.get(other)
    elif kind == "r":
        below = [name for name in names if name.startswith(f"{path}/")]
        if path in names:
            names[other] = names.pop(path)
        for name in below:
            names[other + name[len(path) :]] = names.pop(name)

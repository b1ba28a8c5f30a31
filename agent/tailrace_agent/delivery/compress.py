"""Artifacts compressed before they are uploaded: a file as a whole, a directory file by file.

* Bounded memory: what is read at once is `_CHUNK`.
* The compressed copy appears beside the staged one under its final name whole, by a rename, or not at all. So an agent
  that is killed meanwhile leaves nothing that could be taken for it, and an upload that is tried again does not
  compress again.
* A file whose new name would be too long, or is that of a directory beside it, stays as it is.
* The same file gives the same bytes: no time and no name are written into a gzip header.

Thread safety: one thread at a time for one staged entry.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import IO, Any, Final

from tailrace_agent.files.ownership import make_private, remove_tree, write_own
from tailrace_agent.ipc.records import Codec

__all__ = ["SUFFIXES", "compressed", "forget"]

SUFFIXES: Final[dict[Codec, str]] = {"gzip": ".gz", "zstd": ".zst"}
"""What is added to a file's name."""

_CHUNK: Final = 1 << 20
_LONGEST_NAME: Final = 255
_DONE: Final = ".compressed"
_UNDER_WAY: Final = ".compressing"


def compressed(source: Path, codec: Codec) -> Path:
    """The compressed twin of a staged file or directory: `model.bin.gz`, or a directory with such files in it.

    Args:
        source: The staged file or directory, `staging/<entry>/<name>`; it stays as it is.
        codec: How.

    Raises:
        OSError: There is no room, or it cannot be read.

    Example:
        >>> compressed(staging / "18c2f" / "model.bin", "gzip").name
        'model.bin.gz'
    """
    done, under_way = _beside(source.parent, _DONE), _beside(source.parent, _UNDER_WAY)
    name = _name_of(source, codec)
    if not done.exists():
        remove_tree(under_way)
        make_private(under_way)
        try:
            _compress(source, under_way / name, codec)
            under_way.rename(done)
        except BaseException:
            remove_tree(under_way)  # a full disk needs the room
            raise
    return done / name


def forget(entry: Path) -> None:
    """Removes what was compressed of a staged entry."""
    for suffix in (_DONE, _UNDER_WAY):
        remove_tree(_beside(entry, suffix))


def _beside(entry: Path, suffix: str) -> Path:
    return entry.with_name(entry.name + suffix)


def _compress(source: Path, target: Path, codec: Codec) -> None:
    if source.is_dir():
        make_private(target)
        for below in sorted(source.iterdir()):
            _compress(below, target / _name_of(below, codec), codec)
        return
    # Made first, as 0600: made by the `open` below, it would have the mode that the umask leaves.
    write_own(target, b"")
    if target.name == source.name:
        shutil.copyfile(source, target)
        return
    with source.open("rb") as plain, target.open("wb") as file, _writer(file, codec) as packed:
        shutil.copyfileobj(plain, packed, _CHUNK)


def _name_of(source: Path, codec: Codec) -> str:
    """What it is called when it is compressed; its own name for a directory and for what stays as it is."""
    name = source.name + SUFFIXES[codec]
    if source.is_dir() or len(os.fsencode(name)) > _LONGEST_NAME or source.with_name(name).is_dir():
        return source.name
    return name


def _writer(file: IO[bytes], codec: Codec) -> Any:
    if codec == "gzip":
        import gzip

        return gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0)
    # MLflow depends on it, and Python has zstd from 3.14 on.
    import pyarrow as pa

    return pa.CompressedOutputStream(pa.PythonFile(file, "w"), "zstd")

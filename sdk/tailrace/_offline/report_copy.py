"""Local reports as a private copy, so that what is read and uploaded afterwards is what was looked at.

A directory of reports may come from anybody (a download, a clone, a shared directory), and its files are uploaded. So a
link in it, which could lead to any file of the user's, is refused, and so is what is no regular file; neither is ever
opened. Size, number and depth are bounded.
"""

# Directories are held by their descriptors, so that none is exchanged for a link meanwhile; pathlib knows none.
# ruff: noqa: PTH123, PTH208

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from tailrace._offline.local_report import CONFIG, EARLIER, FIGURES, METRICS, RUN_FILE
from tailrace_agent.errors import CallError
from tailrace_agent.settings.units import size_text

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Taken", "take_reports"]

_TEXT_AT_MOST: Final = 8 << 20  # bytes of one of the three text files, each of which is parsed in memory
_MOST_FILES: Final = 100_000
_DEEPEST: Final = 64  # folders of figures below each other; `fwalk` holds a descriptor of each
_NO_LINK: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
_PIECE: Final = 1 << 20  # bytes that are read at once


class Taken(NamedTuple):
    """A report: where it is, and where its copy is."""

    path: Path
    copy: Path


def take_reports(directory: Path, into: Path, max_bytes: int) -> list[Taken]:
    """Copies the report in a directory and the earlier ones.

    Args:
        directory: Where `metrics.json` is; a link to it is followed.
        into: An empty directory.
        max_bytes: Bound of all files together.

    Raises:
        CallError: Something in it is not what a report holds, or it is too large. The message names it.
    """
    taking = _Taking(max_bytes, directory)
    try:
        return list(taking.all(into))
    except OSError as error:
        raise CallError(f"{error.filename or directory} cannot be read or copied: {error.strerror or error}") from error


class _Taking:
    """One copy in the making."""

    def __init__(self, max_bytes: int, directory: Path) -> None:
        self._max, self._directory = max_bytes, directory
        self._bytes = self._files = 0

    def all(self, into: Path) -> Iterator[Taken]:
        # A link to the directory itself is what the user named, so it is followed; from here on none is.
        root = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if self._is_there(EARLIER, root, self._directory / EARLIER):
                yield from self._earlier(root, into)
            if self._is_there(METRICS, root, self._directory / METRICS):
                yield self._report(root, Taken(self._directory, into / "last"))
        finally:
            os.close(root)

    def _earlier(self, root: int, into: Path) -> Iterator[Taken]:
        path = self._directory / EARLIER
        earlier = os.open(EARLIER, _NO_LINK | os.O_DIRECTORY, dir_fd=root)
        try:
            for number, name in enumerate(sorted(os.listdir(earlier))):
                self._count(path / name)
                self._is_there(name, earlier, path / name)
                # A file that somebody has put beside the reports.
                if not stat.S_ISDIR(os.stat(name, dir_fd=earlier, follow_symlinks=False).st_mode):
                    continue
                report = os.open(name, _NO_LINK | os.O_DIRECTORY, dir_fd=earlier)
                try:
                    if self._is_there(METRICS, report, path / name / METRICS):
                        yield self._report(report, Taken(path / name, into / str(number)))
                finally:
                    os.close(report)
        finally:
            os.close(earlier)

    def _report(self, report: int, taken: Taken) -> Taken:
        taken.copy.mkdir(mode=0o700)
        for name in (CONFIG, METRICS, RUN_FILE):
            if self._is_there(name, report, taken.path / name):
                self._take(name, report, taken.path / name, taken.copy / name, _TEXT_AT_MOST)
        if self._is_there(FIGURES, report, taken.path / FIGURES):
            self._figures(report, taken)
        return taken

    def _figures(self, report: int, taken: Taken) -> None:
        # `fwalk` gives descriptors, follows no links, and does not report what it cannot read without `onerror`.
        for folder, folders, files, opened in os.fwalk(FIGURES, dir_fd=report, onerror=_raise):
            path = taken.path / folder
            if len(path.parts) - len(taken.path.parts) > _DEEPEST:
                raise CallError(f"{path} is too deep for a report")
            (taken.copy / folder).mkdir(mode=0o700)
            for name in folders:
                self._count(path / name)
                # `fwalk` would pass over a link to a directory in silence.
                self._is_there(name, opened, path / name)
            for name in files:
                self._take(name, opened, path / name, taken.copy / folder / name, self._max)

    def _is_there(self, name: str, directory: int, path: Path) -> bool:
        """Whether there is something of that name, which is no link."""
        try:
            found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISLNK(found.st_mode):
            raise CallError(f"{path} is a link, and may lead to any file: put what is meant in its place, or delete it")
        return True

    def _take(self, name: str, directory: int, path: Path, target: Path, at_most: int) -> None:
        self._count(path)
        self._is_there(name, directory, path)
        # Before it is opened: to open a device may do something, and a pipe waits for a writer.
        if not stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            raise CallError(f"{path} is no regular file, and belongs in no report: delete it")
        with open(os.open(name, _NO_LINK | os.O_NONBLOCK, dir_fd=directory), "rb", buffering=0) as source:
            # Once more, of what is open: it may have been exchanged since.
            found = os.fstat(source.fileno())
            if found.st_nlink > 1 or not stat.S_ISREG(found.st_mode):
                raise CallError(f"{path} is a hard link, and may be any file's: put a copy in its place, or delete it")
            if found.st_size > at_most:
                raise CallError(
                    f"{path} has {size_text(found.st_size)}, more than the {size_text(at_most)} that it may have"
                )
            self._make_room(found.st_size, path, target)
            with target.open("xb") as into:
                left = found.st_size
                # No further than its size was: a file that grows passes no bound.
                while left and (piece := source.read(min(left, _PIECE))):
                    into.write(piece)
                    left -= len(piece)
        # A report without `run.json` has its time from here.
        os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))

    def _make_room(self, size: int, path: Path, target: Path) -> None:
        self._bytes += size
        if self._bytes > self._max:
            raise CallError(
                f"the reports in {self._directory} have more than {size_text(self._max)}; if you trust whoever made "
                "them, `--max-size` (in Python max_bytes) allows more"
            )
        # Before each file: a full /tmp would stop other programs, too.
        if size > (free := shutil.disk_usage(target.parent).free):
            raise CallError(
                f"{path} has {size_text(size)}, and {size_text(free)} are free in {target.parent.parent.parent}: make "
                "room, or set TMPDIR to a directory with more"
            )

    def _count(self, path: Path) -> None:
        self._files += 1
        if self._files > _MOST_FILES:
            raise CallError(f"{path}: the reports have more than {_MOST_FILES:,} files")


def _raise(error: OSError) -> None:
    raise error

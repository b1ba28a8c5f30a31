"""Archives of runs: a zip file that is complete, checked, and safe to unpack, or refused.

```
manifest.json                     format, version, and size and SHA-256 of every other file; written last
runs/<run id>/run.json            name, experiment, status, times, params, tags, inputs
runs/<run id>/metrics.parquet     key, step, timestamp (ms, UTC), value
runs/<run id>/artifacts/…
```

What this module promises:

* An archive appears under its name whole, by a rename, or not at all. Any size works (zip64), one file at a time.
* Nothing of a run is handed out before its files have been checked against the manifest.
* A name that leads out of the directory that it is unpacked into is refused; links are never made.
* An archive may come from anybody. What it becomes is bounded, in memory and on disk, before anything of it is
  unpacked; and whatever is wrong with it is an `ArchiveError` that names it.

It knows nothing of MLflow.
"""

from __future__ import annotations

import hashlib
import io
import os
import secrets
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Annotated, Any, Final, Literal, TypeVar

import msgspec

from tailrace_agent.decoding import decode_json
from tailrace_agent.errors import ArchiveError
from tailrace_agent.settings.units import size_text

__all__ = ["ArchiveReader", "ArchiveWriter", "ArchivedRun"]

_FORMAT: Final = "tailrace-runs"
_VERSION: Final = 1
_MANIFEST: Final = "manifest.json"
_PARENT_TAG: Final = "mlflow.parentRunId"
_CHUNK: Final = 1 << 20  # bytes
_LEAST_LIMIT: Final = 1 << 30  # bytes that any archive may become
_TIMES: Final = 20  # the file's own size; DEFLATE can make it a thousand
_SMALL: Final = (16 << 20, 256 << 20)
"""What is read into memory at once is a 64th of the limit, between these."""
_POINT: Final = 16
"""What a point counts as in the limit; repeated, it takes a bit in the archive."""
_NAME_AT_MOST: Final = (255, 1024)
"""Bytes in a part of a name, and in all of it: what file systems take."""
_DEEPEST: Final = 64
"""Parts of a name: an archive of a few KB is not to become a million directories."""
_METHODS: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""What archives are written with. The others' readers take as much memory as the file makes them."""
_DAMAGE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    KeyError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""What the standard library raises about a file that is no zip file, or a strange one."""
T = TypeVar("T")
# An id becomes a directory and part of a filter: none of its characters means anything there.
Id = Annotated[str, msgspec.Meta(pattern=r"\A[0-9A-Za-z_-]{1,64}\Z")]
Time = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class ArchivedData(msgspec.Struct, kw_only=True):
    """A data set as MLflow describes it."""

    name: str
    digest: str
    source_type: str
    source: str
    schema: str | None = None
    profile: str | None = None


class ArchivedInput(msgspec.Struct, kw_only=True):
    """A data set that a run has named as its input."""

    dataset: ArchivedData
    tags: dict[str, str] = {}


class ArchivedRun(msgspec.Struct, kw_only=True):
    """A run as `run.json` holds it. Times are milliseconds; `origin` is where it was logged first."""

    run_id: Id
    origin: Id
    run_name: str
    experiment: str
    user: str
    status: Literal["RUNNING", "SCHEDULED", "FINISHED", "FAILED", "KILLED"]
    start_time: Time
    end_time: Time | None
    params: dict[str, str]
    tags: dict[str, str]
    inputs: list[ArchivedInput] = []
    points: Count = 0
    artifacts: Count = 0

    @property
    def parent(self) -> str | None:
        """The run that it is nested under, by its id in the store that it was exported from."""
        return self.tags.get(_PARENT_TAG)


class _File(msgspec.Struct):
    bytes: Count
    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]


class _Head(msgspec.Struct):
    format: str = ""
    version: int = 0


class _Nesting(msgspec.Struct):
    """As much of a run as its place among the others takes."""

    run_id: Id
    tags: dict[str, str]
    points: Count = 0


class _Manifest(msgspec.Struct):
    format: str
    version: int
    created: str
    store: str
    runs: list[Id]
    files: dict[str, _File]


class ArchiveWriter:
    """Writes an archive. A context manager; leaving it without an error puts the archive in its place.

    Args:
        path: The file; replaced if it is there.
        store: The store that the runs come from, without a password.
        created: The time now, in ISO format.
    """

    def __init__(self, path: Path, store: str, created: str) -> None:
        # Beside the file, so that the rename stays on one file system. In a directory that others write to, too: a name
        # that nobody else can know, and never through a link. Not `tempfile`, whose files nobody else may read.
        self._path, self._partial = path, path.with_name(f".tailrace-{secrets.token_hex(8)}.partial")
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.fdopen(os.open(self._partial, flags, 0o666), "w+b")
        self._manifest = _Manifest(_FORMAT, _VERSION, created, store, [], {})
        self._zip = zipfile.ZipFile(self._file, "w", zipfile.ZIP_DEFLATED, allowZip64=True, compresslevel=5)

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:  # without a manifest what is there is no archive, whoever finds it
                self._zip.writestr(_MANIFEST, msgspec.json.format(msgspec.json.encode(self._manifest)))
            self._zip.close()
            self._file.close()
            if error is None:
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)
            with suppress(OSError, ValueError):  # a full disk: that is what the caller hears of, once
                self._zip.close()
                self._file.close()

    def add_run(self, run: ArchivedRun, metrics: Path) -> None:
        """Adds what belongs to a run, besides its artifacts."""
        self._manifest.runs.append(run.run_id)
        body = msgspec.json.format(msgspec.json.encode(run))
        self._put(f"runs/{run.run_id}/run.json", None, body)
        self._put(f"runs/{run.run_id}/metrics.parquet", metrics)

    def add_artifact(self, run_id: str, path: str, file: Path) -> None:
        """Adds one file of a run's artifacts."""
        self._put(f"runs/{run_id}/artifacts/{path}", file)

    def _put(self, name: str, file: Path | None, body: bytes = b"") -> None:
        _check_name(name)
        info = zipfile.ZipInfo(name)
        info.external_attr = 0o600 << 16
        # What is compressed already would only cost time.
        packed = name.endswith((".parquet", ".zip", ".gz", ".zst", ".png", ".jpg", ".npz"))
        info.compress_type = zipfile.ZIP_STORED if packed else zipfile.ZIP_DEFLATED
        # zip64 in any case: the size is not known before, and the head is written first.
        with self._zip.open(info, "w", force_zip64=True) as into:
            if file is None:
                into.write(body)
                self._manifest.files[name] = _File(len(body), hashlib.sha256(body).hexdigest())
            else:
                with file.open("rb") as source:
                    self._manifest.files[name] = _File(*_copy(source, into))


class _Source(io.FileIO):
    """The archive's own file, of which never more is read into memory at once than may be."""

    def __init__(self, path: Path, at_most: int) -> None:
        # O_NONBLOCK: a pipe would be waited for without end.
        super().__init__(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        self._at_most = at_most

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads so many bytes, or all that are left.

        Raises:
            ValueError: That is too much.
        """
        wanted = self._at_most + 1 if size is None or size < 0 else size
        found = super().read(wanted) if wanted <= self._at_most + 1 else None
        if found is None or len(found) > self._at_most:
            raise ValueError(f"more than {size_text(self._at_most)} of it would be read at once")
        return found


class ArchiveReader:
    """Reads an archive. A context manager.

    Args:
        path: The file.
        max_bytes: Bound of what it becomes when it is unpacked; by default 1 GiB, or 20 times the file's own size where
            that is more.

    Raises:
        ArchiveError: It is no archive of runs, of a newer version, damaged, too large, or holds a name that must not be
            unpacked.
        OSError: There is no such file, or it may not be read.
    """

    def __init__(self, path: Path, max_bytes: int | None = None) -> None:
        self._path = path
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a directory, a device or a pipe has no size to take a bound from
            raise ArchiveError(f"{path} is no archive of runs: it is no regular file")
        self._max = max_bytes or max(_LEAST_LIMIT, _TIMES * found.st_size)
        self._small_max = min(max(_SMALL[0], self._max // 64), _SMALL[1])
        self._source = _Source(path, max(self._small_max, _CHUNK))
        try:
            self._zip = zipfile.ZipFile(self._source)
            self._manifest = self._read_manifest()
        except (*_DAMAGE, OSError) as error:
            self._source.close()
            raise ArchiveError(f"{path} is no archive of runs: {_reason(error)}") from error
        except BaseException:
            self._source.close()
            raise

    def __enter__(self) -> ArchiveReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._zip.close()
        self._source.close()

    @property
    def store(self) -> str:
        """The store that the runs come from, without a password."""
        return self._manifest.store

    def runs(self) -> Iterator[ArchivedRun]:
        """All runs, parents before their children. All are checked before the first is given.

        Raises:
            ArchiveError: One of them is not what it should be, or they hold more points than the archive may.
        """
        above: dict[str, str | None] = {}
        points = 0
        for run_id in self._manifest.runs:
            # Decoded to be checked, and not kept: all of them at once may be more than fits into memory.
            self._run(run_id, ArchivedRun)
            nesting = self._run(run_id, _Nesting)
            points += nesting.points
            above[run_id] = nesting.tags.get(_PARENT_TAG)
        if points * _POINT > self._max:
            raise self._too_large(f"holds {points:,} points")
        return (self._run(run_id, ArchivedRun) for run_id in _parents_first(above))

    def unpack(self, run_id: str, directory: Path) -> tuple[Path, Path]:
        """Unpacks a run's metrics and artifacts, checked; the Parquet file, and the directory of artifacts.

        Raises:
            ArchiveError: A file is missing, or is not what was put in; or there is no room for them.
        """
        head = f"runs/{run_id}/"
        files = [
            (name, file)
            for name, file in self._manifest.files.items()
            if name.startswith(head) and name != f"{head}run.json"
        ]
        # Before the first byte: half unpacked, it would only fill somebody else's disk.
        needed, free = sum(file.bytes for _, file in files), shutil.disk_usage(directory).free
        if needed > free:
            raise ArchiveError(
                f"{self._path}: run {run_id} takes {size_text(needed)} when it is unpacked, and {size_text(free)} are "
                f"free in {directory.parent}: make room, or set TMPDIR to a directory with more"
            )
        for name, expected in files:
            target = directory.joinpath(*PurePosixPath(name.removeprefix(head)).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as into:  # "x": never through a link, nor over anything that is there
                self._take(name, expected, into)
        return directory / "metrics.parquet", directory / "artifacts"

    def _read_manifest(self) -> _Manifest:
        try:
            if self._zip.getinfo(_MANIFEST).file_size > self._small_max:
                raise self._too_large(f"has a {_MANIFEST} of {size_text(self._zip.getinfo(_MANIFEST).file_size)}")
            with self._zip.open(self._entry(_MANIFEST)) as source:
                text = source.read(self._small_max)
        except KeyError:
            raise ArchiveError(f"{self._path} is a zip file, but no archive of runs: it has no {_MANIFEST}") from None
        except _DAMAGE as error:
            raise ArchiveError(f"{self._path}: its {_MANIFEST} is damaged: {_reason(error)}") from error
        # The head first: a later version's manifest may be of another shape, and is to be named as such.
        head = self._decoded(_MANIFEST, text, _Head)
        if head.format != _FORMAT:
            raise ArchiveError(f"{self._path} is a zip file, but no archive of runs")
        if head.version != _VERSION:
            raise ArchiveError(
                f"{self._path} is an archive of version {head.version}, and this tailrace reads version {_VERSION}: "
                "upgrade it"
            )
        manifest = self._decoded(_MANIFEST, text, _Manifest)
        _check_names(manifest.files)
        if len(set(manifest.runs)) < len(manifest.runs):
            raise ArchiveError(f"{self._path} names a run twice")
        total = sum(file.bytes for file in manifest.files.values())
        if total > self._max:
            raise self._too_large(f"becomes {size_text(total)} when it is unpacked")
        return manifest

    def _run(self, run_id: str, kind: type[T]) -> T:
        name = f"runs/{run_id}/run.json"
        expected = self._manifest.files.get(name)
        if expected is None:
            raise ArchiveError(f"{self._path}: {name} is missing")
        if expected.bytes > self._small_max:
            raise self._too_large(f"has a {name} of {size_text(expected.bytes)}")
        into = io.BytesIO()
        self._take(name, expected, into)
        run = self._decoded(name, into.getvalue(), kind)
        if getattr(run, "run_id", None) != run_id:
            raise ArchiveError(f"{self._path}: {name} is that of another run")
        return run

    def _decoded(self, name: str, text: bytes, kind: type[T]) -> T:
        try:
            return decode_json(text, kind)
        except (ValueError, RecursionError) as error:  # msgspec's own are ValueErrors
            raise ArchiveError(f"{self._path}: {name} is damaged, or not what it should be: {error}") from error

    def _entry(self, name: str) -> zipfile.ZipInfo:
        """The zip file's entry of a file.

        Raises:
            KeyError: It has none of that name.
            ValueError: It is compressed in another way than archives are.
        """
        entry = self._zip.getinfo(name)
        if entry.compress_type not in _METHODS:
            raise ValueError("it is compressed in a way that archives of runs are not")
        return entry

    def _take(self, name: str, expected: _File, into: IO[bytes]) -> None:
        """Writes a file there, if it is the one that was put in."""
        found, digest = 0, hashlib.sha256()
        for chunk in self._chunks(name):
            found += len(chunk)
            if found > expected.bytes:  # a bomb ends here, not when the disk is full
                break
            digest.update(chunk)
            into.write(chunk)
        if (found, digest.hexdigest()) != (expected.bytes, expected.sha256):
            raise ArchiveError(f"{self._path}: {name} is damaged: it is not what was put in")

    def _chunks(self, name: str) -> Iterator[bytes]:
        try:
            with self._zip.open(self._entry(name)) as source:
                while chunk := source.read(_CHUNK):
                    yield chunk
        except KeyError as error:
            raise ArchiveError(f"{self._path}: {name} is missing") from error
        except (*_DAMAGE, OSError) as error:
            raise ArchiveError(f"{self._path}: {name} is damaged: {_reason(error)}") from error

    def _too_large(self, what: str) -> ArchiveError:
        return ArchiveError(
            f"{self._path} {what}: too much for an archive of which {size_text(self._max)} are expected at most; if "
            "you trust whoever made it, `--max-size` allows more"
        )


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


def _parents_first(above: dict[str, str | None]) -> list[str]:
    """Runs in an order in which none comes before the one above it; where each is above the other, in any."""
    ordered: dict[str, None] = {}
    for run in above:
        line: dict[str, None] = {}
        at: str | None = run
        while at is not None and at in above and at not in line and at not in ordered:
            line[at] = None
            at = above[at]
        ordered.update(dict.fromkeys(reversed(line)))
    return list(ordered)


def _check_names(names: dict[str, Any]) -> None:
    """Refuses names that cannot all be unpacked into one directory."""
    for name in names:
        _check_name(name)
    # A file that is also a directory stands right before what is in it, once "/" sorts before any other character.
    ordered = sorted(name.replace("/", "\0") for name in names)
    for name, following in pairwise(ordered):
        if following.startswith(f"{name}\0"):
            whole = name.replace("\0", "/")
            raise ArchiveError(f"the name {whole!r} is that of a file and of a directory")


def _check_name(name: str) -> None:
    """Refuses a name that could lead elsewhere when it is unpacked, or that a file system may not take."""
    parts = name.split("/")
    safe = name.startswith("runs/") and "\\" not in name and name.isprintable()
    if not safe or any(part in ("", ".", "..") for part in parts):
        raise ArchiveError(f"the name {name[:300]!r} is not safe to unpack")
    sizes = [len(part.encode()) for part in parts]
    if max(sizes) > _NAME_AT_MOST[0] or sum(sizes) + len(sizes) > _NAME_AT_MOST[1]:
        raise ArchiveError(f"the name {name[:300]!r} is too long to unpack")
    if len(parts) > _DEEPEST:
        raise ArchiveError(f"the name {name[:300]!r} is too deep to unpack: directories of {_DEEPEST} levels at most")


def _copy(source: IO[bytes], into: IO[bytes]) -> tuple[int, str]:
    """Size and SHA-256 of what was copied."""
    size, digest = 0, hashlib.sha256()
    while chunk := source.read(_CHUNK):
        size += len(chunk)
        digest.update(chunk)
        into.write(chunk)
    return size, digest.hexdigest()

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

It knows nothing of MLflow.
"""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import IO, Any, Final

import msgspec

from tailrace_agent.errors import ArchiveError

__all__ = ["ArchiveReader", "ArchiveWriter", "ArchivedRun"]

_FORMAT: Final = "tailrace-runs"
_VERSION: Final = 1
_MANIFEST: Final = "manifest.json"
_CHUNK: Final = 1 << 20
_RUN: Final = re.compile(r"[0-9A-Za-z_-]{1,64}")
_JSON_AT_MOST: Final = 256 << 20


class ArchivedRun(msgspec.Struct, kw_only=True):
    """A run as `run.json` holds it. Times are milliseconds; `origin` is where it was logged first."""

    run_id: str
    origin: str
    run_name: str
    experiment: str
    user: str
    status: str
    start_time: int
    end_time: int | None
    params: dict[str, str]
    tags: dict[str, str]
    inputs: list[dict[str, Any]] = []
    points: int = 0
    artifacts: int = 0

    @property
    def parent(self) -> str | None:
        """The run that it is nested under, by its id in the store that it was exported from."""
        return self.tags.get("mlflow.parentRunId")


class _File(msgspec.Struct):
    bytes: int
    sha256: str


class _Manifest(msgspec.Struct):
    format: str
    version: int
    created: str
    store: str
    runs: list[str]
    files: dict[str, _File]


class ArchiveWriter:
    """Writes an archive. A context manager; leaving it without an error puts the archive in its place.

    Args:
        path: The file; replaced if it is there.
        store: The store that the runs come from, without a password.
        created: The time now, in ISO format.
    """

    def __init__(self, path: Path, store: str, created: str) -> None:
        self._path, self._partial = path, path.with_name(f".{path.name}.partial")
        self._manifest = _Manifest(_FORMAT, _VERSION, created, store, [], {})
        self._zip = zipfile.ZipFile(self._partial, "w", zipfile.ZIP_DEFLATED, allowZip64=True, compresslevel=5)

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._zip.writestr(_MANIFEST, msgspec.json.format(msgspec.json.encode(self._manifest)))
            self._zip.close()
            if error is None:
                self._partial.replace(self._path)
        finally:
            self._partial.unlink(missing_ok=True)

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
        with self._zip.open(info, "w", force_zip64=True) as into:
            if file is None:
                into.write(body)
                self._manifest.files[name] = _File(len(body), hashlib.sha256(body).hexdigest())
            else:
                with file.open("rb") as source:
                    self._manifest.files[name] = _File(*_copy(source, into))


class ArchiveReader:
    """Reads an archive. A context manager.

    Args:
        path: The file.

    Raises:
        ArchiveError: It is no archive of runs, of a newer version, damaged, or holds a name that must not be unpacked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._zip = zipfile.ZipFile(path)
        except zipfile.BadZipFile as error:
            raise ArchiveError(f"{path} is no archive of runs: {error}") from error
        try:
            self._manifest = self._read_manifest()
        except BaseException:
            self._zip.close()
            raise

    def __enter__(self) -> ArchiveReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._zip.close()

    @property
    def store(self) -> str:
        """The store that the runs come from, without a password."""
        return self._manifest.store

    def runs(self) -> list[ArchivedRun]:
        """All runs, parents before their children."""
        found = {}
        for run_id in self._manifest.runs:
            name = f"runs/{run_id}/run.json"
            try:
                found[run_id] = msgspec.json.decode(self._small(name), type=ArchivedRun)
            except msgspec.DecodeError as error:
                raise ArchiveError(f"{self._path}: {name} is not what it should be: {error}") from error
        ordered: dict[str, ArchivedRun] = {}
        for run in found.values():
            line: list[ArchivedRun] = []
            above: ArchivedRun | None = run
            while above is not None and above not in line and above.run_id not in ordered:
                line.append(above)
                above = found.get(above.parent or "")
            ordered.update({each.run_id: each for each in reversed(line)})
        return list(ordered.values())

    def unpack(self, run_id: str, directory: Path) -> tuple[Path, Path]:
        """Unpacks a run's metrics and artifacts, checked; the Parquet file, and the directory of artifacts.

        Raises:
            ArchiveError: A file is missing, or is not what was put in.
        """
        head = f"runs/{run_id}/"
        for name, expected in self._manifest.files.items():
            if not name.startswith(head) or name == f"{head}run.json":
                continue
            target = directory.joinpath(*PurePosixPath(name.removeprefix(head)).parts)
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._open(name) as source, target.open("xb") as into:
                self._checked(name, expected, source, into)
        return directory / "metrics.parquet", directory / "artifacts"

    def _read_manifest(self) -> _Manifest:
        try:
            if self._zip.getinfo(_MANIFEST).file_size > _JSON_AT_MOST:
                raise ArchiveError(f"{self._path}: its {_MANIFEST} is too large to be one")
            head: Any = msgspec.json.decode(self._zip.read(_MANIFEST))
            if not isinstance(head, dict) or head.get("format") != _FORMAT:
                raise ArchiveError(f"{self._path} is a zip file, but no archive of runs")
            if head.get("version") != _VERSION:
                raise ArchiveError(
                    f"{self._path} is an archive of version {head.get('version')}, and this tailrace reads "
                    f"version {_VERSION}: upgrade it"
                )
            manifest = msgspec.convert(head, _Manifest)
        except KeyError:
            raise ArchiveError(f"{self._path} is a zip file, but no archive of runs: it has no {_MANIFEST}") from None
        except (msgspec.DecodeError, zipfile.BadZipFile, EOFError) as error:
            raise ArchiveError(f"{self._path}: its {_MANIFEST} is damaged: {error}") from error
        for name in manifest.files:
            _check_name(name)
        for run_id in manifest.runs:
            if not _RUN.fullmatch(run_id):
                raise ArchiveError(f"{self._path}: {run_id!r} is no id of a run")
        return manifest

    def _small(self, name: str) -> bytes:
        from io import BytesIO

        expected = self._manifest.files.get(name)
        if expected is None or expected.bytes > _JSON_AT_MOST:
            raise ArchiveError(f"{self._path}: {name} is missing")
        into = BytesIO()
        with self._open(name) as source:
            self._checked(name, expected, source, into)
        return into.getvalue()

    def _open(self, name: str) -> IO[bytes]:
        try:
            return self._zip.open(name)
        except (KeyError, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise ArchiveError(f"{self._path}: {name} is missing or cannot be read: {error}") from error

    def _checked(self, name: str, expected: _File, source: IO[bytes], into: IO[bytes]) -> None:
        import zlib

        try:
            found = _File(*_copy(source, into, expected.bytes))
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise ArchiveError(f"{self._path}: {name} is damaged: {error}") from error
        if found != expected:
            raise ArchiveError(f"{self._path}: {name} is damaged: it is not what was put in")


def _check_name(name: str) -> None:
    """Refuses a name that could lead elsewhere when it is unpacked."""
    parts = name.split("/")
    if not name.startswith("runs/") or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise ArchiveError(f"the name {name!r} is not safe to unpack")


def _copy(source: IO[bytes], into: IO[bytes], at_most: int | None = None) -> tuple[int, str]:
    """Size and SHA-256 of what was copied; stops after `at_most` bytes and a little, for then it is wrong anyway."""
    size, digest = 0, hashlib.sha256()
    while chunk := source.read(_CHUNK):
        size += len(chunk)
        digest.update(chunk)
        if at_most is not None and size > at_most:
            break
        into.write(chunk)
    return size, digest.hexdigest()

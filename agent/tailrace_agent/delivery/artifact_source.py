"""From an artifact's record to what is uploaded: the staged copy, compressed, or joined to the table it belongs to.

Thread safety: one thread at a time for one session.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from tailrace_agent.delivery import tables
from tailrace_agent.delivery.compress import compressed, forget
from tailrace_agent.errors import Unavailable
from tailrace_agent.files.ownership import make_parents, remove_tree, write_own
from tailrace_agent.ipc import staging as staging_dir
from tailrace_agent.ipc.records import Artifact, Codec, run_hex
from tailrace_agent.sinks.base import Sink

__all__ = ["ArtifactSource", "CutShort", "NoTable", "artifact_file"]


class NoTable(Exception):
    """A part of a table that is none. The message gives the reason."""


class CutShort(Exception):
    """A staged copy that lost a part of its bytes. The message gives their number."""


def artifact_file(record: Artifact, staging: Path) -> str:
    """Where in the run's artifacts it is to lie."""
    name = next((source.name for source in _entries(staging_dir.staged(staging, record.staged))), record.staged)
    return f"{record.artifact_path}/{name}" if record.artifact_path else name


class ArtifactSource:
    """What waits in one session's `artifacts/` directory.

    Args:
        staging: That directory.
    """

    def __init__(self, staging: Path) -> None:
        self._staging = staging

    def open(self, record: Artifact, sink: Sink, run_id: str, *, resumed: bool) -> Path | None:
        """The file or directory to upload; None when the staged copy is gone.

        Args:
            record: The artifact.
            sink: Where the earlier rows of a table are.
            run_id: MLflow's id of its run.
            resumed: The run may have a table of that name from before.

        Raises:
            CutShort: The staged copy has not the bytes that it had.
            NoTable: It was to be joined to a table, and is none.
            Unavailable: There is no room to compress it, or the earlier rows cannot be had now.
        """
        entry = staging_dir.staged(self._staging, record.staged)
        if entry is None:
            return None
        if record.append:
            return self._assemble(entry, record, sink, run_id, resumed=resumed)
        # An entry has one thing in it; none, where somebody has deleted it.
        source = next(iter(_entries(entry)), None)
        if source is not None and record.size is not None and (size := staging_dir.size_of(source)) != record.size:
            raise CutShort(f"{source.name} has {size:,} of {record.size:,} bytes")
        return source if source is None or record.compress is None else _compressed(source, record.compress)

    def discard(self, record: Artifact) -> None:
        """Deletes the staged copy, and what was compressed of it."""
        self.forget_compressed(record)
        staging_dir.discard(self._staging, record.staged)

    def forget_compressed(self, record: Artifact) -> None:
        """Deletes what was compressed of it, which can be had again."""
        entry = staging_dir.staged(self._staging, record.staged)
        if entry is not None:
            forget(entry)

    def _assemble(self, entry: Path, record: Artifact, sink: Sink, run_id: str, *, resumed: bool) -> Path | None:
        """A table that grows: this part joins the earlier ones, and the whole is what is uploaded."""
        name = artifact_file(record, self._staging)
        parts_of = hashlib.sha256(name.encode()).hexdigest()[:16]
        folder = self._staging / staging_dir.TABLES / run_hex(record.run) / parts_of
        if not folder.exists():
            make_parents(folder)
            if resumed:
                _fetch_earlier_rows(sink, run_id, name, folder)
        part = folder / f"{record.staged}.part"
        for source in _entries(entry):
            write_own(folder / "name", os.fsencode(source.name))
            # A copy: the staged part stays where it is until it has arrived, since the upload may have to be repeated.
            shutil.copy2(source, part.with_suffix(".new"))
            part.with_suffix(".new").replace(part)
        if not part.exists():
            return None
        whole = folder / os.fsdecode((folder / "name").read_bytes())
        try:
            tables.merge_tables(sorted(folder.glob("*.part"), key=lambda p: p.stat().st_mtime_ns), whole)
        except ValueError as error:
            part.unlink()
            raise NoTable(str(error)) from error
        return whole


def _fetch_earlier_rows(sink: Sink, run_id: str, name: str, folder: Path) -> None:
    """A run that was resumed: its table, as it is in MLflow, is the first part."""
    try:
        found = sink.fetch_artifact(run_id, name, folder)
        if found is not None:
            found.replace(folder / "0.part")
            os.utime(folder / "0.part", (0, 0))  # parts join in the order of their times
    except BaseException:
        remove_tree(folder)  # so that it is fetched at the next try
        raise


def _entries(entry: Path | None) -> list[Path]:
    return sorted(entry.iterdir()) if entry is not None and entry.is_dir() else []


def _compressed(source: Path, codec: Codec) -> Path:
    try:
        return compressed(source, codec)
    except OSError as error:  # a full disk, most of all: there may be room later
        raise Unavailable(f"{source.name} cannot be compressed: {error.strerror or error}", here=True) from error

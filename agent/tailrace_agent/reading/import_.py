"""Runs out of an archive into MLflow, each once, however often and from whatever moment it is tried again.

An imported run carries two tags. `tailrace.source.run_id`, the id under which it was logged, is there from its
creation; `tailrace.imported`, the time of the import, is written when everything else is. So:

* both tags: the run is here, and nothing is done;
* the first tag only: an import was killed in the middle. What it left is deleted, and the run is imported anew. Nothing
  is added to a half run, since a file store would keep its points twice;
* none, but a run of that very id: this is the store that it comes from, and nothing is done.

Steps, times, the status and the nesting stay as they were; MLflow gives the run a new id. A run that was still running
when it was exported is KILLED here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tailrace_agent.errors import NotFound
from tailrace_agent.reading.archived_points import check_points_apart, points_of
from tailrace_agent.reading.export import SOURCE_TAG
from tailrace_agent.sinks.mlflow import MlflowSink, sink_over
from tailrace_agent.spool.extremes import NOTE

if TYPE_CHECKING:
    from tailrace_agent.reading.archive import ArchivedRun, ArchiveReader
    from tailrace_agent.reading.reader import Reader

__all__ = ["DONE_TAG", "STORE_TAG", "TIMEOUT", "Imported", "import_runs"]

DONE_TAG: Final = "tailrace.imported"
STORE_TAG: Final = "tailrace.source.store"
_PARENT_TAG: Final = "mlflow.parentRunId"
TIMEOUT: Final = 120.0
# What MLflow's own client sets when it creates a run, and its lists show at once.
_AT_CREATION: Final[tuple[str, ...]] = ("mlflow.user", "mlflow.runName", "mlflow.source.name", "mlflow.source.type")
OnProgress = Callable[[str, int, int, str], None]


class Imported(msgspec.Struct, kw_only=True):
    """What has become of one run; `outcome` is `imported`, `continued` (it has grown), or `there`: it was, before."""

    source_run_id: str
    run_id: str
    run_name: str
    experiment: str
    outcome: str
    points: int
    artifacts: int


def import_runs(
    reader: Reader, archive: ArchiveReader, experiment: str | None, on_progress: OnProgress
) -> Iterator[Imported]:
    """Imports all runs of an archive, parents first; yields each when it is whole.

    Args:
        reader: The store that they go to.
        archive: Where they come from.
        experiment: Experiment for all of them; by default each keeps the name of its own. Created when missing.
        on_progress: As for `export_runs`.

    Raises:
        ArchiveError: The archive is damaged. Nothing of the damaged run has been created.
        SinkError: The store is away, or refuses something.
    """
    sink = sink_over(reader.uri, reader.store, TIMEOUT)  # the reader's own store: one connection, one login
    ids: dict[str, str] = {}
    for run in archive.runs():
        with tempfile.TemporaryDirectory() as scratch:
            imported = _Import(reader, sink, archive, run, on_progress).into(
                experiment or run.experiment or "Default", ids, Path(scratch)
            )
        ids[run.run_id] = imported.run_id  # parents come first, so a child finds its parent's new id
        yield imported


class _Import:
    """One run on its way."""

    def __init__(
        self, reader: Reader, sink: MlflowSink, archive: ArchiveReader, run: ArchivedRun, on_progress: OnProgress
    ) -> None:
        self._reader, self._sink, self._archive, self._run, self._on_progress = reader, sink, archive, run, on_progress

    def into(self, experiment: str, ids: dict[str, str], scratch: Path) -> Imported:
        """Imports the run into this experiment, unless it is in the store already."""
        run = self._run
        there = self._there()
        if there is not None:
            return self._outcome(there.info.run_id, self._experiment_name(there), "there")
        # Before the run is created: an archive that is damaged is to create nothing.
        metrics, artifacts = self._archive.unpack(run.run_id, scratch)
        check_points_apart(metrics, run)
        run_id = self._create(experiment, ids)
        self._send_texts(run_id)
        self._send_points(run_id, metrics)
        self._send_artifacts(run_id, artifacts)
        self._send_inputs(run_id)
        # Nobody is at work on it here, and it is not imported again.
        status = "KILLED" if run.status in ("RUNNING", "SCHEDULED") else run.status
        self._sink.end_run(run_id, status, run.end_time or run.start_time)
        # What concerns all points is checked when all are here.
        noted = [(NOTE, run.tags[NOTE])] if NOTE in run.tags else []
        # With the last write: before it, a killed import is known as such.
        done = (DONE_TAG, datetime.now(timezone.utc).isoformat(timespec="seconds"))
        self._sink.log_batch(run_id, tags=[*noted, done])
        return self._outcome(run_id, experiment, "imported")

    def _there(self) -> Any | None:
        """The run, if it is here; what a killed import has left of it is deleted."""
        origin = self._run.origin
        whole = None
        for found in self._reader.search(None, f"tags.`{SOURCE_TAG}` = '{origin}'"):
            if DONE_TAG in found.data.tags:
                whole = found
            else:
                with self._reader.translated_errors(about_run=True):
                    self._reader.store.delete_run(found.info.run_id)
        if whole is not None:
            return whole
        try:
            itself = self._reader.find(origin)
        except NotFound:
            return None
        return itself if itself.info.run_id == origin and itself.info.lifecycle_stage == "active" else None

    def _create(self, experiment: str, ids: dict[str, str]) -> str:
        from mlflow.entities import RunTag

        run = self._run
        tags: dict[str, str] = {name: run.tags[name] for name in _AT_CREATION if name in run.tags}
        # In the request that creates the run: no kill leaves one behind that is not known as half.
        tags |= {SOURCE_TAG: run.origin, STORE_TAG: self._archive.store}
        parent = self._parent(ids)
        if parent is not None:
            tags[_PARENT_TAG] = parent
        with self._reader.translated_errors(about_run=False):
            experiment_id = self._sink.experiment_named(experiment)
            created = self._reader.store.create_run(
                experiment_id, run.user, run.start_time, [RunTag(*tag) for tag in tags.items()], run.run_name or None
            )
        return str(created.info.run_id)

    def _parent(self, ids: dict[str, str]) -> str | None:
        """The run that this one is nested under, by its id here: from this archive, an earlier one, or this store."""
        parent = self._run.parent
        if parent is None or parent in ids:
            return ids.get(parent or "")
        if not parent.isalnum():  # it goes into a filter, and comes from anybody
            return None
        found = self._reader.search(None, f"tags.`{SOURCE_TAG}` = '{parent}'", max_results=1)
        if found:
            return str(found[0].info.run_id)
        try:
            return str(self._reader.find(parent).info.run_id)
        except NotFound:
            return None

    def _send_texts(self, run_id: str) -> None:
        limits = self._sink.limits
        ours = {SOURCE_TAG, STORE_TAG, DONE_TAG, _PARENT_TAG, NOTE}
        tags = [tag for tag in self._run.tags.items() if tag[0] not in ours]
        params = list(self._run.params.items())
        for start in range(0, len(params), limits.params):
            self._sink.log_batch(run_id, params=params[start : start + limits.params])
        for start in range(0, len(tags), limits.tags):
            self._sink.log_batch(run_id, tags=tags[start : start + limits.tags])

    def _send_points(self, run_id: str, metrics: Path) -> None:
        sent = 0
        for points in points_of(metrics, self._sink.limits.metrics, self._run):
            self._sink.log_batch(run_id, metrics=points)
            sent += len(points)
            self._on_progress(self._name, sent, self._run.points, "metrics")

    def _send_artifacts(self, run_id: str, artifacts: Path) -> None:
        files = sorted(path for path in artifacts.rglob("*") if path.is_file()) if artifacts.is_dir() else []
        for done, file in enumerate(files):
            self._on_progress(self._name, done, len(files), "artifacts")
            folder = file.parent.relative_to(artifacts).as_posix()
            self._sink.log_artifact(run_id, file, None if folder == "." else folder)

    def _send_inputs(self, run_id: str) -> None:
        """The data sets that the run has named as its inputs."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(Dataset(**msgspec.structs.asdict(each.dataset)), [InputTag(*tag) for tag in each.tags.items()])
            for each in self._run.inputs
        ]
        if inputs:
            with self._reader.translated_errors(about_run=True):
                self._reader.store.log_inputs(run_id, inputs)

    def _outcome(self, run_id: str, experiment: str, outcome: str) -> Imported:
        return Imported(
            source_run_id=self._run.run_id,
            run_id=run_id,
            run_name=self._run.run_name,
            experiment=experiment,
            outcome=outcome,
            points=self._run.points,
            artifacts=self._run.artifacts,
        )

    def _experiment_name(self, run: Any) -> str:
        experiment_id = str(run.info.experiment_id)
        return self._reader.experiments().get(experiment_id, experiment_id)

    @property
    def _name(self) -> str:
        return self._run.run_name or self._run.run_id[:8]

"""A tracking store in memory, for tests: yours and ours.

What this module promises:

* It answers as MLflow's SQL stores do. A repeated metric is stored once; a bad name, a value that is too long, or a
  param whose value has changed refuses the whole request, and nothing of it is stored; only a deleted run refuses
  everything.
* Everything it holds may be looked at: `sink.runs[run_id].metrics["loss"]` is a list of points.
* It fails on request. `fail` is called with the name of each method before it does anything, and `fail_after` when
  it is done, to play an answer that was lost on its way back; what they raise is what the caller sees.

Example:
    >>> from tailrace_agent.errors import Unavailable
    >>> sink = MemorySink()
    >>> def down(method: str) -> None:
    ...     raise Unavailable("the server is away")
    >>> sink.fail = down
    >>> sink.end_run("1", "FINISHED", 0)
    Traceback (most recent call last):
        ...
    tailrace_agent.errors.Unavailable: the server is away
"""

from __future__ import annotations

import math
import posixpath
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tailrace_agent.errors import Refused, RunGone
from tailrace_agent.ipc.records import Kind, ModelOutcome, ModelSpec, Point, RunSpec, run_hex
from tailrace_agent.ipc.tags import NOTE_TAG, RUN_TAG, end_tags
from tailrace_agent.mlflow.job_runs import attempt_of, is_over, tags_of_restart
from tailrace_agent.mlflow.stored_names import Texts
from tailrace_agent.sinks.base import Limits, Renamed, RunRef, StoredRun, refuse_long

__all__ = ["MemoryRun", "MemorySink"]

# MLflow's rule on Linux, without importing it: a test holds the two against each other.
_NAME = re.compile(r"^[/\w.\- :]*$")
_KEY_CHARS = 250
_LARGEST = 1.7976931348623157e308  # what MLflow's SQL stores make of infinity


@dataclass
class MemoryRun:
    """One run, as it is stored.

    Attributes:
        run_id: MLflow's id.
        experiment_id: Where it is.
        run_name: As given, or made up.
        status: `RUNNING`, `FINISHED`, `FAILED` or `KILLED`.
        start_time: Milliseconds since the epoch.
        end_time: Milliseconds since the epoch, or None.
        params: By name.
        tags: By name.
        metrics: The points of each metric, in the order of their arrival.
        artifacts: Contents by path.
        deleted: Set it to True to play a run that somebody has deleted.
    """

    run_id: str
    experiment_id: str
    run_name: str
    start_time: int
    status: str = "RUNNING"
    end_time: int | None = None
    params: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, list[Point]] = field(default_factory=dict)
    artifacts: dict[str, bytes] = field(default_factory=dict)
    deleted: bool = False
    # What SQL stores have as their primary key; NaN as None, since it is not equal to itself.
    _seen: set[tuple[str, int, int, float | None]] = field(default_factory=set, repr=False)

    def add(self, point: Point) -> None:
        """Stores a point, unless it is there already."""
        value = max(-_LARGEST, min(_LARGEST, point.value)) if math.isinf(point.value) else point.value
        identity = (point.key, point.timestamp, point.step, None if math.isnan(value) else value)
        if identity not in self._seen:
            self._seen.add(identity)
            self.metrics.setdefault(point.key, []).append(point._replace(value=value))

    def drop_tags(self, keys: Iterable[str]) -> None:
        """Drops those of these tags that are there."""
        for key in keys:
            self.tags.pop(key, None)


class MemorySink:
    """A `Sink` that keeps everything in dictionaries. May be used from several threads at once.

    Attributes:
        runs: All runs by MLflow's id, deleted ones included.
        experiments: Experiment ids by name.
        models: Tokens of the versions of each registered model.
        metrics_limit: Metrics that one request takes: more than MLflow's limit in a store with a bulk way.
        fail: Called with the method's name before the method does anything; raises to make it fail.
        fail_after: The same when everything has been stored: the answer is lost.
    """

    def __init__(self) -> None:
        self.runs: dict[str, MemoryRun] = {}
        self.experiments: dict[str, str] = {"Default": "0"}
        self.models: dict[str, list[str]] = {}
        self.metrics_limit = Limits().metrics
        self.fail: Callable[[str], None] | None = None
        self.fail_after: Callable[[str], None] | None = None
        self._lock = threading.Lock()

    def open(self, tracking_uri: str | None, cwd: str, *, request_timeout: float) -> MemorySink:
        """Itself, whatever the URI: `sink.open` is a `SinkFactory`."""
        del tracking_uri, cwd, request_timeout
        return self

    @property
    def limits(self) -> Limits:
        """MLflow's own, and those of a server."""
        return Limits(at_once=4)

    def metrics_at_once(self, waiting: int) -> int:
        """`metrics_limit`, however many wait."""
        del waiting
        return self.metrics_limit

    def check(self, kind: Kind, key: str, value: object = None) -> str | None:
        """The reason why MLflow would refuse this name, or None."""
        del value
        return _name_fault(kind, key)

    def open_run(self, spec: RunSpec, parent_run_id: str | None, *, find_first: bool) -> RunRef:
        """Creates the run, finds it by its tag, or resumes `spec.run_id`."""
        with self._call("open_run"):
            run = self._resume(spec) if spec.run_id else None
            if run is None and find_first:
                run = next(iter(self._runs_of(spec)), None)
                if run is not None and spec.job is not None and attempt_of(run.tags) <= spec.job.attempt:
                    _go_on(spec, run)
            if run is None:
                run = self._create(spec, parent_run_id)
            measured = bool(run.metrics)
            return RunRef(run.run_id, run.experiment_id, run.run_name, None, measured=measured)  # no page is there

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: Sequence[Point] = (),
        params: Sequence[tuple[str, str]] = (),
        tags: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Stores one batch, whole or not at all."""
        with self._call("log_batch"):
            run = self._active(run_id)
            self._validate(run, metrics, params, tags)
            run.params.update(params)  # after the check of everything: a batch is refused whole
            for point in metrics:
                run.add(point)
            run.tags.update(tags)

    def delete_tags(self, run_id: str, keys: Sequence[str]) -> None:
        """Deletes those of these tags that the run has."""
        with self._call("delete_tags"):
            self._active(run_id).drop_tags(keys)

    def log_artifact(self, run_id: str, path: Path, artifact_path: str | None) -> Renamed:
        """Keeps the contents of a file, or of a directory under its own name."""
        with self._call("log_artifact"):
            self._store(self._active(run_id), path, posixpath.join(artifact_path or "", path.name))
        return {}

    def log_artifacts(
        self, run_id: str, directory: Path, artifact_path: str | None, *, confirmed: bool = True
    ) -> Renamed:
        """Keeps the contents of everything in a directory."""
        del confirmed  # it always says yes
        with self._call("log_artifacts"):
            self._store(self._active(run_id), directory, artifact_path or "")
        return {}

    def fetch_artifact(self, run_id: str, artifact_file: str, directory: Path) -> Path | None:
        """Writes one artifact of the run into a directory; None when the run has none of that name."""
        with self._call("fetch_artifact"):
            body = self._active(run_id).artifacts.get(artifact_file)
        if body is None:
            return None
        path = directory / Path(artifact_file).name
        path.write_bytes(body)
        return path

    def log_model(self, run_id: str, directory: Path, spec: ModelSpec) -> ModelOutcome:
        """Keeps the files as artifacts of the run, and a version by its token."""
        with self._call("log_model"):
            self._store(self._active(run_id), directory, spec.name)
            uri = f"runs:/{run_id}/{spec.name}"
            if spec.registered_name is None:
                return ModelOutcome(uri)
            versions = self.models.setdefault(spec.registered_name, [])
            if spec.token not in versions:
                versions.append(spec.token)
            return ModelOutcome(uri, str(versions.index(spec.token) + 1))

    def end_run(self, run_id: str, status: str, end_time: int) -> None:
        """Sets status and end time."""
        with self._call("end_run"):
            run = self._active(run_id)
            run.status, run.end_time = status, end_time

    def discard_twins(self, spec: RunSpec, run_id: str) -> int:
        """Deletes other runs of this spec; how many."""
        with self._call("discard_twins"):
            twins = [run for run in self._runs_of(spec) if run.run_id != run_id and spec.run_id is None]
            for twin in twins:
                twin.deleted = True
            return len(twins)

    def count_metrics(self, run_id: str, keys: Sequence[str] | None = None) -> dict[str, int]:
        """Points of each metric."""
        with self._call("count_metrics"):
            metrics = self._known(run_id).metrics
            return {key: len(metrics.get(key, ())) for key in (metrics if keys is None else keys)}

    def texts_of(self, run_id: str) -> Texts:
        """All tags and params of a run."""
        with self._call("texts_of"):
            run = self._active(run_id)
            return Texts(dict(run.tags), dict(run.params))

    def running_with_tag(self, experiment_ids: Sequence[str], key: str) -> dict[str, str]:
        """The running ones of some experiments that have a tag."""
        with self._call("running_with_tag"):
            found = (run for run in self.runs.values() if run.status == "RUNNING" and not run.deleted)
            asked = (run for run in found if run.experiment_id in experiment_ids and key in run.tags)
            return {run.run_id: run.tags[key] for run in asked}

    def clock_ahead(self) -> float:
        """It has this machine's own."""
        return 0.0

    def find_runs(self, text: str) -> list[StoredRun]:
        """Runs by the start of their id or tag, or else by name."""
        with self._call("find_runs"):
            runs = [run for run in self.runs.values() if not run.deleted]
            # A line for each id, so that only the beginning of one is found.
            by_id = [run for run in runs if f"\n{text}" in f"\n{run.run_id}\n{run.tags['tailrace.run']}"]
            found = by_id or [run for run in runs if run.run_name == text]
            return [
                StoredRun(RunRef(run.run_id, run.experiment_id, run.run_name, None), run.status, dict(run.tags))
                for run in found
            ]

    @contextmanager
    def _call(self, method: str) -> Iterator[None]:
        """One call: the hooks run outside of the lock, so they may look at the sink."""
        if self.fail is not None:  # outside of the lock, so that a hook may call the sink
            self.fail(method)
        with self._lock:
            yield
        if self.fail_after is not None:
            self.fail_after(method)

    def _known(self, run_id: str) -> MemoryRun:
        if run_id not in self.runs:
            raise RunGone(f"Run with id={run_id} not found")
        return self.runs[run_id]

    def _active(self, run_id: str) -> MemoryRun:
        run = self._known(run_id)
        if run.deleted:
            raise RunGone(f"The run {run_id} must be in the 'active' state. Current state is deleted.")
        return run

    def _runs_of(self, spec: RunSpec) -> list[MemoryRun]:
        mark = run_hex(spec.run)
        return [run for run in self.runs.values() if run.tags.get(RUN_TAG) == mark and not run.deleted]

    def _create(self, spec: RunSpec, parent_run_id: str | None) -> MemoryRun:
        experiment_id = spec.experiment_id or "0"
        if spec.experiment_name is not None:
            experiment_id = self.experiments.setdefault(spec.experiment_name, str(len(self.experiments)))
        run_id = uuid.uuid4().hex
        tags = {**spec.tags, RUN_TAG: run_hex(spec.run)}
        parent = parent_run_id or spec.parent_run_id
        if parent:
            tags["mlflow.parentRunId"] = parent
        if spec.description:
            tags[NOTE_TAG] = spec.description
        name = spec.run_name or f"run-{len(self.runs)}"
        self.runs[run_id] = MemoryRun(run_id, experiment_id, name, spec.start_time, tags=tags)
        return self.runs[run_id]

    def _resume(self, spec: RunSpec) -> MemoryRun:
        run = self._active(spec.run_id or "")
        if spec.owned:  # somebody else's run keeps its status, as in `MlflowSink`
            run.status = "RUNNING"
            run.run_name = spec.run_name or run.run_name
            run.drop_tags(end_tags(run.tags))
        run.tags.update(spec.tags)
        return run

    def _validate(
        self,
        run: MemoryRun,
        metrics: Sequence[Point],
        params: Sequence[tuple[str, str]],
        tags: Sequence[tuple[str, str]],
    ) -> None:
        limits = self.limits
        if len(metrics) > self.metrics_limit:
            raise Refused(f"more than {self.metrics_limit} metrics", too_large=True)
        if len(params) > limits.params or len(tags) > limits.tags:
            raise Refused(f"more than {limits.params} params or {limits.tags} tags")
        names = [("param", key) for key, _ in params] + [("metric", point.key) for point in metrics]
        for kind, key in names + [("tag", key) for key, _ in tags]:
            fault = _name_fault(kind, key)
            if fault is not None:
                raise Refused(fault)
        refuse_long("param", params, limits)
        refuse_long("tag", tags, limits)
        # MLflow refuses a key twice in one request, even with one value.
        if len(dict(params)) < len(params):
            raise Refused("Duplicate parameter keys have been submitted")
        for key, value in params:
            if run.params.get(key, value) != value:
                raise Refused(f"Changing param values is not allowed: {key!r} is {run.params[key]!r}, not {value!r}")

    def _store(self, run: MemoryRun, path: Path, name: str) -> None:
        if not path.exists():
            raise Refused(f"the file to upload is gone: {path}")
        if path.is_file():
            run.artifacts[name] = path.read_bytes()
            return
        for file in sorted(path.rglob("*")):
            if file.is_file():
                run.artifacts[posixpath.join(name, file.relative_to(path).as_posix())] = file.read_bytes()


def _go_on(spec: RunSpec, run: MemoryRun) -> None:
    """As `MlflowSink`: a job that was started anew goes on in its run."""
    if is_over(run.status):
        run.status = "RUNNING"
    run.drop_tags(end_tags(run.tags))
    run.tags.update(tags_of_restart(spec, run.tags))


def _name_fault(kind: Kind, key: str) -> str | None:
    """MLflow's rules for names (`mlflow.utils.validation`), without importing it."""
    if kind == "artifact" and not key:
        return None
    normal = posixpath.normpath(key)
    if normal != key or key == "." or normal.startswith(("..", "/")):
        return f"Invalid value {key!r}: as a path, this name would be {normal!r}"
    if kind == "artifact":
        return None
    if not _NAME.match(key):
        return (
            f"Invalid value {key!r}: names may only contain alphanumerics, underscores (_), dashes (-), periods (.), "
            "spaces ( ), colon(:) and slashes (/)"
        )
    return f"the name exceeds {_KEY_CHARS} characters" if len(key) > _KEY_CHARS else None

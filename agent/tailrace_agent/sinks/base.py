"""The edge to the tracking server, as the rest of the agent sees it.

A `Sink` speaks to one tracking URI. Every method either returns, which means that the server has answered 2xx and
the data is there, or raises one of `errors.Unavailable`, `errors.Refused`, `errors.RunGone`, `errors.StoreRefused`.
No method retries or sleeps on its own, and none takes longer than the request time-out that the sink was built with
(uploads excepted). A sink may be used from several threads at once.

`MlflowSink` (module `sinks.mlflow`) is the real one; `MemorySink` (module `sinks.memory`) keeps everything in a dict,
for users' own tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from tailrace_agent.errors import Refused
from tailrace_agent.ipc.records import Kind, ModelOutcome, ModelSpec, Point, RunSpec
from tailrace_agent.mlflow.name_rules import PARAM_CHARS, TAG_CHARS
from tailrace_agent.mlflow.stored_names import Texts
from tailrace_agent.text.quoting import quoted

__all__ = ["Limits", "Renamed", "RunRef", "Sink", "SinkFactory", "StoredRun", "refuse_long"]


Renamed = dict[str, str]
"""Files that a store could not take under their own names: where each was to lie, and where it lies."""


class Limits(NamedTuple):
    """What one `log_batch` may hold (MLflow's REST limits, `mlflow.utils.validation`).

    `at_once` is no limit of MLflow's, but how many requests, each for another run, are worth having under way.
    """

    metrics: int = 1000  # also MLflow's bound for all kinds together
    params: int = 100
    tags: int = 100
    param_chars: int = PARAM_CHARS
    tag_chars: int = TAG_CHARS
    at_once: int = 1


def refuse_long(kind: Kind, entries: Iterable[tuple[str, str]], limits: Limits) -> None:
    """Refuses values that MLflow has no room for.

    Raises:
        Refused: One of them is too long.
    """
    limit = limits.param_chars if kind == "param" else limits.tag_chars
    for key, value in entries:
        if len(value) > limit:
            raise Refused(f"the {kind} {quoted(key)} has {len(value)} characters, and MLflow keeps {limit}")


class RunRef(NamedTuple):
    """A run as MLflow knows it. `url` is where a person looks at it, or None for a store without a server.

    `artifacts` is the directory on this machine that a server names for its artifacts; empty where it names none.
    `running`: it was looked for and found, and is going on.
    `next_steps` is where steps go on in a run that had metrics before, by the first part of their names (`system`).
    `bests` are the best values that it has by then, by metric, `best_steps` their steps; None where nobody has looked.
    `measured`: it had metrics when it was found.
    """

    run_id: str
    experiment_id: str
    run_name: str
    url: str | None
    artifacts: str = ""
    next_steps: dict[str, int] | None = None
    running: bool = False
    bests: dict[str, float] | None = None
    measured: bool = False
    best_steps: dict[str, float] | None = None


class StoredRun(NamedTuple):
    """A run as it was read back. `tags` holds MLflow's own and tailrace's; `end_time` is in milliseconds."""

    ref: RunRef
    status: str
    tags: dict[str, str]
    end_time: int | None = None


class Sink(Protocol):
    """One tracking store."""

    @property
    def limits(self) -> Limits:
        """What one request may hold."""

    def metrics_at_once(self, waiting: int) -> int:
        """How many metrics one request takes now that so many wait: `limits.metrics`, or more. May ask the store, once.

        With nothing waiting the store is not asked. It may be less again at the next call; a request that is larger by
        then is refused for its size.
        """

    def check(self, kind: Kind, key: str, value: object = None) -> str | None:
        """MLflow's own validation of a name, without a request: the reason for a refusal, or None."""

    def open_run(self, spec: RunSpec, parent_run_id: str | None, *, find_first: bool) -> RunRef:
        """Creates the run that `spec` describes (its experiment too), or resumes `spec.run_id`.

        An owned run that goes on is rid of the tags that say how its last attempt has ended (`ipc.tags.END_TAGS`).

        Args:
            spec: What was requested.
            parent_run_id: MLflow's id of the parent run, when there is one.
            find_first: Look for a run with the tag `tailrace.run` of this spec before creating one: an earlier
                attempt may have succeeded without our hearing of it.
        """

    def log_batch(
        self,
        run_id: str,
        *,
        metrics: Sequence[Point] = (),
        params: Sequence[tuple[str, str]] = (),
        tags: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Writes one batch, whole or not at all as far as the store can."""

    def delete_tags(self, run_id: str, keys: Sequence[str]) -> None:
        """Deletes those of these tags that the run has."""

    def running_with_tag(self, experiment_ids: Sequence[str], key: str) -> dict[str, str]:
        """The running ones of some experiments that have a tag: its value by run id. One request, of a few bytes."""

    def log_artifact(self, run_id: str, path: Path, artifact_path: str | None) -> Renamed:
        """Uploads a file, or a directory under its own name; which files the store has under other names."""

    def log_artifacts(
        self, run_id: str, directory: Path, artifact_path: str | None, *, confirmed: bool = True
    ) -> Renamed:
        """Uploads everything in a directory; which files the store has under other names.

        Without `confirmed` an answer that says neither yes nor no is taken for yes, from a server that has shown before
        that it keeps files.
        """

    def fetch_artifact(self, run_id: str, artifact_file: str, directory: Path) -> Path | None:
        """Downloads one file of the run's artifacts into a directory; None when the run has none of that name."""

    def log_model(self, run_id: str, directory: Path, spec: ModelSpec) -> ModelOutcome:
        """Makes a model of the run from a directory in MLflow's format, and registers it if that is wanted.

        May be repeated: what an earlier attempt has created, found by `spec.token`, is used again. The version appears
        in the registry when all files are there, and a registry's refusal is in the outcome's `error`.
        """

    def end_run(self, run_id: str, status: str, end_time: int) -> None:
        """Sets the run's status and its end time (milliseconds)."""

    def discard_twins(self, spec: RunSpec, run_id: str) -> int:
        """Deletes other runs that carry this spec's `tailrace.run` tag (answers lost after the commit); how many."""

    def count_metrics(self, run_id: str, keys: Sequence[str] | None = None) -> dict[str, int]:
        """Rows in the metric history of each key of the run, read back from the store."""

    def texts_of(self, run_id: str) -> Texts:
        """All tags and params of a run."""

    def find_runs(self, text: str) -> list[StoredRun]:
        """Runs that a person may mean: the start of MLflow's id or of the tag `tailrace.run`, or else a whole name."""

    def clock_ahead(self) -> float:
        """Seconds by which this machine's clock is ahead of the store's; 0 where nothing is known. Asks nobody."""


class SinkFactory(Protocol):
    """Opens the sink for a tracking URI (None: MLflow's default in `cwd`). May take seconds: it may import MLflow."""

    def __call__(self, tracking_uri: str | None, cwd: str, *, request_timeout: float) -> Sink:
        """The sink."""

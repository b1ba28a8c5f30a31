"""A run of another tracker into MLflow, exactly once, also while it goes on, and however often it is tried again.

The run in MLflow carries the tag `tailrace.source.run_id` from its creation, by which it is found again. What it has of
each metric MLflow itself is asked: so many of the points that the source gives are passed over, and the rest is sent.
Where the source has no order that holds, the very points are asked for.
So an import that was killed at any moment goes on where it stopped, and one of a run that has grown adds what is new.
When all is sent, the tag `tailrace.imported.state` says of what: where that has not changed, nothing is done.

Names that MLflow refuses become clean ones (`mlflow.names`). A param that has changed since becomes a tag `config.<its
name>`, for MLflow's params never do. A value that is too long is cut, and whole in an artifact.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from tailrace_agent.ipc.records import Point
from tailrace_agent.mlflow.names import name_tag
from tailrace_agent.mlflow.stored_names import Names, StoredNames, Texts, cut, fitting_tags
from tailrace_agent.reading.export import SOURCE_TAG
from tailrace_agent.reading.import_ import DONE_TAG, STORE_TAG, TIMEOUT, Imported
from tailrace_agent.sinks.mlflow import MlflowSink, sink_over
from tailrace_agent.spool.extremes import LARGEST

if TYPE_CHECKING:
    from tailrace_agent.reading.foreign.foreign_run import ForeignRun
    from tailrace_agent.reading.reader import Reader

__all__ = ["RunCopy", "copy_runs"]

STATE_TAG: Final = "tailrace.imported.state"
_ENDED: Final = ("FINISHED", "FAILED", "KILLED")
_WHOLE: Final = "tailrace/imported_values.json"
OnProgress = Callable[[str, int, int, str], None]


def copy_runs(
    reader: Reader, source: str, runs: Iterable[ForeignRun], experiment: str | None, on_progress: OnProgress
) -> Iterator[Imported]:
    """Copies runs as they are now; yields each when it is whole.

    Args:
        reader: The store that they go to.
        source: Where they come from, for people.
        runs: The runs.
        experiment: Experiment for all of them; by default each has its own. Created when missing.
        on_progress: Called with a run's name, how many things are done, how many there are (0: not known), and which.

    Raises:
        SinkError: The store is away, or refuses something.
    """
    sink = sink_over(reader.uri, reader.store, TIMEOUT)
    for run in runs:
        copy = RunCopy(reader, sink, source, run, experiment, on_progress)
        if not copy.is_whole:
            copy.update()
            copy.finish()
        yield copy.outcome


class RunCopy:
    """One run on its way.

    Attributes:
        run: The run, as far as it has come; another reading of it may be put in its place.

    Args:
        reader: The store that it goes to.
        sink: The same store, for writing.
        source: Where it comes from, for people.
        run: The run.
        experiment: The experiment, where it is not the run's own.
        on_progress: As for `copy_runs`.

    Raises:
        SinkError: The store is away. After such an error of any call, a new copy goes on.
    """

    def __init__(
        self,
        reader: Reader,
        sink: MlflowSink,
        source: str,
        run: ForeignRun,
        experiment: str | None,
        on_progress: OnProgress,
    ) -> None:
        self._reader, self._sink, self._source, self.run = reader, sink, source, run
        self._experiment, self._on_progress = experiment or run.experiment, on_progress
        found = reader.search(None, f"tags.`{SOURCE_TAG}` = '{run.origin}'", ["attributes.start_time ASC"], 1)
        self._before: Any = found[0] if found else None
        self._run_id, self._tags, self._params = "", dict[str, str](), dict[str, str]()
        known: list[str] = []
        for before in found:
            self._run_id, known = str(before.info.run_id), [*before.data.metrics]
            self._tags, self._params = dict(before.data.tags), dict(before.data.params)
        self._sent = self._files = 0
        self._counts: dict[str, int] | None = None
        self._names = StoredNames(sink.check, lambda: Texts(self._tags, self._params), lambda: known)
        self._moment: dict[str, tuple[int, set[tuple[int, float | None]]]] = {}
        self._there: dict[str, set[tuple[int, int, float | None]]] = {}

    @property
    def is_whole(self) -> bool:
        """Whether all of it is in MLflow."""
        ended = self._before is not None and self._before.info.status in _ENDED
        return ended and self._tags.get(STATE_TAG) == self.run.state

    @property
    def outcome(self) -> Imported:
        """What has become of it: `imported`, `continued`, or `there`: it was, before."""
        new = "imported" if self._before is None else "continued"
        return Imported(
            source_run_id=self.run.origin,
            run_id=self._run_id,
            run_name=self.run.name,
            experiment=self._experiment,
            outcome="there" if self.is_whole else new,
            points=self._sent,
            artifacts=self._files,
        )

    def update(self) -> int:
        """Sends what has come since the last time; how many points."""
        before = self._sent
        if not self._run_id:
            self._create()
        self._send_texts()
        new = self._new_points()
        while points := list(islice(new, self._sink.limits.metrics)):
            self._send_names()
            self._sink.log_batch(self._run_id, metrics=points)
            self._sent += len(points)
            self._on_progress(self.run.name, self._sent, 0, "metrics")
        return self._sent - before

    def finish(self) -> None:
        """Sends the files, and ends the run if it has ended."""
        run = self.run
        self._send_files()
        # A run that goes on is RUNNING, and its state is no reason to pass it over.
        if run.end_time is not None:
            self._sink.end_run(self._run_id, run.status, run.end_time)
        done = (DONE_TAG, datetime.now(timezone.utc).isoformat(timespec="seconds"))
        self._sink.log_batch(self._run_id, tags=[(STATE_TAG, run.state), done])

    # -- inside ------------------------------------------------------------------------------------------------------

    def _create(self) -> None:
        from mlflow.entities import RunTag

        run = self.run
        # In the request that creates it: no kill leaves a run behind that is not found again.
        tags = {"mlflow.user": run.user, SOURCE_TAG: run.origin, STORE_TAG: self._source}
        fitting = fitting_tags(run.tags, self._sink.check)
        self._tags = tags | {key: cut(value, self._sink.limits.tag_chars) for key, value in fitting.items()}
        with self._reader.translated_errors(about_run=False):
            experiment_id = self._sink.experiment_named(self._experiment)
            created = self._reader.store.create_run(
                experiment_id,
                run.user,
                run.start_time,
                [RunTag(*tag) for tag in self._tags.items()],
                run.name or None,
            )
        self._run_id = str(created.info.run_id)

    def _send_texts(self) -> None:
        limits, params, tags = self._sink.limits, self._names.of("param"), self._names.of("tag")
        new: dict[str, str] = {}
        changed: dict[str, str] = {}
        for key, value in self.run.params.items():
            stored, short = params[key], cut(value, limits.param_chars)
            if stored not in self._params:
                new[stored] = short
            elif self._params[stored] != short:
                changed[tags[f"config.{key}"]] = cut(value, limits.tag_chars)
        changed |= {tags[key]: cut(value, limits.tag_chars) for key, value in self.run.tags.items()}
        changed = {key: value for key, value in changed.items() if self._tags.get(key) != value}
        self._send_names()
        for some in _portions(new, limits.params):
            self._sink.log_batch(self._run_id, params=some)
            self._params |= dict(some)
        for some in _portions(changed, limits.tags):
            self._sink.log_batch(self._run_id, tags=some)
            self._tags |= dict(some)

    def _send_names(self) -> None:
        """The tags with names as they were, before anything under those that they have become."""
        limits, fresh = self._sink.limits, self._names.fresh
        named = {name_tag(stored): cut(name, limits.tag_chars) for stored, name in fresh.items()}
        for some in _portions(named, limits.tags):
            self._sink.log_batch(self._run_id, tags=some)
        fresh.clear()

    def _new_points(self) -> Iterator[Point]:
        """Those that MLflow does not have, under the names that it has for them."""
        names = self._names.of("metric")
        if self._before is not None and not self.run.ordered:
            yield from self._not_there(names)
            return
        if self._counts is None:
            self._counts = self._sink.count_metrics(self._run_id) if self._before is not None else {}
        for point in self.run.points():
            key = names[point.key]
            if self._is_twin(key, point):
                continue
            if (left := self._counts.get(key, 0)) > 0:
                self._counts[key] = left - 1
            else:
                yield point._replace(key=key)

    def _not_there(self, names: Names) -> Iterator[Point]:
        """The same, by what MLflow has of each metric."""
        for point in self.run.points():
            key = names[point.key]
            if key not in self._there:
                pieces = self._reader.history(self._run_id, key)
                columns = (zip(*(each.tolist() for each in piece), strict=True) for piece in pieces)
                self._there[key] = {_row(*row) for rows in columns for row in rows}
            row = _row(point.step, point.timestamp, point.value)
            if row not in self._there[key]:
                self._there[key].add(row)
                yield point._replace(key=key)

    def _is_twin(self, key: str, point: Point) -> bool:
        """Whether one just like it was there before, for which MLflow has a row."""
        value = None if point.value != point.value else point.value
        moment, seen = self._moment.get(key, (None, set()))
        if moment != point.timestamp:
            self._moment[key] = point.timestamp, {(point.step, value)}
            return False
        if (point.step, value) in seen:
            return True
        seen.add((point.step, value))
        return False

    def _send_files(self) -> None:
        run, texts = self.run, dict(self.run.texts)
        limits = self._sink.limits
        long = {
            kind: found
            for kind, values, most in (
                ("params", run.params, limits.param_chars),
                ("tags", run.tags, limits.tag_chars),
            )
            if (found := {key: value for key, value in values.items() if len(value) > most})
        }
        if long:
            texts[_WHOLE] = json.dumps(long, indent=1).encode()
        total = len(run.files) + len(texts)
        for path, folder in run.files:
            if run.end_time is not None or path.exists():  # a run that goes on may delete what it has written
                self._sink.log_artifact(self._run_id, path, folder)
            self._count_file(total)
        with tempfile.TemporaryDirectory() as scratch:
            for place, content in texts.items():
                path = Path(scratch, PurePosixPath(place).name)
                path.write_bytes(content)
                folder = str(PurePosixPath(place).parent)
                self._sink.log_artifact(self._run_id, path, None if folder == "." else folder)
                path.unlink()
                self._count_file(total)

    def _count_file(self, total: int) -> None:
        self._files += 1
        self._on_progress(self.run.name, self._files, total, "artifacts")


def _row(step: int, timestamp: int, value: float) -> tuple[int, int, float | None]:
    """What is one row in MLflow: there a NaN is as good as another, and an infinity the largest number."""
    return step, timestamp, None if math.isnan(value) else max(min(value, LARGEST), -LARGEST)


def _portions(texts: dict[str, str], most: int) -> Iterator[list[tuple[str, str]]]:
    items = list(texts.items())
    for start in range(0, len(items), most):
        yield items[start : start + most]

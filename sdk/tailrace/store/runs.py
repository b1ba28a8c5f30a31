"""The runs of one store that this process writes to: a handle of tailrace's for each, and what is under way."""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, Final

from mlflow.entities import Run, RunData, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

import tailrace
from tailrace._api.tracker_core import module_core
from tailrace._messages.waiting import until
from tailrace._runs.run_part import core_of
from tailrace.store.overlay import Value, Written, changed, overlaid
from tailrace_agent.ipc.records import Flush
from tailrace_agent.settings.uris import mask_uri

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tailrace._runs.core import RunCore

__all__ = ["ENDS", "StoreRun", "StoreRuns", "every_store"]

ENDS: Final = ("FINISHED", "FAILED", "KILLED")


class StoreRun:
    """A run of MLflow's, as this process writes to it.

    Args:
        run_id: MLflow's id.
        uri: Its store.
        run: What the store has of it.
        created: This process has created it.
        new: Just now: there is no more to it than `run`.

    Attributes:
        run_id, created: As they were given.
        core: tailrace's core of it.

    Thread safety: every method from any thread.
    """

    def __init__(self, run_id: str, uri: str, run: Any, *, created: bool, new: bool = False) -> None:
        self.run_id, self.created = run_id, created
        self._uri, self._info = uri, run.info
        self._params, self._tags = dict(run.data.params), dict(run.data.tags)
        self._lock = threading.RLock()
        self._fresh, self._marked, self._token = Written(), Written(), 0
        self._attach(created=created, info=run.info if new else None)
        self._artifacts_on_the_way = False
        self._ended: tuple[RunCore, dict[str, Any]] | None = None
        self._position = self._ring_position()

    def _attach(self, *, created: bool, info: Any = None) -> None:
        self._handle = self._attached(created=created, info=info)
        self.core = core_of(self._handle)

    def _attached(self, *, created: bool, info: Any) -> tailrace.Run:
        return tailrace.attach_run(self.run_id, self._uri, created=created, info=info)

    @property
    def mlflow_id(self) -> str:
        """By which MLflow knows it."""
        return self.run_id

    def stored(self, fetch: Callable[[str], Any]) -> Any:
        """What the store has of it."""
        return fetch(self.run_id)

    def named(self, name: str) -> None:
        """MLflow has another name of it now."""
        with self._lock:
            self._tags[MLFLOW_RUN_NAME] = name

    def remembered(self) -> Run:
        """Its `info` and tags, as far as they are known here."""
        with self._lock:
            tags = dict(self._tags)
        info = changed(self._info, run_name=tags.get(MLFLOW_RUN_NAME) or self._info.run_name)
        return Run(info, RunData(tags=[RunTag(key, value) for key, value in tags.items()]))

    @property
    def usable(self) -> bool:
        """Whether tailrace can take anything for it."""
        return self.core.connection is not None

    @property
    def ours(self) -> bool:
        """Whether this process ends it."""
        return self.core.ours and not self.core.ended

    # -- writing -----------------------------------------------------------------------------------------------------

    def conflicts(self, params: Sequence[Any]) -> list[tuple[str, str, str]]:
        """Params that have another value already, as far as is known here: name, value, the new one."""
        known = self._params
        return [(p.key, known[p.key], p.value) for p in params if known.get(p.key, p.value) != p.value]

    def write(self, values: Sequence[Value], params: Sequence[Any], tags: Sequence[Any]) -> None:
        """Puts values of metrics, and MLflow's entities, on the ring; they have been checked."""
        self._reopen()
        handle = self._handle
        for step, timestamp, row in _rows(values):
            handle.log_metrics(row, step, timestamp)
        if params:
            handle.log_params({param.key: param.value for param in params})
        if tags:
            handle.set_tags({tag.key: tag.value for tag in tags})
        with self._lock:
            if params:
                self._params.update((param.key, param.value) for param in params)
            self._tags.update((tag.key, tag.value) for tag in tags)
            self._fresh.add(values, params, tags)

    def write_row(self, metrics: dict[str, float], step: int, timestamp: int | None) -> None:
        """Puts values of one step and time (milliseconds since 1970; now by default) on the ring.

        They have been checked.
        """
        if self.core.ended:  # asked here: between two steps of training a call is a microsecond
            self._reopen()
        if timestamp is None:
            self._handle.log(metrics, step)
            timestamp = time.time_ns() // 1_000_000
        else:
            self._handle.log_metrics(metrics, step, timestamp)
        with self._lock:
            self._fresh.add_row(metrics, step, timestamp)

    def log_artifact(self, path: str, artifact_path: str | None) -> None:
        """Hands a file over, as it is now."""
        self._reopen()
        self._artifacts_on_the_way = True
        self._handle.log_artifact(path, artifact_path)

    def log_artifacts(self, directory: str, artifact_path: str | None) -> None:
        """Hands over all that a directory holds."""
        self._reopen()
        self._artifacts_on_the_way = True
        self._handle.log_artifacts(directory, artifact_path)

    def _reopen(self) -> None:
        """What comes after the end is added to the run, as it is in MLflow."""
        if self.core.ended:
            self._attach(created=False)

    def end(self, status: str, end_time: int | None) -> Any:
        """Ends it, behind all that was written; nothing is waited for. Returns its `info` then."""
        core = self.core
        core.end_time = end_time
        self._ended = core, {"status": status, "end_time": end_time}
        core.end(status, 0.0)
        return changed(self._info, **self._ended[1])

    def begin_again(self) -> None:
        """It was ended, and has been resumed."""
        if self.created and self.core.ended:
            self._attach(created=True)
            self._ended = None

    def let_go(self) -> None:
        """Others decide what becomes of it from now on; waits until the agent has nothing more to do with it."""
        core, ours = self.core, self.ours
        module_core().runs.let_go(core)
        if ours:
            until(core.status, lambda status: status.over, timeout=core.settings.end_timeout, quiet=True)

    # -- reading -----------------------------------------------------------------------------------------------------

    @property
    def dirty(self) -> bool:
        """Whether something may not have been delivered, be it what `tailrace.log` has added to the run."""
        return bool(self._fresh or self._marked or (not self.core.ended and self._position != self._ring_position()))

    def on_the_way(self) -> Callable[[Any], Any]:
        """Lays what the store may not have by now over what it answers from now on; nothing is waited for.

        To be called before the store is asked: what comes to be delivered while it answers is in neither afterwards.
        """
        with self._lock:
            self._mark()
            changes = self._end() or {}
            written = Written()
            written.add_all(self._marked)
            written.add_all(self._fresh)
        if not (written or changes):
            return lambda run: run
        return lambda run: overlaid(run, written, **changes)

    def flush(self) -> None:
        """Waits until everything is delivered, for tailrace's `end_timeout` at most."""
        self.flushing()()

    def flushing(self, timeout: float | None = None) -> Callable[[], bool]:
        """The same in two steps, so that several runs are waited for at once: what is returned waits.

        Args:
            timeout: Seconds; `end_timeout` by default.

        Returns:
            A function that says whether everything has been delivered.
        """
        if not self.dirty:
            return lambda: True
        with self._lock:
            self._marked.add_all(self._fresh)
            self._fresh, self._token = Written(), 0
            marked = self._marked
        delivered = self.core.flushing(timeout)

        def wait() -> bool:
            if delivered().partial:
                return False
            with self._lock:
                self._position = self._ring_position()
                if self._marked is marked:
                    self._marked = Written()
            return True

        return wait

    @property
    def experiment_id(self) -> str:
        """MLflow's id of its experiment."""
        return str(self._info.experiment_id)

    @property
    def artifact_uri(self) -> str:
        """Where MLflow keeps its artifacts."""
        return str(self._info.artifact_uri)

    def await_artifacts(self, artifact_uri: str) -> None:
        """Waits until files that were handed over are there, if that is where they go."""
        if self._artifacts_on_the_way and artifact_uri.startswith(self.artifact_uri):
            self._artifacts_on_the_way = self._handle.flush().partial

    def await_end(self, timeout: float | None = None) -> bool:
        """Waits until MLflow knows that it has ended, where this process has ended it; whether it does."""
        if self._ended is not None:
            core = self._ended[0]
            limit = core.settings.end_timeout if timeout is None else timeout
            until(core.status, lambda status: status.over, timeout=limit, quiet=True)
        return self._end() is None

    def _end(self) -> dict[str, Any] | None:
        """How it has ended, as long as MLflow does not know it."""
        if self._ended is None:
            return None
        core, changes = self._ended
        core.status()
        if core.closed:
            self._ended = None
            return None
        return changes

    def _ring_position(self) -> int:
        connection = self.core.connection
        return 0 if connection is None else connection.open_ring().off

    def _mark(self) -> None:
        """Forgets what has been delivered by now, and has the agent report when the rest is."""
        core, connection = self.core, self.core.connection
        assert connection is not None
        if self._marked and self._token:
            status = core.status()
            if status is not None and status.settled.get(connection.ring_name, 0) >= self._token:
                self._marked, self._token = Written(), 0
        if self._fresh and not self._marked:
            self._marked, self._fresh = self._fresh, Written()
        if self._marked and not self._token:
            self._token = connection.next_token()
            core.put(Flush(core.spec.run, self._token))

    def after_fork(self) -> None:
        """In a forked child: what was under way is the parent's."""
        self._lock = threading.RLock()
        self._fresh, self._marked, self._token = Written(), Written(), 0


class StoreRuns:
    """The runs of one store.

    Args:
        uri: The store's, as tailrace's agent can open it.
        fetch: Gets a run from the store, past the plug-in.

    Thread safety: every method from any thread.
    """

    def __init__(self, uri: str, fetch: Callable[[str], Any]) -> None:
        self._uri, self._fetch = uri, fetch
        self._runs: dict[str, StoreRun] = {}
        self._let_go: set[str] = set()
        self._lock = threading.RLock()
        _stores.add(self)

    def created(self, run: Any) -> None:
        """This process has created a run."""
        with self._lock:
            self._runs[run.info.run_id] = StoreRun(run.info.run_id, self._uri, run, created=True, new=True)

    def begun(self, run: StoreRun) -> None:
        """This process has begun a run that MLflow does not know yet."""
        with self._lock:
            self._runs[run.run_id] = run

    @property
    def uri(self) -> str:
        """The store's URI, as tailrace's agent can open it."""
        return self._uri

    @property
    def shown_uri(self) -> str:
        """The store's URI without a password, as a run's record has it."""
        return mask_uri(self._uri)[0]

    def attached(self, run: Any) -> StoreRun | None:
        """A run that the store has just answered with, for who will write to it."""
        with self._lock:
            run_id = run.info.run_id
            found = self._runs.get(run_id)
            if found is None:
                # One that was deleted, and is back: who has begun it ends it.
                created = run_id in self._let_go and run.info.status == "RUNNING"
                self._let_go.discard(run_id)
                found = self._runs[run_id] = StoreRun(run_id, self._uri, run, created=created)
            return found if found.usable else None

    def known(self, run_id: str) -> StoreRun | None:
        """A run that this process has written to, or created."""
        found = self._runs.get(run_id)
        return found if found is not None and found.usable else None

    def to_write(self, run_id: str) -> StoreRun | None:
        """The run, for who writes to it; None where MLflow itself has to take or refuse it.

        Raises:
            MlflowException: There is no such run, or the store cannot be reached to look for it.
        """
        found = self._runs.get(run_id)
        if found is None:
            run = self._fetch(run_id)
            return self.attached(run) if run.info.lifecycle_stage == "active" else None
        return found if found.usable else None

    def forget(self, run_id: str) -> None:
        """A run is deleted, or is again what others made of it."""
        with self._lock:
            found = self._runs.pop(run_id, None)
            if found is not None and found.ours:
                self._let_go.add(run_id)
        if found is not None and found.usable:
            found.let_go()

    def all(self) -> list[StoreRun]:
        """Every run that this process has written to, or created."""
        with self._lock:
            return [run for run in self._runs.values() if run.usable]

    def flush(self) -> None:
        """Waits until everything is delivered that this process has written to this store."""
        for wait in [run.flushing() for run in self.all()]:
            wait()

    def await_ends(self) -> None:
        """Waits until MLflow knows of every end that this process has set, for tailrace's `end_timeout` at most."""
        runs = self.all()
        deadline = time.monotonic() + max((run.core.settings.end_timeout for run in runs), default=0.0)
        for run in runs:
            run.await_end(max(0.0, deadline - time.monotonic()))

    def after_fork(self) -> None:
        """In a forked child."""
        self._lock = threading.RLock()
        for run in self._runs.values():
            run.after_fork()


_stores: weakref.WeakSet[StoreRuns] = weakref.WeakSet()


def every_store() -> list[StoreRuns]:
    """Those of all stores of this process."""
    return list(_stores)


def _after_fork_in_child() -> None:
    for runs in _stores:
        runs.after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _rows(values: Sequence[Value]) -> list[tuple[int, int, dict[str, float]]]:
    """Values of one step and time together, in their order; a name that comes again begins a new row."""
    rows: list[tuple[int, int, dict[str, float]]] = []
    at: tuple[int, int] | None = None
    row: dict[str, float] = {}
    for key, value, timestamp, step in values:
        if at != (step, timestamp) or key in row:
            at, row = (step, timestamp), {}
            rows.append((step, timestamp, row))
        row[key] = value
    return rows

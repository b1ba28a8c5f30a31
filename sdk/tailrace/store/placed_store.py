"""The class that takes the place of a store's own: what a program logs goes to the ring, all else to the store.

MLflow's methods call one another (`log_metric` is a `log_batch`, a tag may be a new name), so that within a call of the
store's own everything is the store's own: `_own` says so for its thread.
"""

from __future__ import annotations

import functools
import threading
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

from mlflow.entities import RunStatus, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.utils.async_logging.run_operations import RunOperations
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_RUN_NAME
from mlflow.utils.validation import _validate_run_id

from tailrace._api.tracker_core import module_core
from tailrace.store import overlay
from tailrace.store.exits import attend_exit
from tailrace.store.offline import Offline, run_is_not_there
from tailrace.store.runs import ENDS, StoreRuns
from tailrace.store.spark_lookup import spare_spark_lookup
from tailrace.store.validation import checked_batch, checked_metric, checked_param, checked_tag, fits_a_row, is_text
from tailrace_agent.ipc.tags import end_tags
from tailrace_agent.settings.plug_in import OFFLINE, wants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tailrace.store.runs import StoreRun

__all__ = ["answering_with", "place"]


_READING: Final = (
    *("get_max_step_for_metric", "get_metric_history_bulk", "get_metric_history_bulk_interval"),
    "get_metric_history_bulk_interval_from_steps",
)
"""Methods that read values of runs, and that not every store has."""


class _Depth(threading.local):
    inner = False
    answer: Any = None


_depth = _Depth()


@contextmanager
def _own() -> Iterator[None]:
    """Within it this thread's calls are the store's own."""
    before, _depth.inner = _depth.inner, True
    try:
        yield
    finally:
        _depth.inner = before


@contextmanager
def answering_with(run: Any) -> Iterator[None]:
    """Within it this thread gets this run from `get_run`, without a request."""
    _depth.answer = run
    try:
        yield
    finally:
        _depth.answer = None


def place(store: Any, uri: str) -> Any:
    """Puts the plug-in in the place of a store's own class.

    Args:
        store: Of MLflow's own builder. It stays the object that it is.
        uri: Where it leads, as tailrace's agent can open it.
    """
    kind = type(store)
    if not issubclass(kind, _PlacedStore):
        reading = {name: _once_delivered(getattr(kind, name)) for name in _READING if hasattr(kind, name)}
        its_own = {"__module__": kind.__module__, **reading}
        store.__class__ = type(f"Tailrace{kind.__name__}", (_PlacedStore, kind), its_own)

        def fetch(run_id: str) -> Any:
            with _own():
                return store.get_run(run_id)

        store.tailrace_runs = StoreRuns(uri, fetch)
        store.tailrace_offline = Offline(store, store.tailrace_runs)
        attend_exit()
        spare_spark_lookup()
    return store


def _once_delivered(read: Callable[..., Any]) -> Callable[..., Any]:
    """A method that reads, once all is there that this process has logged."""

    @functools.wraps(read)
    def read_all(store: Any, *args: Any, **kwargs: Any) -> Any:
        if not _depth.inner:
            store.tailrace_offline.refuse_while_away()
            store.tailrace_runs.flush()
        with _own():
            return read(store, *args, **kwargs)

    return read_all


class _PlacedStore:
    """Stands before the class of a store. Its methods are those of MLflow's `AbstractStore`, with their arguments."""

    tailrace_runs: StoreRuns
    tailrace_offline: Offline

    # -- runs --------------------------------------------------------------------------------------------------------

    def create_run(
        self, experiment_id: str, user_id: str, start_time: int, tags: Sequence[Any], run_name: str | None
    ) -> Any:
        inner: Any = super()
        if _depth.inner:
            return inner.create_run(experiment_id, user_id, start_time, tags, run_name)
        if wants(OFFLINE):
            begun = self.tailrace_offline.begin(experiment_id, user_id, start_time, tags, run_name)
            if begun is not None:
                return begun
            experiment_id = self._experiment_in_mlflow(experiment_id)
            tags = [self._tag_in_mlflow(tag) for tag in tags]
        with _own():
            run = inner.create_run(experiment_id, user_id, start_time, tags, run_name)
        self.tailrace_runs.created(run)
        return run

    def update_run_info(self, run_id: str, run_status: Any, end_time: int | None, run_name: str | None) -> Any:
        inner: Any = super()
        run = None if _depth.inner else self.tailrace_runs.known(run_id)
        status = None if run_status is None else RunStatus.to_string(run_status)
        if run is None or not run.ours or status not in ENDS:
            if run is not None:
                self._flush(run)  # a status is the last word
                run.await_end()
            with _own():
                info = inner.update_run_info(self._in_mlflow(run_id), run_status, end_time, run_name)
            if status == "RUNNING" and not _depth.inner:
                self._forget_last_end(self._in_mlflow(run_id))
            if run is not None and run_name:
                run.named(run_name)
            if run is not None and status == "RUNNING":
                run.begin_again()
            return info
        if run_name and self.tailrace_offline.local(run_id) is not None:
            run.write((), (), (RunTag(MLFLOW_RUN_NAME, run_name),))
        elif run_name:
            with _own():
                inner.update_run_info(run.mlflow_id, RunStatus.RUNNING, None, run_name)
        info = run.end(status, end_time)
        return overlay.changed(info, run_name=run_name) if run_name else info

    def _forget_last_end(self, run_id: str) -> None:
        """A run that goes on is rid of the tags of its last end, as one of tailrace's own is."""
        inner: Any = super()
        with _own(), suppress(MlflowException):  # it goes on with them all the same
            tags = inner.get_run(run_id).data.tags
            for key in end_tags(tags):
                inner.delete_tag(run_id, key)

    def delete_run(self, run_id: str) -> Any:
        inner: Any = super()
        stored_id = self._in_mlflow(run_id)
        if not _depth.inner:
            self._let_go(run_id)
        with _own():
            return inner.delete_run(stored_id)

    def restore_run(self, run_id: str) -> Any:
        inner: Any = super()
        stored_id = self._in_mlflow(run_id)
        if not _depth.inner:  # somebody else may have deleted it, so that it has taken nothing since
            self._let_go(run_id)
        with _own():
            return inner.restore_run(stored_id)

    def delete_experiment(self, experiment_id: str) -> Any:
        inner: Any = super()
        if not _depth.inner:  # its runs are deleted with it
            for run in self.tailrace_runs.all():
                if run.experiment_id == experiment_id:
                    self._let_go(run.run_id)
        with _own():
            return inner.delete_experiment(experiment_id)

    # -- what is logged ----------------------------------------------------------------------------------------------

    def log_batch(self, run_id: str, metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]) -> None:
        inner: Any = super()
        if not _depth.inner:
            _validate_run_id(run_id)
            values, params, tags = checked_batch(metrics, params, tags)
            run = self.tailrace_runs.to_write(run_id)
            if run is not None:
                if params and (changed := run.conflicts(params)):
                    raise _params_changed(run_id, changed)
                if not is_text(*params, *tags):
                    with _own():
                        inner.log_batch(self._in_mlflow(run_id), metrics, params, tags)
                    return
                # Those of models the store keeps twice, with the run and with the model.
                for_ring = [m.model_id is None and fits_a_row(v) for m, v in zip(metrics, values, strict=True)]
                if not all(for_ring):
                    others = [metric for metric, is_for_ring in zip(metrics, for_ring, strict=True) if not is_for_ring]
                    with _own():
                        inner.log_batch(self._in_mlflow(run_id), others, [], [])
                    values = [value for value, is_for_ring in zip(values, for_ring, strict=True) if is_for_ring]
                run.write(values, params, tags)
                return
        with _own():
            inner.log_batch(run_id, metrics, params, tags)

    def log_metric(self, run_id: str, metric: Any) -> None:
        inner: Any = super()
        if not _depth.inner and metric.model_id is None:
            run = self.tailrace_runs.to_write(run_id)
            if run is not None and fits_a_row(value := checked_metric(metric)):
                run.write((value,), (), ())
                return
        with _own():
            inner.log_metric(self._in_mlflow(run_id), metric)

    def log_param(self, run_id: str, param: Any) -> None:
        inner: Any = super()
        if not _depth.inner:
            param = checked_param(param)
            run = self.tailrace_runs.to_write(run_id)
            if run is not None:
                if changed := run.conflicts((param,)):
                    raise _param_changed(run_id, *changed[0])
                if is_text(param):
                    run.write((), (param,), ())
                    return
        with _own():
            inner.log_param(self._in_mlflow(run_id), param)

    def set_tag(self, run_id: str, tag: Any) -> None:
        inner: Any = super()
        if not _depth.inner:
            tag = checked_tag(tag)
            run = self.tailrace_runs.to_write(run_id)
            if run is not None and is_text(tag):
                run.write((), (), (tag,))
                return
        with _own():
            inner.set_tag(self._in_mlflow(run_id), tag)

    def delete_tag(self, run_id: str, key: str) -> None:
        inner: Any = super()
        if not _depth.inner and (run := self.tailrace_runs.known(run_id)) is not None:
            self._flush(run)
        with _own():
            inner.delete_tag(self._in_mlflow(run_id), key)

    # -- the same, asynchronously: it is there when the call returns, and who waits learns what is refused -------

    def log_batch_async(
        self, run_id: str, metrics: Sequence[Any], params: Sequence[Any], tags: Sequence[Any]
    ) -> RunOperations:
        try:
            self.log_batch(run_id, metrics, params, tags)
        except Exception as error:  # noqa: BLE001 - MLflow raises nothing there, but by `wait()`
            module_core().voice.warn(f"run {run_id}: what was logged asynchronously is refused: {error}")
            refused: Future[None] = Future()
            refused.set_exception(error)
            return RunOperations([refused])
        return RunOperations([])

    def log_metric_async(self, run_id: str, metric: Any) -> RunOperations:
        return self.log_batch_async(run_id, [metric], [], [])

    def log_param_async(self, run_id: str, param: Any) -> RunOperations:
        return self.log_batch_async(run_id, [], [param], [])

    def set_tag_async(self, run_id: str, tag: Any) -> RunOperations:
        return self.log_batch_async(run_id, [], [], [tag])

    def flush_async_logging(self) -> None:
        self.tailrace_runs.flush()

    def shut_down_async_logging(self) -> None:
        pass

    def end_async_logging(self) -> None:
        pass

    # -- reading -----------------------------------------------------------------------------------------------------

    def get_run(self, run_id: str) -> Any:
        inner: Any = super()
        if _depth.answer is not None:
            return _depth.answer
        if _depth.inner:
            return inner.get_run(run_id)
        run = self.tailrace_runs.known(run_id)
        if run is not None:
            complete = run.on_the_way()
            with _own():
                return complete(run.stored(inner.get_run))
        with _own():
            found = inner.get_run(run_id)
        run = self.tailrace_runs.known(run_id)  # it may have come to be known meanwhile
        return found if run is None else run.on_the_way()(found)

    def get_metric_history(self, run_id: str, *args: Any, **kwargs: Any) -> Any:
        inner: Any = super()
        if not _depth.inner and (run := self.tailrace_runs.known(run_id)) is not None:
            self._flush(run)
        with _own():
            return inner.get_metric_history(self._in_mlflow(run_id), *args, **kwargs)

    def search_runs(self, *args: Any, **kwargs: Any) -> Any:
        inner: Any = super()
        if not _depth.inner:
            self._await_all()
        with _own():
            return inner.search_runs(*args, **kwargs)

    # -- what else concerns a run, which MLflow may know by another id ------------------------------------------------

    def log_inputs(self, run_id: str, *args: Any, **kwargs: Any) -> Any:
        inner: Any = super()
        with _own():
            return inner.log_inputs(self._in_mlflow(run_id), *args, **kwargs)

    def log_outputs(self, run_id: str, *args: Any, **kwargs: Any) -> Any:
        inner: Any = super()
        with _own():
            return inner.log_outputs(self._in_mlflow(run_id), *args, **kwargs)

    def get_experiment(self, experiment_id: str) -> Any:
        inner: Any = super()
        if not _depth.inner and wants(OFFLINE):
            if self.tailrace_offline.is_away():
                return self.tailrace_offline.experiment(experiment_id)
            experiment_id = self._experiment_in_mlflow(experiment_id)
        with _own():
            return inner.get_experiment(experiment_id)

    def get_experiment_by_name(self, experiment_name: str) -> Any:
        inner: Any = super()
        if not _depth.inner and wants(OFFLINE) and self.tailrace_offline.is_away():
            return self.tailrace_offline.experiment_named(experiment_name)
        with _own():
            return inner.get_experiment_by_name(experiment_name)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _flush(self, run: StoreRun) -> None:
        """Waits until everything is delivered, unless it is known that it will not be."""
        if self.tailrace_offline.local(run.run_id) is not None and self.tailrace_offline.is_away():
            raise run_is_not_there(run.run_id)
        run.flush()

    def _let_go(self, run_id: str) -> None:
        """Others decide what becomes of a run, once everything is there."""
        run = self.tailrace_runs.known(run_id)
        if run is not None:
            self._flush(run)
            run.await_end()
            self.tailrace_runs.forget(run_id)

    def _in_mlflow(self, run_id: str) -> str:
        """The id by which MLflow knows a run."""
        run = self.tailrace_runs.known(run_id)
        return run_id if run is None else run.mlflow_id

    def _tag_in_mlflow(self, tag: Any) -> Any:
        return RunTag(tag.key, self._in_mlflow(tag.value)) if tag.key == MLFLOW_PARENT_RUN_ID else tag

    def _experiment_in_mlflow(self, experiment_id: str) -> str:
        """The id by which MLflow knows an experiment that was asked for while its server was away."""
        inner: Any = super()
        name = self.tailrace_offline.name_of(experiment_id)
        if name is None:
            return experiment_id
        with _own():
            found = inner.get_experiment_by_name(name)
            return str(inner.create_experiment(name, None, []) if found is None else found.experiment_id)

    def _await_all(self) -> None:
        """Waits until what a search may look for is there, ends included."""
        self.tailrace_offline.refuse_while_away()
        self.tailrace_runs.flush()
        self.tailrace_runs.await_ends()


def _param_changed(run_id: str, key: str, known: str, value: str) -> MlflowException:
    return MlflowException(
        f"Changing param values is not allowed. Param with key='{key}' was already logged with value='{known}' for run "
        f"ID='{run_id}'. Attempted logging new value '{value}'.",
        INVALID_PARAMETER_VALUE,
    )


def _params_changed(run_id: str, changed: list[tuple[str, str, str]]) -> MlflowException:
    listed = [{"key": key, "old_value": known, "new_value": value} for key, known, value in changed]
    return MlflowException(
        f"Changing param values is not allowed. Params were already logged='{listed}' for run ID='{run_id}'.",
        INVALID_PARAMETER_VALUE,
    )

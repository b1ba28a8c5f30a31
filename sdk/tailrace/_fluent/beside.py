"""What MLflow's functions are called beside: tailrace's active run, store and experiment, and all that was logged.

MLflow's fluent functions look at a stack of active runs of their own, which knows nothing of tailrace's. For the time
of a call the active run stands on it. So `log_input`, `initialize_logged_model` and a flavour's `log_model` mean that
run; those that look at it wait until MLflow has created it.

Importing this module imports MLflow.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
from typing import TYPE_CHECKING, Any, Final

import mlflow
from mlflow.tracking import fluent

from tailrace_agent.runtime.places import working_directory
from tailrace_agent.settings.plug_in import is_installed
from tailrace_agent.settings.uris import mask_uri, resolve_uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tailrace._api.tracker_core import TrackerCore
    from tailrace._runs.core import RunCore

__all__ = ["agree", "call_beside"]

_NEED_A_RUN: Final = frozenset(("delete_tag", "get_artifact_uri", "log_input", "log_inputs", "log_outputs"))
"""Where none is active, one is started: by tailrace, or MLflow would start one of its own."""
_READ: Final = (
    *("delete_run", "delete_tag", "download_", "evaluate", "get_parent_run", "get_run", "list_", "load_"),
    *("restore_run", "search_logged_models", "search_runs"),
)
"""Beginnings of functions that look at what was logged: it is to be there."""
_WITHOUT_ANSWER: Final = frozenset(("log_input", "log_inputs", "log_model_params", "log_outputs"))
"""What a training loop says, and needs no answer to: a store that is away does not stop it."""
_NAME: Final = "MLFLOW_EXPERIMENT_NAME"
_URI: Final = "MLFLOW_TRACKING_URI"


def call_beside(tracker: TrackerCore, function: Callable[..., Any], args: tuple[Any, ...], kwargs: Any) -> Any:
    """Calls a function of MLflow's.

    Args:
        tracker: Whose active run, store and experiment it means.
        function: The function.
        args: Its arguments.
        kwargs: Those by keyword.

    Raises:
        Exception: Whatever it raises; of what a training loop says without an answer, mistakes alone.
    """
    name = function.__name__
    agree(tracker)
    if name == "autolog" and not is_installed():
        # What it patches logs through MLflow, long after this call. By name: the plug-in stands on all of tailrace.
        importlib.import_module("tailrace.store").install()
    if name.startswith(_READ):
        tracker.runs.home.flush()
    run = tracker.runs.target(None) if name in _NEED_A_RUN else tracker.runs.current()
    if name in _NEED_A_RUN and run is not None and run.connection is None:  # tracking is off
        return "" if name == "get_artifact_uri" else None
    try:
        with _active(run):
            return function(*args, **kwargs)
    except Exception as error:
        if name not in _WITHOUT_ANSWER or _of_the_caller(error):
            raise
        tracker.surprised(name, error)
        return None


@contextlib.contextmanager
def _active(run: RunCore | None) -> Iterator[None]:
    """A run stands on MLflow's stack of active ones."""
    stack = fluent._active_run_stack.get()  # looked up anew: the store plug-in has one of its own
    # One of which nothing is delivered is no run of MLflow's; and the program may have begun the same one there.
    if run is None or run.connection is None or any(run.run_id_now == each.info.run_id for each in stack):
        yield
        return
    entry = _Standing(run)
    list.append(stack, entry)  # the plug-in's own would make it tailrace's active run once more
    try:
        yield
    finally:
        # By identity: what the call has begun, or ended, stays as it left it.
        stack[:] = [each for each in stack if each is not entry]


def _of_the_caller(error: Exception) -> bool:
    """Whether a call was wrong, and would be at any time."""
    return isinstance(error, TypeError) or getattr(error, "error_code", None) == "INVALID_PARAMETER_VALUE"


class _Standing(fluent.ActiveRun):  # type: ignore[misc]
    """A run of tailrace's, as MLflow's active run. Who looks at it waits until MLflow has created it.

    Raises:
        TimeoutError, StoreRefused: It has not come to be, `end_timeout` at most.
    """

    def __init__(self, run: RunCore) -> None:
        self._run = run

    @functools.cached_property
    def _stored(self) -> Any:
        return mlflow.get_run(self._run.known().run_id)

    @property
    def info(self) -> Any:
        return self._stored.info

    @property
    def data(self) -> Any:
        return self._stored.data

    @property
    def inputs(self) -> Any:
        return self._stored.inputs

    @property
    def _inputs(self) -> Any:  # to which MLflow adds the model and the data set of a metric
        return self._stored._inputs

    @_inputs.setter
    def _inputs(self, inputs: Any) -> None:
        self._stored._inputs = inputs

    @property
    def outputs(self) -> Any:
        return self._stored.outputs


def agree(tracker: TrackerCore) -> None:
    """Has MLflow look where tailrace's runs go: it does not know of arguments and files."""
    run = tracker.runs.current()
    settings = tracker.settings({}) if run is None else run.settings
    if settings.tracking_uri:
        uri = resolve_uri(settings.tracking_uri, working_directory())
        if mlflow.get_tracking_uri() != uri:
            before = os.environ.get(_URI, "")
            mlflow.set_tracking_uri(uri)
            # Every program that is started from here gets it: not with a password that a file or a call has given.
            if mask_uri(uri)[1] is not None:
                os.environ[_URI] = before
    name = tracker.settings({}).experiment_name
    # One by its id is in the environment already, and so is a name by `set_experiment`.
    if name and not os.environ.get(_NAME):
        os.environ[_NAME] = name

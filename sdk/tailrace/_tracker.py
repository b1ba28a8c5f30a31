"""The tracker: the object behind `tailrace`'s module-level functions, for those who inject it."""

from __future__ import annotations

import atexit
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tailrace._active import Active
from tailrace._calls import ActiveCalls
from tailrace._connection import SESSION, point_children_nowhere
from tailrace._hot import Channel, make_log
from tailrace._info import ExperimentInfo
from tailrace._lane import LANE
from tailrace._launch import Launcher, context_tags, describe, verdict
from tailrace._managed import Managed, given
from tailrace._reading import ReadCalls
from tailrace._registry import RegistryCalls
from tailrace._report import start_line
from tailrace._results import ActiveResultCalls
from tailrace._run import Run
from tailrace._say import Voice, say
from tailrace._selective import log_rest
from tailrace_agent.errors import CallError, StoreRefused
from tailrace_agent.ledger import Ledger
from tailrace_agent.records import RunSpec, Start
from tailrace_agent.settings import load_settings
from tailrace_agent.uris import mask_uri, resolve_uri

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tailrace._connection import Connection
    from tailrace.config import TrackingConfig
    from tailrace_agent.settings import Settings

__all__ = ["RUN", "Tracker"]

RUN = "TAILRACE_RUN"
"""Environment variable that tells spawned children which run is active: tailrace's id of it."""


class Tracker(ActiveCalls, ActiveResultCalls, ReadCalls, RegistryCalls, Managed):
    """Starts runs and logs to the active one. `tailrace`'s module-level functions are those of one tracker.

    As a context manager it starts a run, and ends it, FAILED when an exception goes through. `tailrace.protocol` says
    what an engine that is given one may expect of it.

    Args:
        tracking_uri: Where to; a setting like any other.
        experiment_name: MLflow's experiment; a setting like any other.
        auto_start_run: Whether entering the `with` block starts a run.
        config: What a configuration says; weaker than all other arguments. See `build_tracker_from_config`.
        **settings: Any setting; stronger than environment and files. See docs/settings.md.

    Raises:
        SettingsError: A setting is wrong.

    Thread safety: every method from any thread. Forked and spawned children join the active run.

    Example:
        >>> with Tracker("http://localhost:5000", "digits") as tracker:
        ...     tracker.log(step=0, loss=0.5)
    """

    def __init__(
        self,
        tracking_uri: str | os.PathLike[str] | None = None,
        experiment_name: str | None = None,
        auto_start_run: bool = True,
        *,
        config: TrackingConfig | None = None,
        **settings: Any,
    ) -> None:
        self._config, self._auto_start = config, auto_start_run
        self._given = given(config, tracking_uri, experiment_name, settings)
        if self._given:
            load_settings(self._given)  # what is wrong is said now
        self._experiment_id: str | None = None
        self._voice = Voice()
        self._idle = Channel(0, lambda _: None, self._odd)
        self._idle.close(_no_run)
        self._active = Active(self._idle)
        self._launcher = Launcher(self._voice, self._hear)
        self._attached: dict[str, Run] = {}
        self._exports = False
        self._exit_timeout = 0.0
        # In the instance, as in Run: the method below is its documentation.
        self.__dict__["log"] = make_log(self._active.pointer)
        _trackers.append(self)  # for good: its runs have to be ended at exit

    # -- where to ----------------------------------------------------------------------------------------------------

    def set_tracking_uri(self, uri: str | os.PathLike[str]) -> None:
        """Where runs started from now on go: `http://…`, `sqlite:///…`, `postgresql://…`.

        Args:
            uri: What MLflow takes; a path is a directory of files.

        Raises:
            SettingsError: It is no URI at all.

        Example:
            >>> tailrace.set_tracking_uri("http://localhost:5000")
        """
        load_settings({"tracking_uri": uri})
        self._given = {**self._given, "tracking_uri": uri}
        self._export(MLFLOW_TRACKING_URI=resolve_uri(os.fspath(uri), str(Path.cwd())))

    def get_tracking_uri(self) -> str:
        """The tracking URI in force, without a password; MLflow's default when none is set.

        Returns:
            The URI, relative paths made absolute.

        Example:
            >>> tailrace.get_tracking_uri()
            'http://localhost:5000'
        """
        uri = self._settings({}).tracking_uri
        return mask_uri(resolve_uri(uri or "sqlite:///mlflow.db", str(Path.cwd())))[0]

    def set_experiment(self, experiment_name: str | None = None, experiment_id: str | None = None) -> ExperimentInfo:
        """The experiment of runs started from now on; created when missing.

        Args:
            experiment_name: Its name.
            experiment_id: Or MLflow's id of it.

        Returns:
            Its `name` and `experiment_id`; what MLflow alone knows is waited for.

        Raises:
            CallError: Neither or both are given.
            SettingsError: The name is empty.

        Example:
            >>> tailrace.set_experiment("digits")
        """
        if (experiment_name is None) == (experiment_id is None):
            raise CallError("set_experiment takes experiment_name or experiment_id, one of the two")
        load_settings({"experiment_name": experiment_name})
        self._given = {**self._given, "experiment_name": experiment_name}
        self._experiment_id = None if experiment_id is None else str(experiment_id)
        self._export(MLFLOW_EXPERIMENT_NAME=experiment_name, MLFLOW_EXPERIMENT_ID=self._experiment_id)
        return ExperimentInfo(experiment_name, self._experiment_id, self._active)

    def _export(self, **variables: str | None) -> None:
        """Tells programs that this one starts, as MLflow does; for the module's own tracker only."""
        if not self._exports:
            return
        for name, value in variables.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    # -- runs --------------------------------------------------------------------------------------------------------

    def start_run(  # noqa: PLR0913 - MLflow's own arguments, and ours
        self,
        run_id: str | None = None,
        experiment_id: str | None = None,
        run_name: str | None = None,
        nested: bool = False,
        parent_run_id: str | None = None,
        tags: Mapping[str, Any] | None = None,
        description: str | None = None,
        log_system_metrics: bool | None = None,
        *,
        experiment_name: str | None = None,
        tracking_uri: str | os.PathLike[str] | None = None,
        params: Mapping[str, Any] | None = None,
        agent: Literal["process", "thread", "off"] | None = None,
        **settings: Any,
    ) -> Run:
        """Starts a run and makes it the active one of this thread. Does not wait for MLflow.

        Args:
            run_id: MLflow's id of a run to resume; `MLFLOW_RUN_ID` by default, for a program's first run.
            experiment_id: Experiment by id.
            run_name: Name; MLflow invents one by default.
            nested: The run is a child of the active run.
            parent_run_id: MLflow's id of the parent, for a run nested under somebody else's.
            tags: Tags.
            description: The run's note in MLflow's UI.
            log_system_metrics: Sample the machine while the run lasts; see `system_monitor`.
            experiment_name: Experiment by name; created when missing.
            tracking_uri: Where to, for this run.
            params: Params, as `log_params` takes them.
            agent: Where delivery runs: `process`, `thread`, or `off`.
            **settings: Any other setting, for this run.

        Returns:
            The run; use it as a context manager, or end it with `end_run`.

        Raises:
            SettingsError: A setting is wrong.
            CallError: A run is active and neither `nested` nor another thread's.
            StateDirError, SessionError, StoreRefused: What cannot work at all, under `on_error="raise"`; by default
                one warning, and training goes on.

        Example:
            >>> with tailrace.start_run(run_name="baseline", params={"lr": 0.1}):
            ...     train()
        """
        arguments = {"experiment_name": experiment_name, "tracking_uri": tracking_uri, "agent": agent, **settings}
        arguments["log_system_metrics"] = log_system_metrics
        config = self._settings(arguments)
        running = self._active.own()
        if running is not None and not nested:
            raise CallError(f"run {running.id} is active already: end it with tailrace.end_run(), or pass nested=True")
        parent = self._active.parent() if nested else None
        spec, credentials = describe(
            config,
            run_id=run_id or os.environ.pop("MLFLOW_RUN_ID", None),
            experiment_id=self._experiment_id if experiment_id is None and not experiment_name else experiment_id,
            run_name=run_name or (self._run_name() if parent is None else None),
            parent=parent._spec.run if parent is not None else None,
            parent_run_id=parent_run_id,
            tags={**context_tags(), **self._tags(), **_texts(tags or {})},
            description=description,
            files=self._files(),
        )
        run = self._begin(spec, config, credentials)
        if params:
            run.log_params(params)
        if config.log_system_metrics:
            run.system_monitor(config.system_metrics_interval, node=config.system_metrics_node).start()
        return run

    def _start(self) -> Run:
        return self.start_run()

    def end_run(
        self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED", timeout: float | None = None
    ) -> None:
        """Ends this thread's active run, and waits for its delivery; see `Run.end`. Does nothing without one.

        Args:
            status: FINISHED, FAILED or KILLED.
            timeout: Seconds to wait; `end_timeout` by default.

        Raises:
            CallError: Under `strict=True`: an unknown status.

        Example:
            >>> tailrace.end_run("FAILED")
        """
        run = self._active.own() or self._active.current()
        if run is not None:
            run.end(status, timeout)

    def active_run(self) -> Run | None:
        """This thread's active run, or None.

        Returns:
            The run; in a thread or child without one of its own, the one that it logs to.

        Example:
            >>> tailrace.active_run().info.run_id
            '0f6a…'
        """
        return self._active.current() or self._inherited()

    # -- logging to the active run -----------------------------------------------------------------------------------

    def log(self, metrics: Mapping[str, Any] | None = None, /, *, step: int | None = None, **values: Any) -> None:
        """Logs metrics of one training step to the active run, in about a microsecond.

        Args:
            metrics: Metrics by name, for names that are no Python identifiers (`"train/loss"`).
            step: Training step; without it, the run's own counter of calls without a step: 0, 1, 2, …
            **values: Metrics as keywords. Numbers of any kind: float, int, bool, NumPy scalars, tensors with one
                element.

        Raises:
            CallError: Under `strict=True`: a value is no number, or the step no integer.

        Example:
            >>> tailrace.log({"train/loss": 0.25}, step=7)
        """
        raise NotImplementedError("replaced in __init__")

    def flush(self, timeout: float | None = None) -> Ledger:
        """Waits until all that was accepted before the call, in every active run, is delivered or dead.

        Args:
            timeout: Seconds in all; `end_timeout` by default.

        Returns:
            The ledgers of all active runs as one.

        Example:
            >>> tailrace.flush(timeout=10).settled
            True
        """
        timeout = self._settings({}).end_timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        total = Ledger()
        for run in self._active.all():
            total = total.add(run.flush(max(0.0, deadline - time.monotonic())))
        return total

    # -- inside ------------------------------------------------------------------------------------------------------

    def _settings(self, arguments: Mapping[str, Any]) -> Settings:
        given = {key: value for key, value in arguments.items() if value is not None}
        return load_settings({**self._given, **given})

    def _begin(self, spec: RunSpec, config: Settings, credentials: str | None) -> Run:
        """Makes a run known to the agent, and active in this thread."""
        connection = None
        self._exit_timeout = max(self._exit_timeout, config.exit_timeout)
        if config.agent != "off":
            connection = self._launcher.connect(config, spec.tracking_uri, credentials)
        run = self._activate(spec, config, connection)
        if connection is None:
            return run
        connection.put(Start(spec))
        _point_children_at(run)
        if not config.quiet:
            say(start_line(spec, config))
        if config.on_error == "raise":
            reason = verdict(run, spec)
            if reason is not None:
                self._ended(run)
                raise StoreRefused(reason)
        return run

    def _activate(self, spec: RunSpec, config: Settings, connection: Connection | None) -> Run:
        run = Run(spec, connection, config, self._voice, self._ended)
        run._implicit = run._attached(run._channel.twin(self._odd))
        self._active.push(run, run._implicit)
        return run

    def _ended(self, run: Run) -> None:
        implicit = run._implicit
        if implicit is not None and implicit.encode is not None:
            implicit.close(_no_run)
        self._active.remove(run)
        self._announce(run)

    def _announce(self, gone: Run) -> None:
        """Tells processes spawned from now on which run is active, after one is not any more."""
        current = self._active.current()
        if current is not None:
            _point_children_at(current)
        else:
            point_children_nowhere(RUN, gone.id)

    def _odd(self, values: Mapping[str, Any], metrics: Any, step: Any, time_ns: int, error: BaseException) -> None:
        """A module-level `log()` that the fast path could not take: no run, or values that are no plain numbers."""
        run = self._active.current()
        if isinstance(error, _NoRun) or run is None:
            self._active.refresh()
            run = self._active.current()
            if run is None or run._ended:
                run = self._to(None)
            run._odd.take(values, metrics, step, time_ns, error)  # not timed: starting a run is no cost of a call
            return
        run._odd.timed(values, metrics, step, time_ns, error)

    def _to(self, run_id: str | None) -> Run:
        """The run that a call means: the one named, the active one, the parent process's, or a new one."""
        if run_id is not None:
            return self._named(run_id)
        run = self._active.current() or self._inherited()
        return run if run is not None else self.start_run()

    def _named(self, run_id: str) -> Run:
        if run_id in self._attached:
            return self._attached[run_id]
        for run in self._active.all():
            status = run._status()
            if status is not None and status.run_id == run_id:
                return run
        config = self._settings({"quiet": True})
        spec, credentials = describe(config, run_id=run_id, owned=False)
        run = self._attached[run_id] = self._begin(spec, config, credentials)
        self._active.remove(run)
        self._announce(run)
        return run

    def _inherited(self) -> Run | None:
        """The active run of the process that spawned this one."""
        named = os.environ.get(RUN)
        if not named or not os.environ.get(SESSION) or self._launcher.connected:
            return None
        config = self._settings({})
        if config.agent == "off":
            return None
        connection = self._launcher.connect(config)
        if connection is None or not connection.joined:
            return None
        spec, _ = describe(config, owned=False)
        return self._activate(msgspec.structs.replace(spec, run=int(named, 16)), config, connection)

    def _hear(self) -> None:
        """The agent has something to tell: read it in the background."""

        def hear() -> None:
            for run in self._active.all():
                run._status()

        LANE.submit(hear, on_error=lambda _: None)

    def _exit(self) -> None:
        """The interpreter ends: so do the runs that it started, within `exit_timeout` in all."""
        error = _uncaught()
        ours = [run for run in (*self._attached.values(), *self._active.all()) if run._pid == os.getpid()]
        deadline = time.monotonic() + self._exit_timeout
        for run in reversed(ours):
            left = max(0.0, deadline - time.monotonic())
            if not run._spec.owned and run._settings.agent == "process":
                log_rest(run._channel, run._odd.take, run._voice)
                continue  # somebody else's run: what it was told is safe, and the agent lives on
            if error is not None and run._spec.owned:
                run.fail(error, left)
            else:
                run.end("FINISHED", left)
        self._launcher.close(max(1.0, deadline - time.monotonic()))

    def _after_fork(self) -> None:
        self._launcher.after_fork()
        self._active.after_fork()


def _point_children_at(run: Run) -> None:
    """Processes spawned from now on log to this run, if they start none of their own."""
    if run._connection is not None:
        os.environ[RUN] = run.id
        os.environ[SESSION] = str(run._connection.session.dir)


def _texts(tags: Mapping[str, Any]) -> dict[str, str]:
    try:
        return {str(key): str(value) for key, value in tags.items()}
    except AttributeError:
        raise CallError(f"tags must be a mapping, not {type(tags).__name__}") from None


class _NoRun(Exception):
    """Raised by the encoder of a channel that has no run (any more)."""


def _no_run(row: object) -> bytes:
    raise _NoRun(row)


def _uncaught() -> BaseException | None:
    """The exception that ends a script; in an interactive session an old one says nothing."""
    if hasattr(sys, "ps1") or "ipykernel" in sys.modules:
        return None
    return getattr(sys, "last_exc", None) or getattr(sys, "last_value", None)


_trackers: list[Tracker] = []


def _exit_all() -> None:
    for tracker in _trackers:
        tracker._exit()


def _after_fork_in_child() -> None:
    for tracker in _trackers:
        tracker._after_fork()


atexit.register(_exit_all)
os.register_at_fork(after_in_child=_after_fork_in_child)

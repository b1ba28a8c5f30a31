"""The tracker: the object behind `tailrace`'s module-level functions, for those who inject it."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from typing import TYPE_CHECKING, Any, Literal

from tailrace._api.artifact_forwards import ActiveArtifactCalls
from tailrace._api.boundary import NoMonitor, protect
from tailrace._api.forwards import ActiveCalls
from tailrace._api.info import ExperimentInfo
from tailrace._api.lookups import require_experiment, require_named
from tailrace._api.managed import Managed, given
from tailrace._api.model_handle import no_model
from tailrace._api.passing import pass_tracker
from tailrace._api.reading import ReadCalls
from tailrace._api.registry import RegistryCalls
from tailrace._api.result_forwards import ActiveResultCalls
from tailrace._api.run import Run
from tailrace._api.tracker_core import TrackerCore, tracker_cores
from tailrace._background.process_end import at_end
from tailrace._log.log import make_log
from tailrace._messages.suggestions import Suggests, instead_of_argument
from tailrace._runs.current import CurrentRuns
from tailrace._runs.job_runs import of_job
from tailrace._runs.launch import checked_note, checked_run_id, context_tags, describe, resumed
from tailrace._runs.program_end import end_all
from tailrace._runs.ray_runs import end_left_behind
from tailrace._runs.run_part import core_of
from tailrace._session.job_place import this_job
from tailrace._values.texts import as_name, as_texts
from tailrace_agent.errors import CallError, SettingsError
from tailrace_agent.ledger import Ledger
from tailrace_agent.runtime.places import working_directory
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.sources import load_settings
from tailrace_agent.settings.uris import mask_uri, resolve_uri

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tailrace._config.tracking import TrackingConfig
    from tailrace._runs.core import RunCore

__all__ = ["Tracker", "module_tracker"]

_NAME_CHARS = 250
"""The width of the column for names of runs in MLflow's databases."""
_READING = frozenset(name for base in (ReadCalls, RegistryCalls) for name in vars(base) if not name.startswith("_"))
"""Calls whose answer the program goes on with: there is nothing to give in its place."""


@protect({
    "__enter__": lambda tracker: tracker,
    "__repr__": object.__repr__,
    "attach_run": lambda tracker: tracker._core.runs.nothing().handle,
    "start_run": lambda tracker: tracker._core.runs.begin_nothing().handle,
    "flush": lambda _: Ledger(partial=True),
    "get_tracking_uri": lambda _: "",
    "log_model": lambda _: no_model(),
    "set_experiment": lambda tracker: ExperimentInfo(None, None, tracker._core),
    "system_monitor": lambda _: NoMonitor(),
}, but=_READING)  # fmt: skip
class Tracker(ActiveCalls, ActiveArtifactCalls, ActiveResultCalls, ReadCalls, RegistryCalls, Managed, Suggests):
    """Starts runs and logs to the active one. `tailrace`'s module-level functions are those of one tracker.

    As a context manager it starts a run, and ends it, FAILED when an exception goes through. `tailrace.protocol` says
    what an engine that is given one may expect of it.

    Args:
        tracking_uri: Where to; a setting like any other.
        experiment_name: MLflow's experiment; a setting like any other.
        auto_start_run: Whether entering the `with` block starts a run.
        config: What a configuration sets; weaker than all other arguments. See `build_tracker_from_config`.
        **settings: Any setting; stronger than environment and files. See docs/settings.md.

    Raises:
        SettingsError: A setting is wrong.

    Thread safety: every method from any thread. Forked and spawned children join the active run; pickled, a tracker
    comes back in another process with its settings, joined to the run that is active.

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
        _require_known(settings, "Tracker")
        arguments = given(config, tracking_uri, _text(experiment_name, "experiment_name"), settings)
        if arguments:
            with contextlib.suppress(OSError):  # no descriptor left for a file: reported by the first call
                load_settings(arguments)  # what is wrong is raised now
        core = TrackerCore(arguments, config, auto_start=auto_start_run)
        core.open(CurrentRuns(core.voice, core.settings, lambda: core_of(self.start_run()), Run, self))
        super().__init__(core)
        # In the instance, as in Run: the method below is its documentation.
        self.__dict__["log"] = make_log(core.runs.active.pointer)
        self.__dict__["should_stop"] = core.runs.stopping.should_stop
        core.runs.stopping.should_stop.__doc__ = ActiveCalls.should_stop.__doc__

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
        value: Any = uri
        if value is None:
            raise SettingsError("tracking_uri is None: name a store, or leave the call out for MLflow's default one")
        load_settings({"tracking_uri": uri})
        # A new dictionary: another thread that reads the old one meanwhile reads all of it.
        self._core.given = {**self._core.given, "tracking_uri": uri}
        # Absolute: a program that is started elsewhere would take a relative path from there.
        self._core.export(MLFLOW_TRACKING_URI=resolve_uri(os.fspath(uri), working_directory()))
        if self._core.of_module and (beside := sys.modules.get("tailrace._fluent.beside")) is not None:
            beside.agree(self._core)  # what MLflow was told with a call before is stronger than the variable

    def get_tracking_uri(self) -> str:
        """The tracking URI in force, without a password; MLflow's default when none is set.

        Returns:
            The URI, relative paths made absolute.

        Example:
            >>> tailrace.get_tracking_uri()
            'http://localhost:5000'
        """
        uri = self._core.settings({}).tracking_uri
        return mask_uri(resolve_uri(uri or "sqlite:///mlflow.db", working_directory()))[0]

    def set_experiment(self, experiment_name: str | None = None, experiment_id: str | None = None) -> ExperimentInfo:
        """The experiment of runs started from now on; created when missing.

        Args:
            experiment_name: Its name.
            experiment_id: Or MLflow's id of it.

        Returns:
            With the attributes of MLflow's `Experiment`; what MLflow alone knows is asked for when it is read.

        Raises:
            CallError: Neither or both are given; under `strict=True`: it is deleted.
            NotFound: Under `strict=True`: there is none with this id.
            SettingsError: The name is empty.

        Example:
            >>> tailrace.set_experiment("digits")
        """
        if (experiment_name is None) == (experiment_id is None):
            raise CallError("Must specify exactly one of the two: experiment_name or experiment_id")
        experiment_name, experiment_id = (
            _text(experiment_name, "experiment_name"),
            _text(experiment_id, "experiment_id"),
        )
        # Before anything is changed: a wrong name leaves the old one in force.
        load_settings({"experiment_name": experiment_name})
        core = self._core
        require_experiment(core.settings({}), experiment_name, experiment_id)
        core.given, core.experiment_id = {**core.given, "experiment_name": experiment_name}, experiment_id
        core.export(MLFLOW_EXPERIMENT_NAME=experiment_name, MLFLOW_EXPERIMENT_ID=experiment_id)
        return ExperimentInfo(experiment_name, experiment_id, core)

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
        agent: Literal["process", "node", "thread", "off"] | None = None,
        job: str | None = None,
        **settings: Any,
    ) -> Run:
        """Starts a run and makes it the active one of this thread or asyncio task. Does not wait for MLflow.

        What is given as a text may be anything that has a `str()`: a number, a path, an enum.

        Args:
            run_id: MLflow's id of a run to resume; `MLFLOW_RUN_ID` by default, for a program's first run.
            experiment_id: Experiment by id.
            run_name: Name; MLflow invents one by default.
            nested: The run is a child of the active run; in a thread or task without one, of the program's.
            parent_run_id: MLflow's id of the parent, for a run nested under somebody else's.
            tags: Tags.
            description: The run's note in MLflow's UI.
            log_system_metrics: Sample the machine while the run lasts; see `system_monitor`.
            experiment_name: Experiment by name; created when missing.
            tracking_uri: Where to, for this run and those nested below it.
            params: Params, as `log_params` takes them.
            agent: Where delivery runs: `process`, `node`, `thread`, or `off`.
            job: Name of the job whose processes share this run, on all its nodes; a job that is started anew under its
                name goes on in its run. What the launcher says by default: see docs/scale.md.
            **settings: Any other setting, for this run.

        Returns:
            The run; use it as a context manager, or end it with `end_run`.

        Raises:
            SettingsError: A setting is wrong.
            CallError: A run is active and neither `nested` nor another thread's or task's; something has no `str()`;
                `run_id` can be none; under `strict=True`: what is named by id is deleted, or is another parent.
            NotFound: Under `strict=True`: there is no run or experiment with an id that is given.
            StateDirError, SessionError, StoreRefused: What cannot work at all, under `on_error="raise"`; by default
                one warning, and training goes on.

        Example:
            >>> with tailrace.start_run(run_name="baseline", params={"lr": 0.1}):
            ...     train()
        """
        _require_known(settings, "start_run")
        experiment_name = _text(experiment_name, "experiment_name")
        arguments = {"experiment_name": experiment_name, "tracking_uri": tracking_uri, "agent": agent, **settings}
        arguments["log_system_metrics"] = log_system_metrics
        runs = self._core.runs
        running = runs.active.own()
        if running is not None and not nested and end_left_behind(running):
            running = runs.active.own()
        if running is not None and not nested:
            raise CallError(
                f"run {running.label} is active already: the cell or script that began it has not ended it. End it "
                "with tailrace.end_run(). To start a nested run, pass nested=True"
            )
        # Without a run of its own the thread nests under the program's, as far as it is known which one is meant.
        parent = running if running is not None or not nested else self._active_core()
        config = self._core.settings(arguments)
        elsewhere = parent is not None and tracking_uri is None and parent.settings.tracking_uri != config.tracking_uri
        if parent is not None and elsewhere:  # a child belongs where its parent is
            arguments["tracking_uri"] = parent.settings.tracking_uri
            if experiment_id is None and not experiment_name:
                arguments["experiment_name"], experiment_id = (
                    parent.settings.experiment_name,
                    parent.spec.experiment_id,
                )
            config = self._core.settings(arguments)
        elif experiment_id is None and not experiment_name:
            experiment_id = self._core.experiment_id
        # A configuration names its runs; their children would all be called the same.
        name = run_name if run_name is not None else (self._run_name() if parent is None else None)
        job_found = None if config.agent == "off" else this_job(_text(job, "job"), self._core.voice)
        leads = job_found is None or job_found.rank == 0
        spec, credentials = describe(
            config,
            run_id=checked_run_id(_text(run_id, "run_id"), config.tracking_uri, self._core.voice) or resumed(),
            experiment_id=_text(experiment_id, "experiment_id"),
            run_name=self._short_name(_text(name, "run_name")),
            parent_run_id=_text(parent_run_id, "parent_run_id"),
            # The later ones are stronger: a call may say who its user is.
            tags={**context_tags(), **self._tags(), **as_texts(tags or {}, "tags")},
            description=checked_note(description, tags),
            files=self._files(),
            owned=leads,
        )
        require_named(config, spec, running)
        if job_found is not None:
            spec, config = of_job(spec, config, job_found, parent.id if parent is not None else None)
        run: Run = runs.begin(spec, config, credentials, parent, job_found).handle
        if params is not None:
            run.log_params(params)
        if config.log_system_metrics:
            run.system_monitor(config.system_metrics_interval).start()
        return run

    def _short_name(self, name: str | None) -> str | None:
        if name is not None and len(name) > _NAME_CHARS:
            self._core.voice.warn(f"run_name has {len(name):,} characters; MLflow keeps {_NAME_CHARS}")
        return name[:_NAME_CHARS] if name else name

    def end_run(
        self, status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED", timeout: float | None = None
    ) -> None:
        """Ends the active run of this thread or task, and waits for its delivery; see `Run.end`.

        Does nothing without one.

        Args:
            status: FINISHED, FAILED or KILLED.
            timeout: Seconds to wait; `end_timeout` by default.

        Raises:
            CallError: Under `strict=True`: an unknown status.

        Example:
            >>> tailrace.end_run("FAILED")
        """
        active = self._core.runs.active
        # In a forked child it is the parent's, whose end only waits there.
        run = active.own() or active.current()
        if run is not None:
            run.handle.end(status, timeout)

    def active_run(self) -> Run | None:
        """The active run of this thread or task, or None.

        Returns:
            The run; in a thread, task or child without one of its own, the one that it logs to.

        Example:
            >>> tailrace.active_run().info.run_id
            '0f6a…'
        """
        core = self._core.runs.current()
        return None if core is None else core.handle

    def last_active_run(self) -> Run | None:
        """The active run, or else the one of this process that has ended last.

        Returns:
            The run, or None; `run.data` reads what MLflow has of it.

        Example:
            >>> tailrace.last_active_run().info.run_id
            '0f6a…'
        """
        return self.active_run() or self._core.runs.last_ended

    def attach_run(
        self,
        run_id: str,
        tracking_uri: str | os.PathLike[str] | None = None,
        *,
        created: bool = False,
        info: Any = None,
    ) -> Run:
        """A handle on a run that something else has begun and will end: `mlflow.start_run`, another program.

        It does not become the active run. Its `end` waits for the delivery of what this process has logged to it, and
        leaves the run as it is.

        Args:
            run_id: MLflow's id of it.
            tracking_uri: Its store; the one in force by default.
            created: This program has just created the run in MLflow itself, so its `end` ends it. Killed before that,
                the program leaves it KILLED, with the reason; one that ends by itself leaves it as it is.
            info: MLflow's `RunInfo` of a run that was `created` a moment ago: MLflow is not asked for it again.

        Returns:
            The run, with all calls of one.

        Raises:
            SettingsError: The tracking URI is none.

        Thread safety: any thread.

        Example:
            >>> with mlflow.start_run() as active:
            ...     run = tailrace.attach_run(active.info.run_id, mlflow.get_tracking_uri())
            ...     run.log(step=0, loss=0.5)
        """
        if tracking_uri is not None:
            load_settings({"tracking_uri": tracking_uri})
            tracking_uri = resolve_uri(os.fspath(tracking_uri), working_directory())
        run: Run = self._core.runs.named(as_name(run_id, "run_id"), tracking_uri, created=created, info=info).handle
        return run

    # -- logging to the active run -----------------------------------------------------------------------------------

    def log(
        self, metrics: Mapping[str, Any] | None = None, /, step: int | None = None, *others: Any, **values: Any
    ) -> None:
        """Logs metrics of one training step to the active run, in about a microsecond.

        Args:
            metrics: Metrics by name, for names that are no Python identifiers; nested ones become `train/loss`.
            step: Training step; without it, the run's own counter of calls without a step: 0, 1, 2, …
            *others: Not for use: what other trackers take there is said to be wrong, and stops nobody.
            **values: Metrics as keywords. Numbers of any kind: float, int, bool, NumPy scalars, tensors with one
                element.

        Raises:
            CallError: Under `strict=True`: a value is no number, or the step no integer.

        Example:
            >>> tailrace.log({"train/loss": 0.25}, step=7)
            >>> tailrace.log({"train": {"loss": 0.25}}, 7)
        """
        raise NotImplementedError("replaced in __init__")

    def flush(self, timeout: float | None = None) -> Ledger:
        """Waits until all that was accepted before the call is delivered or dead.

        That is what was logged to active runs, and to those that calls have named (`run_id=`, `attach_run`).

        Args:
            timeout: Seconds in all; `end_timeout` by default.

        Returns:
            The ledgers of these runs as one.

        Example:
            >>> tailrace.flush(timeout=10).settled
            True
        """
        timeout = self._core.settings({}).end_timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        total = Ledger()
        for run in self._core.runs.open():
            # By the handle, whose guard keeps one run's trouble from the others.
            total = total.add(run.handle.flush(max(0.0, deadline - time.monotonic())))
        return total

    def flush_async_logging(self) -> None:
        """Waits until all that was logged is delivered: `flush()`, in MLflow's words.

        Example:
            >>> tailrace.flush_async_logging()
        """
        self.flush()

    def flush_artifact_async_logging(self) -> None:
        """Waits until all artifacts are delivered, with all else: `flush()`, in MLflow's words.

        Example:
            >>> tailrace.flush_artifact_async_logging()
        """
        self.flush()

    # -- inside ------------------------------------------------------------------------------------------------------

    def _active_core(self) -> RunCore | None:
        """The active run's; asked for by the call that has the guard around it."""
        run = self.active_run()
        return None if run is None else core_of(run)

    def _surprised(self, what: str, error: Exception) -> None:
        self._core.surprised(what, error)

    def __reduce__(self) -> tuple[Callable[..., Tracker], tuple[Any, ...]]:
        return pass_tracker(self._core, Tracker)

    def __copy__(self) -> Tracker:
        return self

    def __deepcopy__(self, memo: object) -> Tracker:
        return self


def _text(value: object, name: str) -> str | None:
    return None if value is None else as_name(value, name)


def _require_known(settings: Mapping[str, Any], function: str) -> None:
    """An unknown argument, reported with those that there are: the call's own, and the settings."""
    fields = Settings.__struct_fields__
    for name in settings:
        if name not in fields:
            import inspect  # 5 ms, for a message

            call = Tracker.start_run if function == "start_run" else Tracker
            own = [known for known in inspect.signature(call).parameters if known not in ("self", "settings")]
            raise SettingsError(instead_of_argument(name, function, [*own, *fields]))


def _exit_all() -> None:
    end_all([core.runs for core in tracker_cores()])


def _after_fork_in_child() -> None:
    for core in tracker_cores():
        core.runs.after_fork()


at_end(_exit_all)
os.register_at_fork(after_in_child=_after_fork_in_child)


def module_tracker() -> Tracker:
    """The tracker behind the module's functions."""
    tracker = Tracker()
    tracker._core.of_module = True
    return tracker

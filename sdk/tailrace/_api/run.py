"""A run: what `start_run` returns. Its calls return at once; the agent brings what they log to MLflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from tailrace._api.alerts import AlertCalls
from tailrace._api.boundary import NoMonitor, protect
from tailrace._api.goals import GoalCalls
from tailrace._api.info import RunData, RunInfo
from tailrace._api.model_handle import no_model
from tailrace._api.models import ModelCalls
from tailrace._api.passing import pass_run
from tailrace._api.readers import stored_run
from tailrace._api.results import ResultCalls
from tailrace._api.shown import Shown
from tailrace._api.stopping import StopCalls
from tailrace._messages.suggestions import Suggests
from tailrace_agent.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from tailrace._api.system_monitor import SystemMonitor
    from tailrace._runs.core import RunCore

__all__ = ["Run"]


@protect({
    "__enter__": lambda run: run,
    "__repr__": lambda run: f"<Run {run.id}>",
    "flush": lambda _: Ledger(partial=True),
    "ledger": lambda _: Ledger(partial=True),
    "log_model": lambda _: no_model(),
    "register_model": lambda _: no_model(),
    "run_id": lambda _: "",
    "should_stop": lambda _: False,
    "status": lambda _: "RUNNING",
    "system_monitor": lambda _: NoMonitor(),
})  # fmt: skip
class Run(ResultCalls, AlertCalls, GoalCalls, StopCalls, ModelCalls, Shown, Suggests):
    """A run that is being tracked. Use it as a context manager, or end it with `end()`.

    Leaving the `with` block by an exception ends it as FAILED, with the tags `error.type` and `error.message`.

    Thread safety: every method from any thread, and from forked children, which cannot end it. Pickled, it comes
    back in another process as the same run, joined.

    Example:
        >>> with tailrace.start_run(run_name="baseline") as run:
        ...     run.log_params({"lr": 0.1})
        ...     run.log(step=0, loss=0.5)
    """

    def __init__(self, core: RunCore) -> None:
        super().__init__(core)
        # In the instance, so that a call costs what `tailrace.log` costs; the method is its documentation.
        self.__dict__["log"] = core.bind(self)

    # -- tags --------------------------------------------------------------------------------------------------------

    def set_tag(self, key: str, value: Any) -> None:
        """Sets one tag; its last value wins.

        Args:
            key: Name.
            value: Anything; stored as its `str()`.

        Example:
            >>> run.set_tag("team", "vision")
        """
        self.set_tags({key: value})

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Sets tags; the last value of a key wins.

        Args:
            tags: Values by name; stored as their `str()`.

        Raises:
            CallError: Under `strict=True`: it is no mapping, or a `str()` raises.

        Example:
            >>> run.set_tags({"team": "vision", "phase": 2})
        """
        self._core.set_tags(tags)

    # -- who it is ---------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """tailrace's own id of the run, known at once; MLflow's tag `tailrace.run` holds it."""
        return self._core.id

    @property
    def run_id(self) -> str:
        """MLflow's id of the run. Waits until MLflow has created it, `end_timeout` at most.

        Raises:
            TimeoutError: MLflow could not be reached in that time; the message says why.
            StoreRefused: This MLflow cannot use the tracking URI, or takes no run like this one.
        """
        return self._core.known().run_id or ""

    @property
    def run_name(self) -> str | None:
        """The run's name; waits for MLflow to invent one if none was given."""
        return self._core.spec.run_name or self._core.known().run_name

    @property
    def url(self) -> str | None:
        """Where to look at it in a browser; None for a store without a server. Waits as `run_id` does."""
        return self._core.known().url

    @property
    def info(self) -> RunInfo:
        """What `mlflow.active_run().info` has: `run_id`, `run_name`, `status`, `artifact_uri` and more."""
        return RunInfo(self._core)

    @property
    def data(self) -> RunData:
        """What MLflow has of it: `metrics` (the last value of each), `params` and `tags`.

        All that was logged before is waited for, `end_timeout` at most. With tracking off there is nothing.

        Raises:
            TimeoutError, SinkError, StoreRefused: MLflow could not be reached in time, or cannot be used.
        """
        if self._core.connection is None:
            return RunData({}, {}, {})
        data = stored_run(self._core, settled=True).data
        return RunData(dict(data.metrics), dict(data.params), dict(data.tags))

    @property
    def status(self) -> str:
        """RUNNING, FINISHED, FAILED or KILLED, as this process knows it."""
        return self._core.state

    @property
    def enabled(self) -> bool:
        """Whether what is logged to it is delivered: False with tracking off (`enabled=False`, `agent="off"`)."""
        return self._core.connection is not None

    # -- the system monitor ------------------------------------------------------------------------------------------

    def system_monitor(self, interval: float = 1.0, **wanted: Any) -> SystemMonitor:
        """Samples CPU, memory, disk, network, GPUs and this process for this run, in the background.

        Args:
            interval: Seconds between two samples.
            **wanted: What is sampled, and under which names: the other arguments of `tailrace.system_monitor`.

        Returns:
            The monitor, for a `with` block, or for `start()` and `stop()`.

        Raises:
            CallError: A value can never work.

        Example:
            >>> with run.system_monitor(interval=0.5, cores=True) as monitor:
            ...     train()
        """
        from tailrace._api.system_monitor import SystemMonitor, monitor_config

        return SystemMonitor(self._core, monitor_config(self._core, interval=interval, **wanted))

    # -- waiting and ending ------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> Ledger:
        """Waits until all that was accepted before this call is delivered or dead.

        Args:
            timeout: Seconds; `end_timeout` by default.

        Returns:
            The ledger; `ledger.settled` is whether the time was enough.

        Example:
            >>> run.flush().settled
            True
        """
        return self._core.flush(timeout)

    def ledger(self) -> Ledger:
        """What became of everything so far; counts what the agent has taken over (a tenth of a second ago).

        Returns:
            The ledger, kind by kind.

        Example:
            >>> run.ledger().of("metric").delivered
            3000
        """
        status = self._core.status()
        return status.ledger if status is not None else Ledger()

    def end(
        self,
        status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED",
        timeout: float | None = None,
    ) -> None:
        """Ends the run and waits until everything is delivered, `timeout` seconds at most.

        What is not delivered by then goes on in the agent. A nested run waits for nothing unless `timeout` is given:
        its parent's end does. In a forked child only the waiting happens.

        Args:
            status: FINISHED, FAILED or KILLED.
            timeout: Seconds; `end_timeout` by default.

        Raises:
            CallError: Under `strict=True`: an unknown status.

        Example:
            >>> run.end("FAILED", timeout=10)
        """
        self._core.end(status, timeout)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run: Run = self._core.in_its_place().handle
        if error is None or (isinstance(error, SystemExit) and not error.code):
            run.end()
        else:
            run.fail(error)

    def fail(self, error: BaseException, timeout: float | None = None) -> None:
        """Ends the run as FAILED, with the error's type and message as the tags `error.type` and `error.message`.

        Passwords and keys in the message are masked.

        Args:
            error: What went wrong.
            timeout: Seconds to wait for the delivery; `end_timeout` by default.

        Example:
            >>> run.fail(ValueError("the loss diverges"))
        """
        self._core.fail(error, timeout)

    def __reduce__(self) -> tuple[Callable[..., Run], tuple[Any, ...]]:
        return pass_run(self._core)

    # A configuration that holds a run may be copied: the copy means the same run.
    def __copy__(self) -> Run:
        return self

    def __deepcopy__(self, memo: object) -> Run:
        return self

    def _surprised(self, what: str, error: Exception) -> None:
        self._core.surprised(what, error)

"""A run: what `start_run` returns. Its calls return at once; the agent brings what they say to MLflow."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tailrace._alerts import AlertCalls
from tailrace._faults import Fault, shown, topic
from tailrace._hot import Channel, make_log
from tailrace._info import RunInfo, Shown
from tailrace._lane import drain
from tailrace._latest import Latest
from tailrace._local import LocalReport
from tailrace._models import ModelCalls
from tailrace._notebook import attend
from tailrace._odd import OddCalls
from tailrace._report import end_lines, left_line
from tailrace._results import ResultCalls
from tailrace._say import say
from tailrace._selective import Selection, log_rest
from tailrace._wait import until
from tailrace_agent.errors import CallError, StoreRefused
from tailrace_agent.ledger import Ledger
from tailrace_agent.records import Drop, End, Flush, LogCost, Monitor, Start, Tags
from tailrace_agent.status import RunStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from tailrace._connection import Connection
    from tailrace._monitor import SystemMonitor
    from tailrace._say import Voice
    from tailrace_agent.records import RunSpec
    from tailrace_agent.sampler.config import MonitorConfig
    from tailrace_agent.settings import Settings

__all__ = ["Run"]

_STATUSES = ("FINISHED", "FAILED", "KILLED")
_MAX_MESSAGE = 5000
_AWAY = "MLflow cannot be reached"
_MAX_TIMESTAMP = (2**63 - 1) // 1_000_000


class _Fixed:
    """A pointer that never moves, for `make_log`."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel


class Run(ResultCalls, AlertCalls, ModelCalls, Shown):
    """A run that is being tracked. Use it as a context manager, or end it with `end()`.

    Leaving the `with` block by an exception ends it as FAILED, with the tags `error.type` and `error.message`.

    Args:
        spec: What the run is.
        connection: This process's session; None for a run that is not delivered (`agent="off"`).
        settings: In force for this run.
        voice: Says what has to be said.
        on_end: Called once, when it has ended.

    Thread safety: every method from any thread, and from forked children, which cannot end it.

    Example:
        >>> with tailrace.start_run(run_name="baseline") as run:
        ...     run.log_params({"lr": 0.1})
        ...     run.log(step=0, loss=0.5)
    """

    def __init__(
        self,
        spec: RunSpec,
        connection: Connection | None,
        settings: Settings,
        voice: Voice,
        on_end: Callable[[Run], None] = lambda _: None,
    ) -> None:
        self._spec, self._connection, self._settings, self._voice = spec, connection, settings, voice
        self._on_end, self._pid = on_end, os.getpid()
        self._params: dict[str, str] = {}
        self._tables: str | None = None
        self._told = 0
        self._seen: RunStatus | None = None
        self._ended = False
        self._outcome: str | None = None
        self._end_time: int | None = None
        self._began = time.monotonic_ns()
        self._implicit: Channel | None = None
        self._latest = Latest() if connection is None or not settings.log_metrics else None
        self._local = LocalReport(spec, settings, voice) if connection is None and settings.backend != "none" else None
        self._odd = OddCalls(spec.run, self._reject, self._latest)
        selection = Selection.of(settings.every, settings.min_interval)
        channel = Channel(spec.run, lambda _: None, self._odd.timed, strict=settings.strict, selection=selection)
        self._channel = self._odd.channel = self._attached(channel)
        # In the instance, so that a call costs what `tailrace.log` costs; the method below is its documentation.
        self.__dict__["log"] = make_log(_Fixed(self._channel))
        if connection is not None:
            attend(self)

    # -- logging -----------------------------------------------------------------------------------------------------

    def log(self, metrics: Mapping[str, Any] | None = None, /, *, step: int | None = None, **values: Any) -> None:
        """Logs metrics of one training step of this run, in about a microsecond.

        Args:
            metrics: Metrics by name, for names that are no Python identifiers (`"train/loss"`).
            step: Training step; without it, the run's own counter of calls without a step: 0, 1, 2, …
            **values: Metrics as keywords. Numbers of any kind: float, int, bool, NumPy scalars, tensors with one
                element.

        Raises:
            CallError: Under `strict=True`: a value is no number, or the step no integer.

        Example:
            >>> run.log({"train/loss": 0.25}, step=7)
        """
        raise NotImplementedError("replaced in __init__")

    def log_metric(self, key: str, value: Any, step: int | None = None, timestamp: int | None = None) -> None:
        """Logs one metric, as MLflow's function does: step 0 when none is given.

        Args:
            key: Name.
            value: A number, as in `log`.
            step: Training step; 0 when None.
            timestamp: Milliseconds since the epoch; now by default.

        Raises:
            CallError: Under `strict=True`: a value is no number, or the step no integer.

        Example:
            >>> run.log_metric("loss", 0.25, step=7)
        """
        self.log_metrics({key: value}, step, timestamp)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None, timestamp: int | None = None) -> None:
        """Logs several metrics at one step, as MLflow's function does: step 0 when none is given.

        Args:
            metrics: Numbers by name.
            step: Training step; 0 when None.
            timestamp: Milliseconds since the epoch; now by default.

        Raises:
            CallError: Under `strict=True`: a value is no number, or the step no integer.

        Example:
            >>> run.log_metrics({"train/loss": 0.25, "train/accuracy": 0.9}, step=7)
        """
        step = 0 if step is None else step
        if timestamp is None or self._latest is not None:
            self._log(metrics, step=step)
        else:
            self._log_at(metrics, step, self._as_time(timestamp))

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
        try:
            texts = {str(key): str(value) for key, value in tags.items()}
        except Exception as error:  # noqa: BLE001 - a foreign __str__ may raise anything, and must not reach training
            self._fault(f"set_tags cannot use {type(tags).__name__}: {error}", once=("tags", str(error)))
            return
        if self._local is not None:
            self._local.tags.update(texts)
        if texts and self._connection is not None:
            self._connection.put(Tags(self._spec.run, texts))

    # -- who it is ---------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """tailrace's own id of the run, known at once; MLflow's tag `tailrace.run` holds it."""
        return f"{self._spec.run:016x}"

    @property
    def run_id(self) -> str:
        """MLflow's id of the run. Waits until MLflow has created it, `end_timeout` at most.

        Raises:
            TimeoutError: MLflow could not be reached in that time; the message says why.
            StoreRefused: This MLflow cannot use the tracking URI.
        """
        return self._known().run_id or ""

    @property
    def run_name(self) -> str | None:
        """The run's name; waits for MLflow to invent one if none was given."""
        return self._spec.run_name or self._known().run_name

    @property
    def url(self) -> str | None:
        """Where to look at it in a browser; None for a store without a server. Waits as `run_id` does."""
        return self._known().url

    @property
    def info(self) -> RunInfo:
        """What `mlflow.active_run().info` tells: `run_id`, `run_name`, `experiment_id`, `status`, `start_time`."""
        return RunInfo(self)

    @property
    def status(self) -> str:
        """RUNNING, FINISHED, FAILED or KILLED, as this process knows it."""
        if self._outcome is not None:
            return self._outcome
        status = self._status()
        return status.status if status is not None else "RUNNING"

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
        from tailrace._monitor import SystemMonitor, monitor_config

        return SystemMonitor(self, monitor_config(interval=interval, **wanted))

    def _monitor(self, config: MonitorConfig, token: int, *, on: bool, board_only: bool) -> None:
        if self._connection is None:
            return
        if on and config.gpu:
            self._connection.watch_torch()
        self._connection.put(Monitor(self._spec.run, msgspec.to_builtins(config), on, board_only, token))

    # -- waiting and ending ------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> Ledger:
        """Waits until all that was accepted before this call is delivered or dead.

        Args:
            timeout: Seconds; `end_timeout` by default.

        Returns:
            The ledger; `ledger.settled` says whether the time was enough.

        Example:
            >>> run.flush().settled
            True
        """
        status = self._settle(self._settings.end_timeout if timeout is None else timeout)
        return status.ledger if status is not None else Ledger(partial=self._connection is not None)

    def ledger(self) -> Ledger:
        """What became of everything so far; counts what the agent has taken over (a tenth of a second ago).

        Returns:
            The ledger, kind by kind.

        Example:
            >>> run.ledger().of("metric").delivered
            3000
        """
        status = self._status()
        return status.ledger if status is not None else Ledger()

    def end(
        self,
        status: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED",
        timeout: float | None = None,
    ) -> None:
        """Ends the run and waits until everything is delivered, `timeout` seconds at most.

        What is not delivered by then goes on in the agent. In a forked child only the waiting happens.

        Args:
            status: FINISHED, FAILED or KILLED.
            timeout: Seconds; `end_timeout` by default.

        Raises:
            CallError: Under `strict=True`: an unknown status.

        Example:
            >>> run.end("FAILED", timeout=10)
        """
        if self._ended:
            return
        timeout = self._settings.end_timeout if timeout is None else timeout
        name = str(getattr(status, "name", status)).upper()
        if name not in _STATUSES:
            self._fault(f"status {status!r} is none of {', '.join(_STATUSES)}; taken as FINISHED", once=("end", name))
            name = "FINISHED"
        if os.getpid() != self._pid or not self._spec.owned:
            log_rest(self._channel, self._odd.take, self._voice)
            self.flush(timeout)
            return
        self._ended, self._outcome = True, name
        self._on_end(self)
        if self._connection is not None:
            self._finish(name, timeout)
        elif self._local is not None:
            self._local.finish(name, self._latest, timeout)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None or (isinstance(error, SystemExit) and not error.code):
            self.end()
        else:
            self.fail(error)

    def fail(self, error: BaseException, timeout: float | None = None) -> None:
        """Ends the run as FAILED, with the error's type and message as the tags `error.type` and `error.message`.

        Args:
            error: What went wrong.
            timeout: Seconds to wait for the delivery; `end_timeout` by default.

        Example:
            >>> run.fail(ValueError("the loss diverges"))
        """
        message = str(error)
        self.set_tags({"error.type": type(error).__qualname__, "error.message": message[:_MAX_MESSAGE]})
        self.end("FAILED", timeout)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _attached(self, channel: Channel) -> Channel:
        """A channel of this run, led to where its rows go."""
        if self._connection is not None:
            self._connection.attach(channel)
        if self._latest is not None:
            self._latest.attach(channel)
        return channel

    def _log(self, metrics: Mapping[str, Any], *, step: int | None) -> None:
        self.__dict__["log"](metrics, step=step)

    def _log_at(self, metrics: Mapping[str, Any], step: int, time_ns: int) -> None:
        """Logs with a time that is not now."""
        channel = self._channel
        try:
            assert channel.encode is not None
            row = channel.encode((channel.run, step, time_ns, {**metrics}))
        except Exception as error:  # noqa: BLE001 - as in the hot path
            self._odd.take({}, metrics, step, time_ns, error)
            return
        channel.put(row)

    def _reject(self, faults: list[Fault], later: bool) -> None:
        """What cannot be logged: all of it counted, then said once a key, or raised under `strict` (not `later`)."""
        if self._latest is not None and (self._local is None or not self._settings.log_metrics):
            return
        for fault in faults:
            if self._connection is not None:
                self._connection.put(Drop(self._spec.run, "metric", fault.reason, fault.n))
        for fault in faults:
            text, once = fault.text, (self._spec.run, topic(fault.text))
            if later:
                self._voice.warn(text, once=once)
            else:
                self._fault(text, once=once)

    def _as_time(self, timestamp: Any) -> int:
        """Nanoseconds from MLflow's milliseconds; now, with a warning, from what cannot be any."""
        try:
            milliseconds = int(timestamp)
        except (TypeError, ValueError, OverflowError):
            milliseconds = -1
        if not 0 <= milliseconds <= _MAX_TIMESTAMP:
            self._fault(
                f"timestamp {shown(timestamp)} is no time in milliseconds since the epoch; taken as now",
                once=("timestamp", self._spec.run),
            )
            return time.time_ns()
        return milliseconds * 1_000_000

    def _fault(self, text: str, *, once: object) -> None:
        if self._settings.strict:
            raise CallError(text)
        self._voice.warn(text, once=once)

    def _status(self) -> RunStatus | None:
        if self._connection is None:
            return None
        status = self._connection.status(self._spec.run)
        if status is not None:
            self._seen = status
            self._tell(status)
        return self._seen  # what was known outlasts the session, whose files go with its last process

    def _tell(self, status: RunStatus) -> None:
        """Passes on what the agent wants said."""
        notices, self._told = status.notices[self._told :], max(self._told, len(status.notices))
        for text in notices:
            # A server that is away is the same for all runs; what else the agent says is about this one.
            self._voice.warn(text, once=text if text.startswith(_AWAY) else (self._spec.run, topic(text)))

    def _known(self) -> RunStatus:
        timeout = self._settings.end_timeout
        if self._connection is None:
            return RunStatus(run=self._spec.run, run_id="")
        status = until(self._status, lambda s: bool(s.run_id or s.refused), timeout=timeout, quiet=True)
        if status is not None and status.refused:
            raise StoreRefused(status.refused)
        if status is None or not status.run_id:
            problem = status.problem if status is not None and status.problem else "the agent has not answered"
            raise TimeoutError(f"MLflow has not created the run within {timeout:.0f} s: {problem}")
        return status

    def _settle(self, timeout: float, *, closed: bool = False) -> RunStatus | None:
        """Waits for everything before this call; with `closed`, also until MLflow knows of the run's end."""
        connection = self._connection
        if connection is None:
            return None
        deadline = time.monotonic() + timeout
        drain(timeout)
        token, ring = connection.next_token(), connection.ring_name

        def ask() -> None:
            connection.put(Flush(self._spec.run, token))

        ask()
        return until(
            self._status,
            lambda s: (s.settled.get(ring, 0) >= token and (s.closed or not closed)) or bool(s.refused),
            timeout=max(0.0, deadline - time.monotonic()),
            nudge=ask,
            quiet=self._settings.quiet,
        )

    def _finish(self, name: str, timeout: float) -> None:
        assert self._connection is not None
        deadline = time.monotonic() + timeout
        log_rest(self._channel, self._odd.take, self._voice)
        self._drain(timeout)
        cost = self._cost()
        self._connection.put(Start(self._spec, again=True))
        self._connection.put(End(self._spec.run, name, self._end_time or time.time_ns() // 1_000_000, cost))
        try:
            status = self._settle(max(0.0, deadline - time.monotonic()), closed=True)
        except KeyboardInterrupt:
            self._voice.warn(left_line(self._status(), timeout, self._settings, self._connection.obstacle))
            raise
        if status is not None and status.closed and not status.ledger.pending:
            if not self._settings.quiet:
                for line in end_lines(status, cost, self._spec):
                    say(line)
        elif status is None or not status.refused:
            line = left_line(status, timeout, self._settings, self._connection.obstacle)
            self._voice.warn(line, once=("left", self._spec.run))

    def _cost(self) -> LogCost:
        timings = sorted(self._connection.timings.pop(self._spec.run, ())) if self._connection is not None else []
        typical = timings[len(timings) // 2] if timings else 0
        odd = self._odd
        return LogCost(
            len(timings), typical, time.monotonic_ns() - self._began, odd.calls, odd.took_ns, halves=odd.halves
        )

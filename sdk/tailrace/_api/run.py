"""A run: what `start_run` returns. Its calls return at once; the agent brings what they say to MLflow."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from tailrace._api.alerts import AlertCalls
from tailrace._api.boundary import NoMonitor, protect
from tailrace._api.info import RunInfo, Shown
from tailrace._api.metrics import MetricCalls
from tailrace._api.model_handle import no_model
from tailrace._api.models import ModelCalls
from tailrace._api.passing import pass_run
from tailrace._api.results import ResultCalls
from tailrace._log.faults import topic
from tailrace._log.log import Channel, make_log
from tailrace._log.selection import Selection, log_rest
from tailrace._log.slow_path import OddCalls
from tailrace._messages.notebook import attend
from tailrace._messages.suggestions import Suggests
from tailrace._messages.summary import link_line
from tailrace._offline.last_values import Latest
from tailrace._offline.local_report import LocalReport
from tailrace._runs.ending import Ending
from tailrace._runs.following import late
from tailrace._runs.steps import Steps
from tailrace._values.texts import as_texts
from tailrace_agent.errors import CallError, StoreRefused
from tailrace_agent.ipc.records import End, LogCost, Monitor, Tags
from tailrace_agent.ipc.status import RunStatus
from tailrace_agent.ledger import Ledger
from tailrace_agent.mlflow.errors import asks_for_login
from tailrace_agent.text.masking import mask_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextvars import ContextVar
    from types import TracebackType

    from tailrace._api.system_monitor import SystemMonitor
    from tailrace._messages.voice import Voice
    from tailrace._session.connection import Connection
    from tailrace._session.run_page import RunsPage
    from tailrace_agent.ipc.records import RunSpec
    from tailrace_agent.sampler.config import MonitorConfig
    from tailrace_agent.settings.settings import Settings

__all__ = ["Run"]

_STATUSES = ("FINISHED", "FAILED", "KILLED")
_MAX_MESSAGE = 5000
_AWAY = "MLflow cannot be reached"


class _Fixed:
    """A pointer that never moves, for `make_log`."""

    __slots__ = ("home", "own", "shared")

    own: ContextVar[Channel | None] | None

    def __init__(self, home: Run, channel: Channel) -> None:
        self.home, self.own, self.shared = home, None, channel


class _Over(Exception):
    """Raised by the encoder of a run that has ended."""


def _over(row: object) -> bytes:
    raise _Over(row)


@protect({
    "__enter__": lambda run: run,
    "__repr__": lambda run: f"<Run {run.id}>",
    "flush": lambda _: Ledger(partial=True),
    "ledger": lambda _: Ledger(partial=True),
    "log_model": lambda _: no_model(),
    "register_model": lambda _: no_model(),
    "run_id": lambda _: "",
    "status": lambda _: "RUNNING",
    "system_monitor": lambda _: NoMonitor(),
})  # fmt: skip
class Run(MetricCalls, ResultCalls, AlertCalls, ModelCalls, Shown, Suggests):
    """A run that is being tracked. Use it as a context manager, or end it with `end()`.

    Leaving the `with` block by an exception ends it as FAILED, with the tags `error.type` and `error.message`.

    Args:
        spec: What the run is.
        connection: This process's session; None for a run that is not delivered (`agent="off"`).
        settings: In force for this run.
        voice: Says what has to be said.
        on_end: Called once, when it has ended.
        parent: The run of this process that it is a part of.

    Thread safety: every method from any thread, and from forked children, which cannot end it. Pickled, it comes
    back in another process as the same run, joined.

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
        parent: Run | None = None,
    ) -> None:
        self._spec, self._connection, self._settings, self._voice = spec, connection, settings, voice
        self._on_end, self._parent, self._pid = on_end, parent, os.getpid()
        self._nested: list[int] = []
        self._params: dict[str, str] = {}
        self._tables: str | None = None
        self._told = 0
        self._seen: RunStatus | None = None
        self._ended = False
        self._outcome: str | None = None
        self._end_time: int | None = None
        self._began = time.monotonic_ns()
        self._shows_link = spec.owned and parent is None and not settings.quiet
        self._steps = self._ending = None
        if connection is not None:
            self._steps = Steps(connection.session.shared, spec.run, joined=connection.joined and not spec.owned)
            self._ending = Ending(spec, connection, settings, voice, self._status, self._drain)
        self._latest = Latest() if connection is None or not settings.log_metrics else None
        self._local = LocalReport(spec, settings, voice) if connection is None and settings.backend != "none" else None
        self._odd = OddCalls(spec.run, self._reject, self._latest)
        selection = Selection.of(settings.every, settings.min_interval)
        channel = Channel(spec.run, lambda _: None, self._odd.timed, strict=settings.strict, selection=selection)
        self._channel = self._odd.channel = self._attached(channel)
        # In the instance, so that a call costs what `tailrace.log` costs; the method below is its documentation.
        self.__dict__["log"] = make_log(_Fixed(self, self._channel))
        if connection is not None:
            attend(self)

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
        try:
            texts = as_texts(tags, "tags")
        except CallError as error:
            self._fault(f"set_tags: {error}", once=("tags", str(error)))
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
        from tailrace._api.system_monitor import SystemMonitor, monitor_config

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
        if self._ending is None:
            return Ledger()
        timeout = self._settings.end_timeout if timeout is None else timeout
        deadline = time.monotonic() + timeout
        status = self._ending.settle(timeout)
        self._ending.await_others(self._nested, max(0.0, deadline - time.monotonic()))
        return status.ledger if status is not None else Ledger(partial=True)

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

        What is not delivered by then goes on in the agent. A nested run waits for nothing unless `timeout` says so: its
        parent's end does. In a forked child only the waiting happens.

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
        name = str(getattr(status, "name", status)).upper()
        if name not in _STATUSES:
            self._fault(f"status {status!r} is none of {', '.join(_STATUSES)}; taken as FINISHED", once=("end", name))
            name = "FINISHED"
        if not self._ours:
            log_rest(self._channel, self._odd.take, self._voice)
            self.flush(timeout)
            return
        self._ended, self._outcome = True, name
        try:
            self._on_end(self)
        finally:
            self._finish(name, timeout)

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

        Passwords and keys in the message are masked.

        Args:
            error: What went wrong.
            timeout: Seconds to wait for the delivery; `end_timeout` by default.

        Example:
            >>> run.fail(ValueError("the loss diverges"))
        """
        try:
            message = str(error)
        except Exception as another:  # noqa: BLE001 - a foreign __str__ may raise anything
            message = f"(its message cannot be had: {type(another).__name__})"
        shown = mask_text(message[: 2 * _MAX_MESSAGE])[:_MAX_MESSAGE]  # half a secret might not be known as one
        self.set_tags({"error.type": type(error).__qualname__, "error.message": shown})
        self.end("FAILED", timeout)

    def __reduce__(self) -> tuple[Callable[..., Run], tuple[Any, ...]]:
        return pass_run(self)

    def __copy__(self) -> Run:
        return self

    def __deepcopy__(self, memo: object) -> Run:
        return self

    # -- inside ------------------------------------------------------------------------------------------------------

    def _attached(self, channel: Channel) -> Channel:
        """A channel of this run, led to where its rows go."""
        if self._connection is not None:
            self._connection.attach(channel)
        if self._steps is not None:
            self._steps.count_for(channel)
        if self._latest is not None:
            self._latest.attach(channel)
        return channel

    @property
    def _ours(self) -> bool:
        """Whether it is this process that ends it."""
        return self._spec.owned and self._pid == os.getpid()

    @property
    def _label(self) -> str:
        """What people know it by."""
        name = self._spec.run_name or (self._seen.run_name if self._seen is not None else None)
        began = time.strftime("%H:%M:%S", time.localtime(self._spec.start_time / 1000))
        return repr(name) if name else self._run_id_now or f"of {began} (it has no name yet)"

    @property
    def _page(self) -> RunsPage | None:
        return None if self._connection is None else self._connection.page

    @property
    def _run_id_now(self) -> str | None:
        """MLflow's id, if it is known by now."""
        if self._seen is not None and self._seen.run_id:
            return self._seen.run_id
        status = self._status()
        return status.run_id if status is not None else None

    @property
    def _closed(self) -> bool:
        """Whether nothing more is to be heard of it."""
        return self._seen is not None and self._seen.over

    def _fault(self, text: str, *, once: object) -> None:
        if self._settings.strict:
            raise CallError(text)
        self._voice.warn(text, once=once)

    def _surprised(self, what: str, error: Exception) -> None:
        if self._settings.on_error == "raise":
            raise error
        self._voice.warn(
            f"{what}() could not be done: {type(error).__name__}: {error}. Training goes on.", once=(what, str(error))
        )

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
        if self._shows_link and status.run_id and not self._ended:
            self._shows_link = False
            line = link_line(status, self._spec, self._settings)
            if line is not None:
                self._voice.remark(line)
        notices, self._told = status.notices[self._told :], max(self._told, len(status.notices))
        for text in notices:
            if asks_for_login(text) and self._connection is not None:
                self._connection.keeper.expect_credentials()
            # A server that is away is the same for all runs; what else the agent says is about this one.
            self._voice.warn(text, once=text if text.startswith(_AWAY) else (self._spec.run, topic(text)))

    def _known(self) -> RunStatus:
        if self._ending is None:
            return RunStatus(run=self._spec.run, run_id="")
        timeout = self._settings.end_timeout
        status = self._ending.until(lambda s: bool(s.run_id or s.refused), timeout)
        if status is not None and status.refused:
            raise StoreRefused(status.refused)
        if status is None or not status.run_id:
            said = status.problem if status is not None else None
            blind = self._connection.blindness if self._connection is not None else None
            problem = blind or said or "the agent has not answered"
            raise TimeoutError(f"MLflow has not created the run within {timeout:.0f} s: {problem}")
        return status

    def _finish(self, name: str, timeout: float | None) -> None:
        """The end itself; whoever logs after it is told so."""
        above = self._parent
        limit = self._settings.end_timeout if timeout is None else timeout
        if self._ending is None:
            if self._local is not None:
                self._local.finish(name, self._latest, limit)
            return
        log_rest(self._channel, self._odd.take, self._voice)
        self._channel.odd, self._channel.encode = self._log_late, _over

        def end() -> End:
            return End(self._spec.run, name, self._end_time or time.time_ns() // 1_000_000, self._cost())

        if above is None or above._ended or timeout is not None:
            self._ending.finish(end, limit, nested=self._nested)
            return
        try:
            self._drain(limit)
        finally:
            self._ending.hand_over(end())
            above._nested += [self._spec.run, *self._nested]

    def _leave(self, timeout: float) -> None:
        """The process ends, and not the run: what it has begun to log is logged. The agent lives on, or is here."""
        log_rest(self._channel, self._odd.take, self._voice)
        if self._connection is not None and self._connection.keeper.delivers_here:
            self.flush(timeout)

    def _log_late(self, values: Mapping[str, Any], metrics: Any, step: Any, time_ns: int, error: BaseException) -> None:
        self._voice.warn(late(self._label), once=("late", self.id))
        self._odd.take(values, metrics, step, time_ns, error)

    def _cost(self) -> LogCost:
        timings = sorted(self._connection.timings.pop(self._spec.run, ())) if self._connection is not None else []
        typical = timings[len(timings) // 2] if timings else 0
        odd = self._odd
        return LogCost(
            len(timings), typical, time.monotonic_ns() - self._began, odd.calls, odd.took_ns, halves=odd.halves
        )

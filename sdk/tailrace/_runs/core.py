"""The core of a run: what it is, where its rows go, what is known of it, and how it ends.

`Run` and its parts are what users hold; they, and all that keeps the runs of this process, work on this. A core knows
nothing of them, but for the handle that it gives back to users.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from tailrace._background.lane import SAVES, drain
from tailrace._console.run_console import RunConsole
from tailrace._log.channel import Channel
from tailrace._log.last_values import Latest
from tailrace._log.log import make_log
from tailrace._log.observers import Observer, Observers
from tailrace._log.selection import Selection, log_rest
from tailrace._log.thinning import ThinningSlowPath, slow_path
from tailrace._messages.notebook import attend
from tailrace._messages.summary import link_line
from tailrace._offline.local_report import LocalReport
from tailrace._runs.ending import Ending
from tailrace._runs.following import late
from tailrace._runs.job_runs import ends_elsewhere, heard, told
from tailrace._runs.reports import log_cost, message_of, tell_thinned
from tailrace._runs.steps import Steps
from tailrace._runs.strictness import in_mlflows_words, mistake
from tailrace._values.texts import as_texts
from tailrace_agent.errors import CallError, StoreRefused
from tailrace_agent.ipc.records import Artifact, Drop, End, Goals, LogCost, Params, Tags
from tailrace_agent.ipc.status import RunStatus
from tailrace_agent.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextvars import ContextVar

    from tailrace._log.faults import Fault
    from tailrace._log.log import LogCall
    from tailrace._messages.notebook import Attended
    from tailrace._messages.voice import Voice
    from tailrace._session.connection import Connection
    from tailrace._session.run_page import RunsPage
    from tailrace_agent.ipc.reasons import Reason
    from tailrace_agent.ipc.records import RunSpec
    from tailrace_agent.settings.settings import Settings

__all__ = ["RunCore"]

_STATUSES: Final = ("FINISHED", "FAILED", "KILLED")
_OF_RANK_ZERO: Final = (Tags, Params, Artifact, Goals)  # what other ranks keep to themselves


class _Fixed:
    """A pointer that never moves, for `make_log`."""

    __slots__ = ("home", "own", "shared")

    own: ContextVar[Channel | None] | None

    def __init__(self, home: object, channel: Channel) -> None:
        self.home, self.own, self.shared = home, None, channel


class _Over(Exception):
    """Raised by the encoder of a run that has ended."""


def _over(row: object) -> bytes:
    raise _Over(row)


class RunCore:
    """One run, as this process has it.

    Args:
        spec: What the run is.
        connection: This process's session; None for a run that is not delivered (`agent="off"`).
        settings: In force for this run.
        voice: Prints lines and warnings.
        on_end: Called once, when it has ended.
        parent: The run of this process that it is a part of.
        resumed: Finds the run that goes on with this one in MLflow, once it has ended.

    Attributes:
        handle: What users hold; it is given a `log` by `bind`.
        channel: Where its rows go.
        slow_path: Takes the calls that the hot path could not.
        latest: Last values, for a run of which nothing else is kept.
        local: The report of a run that is not delivered.
        seen: The status that the agent published last.
        ended, outcome: Whether this process has ended it, and how.
        task: Task or actor of Ray that has begun it.
        end_time: When it ended, where that was not now; milliseconds.

    Thread safety: every method from any thread, and from forked children, which cannot end it.
    """

    def __init__(
        self,
        spec: RunSpec,
        connection: Connection | None,
        settings: Settings,
        voice: Voice,
        on_end: Callable[[RunCore], None] = lambda _: None,
        parent: RunCore | None = None,
        resumed: Callable[[RunCore], RunCore | None] = lambda _: None,
    ) -> None:
        self.spec, self.connection, self.settings, self.voice = spec, connection, settings, voice
        self.handle: Any = None
        self.seen: RunStatus | None = None
        self.ended = self._told = False
        self.outcome: str | None = None
        self.end_time: int | None = None
        self.task: str | None = None
        self._on_end, self.parent, self._resumed, self._pid = on_end, parent, resumed, os.getpid()
        self._nested: list[int] = []
        self._notices_seen = 0
        self._channels: list[Channel] = []
        self._observers: Observers | None = None
        self._began = time.monotonic_ns()
        self.console = RunConsole(spec, settings, voice)
        # Not of a nested run: of two hundred trials two hundred links would be printed.
        self._shows_link = spec.owned and parent is None and not settings.quiet
        self._steps = self._ending = None
        if connection is not None:
            joined, rank = connection.joined and not spec.owned, spec.job.rank if spec.job is not None else 0
            self._steps = Steps(connection.session.shared, spec.run, joined=joined, rank=rank)
            self._ending = Ending(spec, connection, settings, voice, self.status, self._drain)
        # With `log_metrics=False` params and the rest are delivered, so the connection is there, and metrics are not.
        self.latest = Latest(heard(spec, settings)) if connection is None or not settings.log_metrics else None
        self.local = LocalReport(spec, settings, voice) if connection is None and settings.backend != "none" else None
        parts = spec.run, self._reject, self.latest, getattr(connection, "device_slots", None)
        budget = settings.overhead_budget if self.latest is None else None
        self.slow_path = slow_path(
            *parts, budget=budget, put=self.put, tell=partial(tell_thinned, self.set_tags, voice, spec.run)
        )
        if connection is not None and isinstance(self.slow_path, ThinningSlowPath):
            connection.spills[spec.run] = self.slow_path.spilled
        selection = Selection.of(settings.every, settings.min_interval)
        # Without a connection rows go nowhere: `latest` takes the values before they become rows.
        channel = Channel(spec.run, lambda _: None, self.slow_path.timed, strict=settings.strict, selection=selection)
        self.channel = self.slow_path.channel = self.attached(channel)

    def bind(self, handle: Attended) -> LogCall:
        """Takes what users hold of this run, and gives the `log` that it is to have."""
        self.handle = handle
        if self.connection is not None:
            attend(handle)
        return make_log(_Fixed(handle, self.channel))

    # -- what it is --------------------------------------------------------------------------------------------------

    @property
    def id(self) -> str:
        """tailrace's own id of the run."""
        return f"{self.spec.run:016x}"

    @property
    def ours(self) -> bool:
        """Whether it is this process that ends it."""
        return self.spec.owned and self._pid == os.getpid()

    @property
    def is_rank(self) -> bool:
        """Whether this process is one of a job that others end."""
        return self.spec.job is not None and not self.spec.owned and self._pid == os.getpid()

    @property
    def ends_at_exit(self) -> bool:
        """Whether the end of the program is its end, too: one that the program created in MLflow itself goes on."""
        return self.ours and not self.spec.created

    @property
    def label(self) -> str:
        """What people know it by."""
        name = self.spec.run_name or (self.seen.run_name if self.seen is not None else None)
        began = time.strftime("%H:%M:%S", time.localtime(self.spec.start_time / 1000))
        return repr(name) if name else self.run_id_now or f"of {began} (it has no name yet)"

    @property
    def page(self) -> RunsPage | None:
        """What the processes of its session share about runs."""
        return None if self.connection is None else self.connection.page

    # -- what is reported --------------------------------------------------------------------------------------------

    def put(self, record: object) -> None:
        """Hands a record to the agent, if there is one."""
        if self.connection is not None and not (self.is_rank and isinstance(record, _OF_RANK_ZERO)):
            self.connection.put(record)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Sets tags; see `Run.set_tags`."""
        try:
            texts = as_texts(tags, "tags")
        except CallError as error:
            self.fault(f"set_tags: {error}", once=("tags", str(error)))
            return
        if self.local is not None:
            self.local.tags.update(texts)
        if texts:
            self.put(Tags(self.spec.run, texts))

    def fault(self, text: str, *, once: object, kind: type[CallError] = CallError) -> None:
        """A mistake of the caller's: a warning, given once for `once`.

        Raises:
            CallError: Under `strict=True`, of that kind.
        """
        if self.settings.strict:
            raise mistake(text, kind)
        self.voice.warn(text, once=once)

    def lose(self, text: str, kind: type[CallError] = CallError) -> None:
        """An artifact that never came to be: counted, and reported once, or raised under `strict`."""
        # First: `fault` raises under `strict`.
        self.count_lost()
        self.fault(text, once=text, kind=kind)

    def count_lost(self, reason: Reason = "could not be read or drawn") -> None:
        """Counts one artifact that never came to be."""
        self.put(Drop(self.spec.run, "artifact", reason, 1))

    def surprised(self, what: str, error: Exception) -> None:
        """Warns that a call could not be done, or raises the error if that is wanted."""
        if self.settings.on_error == "raise":
            raise error
        self.voice.warn_undone(what, error)

    def attached(self, channel: Channel) -> Channel:
        """A channel of this run, led to where its rows go."""
        if self.connection is not None:
            self.connection.attach(channel)
        if self._steps is not None:
            self._steps.count_for(channel)
        if self.latest is not None:
            self.latest.attach(channel)
        self._channels.append(channel)
        return channel

    def observe(self, observer: Observer) -> None:
        """Calls this one after each `log()` that it is for; see `Run.observe`."""
        if not self.ours or self.ended:
            self.fault(f"observe: run {self.label} is not running in this process", once=("observe", self.id))
            return
        if self._observers is None:
            self._observers = Observers()
            for channel in self._channels:
                self._observers.attach(channel)
        self._observers.add(observer)

    def _reject(self, faults: list[Fault], later: bool) -> None:
        """What cannot be logged: all of it counted, reported once a key, or raised under `strict` (not `later`)."""
        # Nobody reads such metrics: a warning about one would be noise.
        if self.latest is not None and (self.local is None or not self.settings.log_metrics):
            return
        # All are counted before the first is reported: under `strict` that report raises.
        for fault in faults:
            self.put(Drop(self.spec.run, "metric", fault.reason, fault.n))
        for fault in faults:
            text = in_mlflows_words(fault) if self.settings.strict else fault.text
            (self.voice.warn if later else self.fault)(text, once=(self.spec.run, fault.about or fault.text))

    # -- what is known -----------------------------------------------------------------------------------------------

    def status(self) -> RunStatus | None:
        """The status that the agent has published of it; prints its new notices."""
        if self.connection is None:
            return None
        status = self.connection.status(self.spec.run)
        if status is not None:
            self.seen = status
            self._pass_on(status)
        return self.seen  # what was known outlasts the session, whose files go with its last process

    @property
    def state(self) -> str:
        """RUNNING, FINISHED, FAILED or KILLED, as this process knows it."""
        if self.outcome is not None:
            return self.outcome
        status = self.status()
        return status.status if status is not None else "RUNNING"

    @property
    def run_id_now(self) -> str | None:
        """MLflow's id, if it is known by now."""
        # It never changes, so the file is not read again.
        if self.seen is not None and self.seen.run_id:
            return self.seen.run_id
        status = self.status()
        return status.run_id if status is not None else None

    @property
    def closed(self) -> bool:
        """Whether nothing more is to be heard of it."""
        return self.seen is not None and self.seen.over

    def known(self) -> RunStatus:
        """What is known of it once MLflow has created it, which is waited for, `end_timeout` at most.

        Raises:
            TimeoutError: MLflow could not be reached in that time; the message says why.
            StoreRefused: This MLflow cannot use the tracking URI, or takes no run like this one: of an experiment that
                is not there, for instance.
        """
        if self._ending is None:
            return RunStatus(run=self.spec.run, run_id="")
        timeout = self.settings.end_timeout
        status = self._ending.until(lambda s: bool(s.run_id or s.refused or s.gone), timeout)
        never = None if status is None or status.run_id else status.refused or status.gone
        if never:
            raise StoreRefused(never)
        if status is None or not status.run_id:
            reported = status.problem if status is not None else None
            blind = self.connection.blindness if self.connection is not None else None
            problem = blind or reported or "the agent has not answered"
            raise TimeoutError(f"MLflow has not created the run within {timeout:.0f} s: {problem}")
        return status

    def _pass_on(self, status: RunStatus) -> None:
        """Prints the run's link and the agent's new notices."""
        if self._shows_link and status.run_id and not self.ended:
            self._shows_link = False
            if (line := link_line(status, self.spec, self.settings)) is not None:
                self.voice.remark(line)
        notices = status.all_notices[self._notices_seen :]
        # The list only grows, but an older copy of it may have been read by another thread meanwhile.
        self._notices_seen = max(self._notices_seen, len(status.notices))
        for notice in notices:
            if notice.topic.asks_login and self.connection is not None:
                self.connection.keeper.expect_credentials()
            self.voice.warn(notice.text, once=notice.once(self.spec.run))

    # -- waiting and ending ------------------------------------------------------------------------------------------

    def flush(self, timeout: float | None = None) -> Ledger:
        """Waits until all that was accepted before this call is delivered or dead; see `Run.flush`."""
        return self.flushing(timeout)()

    def flushing(self, timeout: float | None = None) -> Callable[[], Ledger]:
        """The same in two steps, so that several runs are waited for at once: what is returned waits."""
        if self._ending is None:
            return Ledger
        timeout = self.settings.end_timeout if timeout is None else timeout
        ending, deadline = self._ending, time.monotonic() + timeout
        settled = ending.settling(timeout)

        def wait() -> Ledger:
            status = settled()
            # Nested runs that have ended leave their values to the parent's wait.
            ending.await_others(self._nested, max(0.0, deadline - time.monotonic()))
            return status.ledger if status is not None else Ledger(partial=True)

        return wait

    def end(self, status: object = "FINISHED", timeout: float | None = None) -> None:
        """Ends it; see `Run.end`."""
        if self.ended:
            return
        name = str(getattr(status, "name", status)).upper()
        if name not in _STATUSES:
            self.fault(f"status {status!r} is none of {', '.join(_STATUSES)}; taken as FINISHED", once=("end", name))
            name = "FINISHED"
        if self.is_rank:
            self._done(name, timeout)
            return
        # Another process ends it, but what this one has held back and logged is to be there.
        if not self.ours:
            self._log_rest()
            self.flush(timeout)
            return
        # First: what is interrupted below is not begun again at the end of the program.
        self.ended, self.outcome = True, name
        if self.spec.job is not None and not self._told:
            self._tell_rank("done", "")
        try:
            self._on_end(self)
        finally:
            self._finish(name, timeout)

    def fail(self, error: BaseException, timeout: float | None = None) -> None:
        """Ends it as FAILED, with what went wrong as tags; see `Run.fail`."""
        shown = message_of(error)
        self.console.failed(error)
        if self.spec.job is not None and self._pid == os.getpid() and not self.ended:
            parts = type(error).__qualname__, shown.partition("\n")[0][:500]
            self._tell_rank("failed", ": ".join(filter(None, parts)))
        try:  # of another rank than 0 the tags go nowhere
            self.set_tags({"error.type": type(error).__qualname__, "error.message": shown})
        except Exception as another:  # noqa: BLE001 - what keeps the tags away (no memory, say) keeps no run open
            self.surprised("set_tags", another)
        finally:
            self.end("FAILED", timeout)

    def in_its_place(self) -> RunCore:
        """The run that a `with` block around this one has to end: this one, or the one that goes on with it.

        MLflow looks at the id, too: whoever ends a run within its block, and resumes it there, means the same run.
        """
        return (self._resumed(self) if self.ended else None) or self

    def leave(self, timeout: float) -> None:
        """The process ends, and not the run: what it has begun to log is logged. The agent lives on, or is here."""
        if self.ended:
            return
        self._log_rest()
        self.console.end(timeout)
        if self.ours:  # or it would be taken for one whose process was killed
            self.put(End(self.spec.run, "RUNNING", time.time_ns() // 1_000_000))
        if self.connection is not None and self.connection.keeper.delivers_here:
            self.flush(timeout)

    def _done(self, name: str, timeout: float | None) -> None:
        """This rank has done its part; on rank 0's node nothing is waited for, since the agent lives on."""
        if not self._told:
            self._tell_rank("done" if name == "FINISHED" else "failed", "" if name == "FINISHED" else f"it said {name}")
        self.console.end(self.settings.end_timeout if timeout is None else timeout)
        self.ended, self.outcome = True, name
        if self.settings.log_metrics:
            self.channel.slow, self.channel.encode = self._log_late, _over
        elif self.latest is not None:
            self.latest.heard = frozenset()
        self._on_end(self)
        # What is on rank 0's node its end waits for; elsewhere a launcher's end may take the agent along.
        if ends_elsewhere(self.spec) or (self.connection is not None and self.connection.keeper.delivers_here):
            self.flush(timeout)

    def _tell_rank(self, state: str, detail: str) -> None:
        self._log_rest()  # first: it is a part of what this rank had to say
        self._told = True
        for record in told(self.spec, self.settings, state, detail):
            self.put(record)

    def let_go(self) -> None:
        """It goes on without this process, which has begun it."""
        self._log_rest()
        self.ended = True
        try:
            self._on_end(self)
        finally:
            self._finish("RUNNING", 0.0)

    def _finish(self, name: str, timeout: float | None) -> None:
        """The end itself; whoever logs after it gets a warning."""
        above = self.parent
        limit = self.settings.end_timeout if timeout is None else timeout
        if self._ending is None:
            if self.local is not None:
                self.local.finish(name, self.latest, limit)
            return
        self._log_rest()
        self.channel.slow, self.channel.encode = self._log_late, _over  # in this order: who meets `_over` finds `slow`

        def end() -> End:
            return End(self.spec.run, name, self.end_time or time.time_ns() // 1_000_000, self._cost())

        # Whoever gives a time-out wants to wait; and a parent that has ended waits for nobody any more.
        if above is None or above.ended or timeout is not None:
            self._ending.finish(end, limit, nested=self._nested)
            return
        try:
            self._drain(limit)  # also of a nested run: its artifacts have to be on the ring before its end
        finally:
            self._ending.hand_over(end())
            above.await_too([self.spec.run, *self._nested])

    def await_too(self, runs: list[int]) -> None:
        """Runs below this one have been handed over: its own end waits for theirs."""
        # Of all levels: a run that is handed over hands those below it over as well.
        self._nested += runs

    def _drain(self, timeout: float) -> None:
        """Waits for the background at a run's end, and reports what it leaves behind."""
        self.console.end(timeout)
        # The first may have failed for a figure alone.
        if not drain(timeout) and not SAVES.drain(0.0):
            self.voice.warn(
                f"a model is still being saved after {timeout:.0f} s, and is lost if the program ends before that is "
                "done: give end_run a longer timeout",
                once=("unsaved", self.spec.run),
            )

    def _log_rest(self) -> None:
        self.slow_path.rest()
        log_rest(self.channel, self.slow_path.take, self.voice)

    def _log_late(self, values: Mapping[str, Any], metrics: Any, step: Any, time_ns: int, error: BaseException) -> None:
        self.voice.warn(late(self.label), once=("late", self.id))
        self.slow_path.take(values, metrics, step, time_ns, error)

    def _cost(self) -> LogCost:
        timings = {}
        if self.connection is not None:
            timings = self.connection.timings
            self.connection.spills.pop(self.spec.run, None)
        return log_cost(timings.pop(self.spec.run, ()), time.monotonic_ns() - self._began, self.slow_path)

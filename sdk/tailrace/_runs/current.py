"""The runs of a process: those that it has begun, joined or named, which of them a call means, and their ends."""

from __future__ import annotations

import contextlib
import os
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace._console.run_console import with_console
from tailrace._log.channel import Channel
from tailrace._messages.summary import start_line
from tailrace._messages.voice import print_line
from tailrace._runs.active import Active
from tailrace._runs.core import RunCore
from tailrace._runs.following import Follower, late
from tailrace._runs.job_runs import begun
from tailrace._runs.launch import Launcher, as_answered, describe, verdict
from tailrace._runs.nesting import below, waits_for
from tailrace._runs.ray_runs import run_of_driver, show_ray
from tailrace._runs.stopping import Stopping
from tailrace._session.connection import SESSION, point_children_nowhere
from tailrace_agent.errors import StoreRefused
from tailrace_agent.ipc.records import RunSpec, Start
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.uris import mask_uri

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tailrace._messages.voice import Voice
    from tailrace._session.connection import Connection
    from tailrace_agent.runtime.job import Job

__all__ = ["RUN", "CurrentRuns"]

RUN = "TAILRACE_RUN"
"""Environment variable that passes the active run to spawned children: tailrace's id of it."""

_INHERITED = os.environ.get(RUN, ""), os.environ.get(SESSION, "")
"""What the process that spawned this one has passed to it, before this one sets it for its own children."""


class CurrentRuns:
    """The runs of one tracker in this process.

    Args:
        voice: Prints lines and warnings.
        settings: The settings in force, with arguments.
        start: Starts a run, where a call means none.
        handle: Makes what users hold of a run.
        home: The tracker.

    Attributes:
        active: Which is the active one, in each thread and task.
        start, home: As they were given.
        exit_timeout: Seconds that the program's end may wait for them, at most.

    Thread safety: every method from any thread.
    """

    def __init__(
        self,
        voice: Voice,
        settings: Callable[[Mapping[str, Any]], Settings],
        start: Callable[[], RunCore],
        handle: Callable[[RunCore], object],
        home: object,
    ) -> None:
        self._voice, self._settings, self._handle, self.start = voice, settings, handle, start
        self.home: Any = home
        idle = Channel(0, lambda _: None, self._nowhere)
        # So every call without a run comes to `_nowhere`, and the hot path needs no branch for it.
        idle.close(_no_run)
        self.active = Active(idle, home)
        self.stopping = Stopping(self.active.current)
        self._launcher = Launcher(voice)
        self._lock = threading.RLock()
        self._by_id: dict[tuple[str, str | None], RunCore] = {}
        self._joined: dict[int, RunCore] = {}
        self._last: RunCore | None = None
        self._over = False
        self.exit_timeout = 0.0
        self.elsewhere: Callable[[], RunCore | None] = lambda: None

    # -- beginning ---------------------------------------------------------------------------------------------------

    def begin(
        self,
        spec: RunSpec,
        config: Settings,
        credentials: str | None,
        parent: RunCore | None = None,
        job: Job | None = None,
    ) -> RunCore:
        """Makes a run known to the agent, and active in this thread; one of a job, all of whose processes share it.

        Raises:
            StateDirError, SessionError, StoreRefused: Under `on_error="raise"`.
        """
        connection = self._connect(spec, config, credentials, job)
        if parent is not None and spec.parent_run_id is None:  # one that is named is meant
            spec = below(parent, spec, connection)
        above = parent if waits_for(parent, spec, connection) else None
        run = self._made(with_console(spec, config), connection, config, above)
        if connection is not None:
            # Before it is active: no row of another thread may lie in front of it.
            for record in begun(run.spec, config):
                connection.put(record)
        self.active.push(run, self._implicit(run))
        if connection is None:
            return run
        connection.listen(self._on_bell)
        run.console.begin(connection)
        # Not at the run of a rank that is not logged: its children are not, either.
        if spec.owned or config.log_metrics:
            self._point_children_at(run)
        if not config.quiet and above is None:
            print_line(start_line(spec, config))
        if config.on_error == "raise" and spec.owned and (reason := verdict(run, spec)) is not None:
            # It was active already, and the caller gets no handle to end it by.
            self._ended(run)
            raise StoreRefused(reason)
        return run

    def begin_nothing(self) -> RunCore:
        """A run that is kept nowhere, for a program in which none can be."""
        self.active.push(run := self.nothing(), self._implicit(run))
        return run

    def begin_apart(self, name: str, spec: RunSpec, config: Settings, credentials: str | None) -> RunCore:
        """Makes a run known to the agent that does not become the active one.

        Args:
            name: What this process calls it by, as it does runs by MLflow's ids.
            spec: What it is.
            config: In force for it.
            credentials: Of its store.
        """
        with self._lock:
            run = self._by_id[name, None] = self._attach(spec, config, credentials)
        return run

    def named(self, run_id: str, uri: str | None = None, *, created: bool = False, info: Any = None) -> RunCore:
        """A handle on the run that MLflow calls so, which this process or another one has begun.

        Args:
            run_id: MLflow's id.
            uri: Its store, where that is not the one in force.
            created: This process has just created it, and will end it.
            info: What MLflow has answered to that; None where it is to be asked.
        """
        name = run_id, uri
        known = self._by_id.get(name)
        # One that has ended is named anew: its channel warns of each value.
        if known is not None and not known.ended:
            return known
        # A run's record has its URI without the password.
        store = None if uri is None else mask_uri(uri)[0]
        for run in self.active.all():
            if run.run_id_now == run_id and store in (None, run.spec.tracking_uri):
                self._by_id[name] = run
                return run
        with self._lock:
            # Once more: another thread may have made it while this one waited for the lock.
            known = self._by_id.get(name)
            if known is None or known.ended:
                # The process that began it has printed where it goes.
                config = self._settings({"quiet": True, **({} if uri is None else {"tracking_uri": uri})})
                spec, secret = describe(config, run_id=run_id, owned=created, created=created, **as_answered(info))
                known = self._by_id[name] = self._attach(spec, config, secret)
            return known

    def rejoin(self, spec: RunSpec, session: str) -> RunCore:
        """The run that another process (or this one) has passed on: see `_api/passing`.

        Args:
            spec: What it is there.
            session: Directory of its session.
        """
        config = self._settings({"tracking_uri": spec.tracking_uri, "quiet": True})
        if config.agent == "off":
            return self.nothing()
        connection = self._launcher.connect_to(session, config)
        if connection is not None:
            run = self._join(spec.run, config, connection)
        elif spec.run_id is not None:
            run = self.named(spec.run_id)
        else:  # the agent looks for it by tailrace's id
            run = self._attach(msgspec.structs.replace(spec, owned=False, facts=None), config, None)
        # As a child of fork has it: module-level calls go to the run that was passed on.
        if self.active.current() is None:
            self.join(run)
        return run

    def join(self, run: RunCore) -> None:
        """Makes a run of another process the active one of all threads here that have none of their own."""
        self.active.join(run, self._implicit(run))

    def enter(self, run: RunCore) -> None:
        """Makes a run that this process has named the innermost one of this thread or task."""
        self.active.push(run, self._implicit(run))

    def step_out(self, run: RunCore) -> None:
        """The same undone: it is not active any more, and goes on."""
        for each, channel in self.active.channels():
            if each is run:
                channel.close(_no_run)
        self.active.remove(run)

    def let_go(self, run: RunCore) -> None:
        """Others decide what becomes of a run: what is logged to it from now on goes by a new handle."""
        if run.ended:
            return
        if run.ours:
            run.let_go()
        else:
            self.step_out(run)
            run.ended = True

    def known(self, number: int) -> RunCore | None:
        """A run of this process by tailrace's id, if it has not ended."""
        return next((run for run in self.active.all() if int(run.id, 16) == number), None)

    # -- which one is meant ------------------------------------------------------------------------------------------

    def target(self, run_id: str | None) -> RunCore:
        """The run that a call means: the one named, the active one, the parent process's, or a new one."""
        if run_id is not None:
            return self.named(run_id)
        if (run := self.current()) is not None:
            return run
        # Exit handlers and daemon threads begin no run: nobody would end it.
        if not self._over:
            return self.start()
        if self._last is None:
            self._voice.warn("the program is ending: what is logged now is logged nowhere", once="over")
            return self.nothing()
        self._voice.warn(late(self._last.label), once=("late", self._last.id))
        return self._last

    def current(self) -> RunCore | None:
        """The active run of this thread or task; the one of the process that spawned this one, if there is none.

        Or the one that `elsewhere` knows of, which is MLflow's own.
        """
        return self.active.current() or self.inherited() or self.of_ray() or self.elsewhere()

    def inherited(self) -> RunCore | None:
        """The active run of the process that spawned this one."""
        named, session = _INHERITED
        config = self._settings({}) if named and session else None
        if config is None or config.agent == "off":
            return None
        if self._launcher.connected:  # to something else, maybe
            connection = self._launcher.connect_to(session, config)
        else:
            connection = self._launcher.connect(config)
        if connection is None or not connection.joined:
            return None
        number, page = int(named, 16), connection.page
        if page is not None and page.has_ended(number) and (following := page.following()) is not None:
            # A pool's worker that was spawned in one run may log its first value in the next.
            there = self._leading_to(*following, connection, config)
            if there is not None:
                connection, number = there, following[0]
        run = self._join(number, config, connection)
        self.join(run)
        return run

    def of_ray(self) -> RunCore | None:
        """The active run of the driver that this worker of Ray works for, if both are on one machine."""
        found = run_of_driver(self._settings, self._launcher)
        there = found and self._leading_to(found.number, found.session, found.connection, found.settings)
        if not found or not there:
            return None
        self.join(run := self._join(found.number, found.settings, there))
        return run

    @property
    def last_ended(self) -> Any:
        """The handle on the run that ended last; None before the first has."""
        return None if self._last is None else self._last.handle

    def open(self) -> list[RunCore]:
        """Those to which this process may have logged, and which it has not ended."""
        return [run for run in self._all() if not run.ended]

    def resumed(self, ended: RunCore) -> RunCore | None:
        """A run of this process that goes on with what MLflow knows as the same run as one that has ended."""
        run_id = ended.run_id_now
        mine = [run for run in self.active.all() if run.ours and not run.ended]
        return next((run for run in mine if run_id is not None and run_id in (run.spec.run_id, run.run_id_now)), None)

    def connections(self) -> list[Connection]:
        """Those that lead to where these runs go."""
        return self._launcher.all()

    # -- the ends ----------------------------------------------------------------------------------------------------

    def begin_no_more(self) -> None:
        """The program ends: what is logged from now on begins no run."""
        self._over = True

    def leave_joined(self, left: Callable[[], float]) -> None:
        """The program ends: what it has logged to runs of others is logged.

        Args:
            left: The seconds that are left for it.
        """
        for run in self._all():
            if not run.ends_at_exit and not run.is_rank:
                with self._whatever_happens(run):
                    run.leave(left())

    def end_begun(self, error: BaseException | None, left: Callable[[], float]) -> None:
        """The program ends: so do the runs that it has begun.

        Args:
            error: What the program ends with.
            left: The seconds that are left for it.
        """
        # Innermost first: a nested run leaves its end to its parent, which must not have ended by then.
        for run in reversed([run for run in self._all() if run.ends_at_exit or run.is_rank]):
            with self._whatever_happens(run):
                if error is not None:
                    run.handle.fail(error, left())
                else:
                    run.handle.end("FINISHED", left())

    def close(self, left: Callable[[], float]) -> None:
        """The program ends, and its runs have.

        Args:
            left: The seconds that are left for it.
        """
        self._launcher.close(left)

    def after_fork(self) -> None:
        """In a forked child: the runs are the parent's, and so is the wait for their ends."""
        self._lock = threading.RLock()
        self._launcher.after_fork()
        self.active.after_fork()
        for run, channel in self.active.channels():
            self._follow(run, channel)
            if run.page is not None:
                # Without `follow`: who logs by the run's handle means that run, also after its end.
                Follower(run.page, int(run.id, 16), self._voice).watch(run.channel)

    @contextlib.contextmanager
    def _whatever_happens(self, run: RunCore) -> Any:
        """The end of one run is no matter of the others."""
        try:
            yield
        except Exception as error:  # noqa: BLE001
            self._voice.warn(f"run {run.label} could not be ended: {error}")

    def _all(self) -> list[RunCore]:
        return list(dict.fromkeys([*self._joined.values(), *self._by_id.values(), *self.active.all()]))

    def _ended(self, run: RunCore) -> None:
        self.step_out(run)
        # Exit handlers and daemon threads that log after it are still to find a run.
        self._last = run
        page = run.page
        self._announce(run)
        if page is not None and run.spec.owned:
            # Last: a child that sees the end looks for the run that is active, which has to be there by then.
            page.end(int(run.id, 16))

    # -- inside ------------------------------------------------------------------------------------------------------

    def _made(
        self, spec: RunSpec, connection: Connection | None, config: Settings, parent: RunCore | None = None
    ) -> RunCore:
        core = RunCore(spec, connection, config, self._voice, self._ended, parent, self.resumed)
        self._handle(core)
        return core

    def _connect(
        self, spec: RunSpec, config: Settings, credentials: str | None, job: Job | None = None
    ) -> Connection | None:
        self.exit_timeout = max(self.exit_timeout, config.exit_timeout)
        key = None if job is None else job.key
        return None if config.agent == "off" else self._launcher.connect(config, spec.tracking_uri, credentials, key)

    def _attach(self, spec: RunSpec, config: Settings, credentials: str | None) -> RunCore:
        """A handle on somebody else's run, which is not the active one."""
        connection = self._connect(spec, config, credentials)
        run = self._made(with_console(spec, config), connection, config)
        if connection is not None:
            connection.put(Start(run.spec))
            run.console.begin(connection)
            connection.listen(self._on_bell)
        return run

    def _join(self, number: int, config: Settings, connection: Connection) -> RunCore:
        """A handle on a run of the same session, which the agent knows already."""
        self.exit_timeout = max(self.exit_timeout, config.exit_timeout)
        run = self._joined.get(number)
        if run is None:
            # The agent has the run's record from whoever began it; only the number matters here.
            spec, _ = describe(config, owned=False)
            run = self._made(msgspec.structs.replace(spec, run=number), connection, config)
            self._joined[number] = run
        return run

    def _implicit(self, run: RunCore) -> Channel:
        """A channel for the module-level calls, which ends with the run."""

        def slow(values: Mapping[str, Any], metrics: Any, step: Any, time_ns: int, error: BaseException) -> None:
            if isinstance(error, _NoRun):
                self._nowhere(values, metrics, step, time_ns, error)
            else:
                run.slow_path.timed(values, metrics, step, time_ns, error)

        channel = run.attached(run.channel.twin(slow))
        if not run.ours and run.spec.job is None:
            self._follow(run, channel)
        return channel

    def _follow(self, run: RunCore, channel: Channel) -> None:
        """Lets a joined run's channel turn to the run that is active after it."""
        page = run.page
        if page is not None:
            Follower(page, int(run.id, 16), self._voice, partial(self._turn, run, channel)).watch(channel)

    def _turn(self, run: RunCore, channel: Channel, number: int, session: str | None) -> bool:
        connection = self._leading_to(number, session, run.connection, run.settings)
        if connection is None:
            return False
        # First: a call in between finds one of the two runs, and never none.
        self.join(self._join(number, run.settings, connection))
        self.active.remove(run)
        channel.close(_no_run)
        return True

    def _leading_to(
        self, number: int, session: str | None, here: Connection | None, config: Settings
    ) -> Connection | None:
        """The connection to a run, of another session where one is named; None if it has ended or cannot be joined."""
        connection = here if session is None else self._launcher.connect_to(session, config)
        if connection is None or (connection.page is not None and connection.page.has_ended(number)):
            return None
        return connection

    def nothing(self) -> RunCore:
        """A run that is kept nowhere, and is not the active one."""
        # Not by `_settings`, which reads files and may raise: this is what remains when nothing else works.
        config = msgspec.structs.replace(Settings(), agent="off", backend="none", quiet=True)
        return self._made(describe(config)[0], None, config)

    def _nowhere(self, values: Mapping[str, Any], metrics: Any, step: Any, time_ns: int, error: BaseException) -> None:
        """A module-level `log()` in a thread or task that has no run, or not any more."""
        self.active.refresh()
        # Not timed: starting a run is no cost of a call.
        self.target(None).slow_path.take(values, metrics, step, time_ns, error)

    def _point_children_at(self, run: RunCore) -> None:
        """Other processes log to this run from now on, if they start none of their own."""
        connection = run.connection
        if connection is None:
            return
        session, number = str(connection.session.dir), int(run.id, 16)
        show_ray(run, connection, self._voice)
        # In a process that has several sessions both belong together.
        os.environ[RUN], os.environ[SESSION] = run.id, session
        connection.point_children_at(number)
        for other in self._launcher.all():
            if other is not connection:
                other.point_children_elsewhere(session, number)

    def _announce(self, gone: RunCore) -> None:
        """Publishes to other processes which run is active, after one is not any more."""
        current = self.active.current()
        if current is not None:
            self._point_children_at(current)
        # A child that is spawned now joins the run that this process itself was spawned in.
        elif all(_INHERITED):
            os.environ[RUN], os.environ[SESSION] = _INHERITED
        else:
            point_children_nowhere(RUN, gone.id)
            if gone.connection is not None:
                gone.connection.point_children_at(0)

    def _on_bell(self) -> None:
        """The agent has something new: each run prints its notices, and hears whether it is to stop."""
        for run in dict.fromkeys([*self.active.all(), *self._by_id.values()]):
            self.stopping.look(run)


class _NoRun(Exception):
    """Raised by the encoder of a channel that has no run (any more)."""


def _no_run(row: object) -> bytes:
    raise _NoRun(row)

"""A process's connection to its session: its ring, what it counts, and what the agent publishes.

* The first use creates the session, or joins the one that the environment names (a spawned child).
* A forked child gets a ring of its own with its first row; the parent's ring stays the parent's.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import TYPE_CHECKING

import msgspec

from tailrace._background.process_end import lasts
from tailrace._log.channel import Elsewhere
from tailrace._session.agent_keeper import Keeper
from tailrace._session.bell import listen
from tailrace._session.entering import create, joinable
from tailrace._session.run_page import RunsPage
from tailrace._session.unsent import METRICS_ROW, Unsent
from tailrace_agent.errors import CallError, SessionError
from tailrace_agent.files.descriptors import NONE_LEFT, SPARE
from tailrace_agent.ipc import status
from tailrace_agent.ipc.reasons import Reason, because
from tailrace_agent.ipc.records import RAW, decode_control, decode_row, encode
from tailrace_agent.text.utf8 import encoded

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tailrace._log.channel import Channel
    from tailrace._log.device_slots import Trial
    from tailrace._messages.voice import Voice
    from tailrace._session.torch_memory import TorchMemory
    from tailrace_agent.ipc import native
    from tailrace_agent.ipc.ring_writer import RingWriter
    from tailrace_agent.ipc.session import Session
    from tailrace_agent.settings.settings import Settings

    Spills = Callable[[bytes, int, int, Mapping[str, float], Callable[[bytes], None]], None]

__all__ = ["SESSION", "Connection", "point_children_nowhere"]

SESSION = "TAILRACE_SESSION"
"""Environment variable by which spawned children find the session to join: its directory."""

_MAX_TIMINGS = 4096  # a run; those of about 800,000 calls


def point_children_nowhere(variable: str, value: str) -> None:
    """Empties an environment variable if it has that value.

    Never deleted: `requests` walks `os.environ` for each request, in threads of the program and of the agent, and a
    variable that goes away meanwhile makes that a `KeyError`.
    """
    if os.environ.get(variable) == value:
        os.environ[variable] = ""


class Connection:
    """What one process has to do with one session; see `open`.

    Attributes:
        session: The session.
        keeper: Keeps the session's agent alive.
        timings: Nanoseconds that timed `log()` calls took (about one in 200), by run.
        spills: What is called, by run, with one of its rows that is to go to the spill file: its bytes, step, time and
            values, and what puts it there.
        page: What its processes share about runs; None where there is no room for it.

    Thread safety: every method from any thread.
    """

    session: Session
    keeper: Keeper
    joined: bool
    page: RunsPage | None

    def __init__(self, settings: Settings, voice: Voice) -> None:
        self.settings, self.voice = settings, voice
        self.timings: dict[int, list[int]] = {}
        self.spills: dict[int, Spills] = {}
        self._unsent = Unsent()
        self._listens = False
        self._channels: weakref.WeakSet[Channel] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._token = 0
        self._torch: TorchMemory | None = None
        self._ring: RingWriter | None = None
        self._trial: Trial | None = None

    @classmethod
    def open(cls, settings: Settings, voice: Voice, join: str | None = None) -> Connection:
        """Joins a session or creates one, makes this process's ring in it, and publishes it to spawned children.

        Args:
            settings: In force; the agent takes its own from them.
            voice: Prints lines and warnings.
            join: Directory of a session to join, and no other; by default the one that the environment names, or a
                new one.

        Raises:
            StateDirError: State can be kept nowhere.
            SessionError: No ring can be made, or the session to join takes no process in any more.
        """
        connection = cls(settings, voice)
        session = joinable(settings, join or os.environ.get(SESSION))
        if session is not None:
            connection.session, connection.joined = session, True
        elif join is not None:
            raise SessionError(f"{join} takes no process in any more")
        else:
            entered = create(settings, voice, connection._new_ring)
            connection.session, connection.settings, connection.joined = entered.session, entered.settings, False
            connection._ring = entered.ring
            # When its ring is there: a child that is spawned from now on finds a session that can be joined.
            os.environ[SESSION] = str(entered.session.dir)
        connection.keeper = Keeper(connection.session, connection.settings, voice)
        connection.open_ring()
        connection.page = connection._open_page()
        # From the first run on: a program that leaks descriptors has some left at this moment.
        SPARE.fill()
        lasts()  # its children of multiprocessing are to end what they have begun, too
        _connections.add(connection)
        return connection

    # -- rows --------------------------------------------------------------------------------------------------------

    def attach(self, channel: Channel) -> None:
        """Keeps a channel on this process's ring, also after a fork."""
        with self._lock:
            # In a forked child there is no ring before the first row, so that a child that logs nothing leaves no file.
            channel.lead_to(Elsewhere(self.put_first) if self._ring is None else self._ring)
            self._channels.add(channel)

    def put(self, record: object) -> None:
        """Puts a control record on the ring, after what found no room before."""
        row = encoded(encode, record)
        try:
            decode_control(row)
        except msgspec.ValidationError as error:  # nothing may be accepted here that the agent cannot read
            raise CallError(f"{type(record).__name__.lower()}: {error}") from error
        self._unsent.hand_over(row, self.put_first)

    def put_first(self, row: bytes) -> None:
        """Puts a row on the ring, making it first if this process (a forked child) has none."""
        ring = self._ring
        if ring is None:
            try:
                with SPARE.lent(many=True):
                    ring = self.open_ring()
            except (SessionError, OSError) as error:
                # A forked child that begins to log when all is over, without memory, or as another user.
                self._dropped(
                    row, because("this process cannot log to the run", getattr(error, "strerror", None) or error)
                )
                return
        ring.put(row)

    def open_ring(self) -> RingWriter:
        """This process's ring."""
        with self._lock:
            if self._ring is None:
                self.keeper.adopt()
                self._ring = self._new_ring(self.session)
                for channel in self._channels:
                    channel.lead_to(self._ring)
            return self._ring

    def device_slots(self, value: object) -> native.Slots | None:
        """Where devices write values of this process's rows by themselves; None where they do not, or not yet.

        Args:
            value: One on a device, to try it with.
        """
        ring = self._ring
        if ring is None:  # a forked child: where the parent has used a GPU, it can use none itself
            return None
        if ring.slots is None:
            with contextlib.suppress(Exception):  # full shared memory, a driver of another kind: the older way does
                from tailrace._log.device_slots import Trial

                self._trial = self._trial or Trial(self.session.slots_path(ring.path.stem))
                if (slots := self._trial.passed(value)) is not None:
                    ring.slots = slots
        return ring.slots

    def listen(self, on_bell: Callable[[], None]) -> None:
        """Calls a function when the agent has something new for this process; once in each process."""
        if self._listens:
            return
        # First, and for good: where no pipe can be made, each run would try and fail again.
        self._listens = True
        with contextlib.suppress(OSError, RuntimeError, SessionError):  # it is reported at the end all the same
            listen(self.session.bell(self.ring_name), on_bell)

    def point_children_at(self, run: int) -> None:
        """The run that other processes log to from now on, if they start none of their own; 0 for none."""
        if self.page is not None and self.session.begun_here:
            self.page.point_at(run)

    def point_children_elsewhere(self, session: str, run: int) -> None:
        """The same for a run of another session."""
        if self.page is not None and self.session.begun_here:
            with contextlib.suppress(OSError):  # a full /dev/shm: what they log is added to the run that has ended
                self.page.point_elsewhere(session, run)

    def watch_torch(self, *, by_machine: bool = False) -> None:
        """From now on publishes to the system monitor what torch holds on the GPUs."""
        try:
            from tailrace._session.torch_memory import TorchMemory

            self._torch = self._torch or TorchMemory(self.session.shared, by_machine=by_machine)
        except OSError:  # no room in shared memory, no descriptor: that one figure is missing then
            self._torch = None

    @property
    def ring_name(self) -> str:
        """Name of this process's ring, by which the agent answers flushes."""
        return self.open_ring().path.stem

    @property
    def obstacle(self) -> str | None:
        """What keeps records from being handed over right now, if anything does."""
        if not self._unsent:
            return None
        return self.agent_problem or "no room in the ring, nor on the disk"

    @property
    def agent_problem(self) -> str | None:
        """What keeps the agent from taking over what is logged, if anything does."""
        agent = status.read(self.session.shared / "agent.status", status.AgentStatus)
        return agent.problem if agent is not None else None

    def next_token(self) -> int:
        """A flush token; they grow."""
        with self._lock:
            self._token += 1
            return self._token

    def status(self, run: int) -> status.RunStatus | None:
        """The status of a run that the agent published last."""
        with SPARE.lent():
            return status.read(self.session.shared / status.run_file(run), status.RunStatus)

    @property
    def trouble(self) -> str | None:
        """What keeps the agent from taking over what is logged, or this program from seeing it, if anything does."""
        return self.blindness or self.agent_problem

    @property
    def blindness(self) -> str | None:
        """Why what the agent publishes cannot be read now, if it cannot."""
        try:
            with SPARE.lent():
                # To open something is the only way to learn whether a descriptor can be had.
                os.close(os.open(self.session.shared, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in NONE_LEFT:
                return f"{error.strerror} in this program (see ulimit -n): what the agent delivers cannot be seen"
        return None

    def _sampled(self, row: bytes, entered: int, copy_ns: int) -> None:
        """One row in about 200; a timed call if `entered`. Runs under the ring's lock, so it only takes notes."""
        if self._torch is not None:
            self._torch.look()
        if entered and row[0] == METRICS_ROW:
            run, _, called, _ = RAW.decode(row)
            timings = self.timings.setdefault(run, [])
            # The first ones are enough for a median, and a run of weeks must not fill the memory.
            if len(timings) < _MAX_TIMINGS:
                # From `called` to `entered` the row was encoded; what C has timed has its copy in it, and brings 0.
                timings.append(entered - called + copy_ns)

    def _spilled(self, row: bytes, put: Callable[[bytes], None]) -> None:
        """A row goes to the spill file, if its run lets it."""
        if self.spills and row[0] == METRICS_ROW:
            with contextlib.suppress(msgspec.DecodeError):  # there are places of values on devices in it
                run, step, time_ns, values = decode_row(row)
                if (gate := self.spills.get(run)) is not None:
                    return gate(row, step, time_ns, values, put)
        return put(row)

    def _dropped(self, row: bytes, reason: Reason) -> None:
        """A row that could be put nowhere: metrics are counted, everything else waits for room. Under the lock."""
        self.voice.warn(f"{reason}: metrics are dropped until there is room", once=("dropped", reason))
        self._unsent.keep(row, reason)

    # -- beginning and end -------------------------------------------------------------------------------------------

    def close(self, timeout: float) -> None:
        """The process ends; an agent process goes on by itself."""
        # One that has joined leaves the variable as its parent has set it, for further children.
        if not self.joined:
            point_children_nowhere(SESSION, str(self.session.dir))
        self.keeper.close(timeout)

    def _open_page(self) -> RunsPage | None:
        try:
            return RunsPage(self.session.shared)
        except OSError:  # no room in shared memory: children then keep to the run that they have joined
            return None

    def _new_ring(self, session: Session) -> RingWriter:
        return session.new_ring(on_drop=self._dropped, on_sample=self._sampled, on_spill=self._spilled)

    def _after_fork(self) -> None:
        # A fresh one: a thread that held it when the process forked does not exist here.
        self._lock = threading.RLock()
        # The mapping is inherited, and shared with the parent: a row from here would go among the parent's.
        self._ring = None
        self._trial = None
        self.keeper.after_fork()
        self._listens = False
        self._torch = None
        self._unsent = Unsent()
        self.timings = {}
        for channel in self._channels:
            channel.lead_to(Elsewhere(self.put_first))
            if channel.selection is not None:
                channel.selection.begin_anew()


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for connection in list(_connections):
        connection._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)

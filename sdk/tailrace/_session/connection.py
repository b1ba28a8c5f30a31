"""A process's connection to its session: its ring, what it counts, and what it is told.

* The first use creates the session, or joins the one that the environment names (a spawned child).
* A forked child gets a ring of its own with its first row; the parent's ring stays the parent's.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tailrace._background.process_end import lasts
from tailrace._log.log import Elsewhere
from tailrace._session.agent_keeper import Keeper
from tailrace._session.bell import listen
from tailrace._session.run_page import RunsPage
from tailrace_agent.errors import CallError, SessionError, StateDirError
from tailrace_agent.files.descriptors import NONE_LEFT, SPARE
from tailrace_agent.ipc import status
from tailrace_agent.ipc.records import RAW, Drop, decode_control, encode
from tailrace_agent.ipc.session import Session, program_name
from tailrace_agent.runtime.places import make_temporary_state_dir, working_directory
from tailrace_agent.settings.settings import state_dir
from tailrace_agent.settings.uris import mask_uri, mask_url
from tailrace_agent.text.utf8 import encoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace._log.log import Channel
    from tailrace._messages.voice import Voice
    from tailrace._session.torch_memory import TorchMemory
    from tailrace_agent.ipc.ring_writer import RingWriter
    from tailrace_agent.settings.settings import Settings

__all__ = ["SESSION", "Connection", "point_children_nowhere"]

SESSION = "TAILRACE_SESSION"
"""Environment variable that tells spawned children which session to join: its directory."""

_MAX_TIMINGS = 4096
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only compared with
_METRICS_ROW = 0x94
"""First byte of a metrics row, a MessagePack array of four; no control record has four fields."""


def point_children_nowhere(variable: str, value: str) -> None:
    """Empties an environment variable if it has that value.

    Never deleted: `requests` walks `os.environ` for each request, in threads of the program and of the agent, and a
    variable that goes away meanwhile makes that a `KeyError`.
    """
    if os.environ.get(variable) == value:
        os.environ[variable] = ""


class Connection:
    """What one process has to do with one session.

    Args:
        settings: In force; the agent takes its own from them.
        voice: Says what has to be said.
        join: Directory of a session to join, and no other; by default the one that the environment names, or a new one.

    Attributes:
        session: The session.
        keeper: Keeps the session's agent alive.
        timings: Nanoseconds that timed `log()` calls took (about one in 200), by run.
        page: What its processes tell each other about runs; None where there is no room for it.

    Raises:
        StateDirError: State can be kept nowhere.
        SessionError: No ring can be made.

    Thread safety: every method from any thread.
    """

    def __init__(self, settings: Settings, voice: Voice, join: str | None = None) -> None:
        self.settings, self.voice = settings, voice
        self.timings: dict[int, list[int]] = {}
        self._listens = False
        self._lost: dict[tuple[int, str], int] = {}
        self._unsent: list[bytes] = []
        self._channels: weakref.WeakSet[Channel] = weakref.WeakSet()
        self._lock = threading.RLock()
        self._token = 0
        self._torch: TorchMemory | None = None
        self._ring: RingWriter | None = None
        self.session, self.joined = self._enter(settings, join)
        self.keeper = Keeper(self.session, self.settings, voice)
        self.open_ring()
        self.page = self._open_page()
        SPARE.fill()
        lasts()  # its children of multiprocessing are to end what they have begun, too
        _connections.add(self)

    # -- rows --------------------------------------------------------------------------------------------------------

    def attach(self, channel: Channel) -> None:
        """Keeps a channel on this process's ring, also after a fork."""
        with self._lock:
            channel.lead_to(Elsewhere(self.put_first) if self._ring is None else self._ring)
            self._channels.add(channel)

    def put(self, record: object) -> None:
        """Puts a control record on the ring, after what found no room before."""
        row = encoded(encode, record)
        try:
            decode_control(row)
        except msgspec.ValidationError as error:  # nothing may be accepted here that the agent cannot read
            raise CallError(f"{type(record).__name__.lower()}: {error}") from error
        lost, self._lost = self._lost, {}
        drops = [encode(Drop(run, "metric", reason, count)) for (run, reason), count in lost.items()]
        waiting, self._unsent = [*self._unsent, *drops, row], []
        for at, each in enumerate(waiting, 1):
            self.put_first(each)
            if self._unsent:  # there was no room for it: what comes behind must not overtake it
                self._unsent += waiting[at:]
                break

    def put_first(self, row: bytes) -> None:
        """Puts a row on the ring, making it first if this process (a forked child) has none."""
        ring = self._ring
        if ring is None:
            try:
                with SPARE.lent(many=True):
                    ring = self.open_ring()
            except (SessionError, OSError) as error:
                # A forked child that begins to log when all is over, without memory, or as another user.
                self._dropped(row, f"this process cannot log to the run: {getattr(error, 'strerror', None) or error}")
                return
        ring.put(row)

    def open_ring(self) -> RingWriter:
        """This process's ring."""
        with self._lock:
            if self._ring is None:
                self.keeper.adopt()
                self._make_ring(self.session)
            assert self._ring is not None
            return self._ring

    def listen(self, heard: Callable[[], None]) -> None:
        """Calls a function when the agent has something to tell this process; once in each process."""
        if self._listens:
            return
        self._listens = True
        with contextlib.suppress(OSError, RuntimeError, SessionError):  # it is told at the end all the same
            listen(self.session.bell(self.ring_name), heard)

    def point_children_at(self, run: int) -> None:
        """The run that other processes log to from now on, if they start none of their own; 0 for none."""
        if self.page is not None and self.session.begun_here:
            self.page.point_at(run)

    def point_children_elsewhere(self, session: str, run: int) -> None:
        """The same for a run of another session."""
        if self.page is not None and self.session.begun_here:
            with contextlib.suppress(OSError):  # a full /dev/shm: what they log is added to the run that has ended
                self.page.point_elsewhere(session, run)

    def watch_torch(self) -> None:
        """From now on tells the system monitor what torch holds on the GPUs."""
        try:
            from tailrace._session.torch_memory import TorchMemory

            self._torch = self._torch or TorchMemory(self.session.shared)
        except OSError:  # no room in shared memory, no descriptor: that one figure is missing then
            self._torch = None

    @property
    def ring_name(self) -> str:
        """Name of this process's ring, by which the agent answers flushes."""
        return self.open_ring().path.stem

    @property
    def obstacle(self) -> str | None:
        """What keeps records from being handed over right now, if anything does."""
        if not self._unsent and not self._lost:
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
        """What the agent last told of a run."""
        with SPARE.lent():
            return status.read(self.session.shared / status.run_file(run), status.RunStatus)

    @property
    def trouble(self) -> str | None:
        """What keeps the agent from taking over what is logged, or this program from seeing it, if anything does."""
        return self.blindness or self.agent_problem

    @property
    def blindness(self) -> str | None:
        """Why what the agent tells cannot be read now, if it cannot."""
        try:
            with SPARE.lent():
                os.close(os.open(self.session.shared, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in NONE_LEFT:
                return f"{error.strerror} in this program (see ulimit -n): what the agent delivers cannot be seen"
        return None

    def _sampled(self, row: bytes, entered: int, copy_ns: int) -> None:
        """One row in about 200; a timed call if `entered`. Runs under the ring's lock, so it only takes notes."""
        if self._torch is not None:
            self._torch.look()
        if entered and row[0] == _METRICS_ROW:
            run, _, called, _ = RAW.decode(row)
            timings = self.timings.setdefault(run, [])
            if len(timings) < _MAX_TIMINGS:
                timings.append(entered - called + copy_ns)

    def _dropped(self, row: bytes, reason: str) -> None:
        """A row that could be put nowhere: metrics are counted, everything else waits for room. Under the lock."""
        self.voice.warn(f"{reason}: metrics are dropped until there is room", once=("dropped", reason))
        if row[0] != _METRICS_ROW:
            self._unsent.append(row)
            return
        run, _, _, values = RAW.decode(row)
        self._lost[run, reason] = self._lost.get((run, reason), 0) + len(values)

    # -- beginning and end -------------------------------------------------------------------------------------------

    def close(self, timeout: float) -> None:
        """The process ends; an agent process goes on by itself."""
        if not self.joined:
            point_children_nowhere(SESSION, str(self.session.dir))
        self.keeper.close(timeout)

    def _enter(self, settings: Settings, join: str | None) -> tuple[Session, bool]:
        named = join or os.environ.get(SESSION)
        if named and Path(named).parent.parent == state_dir(settings):
            session = _joinable(Path(named))
            # One of this process has other settings, or it would not be asked for another connection.
            if session is not None and not session.begun_here:
                return session, True
        if join is not None:
            raise SessionError(f"{join} takes no process in any more")
        session = self._create(settings)
        os.environ[SESSION] = str(session.dir)
        return session, False

    def _create(self, settings: Settings) -> Session:
        for name in ("tracking_uri", "registry_uri"):
            uri = getattr(settings, name)
            settings = msgspec.structs.replace(settings, **{name: mask_uri(uri)[0] if uri else None})
        if settings.alert_webhook:
            settings = msgspec.structs.replace(settings, alert_webhook=mask_url(settings.alert_webhook))
        try:
            return self._with_ring(settings)
        except StateDirError as error:
            if settings.on_error == "raise":
                raise
            try:
                fallback = make_temporary_state_dir()
            except OSError:
                raise error from None
            self.settings = msgspec.structs.replace(settings, dir=str(fallback))
            session = self._with_ring(self.settings)
            self.voice.warn(f"{error} Keeping state in {fallback} for now.")
            return session

    def _with_ring(self, settings: Settings) -> Session:
        """A new session with this process's ring; in the temporary directory if shared memory has no room."""
        session = None
        try:
            session = Session.create(settings, cwd=working_directory(), program=program_name())
            self._make_ring(session)
        except SessionError as error:
            if session is not None:
                session.remove()
            elsewhere = _temporary_directory()
            if settings.ring_dir == elsewhere:
                raise
            self.voice.warn(f"{error} Using {elsewhere} for now: log() may wait for the disk there.")
            return self._with_ring(msgspec.structs.replace(settings, ring_dir=elsewhere))
        if settings.ring_dir is None and sys.platform == "linux" and session.shared.parent != _SHARED_MEMORY:
            self.voice.warn(
                f"{_SHARED_MEMORY} cannot be written to. Using {session.shared.parent} for now: log() may wait for the "
                "disk there."
            )
        return session

    def _open_page(self) -> RunsPage | None:
        try:
            return RunsPage(self.session.shared)
        except OSError:  # no room in shared memory: children then keep to the run that they have joined
            return None

    def _make_ring(self, session: Session) -> RingWriter:
        self._ring = session.new_ring(on_drop=self._dropped, on_sample=self._sampled)
        for channel in self._channels:
            channel.lead_to(self._ring)
        return self._ring

    def _after_fork(self) -> None:
        self._lock = threading.RLock()
        self._ring = None
        self.keeper.after_fork()
        self._listens = False
        self._torch = None
        self._lost, self._unsent = {}, []
        self.timings = {}
        for channel in self._channels:
            channel.lead_to(Elsewhere(self.put_first))
            if channel.selection is not None:
                channel.selection.begin_anew()


def _temporary_directory() -> str:
    import tempfile  # 8 ms, and seldom needed

    return tempfile.gettempdir()


def _joinable(directory: Path) -> Session | None:
    """The session that the environment names, if it still takes processes in."""
    try:
        session = Session.open(directory)
    except SessionError:
        return None
    return session if session.here and session.has_shared and not session.closed else None


_connections: weakref.WeakSet[Connection] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for connection in list(_connections):
        connection._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)

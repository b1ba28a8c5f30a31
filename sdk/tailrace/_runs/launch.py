"""How a run comes to be: what it is (`describe`), where its rows go (`Launcher.connect`), whether it can work at all.

Nothing here waits for MLflow, except for a verdict under `on_error="raise"`.
"""

from __future__ import annotations

import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec

from tailrace._messages.waiting import until
from tailrace._session.connection import Connection, point_children_nowhere
from tailrace._session.job_place import NODE, open_shared
from tailrace._session.process_facts import facts
from tailrace._values.texts import as_text
from tailrace_agent.errors import CallError, SessionError, StateDirError
from tailrace_agent.ipc.records import RunSpec
from tailrace_agent.ipc.tags import NOTE_TAG
from tailrace_agent.runtime.places import working_directory
from tailrace_agent.runtime.program import in_notebook, program_file, program_name
from tailrace_agent.settings.settings import Settings, alert_addresses
from tailrace_agent.settings.table import TABLE
from tailrace_agent.settings.uris import check_uri, mask_uri, resolve_uri, without_plug_in

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tailrace._messages.voice import Voice
    from tailrace._runs.core import RunCore

__all__ = [
    "Launcher",
    "as_answered",
    "checked_note",
    "checked_run_id",
    "context_tags",
    "describe",
    "resumed",
    "verdict",
]

# Set to their defaults in the key, so that runs that differ in them alone share an agent.
_PER_RUN = {name: getattr(Settings(), name) for name, setting in TABLE.items() if setting.scope == "run"}
_RESUMES = "MLFLOW_RUN_ID"
_taking = threading.RLock()
_MLFLOWS_RUN_ID = re.compile(r"[0-9a-f]{32}")
_PLUG_IN = re.compile(r"(?!(?:https?|file|sqlite|mysql|postgresql|mssql)\b)[A-Za-z][A-Za-z0-9.+_-]+:")
_VERDICT_TIMEOUT = 20.0  # seconds; MLflow needs some of them to create a database


def describe(  # noqa: PLR0913 - MLflow's own arguments of start_run
    config: Settings,
    *,
    run_id: str | None = None,
    experiment_id: str | None = None,
    run_name: str | None = None,
    parent: int | None = None,
    parent_run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    description: str | None = None,
    owned: bool = True,
    created: bool = False,
    artifact_uri: str | None = None,
    files: Sequence[str] = (),
) -> tuple[RunSpec, str | None]:
    """What a run is, from arguments, settings and MLflow's variables; and the password cut out of its URI."""
    cwd = working_directory()
    uri, credentials = mask_uri(resolve_uri(config.tracking_uri, cwd)) if config.tracking_uri else (None, None)
    by_id = experiment_id
    # A name that was given counts more than the variable.
    if by_id is None and config.experiment_name is None:
        by_id = os.environ.get("MLFLOW_EXPERIMENT_ID") or None
    spec = RunSpec(
        # 63 bits: the columns of SQLite are signed.
        run=int.from_bytes(os.urandom(8), "big") >> 1,
        start_time=time.time_ns() // 1_000_000,
        cwd=cwd,
        tracking_uri=uri,
        experiment_name=config.experiment_name if by_id is None else None,
        experiment_id=None if by_id is None else str(by_id),
        run_id=run_id,
        run_name=run_name or os.environ.get("MLFLOW_RUN_NAME") or None,
        parent=parent,
        parent_run_id=parent_run_id,
        tags=dict(tags or {}),
        description=description,
        owned=owned,
        created=created,
        artifact_uri=artifact_uri,
        facts=facts(files) if config.metadata and config.agent != "off" and owned and run_id is None else None,
        git_diff=config.git_diff,
    )
    return spec, credentials


def checked_note(description: object, tags: Mapping[str, Any] | None) -> str | None:
    """The run's note. MLflow has it as a tag, so it may be given in one of two places.

    Raises:
        CallError: It is given in both, or its `str()` raises.
    """
    if description and tags and NOTE_TAG in tags:
        raise CallError(
            f"Description is already set via the tag {NOTE_TAG} in tags."
            f"Remove the key {NOTE_TAG} from the tags or omit the description."
        )
    return None if description is None else as_text(description, "description")


def as_answered(info: Any) -> dict[str, Any]:
    """What `describe` takes of MLflow's answer to the creation of a run, its `RunInfo`; nothing with a password in it.

    Example:
        >>> as_answered(None)
        {}
    """
    fields = ("experiment_id", "run_name", "artifact_uri")
    found = {name: getattr(info, name, None) for name in fields}
    # A run's name comes back from MLflow's SQL store as it was given, a number, say.
    if not all(type(value) is str and mask_uri(value)[0] == value for value in found.values()):
        return {}
    return found


def checked_run_id(run_id: str | None, tracking_uri: str | None, voice: Voice) -> str | None:
    """The run to resume, as a call names it: often enough it is a name, since that comes first elsewhere.

    Raises:
        CallError: It can be no id: no store of MLflow's own would look for it.
    """
    if not run_id or _MLFLOWS_RUN_ID.fullmatch(run_id):
        return run_id
    from tailrace_agent.mlflow.name_rules import is_run_id  # few programs come here

    text = (
        f"run_id={run_id!r:.200}: the first argument of start_run is MLflow's id of a run to resume, of 32 hexadecimal "
        f"digits. To begin a run of that name, pass run_name={run_id!r:.200}"
    )
    if not is_run_id(run_id) and not (tracking_uri and _PLUG_IN.match(without_plug_in(tracking_uri))):
        raise CallError(text)
    voice.warn(text)
    return run_id


def resumed() -> str | None:
    """MLflow's id of the run that the environment names, for one run: those after it, and children, do not find it."""
    # Two threads that begin their first runs at once are not to resume it both.
    with _taking:
        run_id = os.environ.get(_RESUMES) or None
        if run_id is not None:
            point_children_nowhere(_RESUMES, run_id)
    return run_id


def _after_fork_in_child() -> None:
    global _taking
    # A thread that held it when the process forked does not exist here.
    _taking = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def context_tags() -> dict[str, str]:
    """MLflow's own tags on who and what runs."""
    kind = "NOTEBOOK" if in_notebook() else "LOCAL"
    return {"mlflow.user": _user(), "mlflow.source.name": program_file() or program_name(), "mlflow.source.type": kind}


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user id without a name, as containers have them
        return str(os.getuid())


class Launcher:
    """This process's connections, one for each combination of settings that concern the agent.

    Args:
        voice: Prints lines and warnings.

    Thread safety: every method from any thread.
    """

    def __init__(self, voice: Voice) -> None:
        self._voice = voice
        self._connections: dict[Settings, Connection] = {}
        self._joined: dict[str, Connection] = {}
        self._lock = threading.RLock()

    def connect(
        self,
        config: Settings,
        tracking_uri: str | None = None,
        credentials: str | None = None,
        job: str | None = None,
    ) -> Connection | None:
        """The connection for these settings, with a living agent; None when nothing can be tracked at all.

        Args:
            config: The settings.
            tracking_uri: The store of the run that it is for.
            credentials: Of that.
            job: Key of the job whose processes share a session on this node.

        Raises:
            StateDirError: Under `on_error="raise"`: state can be kept nowhere.
            SessionError: Under `on_error="raise"`: no ring can be made.
        """
        key = msgspec.structs.replace(config, **_PER_RUN)
        with self._lock:
            connection = self._connections.get(key)
            fresh = connection is None
            if connection is None:
                try:
                    # Under the lock: two threads that begin their first runs at once are to share one session.
                    connection = self._opened(config, job)
                except (StateDirError, SessionError) as error:
                    if config.on_error == "raise":
                        # For the guard around public calls, which lets only such errors out.
                        error.asked_for = True
                        raise
                    self._voice.warn(f"nothing can be tracked: {error}")
                    return None
                self._connections[key] = connection
            if tracking_uri and credentials:
                connection.keeper.remember(tracking_uri, credentials)
            for address, url in alert_addresses(config).items():
                connection.keeper.remember(address, url)
            # Last: an agent that runs already is started anew for each password that it did not know.
            if fresh:
                connection.keeper.start()
            return connection

    def _opened(self, config: Settings, job: str | None) -> Connection:
        shared = NODE if config.agent == "node" else job
        # Of several connections of a process one may be its job's: the others have other settings.
        if shared is None or (job is not None and self._connections and config.agent != "node"):
            return Connection.open(config, self._voice)
        # Threads of one process are no agent for others.
        if config.agent == "thread":
            return Connection.open(config, self._voice)
        return open_shared(config, self._voice, shared)

    def connect_to(self, session: str, config: Settings) -> Connection | None:
        """The connection to a session of this machine that is named by its directory; None where it cannot be joined.

        Args:
            session: The directory.
            config: Settings in force for what is logged there.
        """
        with self._lock:
            for connection in self.all():
                if str(connection.session.dir) == session:
                    return connection
            if not session:
                return None
            try:
                connection = self._joined[session] = Connection.open(config, self._voice, session)
            except SessionError:  # it is over, or not on this machine
                return None
            connection.keeper.start()
            return connection

    @property
    def connected(self) -> bool:
        """Whether this process has a connection yet."""
        return bool(self._connections)

    def close(self, left: Callable[[], float]) -> None:
        """The process ends.

        Args:
            left: The seconds that are left for it.
        """
        for connection in self.all():
            connection.close(left())

    def all(self) -> list[Connection]:
        """Every connection of this process."""
        return [*self._connections.values(), *self._joined.values()]

    def after_fork(self) -> None:
        """In a forked child."""
        self._lock = threading.RLock()


def verdict(run: RunCore, spec: RunSpec) -> str | None:
    """Why the run's store cannot be used at all, as far as can be known without a server that answers; or None."""
    # At once, without the agent: a misspelt scheme needs no wait.
    reason = check_uri(spec.tracking_uri, os.environ) if spec.tracking_uri else None
    if reason is not None:
        return reason
    status = until(
        run.status,
        # A `problem` ends the wait: a server that is down for now is no verdict.
        lambda s: bool(s.run_id or s.refused or s.gone or s.problem),
        timeout=_VERDICT_TIMEOUT,
        quiet=True,
    )
    return status.refused or status.gone if status is not None else None

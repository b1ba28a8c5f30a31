"""How a process comes to a session: it joins the one that it was pointed at, or makes one where there is room."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tailrace_agent.errors import SessionError, StateDirError
from tailrace_agent.ipc.session import Session, program_name
from tailrace_agent.runtime.places import make_temporary_state_dir, working_directory
from tailrace_agent.settings.settings import state_dir
from tailrace_agent.settings.uris import mask_service, mask_uri, mask_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from tailrace._messages.voice import Voice
    from tailrace_agent.ipc.ring_writer import RingWriter
    from tailrace_agent.settings.settings import Settings

__all__ = ["Entered", "create", "joinable"]

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - only compared with


class Entered(NamedTuple):
    """A session, and this process's place in it.

    Attributes:
        session: The session.
        settings: In force; other ones than requested where state is kept elsewhere.
        ring: This process's ring.
    """

    session: Session
    settings: Settings
    ring: RingWriter


def joinable(settings: Settings, named: str | None) -> Session | None:
    """The session of that directory, if it takes processes in and is another process's."""
    # One in another state directory is not meant: whoever has set `dir` wants the state there.
    if not named or Path(named).parent.parent != state_dir(settings):
        return None
    try:
        session = Session.open(Path(named))
    except SessionError:
        return None
    # One of this process has other settings, or it would not need another connection.
    takes_in = session.here and session.has_shared and not session.closed and not session.begun_here
    return session if takes_in else None


def create(settings: Settings, voice: Voice, make_ring: Callable[[Session], RingWriter]) -> Entered:
    """A new session with a ring; where there is no room for it, in another place, with a warning.

    Raises:
        StateDirError: State can be kept nowhere, or not where it was configured under `on_error="raise"`.
        SessionError: No ring can be made.
    """
    # What the session keeps of them lies in a file, so it holds no password.
    requested = settings
    for name in ("tracking_uri", "registry_uri"):
        uri = getattr(settings, name)
        settings = msgspec.structs.replace(settings, **{name: mask_uri(uri)[0] if uri else None})
    if settings.alert_webhook:
        settings = msgspec.structs.replace(settings, alert_webhook=mask_url(settings.alert_webhook))
    if settings.alert_urls:
        settings = msgspec.structs.replace(settings, alert_urls=tuple(map(mask_service, settings.alert_urls)))
    try:
        return _with_ring(settings, voice, make_ring)._replace(settings=requested)
    except StateDirError as error:
        if settings.on_error == "raise":
            raise
        try:
            fallback = make_temporary_state_dir()
        except OSError:
            raise error from None
        settings = msgspec.structs.replace(settings, dir=str(fallback))
        entered = _with_ring(settings, voice, make_ring)._replace(settings=settings)
        voice.warn(f"{error} Keeping state in {fallback} for now.")
        return entered


def _with_ring(settings: Settings, voice: Voice, make_ring: Callable[[Session], RingWriter]) -> Entered:
    """In the temporary directory if shared memory has no room."""
    session = None
    try:
        session = Session.create(settings, cwd=working_directory(), program=program_name())
        ring = make_ring(session)
    except SessionError as error:
        # It was made, and its ring was not: else it would be found as one that a dead program has left.
        if session is not None:
            session.remove()
        elsewhere = _temporary_directory()
        # This was the second try.
        if settings.ring_dir == elsewhere:
            raise
        voice.warn(f"{error} Using {elsewhere} for now: log() may wait for the disk there.")
        return _with_ring(msgspec.structs.replace(settings, ring_dir=elsewhere), voice, make_ring)
    # `Session.create` has looked for another place by itself, and has no voice.
    if settings.ring_dir is None and sys.platform == "linux" and session.shared.parent != _SHARED_MEMORY:
        voice.warn(
            f"{_SHARED_MEMORY} cannot be written to. Using {session.shared.parent} for now: log() may wait for the "
            "disk there."
        )
    return Entered(session, settings, ring)


def _temporary_directory() -> str:
    import tempfile  # 8 ms, and seldom needed

    return tempfile.gettempdir()

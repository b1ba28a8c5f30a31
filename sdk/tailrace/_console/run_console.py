"""What a run keeps of its process: what it prints, the traceback that ends it, the word of a crash."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any, Final

import msgspec

from tailrace_agent.ipc.console_files import CRASH, TRACEBACK, raw_dir
from tailrace_agent.runtime.program import in_notebook

if TYPE_CHECKING:
    from pathlib import Path

    from tailrace._console.capture import Capture
    from tailrace._messages.voice import Voice
    from tailrace._session.connection import Connection
    from tailrace_agent.ipc.records import RunSpec
    from tailrace_agent.settings.settings import Settings

__all__ = ["RunConsole", "is_wanted", "with_console"]

_MOMENT: Final = 1.0  # seconds
_TEES: Final = "tees"
"""In the session's shared directory: a socket, see `console.forks`."""


def is_wanted(settings: Settings) -> bool:
    """Whether a run is to keep its console, as the setting says or the kind of this program."""
    if settings.console is not None:
        return settings.console
    if in_notebook() or hasattr(sys, "ps1") or sys.flags.interactive:
        return False
    # Where somebody has put something of their own in its place (pytest, a worker of Ray), print goes elsewhere.
    return sys.stdout is sys.__stdout__ and _fileno(sys.stdout) == 1


def with_console(spec: RunSpec, settings: Settings) -> RunSpec:
    """The same, with the word that this process keeps its own: not for a handle on somebody else's run."""
    begins_here = spec.owned or spec.job is not None
    return msgspec.structs.replace(spec, console=begins_here and settings.agent != "off" and is_wanted(settings))


def _fileno(stream: Any) -> int:
    try:
        return int(stream.fileno())
    except (AttributeError, OSError, ValueError, TypeError):  # none, a closed one, or no file
        return -1


class RunConsole:
    """One run's, in this process.

    Args:
        spec: The run.
        settings: In force for it.
        voice: Prints warnings.

    Thread safety: every method from any thread.
    """

    def __init__(self, spec: RunSpec, settings: Settings, voice: Voice) -> None:
        self._spec, self._settings, self._voice = spec, settings, voice
        self._pid = os.getpid()
        self._session_dir: Path | None = None
        self._capture: Capture | None = None

    def begin(self, connection: Connection | None) -> None:
        """Captures the output of this process, unless another run does."""
        if connection is None or not self._spec.console:
            return
        self._session_dir = connection.session.dir
        from tailrace._console import crashes
        from tailrace._console.capture import Capture, active

        if active() is not None:
            return
        try:
            directory = self._made()
            crashes.watch(directory / CRASH)
        except OSError as error:
            self._voice.warn(f"what this program prints is not kept: {error.strerror}")
            return
        # Where others of this node share the session.
        shared = self._spec.job is not None or self._settings.agent == "node"
        beside = connection.session.shared / _TEES if shared else None
        self._capture = Capture.begin(directory, self._settings.console_max_bytes, self._voice.warn, beside)

    def failed(self, error: BaseException) -> None:
        """Keeps the traceback of what ends the run."""
        if self._session_dir is None or self._pid != os.getpid():
            return
        try:
            from tailrace._console.tracebacks import traceback_text
            from tailrace_agent.files.ownership import write_own

            text = traceback_text(error, self._settings.traceback_locals)
            write_own(self._made() / TRACEBACK, text.encode("utf-8", "backslashreplace"))
        except Exception as another:  # noqa: BLE001 - what keeps the traceback away keeps no run open
            self._voice.warn(f"the traceback is not kept: {type(another).__name__}: {another}")

    def end(self, timeout: float) -> None:
        """Gives the output back, and waits for it: `timeout` seconds at most, or a moment."""
        capture, self._capture = self._capture, None
        if capture is not None and self._pid == os.getpid():
            from tailrace._console import crashes

            crashes.rest()
            capture.end(timeout or _MOMENT)

    def _made(self) -> Path:
        """The directory for what is kept of this process."""
        from tailrace_agent.files.ownership import make_parents

        assert self._session_dir is not None
        rank = self._spec.job.rank if self._spec.job is not None else 0
        directory = raw_dir(self._session_dir, self._spec.run, rank)
        make_parents(directory)
        return directory

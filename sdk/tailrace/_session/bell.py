"""Notices at once what the agent has new: a thread that sleeps in the kernel until the agent writes into a pipe."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tailrace_agent.files.descriptors import open_kept
from tailrace_agent.runtime.originals import start_thread

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["listen"]


def listen(pipe: Path, on_bell: Callable[[], None]) -> None:
    """Calls a function whenever something was written into a pipe, which is made here.

    Args:
        pipe: Where to; `Session.bell`.
        on_bell: Called in a thread of its own; whatever it raises ends nothing.

    Raises:
        OSError: No pipe can be made.
        RuntimeError: No thread can be had.
    """
    os.mkfifo(pipe, 0o600)
    pipe.chmod(0o600)  # the umask may have taken some of it
    # For writing too: so it is never at its end, and reading waits while nobody has it open.
    end = open_kept(pipe, os.O_RDWR)

    def wait() -> None:
        # All that has been written meanwhile: many rings are one look.
        while os.read(end, 4096):
            try:
                on_bell()
            except Exception:  # noqa: BLE001, S112 - the status is read by other calls, too; nobody to report to here
                continue

    start_thread(wait, "tailrace-bell")

"""Which process is at work on something, and whether it still lives, as far as that can be known from here."""

from __future__ import annotations

import contextlib
import os
import socket
from functools import lru_cache
from pathlib import Path
from typing import Any

__all__ = ["is_gone", "this_process"]

_TOLERANCE = 5.0
"""Seconds by which a process's beginning may seem to move when the clock is set."""


def this_process() -> dict[str, Any]:
    """What tells this process from all others, on any machine."""
    return dict(_described(os.getpid()))


def is_gone(process: Any) -> bool:
    """Whether a process is known to be dead. Of another machine's that cannot be known."""
    import psutil

    if not isinstance(process, dict) or process.get("host") != _host():
        return False
    try:
        began = psutil.Process(process["pid"]).create_time()
    except psutil.NoSuchProcess:
        return True
    except (KeyError, TypeError, ValueError, psutil.Error):
        return False
    return abs(began - float(process.get("began", began))) > _TOLERANCE


@lru_cache(maxsize=1)
def _described(pid: int) -> tuple[tuple[str, Any], ...]:
    import psutil

    return ("host", _host()), ("pid", pid), ("began", psutil.Process(pid).create_time())


@lru_cache(maxsize=1)
def _host() -> str:
    """This machine in this boot, and where it numbers processes apart, this container."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip())
    with contextlib.suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)

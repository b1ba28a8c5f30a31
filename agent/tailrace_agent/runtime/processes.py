"""Which process is meant, when a process id alone would not say: ids are reused, and differ between containers."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import struct
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["Fate", "Process", "boot_id", "fate_of", "is_alive", "process"]

_STATE, _BEGAN, _EXIT_CODE = 0, 19, 49
"""Fields of /proc/<pid>/stat behind the name, see proc_pid_stat(5)."""
_GET_INFO: Final = 0xC040FF0B
"""PIDFD_GET_INFO with a `struct pidfd_info` of 64 bytes, see linux/pidfd.h: the mask first, the exit code last."""
_INFO_EXIT: Final = 1 << 3
"""PIDFD_INFO_EXIT, of Linux 6.15."""


class Process(NamedTuple):
    """One process of this machine.

    Attributes:
        pid: Its id.
        began: When it began, in ticks since the boot; 0 where the kernel does not say.
    """

    pid: int
    began: int = 0


class Fate(NamedTuple):
    """How a process ended, as far as that is known: both None where nobody saw it.

    Attributes:
        code: Its exit code.
        signal: The signal that killed it.
    """

    code: int | None = None
    signal: int | None = None

    @property
    def text(self) -> str:
        """What became of it.

        Example:
            >>> Fate(signal=9).text, Fate(code=3).text, Fate().text
            ('was killed by SIGKILL', 'ended with exit code 3', 'is gone without a word')
        """
        if self.signal is not None:
            known = self.signal in {each.value for each in signal.Signals}
            return f"was killed by {signal.Signals(self.signal).name if known else f'signal {self.signal}'}"
        return "is gone without a word" if self.code is None else f"ended with exit code {self.code}"

    @property
    def bad(self) -> bool:
        """Whether it is known that it did not end well."""
        return self.signal is not None or bool(self.code)


def boot_id() -> str:
    """An id that changes with each boot of this machine, or an empty string where the kernel gives none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def process(pid: int) -> Process:
    """The process that has this id now."""
    fields = _stat(pid)
    return Process(pid, int(fields[_BEGAN]) if fields else 0)


def is_alive(found: Process) -> bool:
    """Whether this very process still runs; what has ended and was not asked for its exit code does not."""
    if found.pid <= 0:
        return False
    fields = _stat(found.pid)
    if fields:
        return fields[_STATE] not in "ZX" and found.began in (0, int(fields[_BEGAN]))
    if found.began:  # this system has /proc, and the process is not in it
        return False
    try:
        os.kill(found.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's: it is there
        return True
    return True


def fate_of(found: Process, pidfd: int | None = None) -> Fate:
    """How a process ended: as long as its parent has not asked for that, and behind that from Linux 6.15 on.

    Args:
        found: The process.
        pidfd: A file descriptor of it, opened while it lived; without one, its end cannot be known behind its parent.
    """
    fields = _stat(found.pid)
    if len(fields) > _EXIT_CODE and fields[_STATE] in "ZX" and found.began == int(fields[_BEGAN]):
        return _fate(int(fields[_EXIT_CODE]))
    if pidfd is not None:
        # Not before its parent has asked: the kernel keeps it for the descriptor from then on.
        info = bytearray(struct.pack("<Q56x", _INFO_EXIT))
        with contextlib.suppress(OSError):  # an older kernel
            fcntl.ioctl(pidfd, _GET_INFO, info)
            known, status = struct.unpack("<Q52xi", info)
            if known & _INFO_EXIT:
                return _fate(status)
    return Fate()


def _fate(status: int) -> Fate:
    return Fate(signal=os.WTERMSIG(status)) if os.WIFSIGNALED(status) else Fate(code=os.WEXITSTATUS(status))


def _stat(pid: int) -> list[str]:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return []
    # Behind the last parenthesis: a program may be called `a) b`.
    fields: Final = text.rpartition(")")[2].split()
    return fields if len(fields) > _BEGAN else []

"""Programs that print, to a pipe or to a terminal, and what was kept of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import textwrap
import time
from pathlib import Path

__all__ = ["CAPTURED", "Printing", "kept_bytes", "tee_groups"]

CAPTURED = """
import fcntl, os, signal, subprocess, sys, termios, threading, time
from pathlib import Path
from tailrace._console import capture as capture_module
from tailrace._console.capture import Capture

if os.isatty(0):  # nobody's yet, and so its own
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
kept = Path(sys.argv[1])
kept.mkdir(mode=0o700, exist_ok=True)

def begin():
    return Capture.begin(kept, 10_000_000, lambda text: print("warned:", text, file=sys.stderr))
"""
"""How a program begins that captures itself."""


class Printing:
    """A program whose output is captured.

    Args:
        directory: Where it runs; what is kept is in `kept` there.
        code: The program, behind `CAPTURED`.
        terminal: Its output is a terminal, of 40 lines and 120 columns.
        keys: And so is its input: it is the program's own terminal, at which somebody sits.
        asked: It waits for what is typed, at a pipe.
        together: Standard error goes where standard output goes.
    """

    def __init__(
        self,
        directory: Path,
        code: str,
        *,
        terminal: bool = False,
        keys: bool = False,
        asked: bool = False,
        together: bool = True,
    ) -> None:
        self.kept = directory / "kept"
        path = directory / "prints.py"
        path.write_text(CAPTURED + textwrap.dedent(code))
        self.master = -1
        out: int = subprocess.PIPE
        if terminal or keys:
            self.master, out = pty.openpty()
            fcntl.ioctl(out, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        error = subprocess.STDOUT if together else subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, str(path), str(self.kept)],
            stdout=out,
            stderr=error,
            cwd=directory,
            stdin=out if keys else subprocess.PIPE if asked else subprocess.DEVNULL,
            start_new_session=keys,
        )
        if self.master >= 0:
            os.close(out)

    def read(self, size: int = 65536) -> bytes:
        """What comes next where it goes to; nothing at its end."""
        assert self.process.stdout is not None or self.master >= 0
        fd = self.master if self.master >= 0 else self.process.stdout.fileno()  # type: ignore[union-attr]
        with contextlib.suppress(OSError):  # EIO: nobody has the terminal any more
            return os.read(fd, size)
        return b""

    def line(self) -> bytes:
        """One line of it."""
        found = b""
        while not found.endswith(b"\n"):
            byte = self.read(1)
            if not byte:
                break
            found += byte
        return found

    def until(self, text: bytes, seconds: float = 60.0) -> bytes:
        """What comes until it has said that."""
        found, end = b"", time.monotonic() + seconds
        while text not in found:
            ready = select.select([self.master], [], [], max(0.0, end - time.monotonic()))[0]
            piece = self.read() if ready else b""
            if not piece:
                raise AssertionError(f"{text!r} is not in {found!r}")
            found += piece
        return found

    def press(self, keys: bytes) -> None:
        """Somebody types."""
        os.write(self.master if self.process.stdin is None else self.process.stdin.fileno(), keys)

    def rest(self) -> bytes:
        """All that comes until nobody can print any more."""
        found = b""
        while piece := self.read():
            found += piece
        self.process.wait(60)
        return found

    def end(self) -> None:
        """It is over, whatever it does."""
        self.process.kill()
        self.process.wait(60)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()
        if self.master >= 0:
            os.close(self.master)


def kept_bytes(directory: Path) -> bytes:
    """What a tee has kept."""
    return b"".join(path.read_bytes() for path in sorted(directory.iterdir()) if path.name.isdigit())


def tee_groups(directory: Path) -> list[int]:
    """The process groups of the tees that keep something there."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if os.fsencode(directory) in command and any(part.endswith(b"console/tee.py") for part in command):
                found.append(os.getpgid(int(entry.name)))
    return found

"""Sessions, and processes that have rings in them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from tailrace_agent.ipc.session import Session

LAST_WORDS = "import sys, time; print('ready', flush=True); sys.stdin.read()"
OWNER = (
    "import sys, os; from pathlib import Path; from tailrace_agent.ipc.session import Session\n"
    "session = Session.open(Path(sys.argv[1])); ring = session.new_ring()\n"
    "for number in range(100): ring.put(b'%d' % number)\n"
    "pid = os.fork() if sys.argv[2] == 'fork' else 1\n"  # a data-loader worker, say
    "if pid: print(ring.path.stem, pid, flush=True)\n"
    "sys.stdin.read()"
)


def changed(session: Session, **changes: Any) -> Session:
    session.save(**changes)
    return Session.open(session.dir)


@contextlib.contextmanager
def owner(
    session: Session, how: str = "alone", before: tuple[str, ...] = ()
) -> Iterator[tuple[subprocess.Popen[str], str, int]]:
    """A process that has a ring: the process, the ring's name, and the pid of its fork (or 1)."""
    command = [*before, sys.executable, "-c", OWNER, str(session.dir), how]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        name, pid = process.stdout.readline().split()
        yield process, name, int(pid)
    finally:
        process.kill()
        process.communicate()

"""Makes an agent say, in a byte of a shared file, what each of its threads is doing, so that a kill is known to have
fallen inside of it. On the path of test programs only; does nothing unless `FAULTS_STAGES` names a directory.

Bytes: 0 the drain, 1 the delivery. Each holds one of the letters of `faults.program.STAGES`. A thread whose letter is
that of byte 8 or 9 stands still there, to be killed.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
import time

IDLE = b"-"[0]


def _watch(folder: str) -> None:
    from tailrace_agent.ipc.ring_reader import RingReader
    from tailrace_agent.sinks.mlflow import MlflowSink
    from tailrace_agent.spool.store import Spool

    fd = os.open(f"{folder}/{os.getpid()}.agent", os.O_RDWR | os.O_CREAT, 0o600)
    os.truncate(fd, 64)
    stage = mmap.mmap(fd, 64)
    stage[0] = stage[1] = IDLE

    def enter(byte, letter):
        stage[byte] = letter
        while stage[8 + byte] == letter:
            time.sleep(0.0005)

    def around(kind, name, byte, inside, after, thread):
        inner = getattr(kind, name)

        def call(self, *args, **kwargs):
            if threading.current_thread().name != thread:
                return inner(self, *args, **kwargs)
            enter(byte, inside)
            found = inner(self, *args, **kwargs)
            enter(byte, after if getattr(found, "rows", True) else IDLE)  # a reading of a ring without any is none
            return found

        setattr(kind, name, call)

    # Read, but not in the spool yet; in the commit; committed, but the ring does not know.
    around(RingReader, "read", 0, b"R"[0], b"r"[0], "MainThread")
    around(Spool, "ingest", 0, b"C"[0], b"c"[0], "MainThread")
    around(RingReader, "commit", 0, b"c"[0], IDLE, "MainThread")
    # On its way to MLflow; MLflow has it, but the spool does not know.
    around(MlflowSink, "log_batch", 1, b"S"[0], b"A"[0], "tailrace-deliver")
    around(Spool, "settle", 1, b"A"[0], IDLE, "tailrace-deliver")


_folder = os.environ.get("FAULTS_STAGES")
if _folder and any("tailrace_agent.hosts.process" in argument for argument in sys.orig_argv):
    _watch(_folder)

"""`ulimit -f`: what SQLite calls a disk I/O error is named, with the mend; and the agent takes what it may."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

from tailrace_agent.runtime.file_limit import explained

_CHILD = """
import resource, sqlite3, sys
from pathlib import Path
from tailrace_agent.runtime.file_limit import explained, raise_limit
from tailrace_agent.spool.store import Spool

folder, hard = Path(sys.argv[1]), int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
if "raise" in sys.argv:
    raise_limit()
spool = Spool(folder / "spool.db")
try:
    for _ in range(100):
        spool.ingest([(1, "metric", 3, 5, bytes(20_000))], [])
    print("all")
except sqlite3.Error as error:
    print(explained(error, folder))
"""


def _run(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-c", _CHILD, str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()


def test_the_limit_and_the_mend_are_in_the_message(tmp_path: Path) -> None:
    told = _run(tmp_path, "400000")
    assert "no file may be larger than 400,000 bytes" in told
    assert "ulimit -f" in told
    assert "tailrace sync" in told


def test_an_agent_raises_the_limit_as_far_as_it_may(tmp_path: Path) -> None:
    assert _run(tmp_path, str(10**9), "raise") == "all"


def test_other_troubles_are_told_as_they_are(tmp_path: Path) -> None:
    assert explained(OSError(errno.ENOSPC, "No space left on device"), tmp_path) == "[Errno 28] No space left on device"

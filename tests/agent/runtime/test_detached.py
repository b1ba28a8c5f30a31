"""Processes that outlive whoever starts them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from helpers.sdk_tools import eventually
from tailrace_agent.runtime import detached
from tailrace_agent.runtime.detached import start_detached

_WRITES = "import os, sys; open(sys.argv[1], 'w').write(f'{os.getppid()} {os.getsid(0)} {sys.stdin.read()!r}')"


@pytest.mark.parametrize("shell", [True, False], ids=["by a shell", "by a Python"])
@pytest.mark.parametrize("given", [True, False], ids=["with an input", "without"])
def test_it_is_nobodys_child_in_a_session_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: bool, given: bool
) -> None:
    if not shell:
        monkeypatch.setattr(detached, "_SHELL", "/nowhere/sh")
    (tmp_path / "input").write_text("hello")
    files = [(os.POSIX_SPAWN_OPEN, 5, str(tmp_path / "input"), os.O_RDONLY, 0)]
    if given:  # where no shell takes it away, it is the input already
        files.append((os.POSIX_SPAWN_DUP2, 5, 0))
    else:
        files.append((os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0))
    command = [sys.executable, "-c", _WRITES, str(tmp_path / "new")]
    group = start_detached(command, dict(os.environ), files, 5 if given else None)
    parent, session, text = eventually(lambda: _text(tmp_path / "new")).split()
    assert int(parent) != os.getpid()
    assert int(session) == group != os.getsid(0)
    assert text == ("'hello'" if given else "''")


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def test_a_start_that_fails_is_an_error_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        start_detached(["/nowhere/python"], {}, [])
    monkeypatch.setattr(detached, "_detached", lambda *_: ["/bin/sh", "-c", "exit 2"])
    with pytest.raises(OSError, match="no process can be started"):
        start_detached([sys.executable], {}, [])

"""How a program gets its tee."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from helpers.tees import process_of
from tailrace_agent.console.start import start_tee


def test_a_tee_is_nobodys_child_and_has_no_file_of_the_program(tmp_path: Path) -> None:
    (taken, printed), (seen, on) = os.pipe(), os.pipe()
    stray, other = os.pipe()
    os.set_inheritable(other, True)
    tee = start_tee(tmp_path, 1 << 20, [(taken, on)])
    os.write(printed, b"a")
    assert os.read(seen, 1) == b"a"
    process = process_of(tee)
    assert process.ppid() != os.getpid()
    assert os.getsid(process.pid) != os.getsid(0)
    os.close(other)
    assert os.read(stray, 1) == b"", "a pipe that lives on there would keep its reader waiting"
    for fd in (taken, printed, seen, on, stray, *tee[:2]):
        os.close(fd)


def test_a_tee_that_cannot_be_started_leaves_no_descriptor_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = len(list(Path("/dev/fd").iterdir()))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(OSError, match="nowhere"):
        start_tee(tmp_path, 1 << 20, [(0, 1)])
    assert len(list(Path("/dev/fd").iterdir())) == before

"""How far a training has logged is known after a kill, and not believed after a reboot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tailrace.training.pytorch import logged_steps
from tailrace.training.pytorch.logged_steps import LoggedSteps, read


def test_what_was_written_last_is_read(tmp_path: Path) -> None:
    mark = LoggedSteps(tmp_path / "deep", 7, 2)
    assert read(tmp_path / "deep") == (7, 2)
    mark.step(12)
    mark.epoch(3)
    assert read(tmp_path / "deep") == (12, 3)


def test_it_survives_a_kill(tmp_path: Path) -> None:
    code = f"""
    import os, signal
    from pathlib import Path
    from tailrace.training.pytorch.logged_steps import LoggedSteps
    mark = LoggedSteps(Path({str(tmp_path)!r}), -1, 0)
    for step in range(1000):
        mark.step(step)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=False, timeout=60, env=environ)
    assert done.returncode == -signal.SIGKILL
    assert read(tmp_path) == (999, 0)


def test_nobody_knows_where_there_is_none_or_it_is_torn_or_of_another_boot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert read(tmp_path) == (-1, 0)
    LoggedSteps(tmp_path, 7, 2)
    whole = (tmp_path / logged_steps.FILE).read_bytes()
    (tmp_path / logged_steps.FILE).write_bytes(whole[:20])
    assert read(tmp_path) == (-1, 0)
    (tmp_path / logged_steps.FILE).write_bytes(b"another boot" + whole[12:])
    assert read(tmp_path) == (-1, 0)

"""What is said of a crash, in a file of the session."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

BEGIN = """
import faulthandler, os, sys
from pathlib import Path
from tailrace._console import crashes

"""


def _run(directory: Path, code: str) -> subprocess.CompletedProcess[str]:
    path = directory / "crashes.py"
    path.write_text(BEGIN + textwrap.dedent(code))
    return subprocess.run(
        [sys.executable, str(path)], check=False, capture_output=True, text=True, cwd=directory, timeout=60
    )


CRASH = "faulthandler._sigabrt()"


def test_a_crash_in_a_run_is_written_there(tmp_path: Path) -> None:
    done = _run(tmp_path, f"crashes.watch(Path('crash.txt'))\n{CRASH}")
    assert done.returncode == -signal.SIGABRT
    assert "Fatal Python error: Aborted" in (tmp_path / "crash.txt").read_text()
    assert done.stderr == ""


def test_each_run_has_its_own_and_between_runs_it_is_standard_error(tmp_path: Path) -> None:
    code = "crashes.watch(Path('first'))\ncrashes.rest()\n"
    assert "Aborted" in _run(tmp_path, code + CRASH).stderr
    assert (tmp_path / "first").read_text() == ""
    _run(tmp_path, f"{code}crashes.watch(Path('second'))\n{CRASH}")
    assert "Aborted" in (tmp_path / "second").read_text()


def test_what_the_program_has_set_up_itself_stays(tmp_path: Path) -> None:
    done = _run(tmp_path, f"faulthandler.enable()\ncrashes.watch(Path('crash.txt'))\n{CRASH}")
    assert "Aborted" in done.stderr
    assert not (tmp_path / "crash.txt").exists()


def test_what_it_sets_up_in_a_run_stays_after_the_end(tmp_path: Path) -> None:
    code = "crashes.watch(Path('crash.txt'))\nfaulthandler.enable(open('own', 'w'))\ncrashes.rest()\n"
    _run(tmp_path, code + CRASH)
    assert "Aborted" in (tmp_path / "own").read_text()


def test_a_descriptor_that_somebody_has_closed_is_not_written_over(tmp_path: Path) -> None:
    done = _run(
        tmp_path,
        """
        crashes.watch(Path("crash.txt"))
        os.closerange(3, 64)
        own = os.open("own", os.O_WRONLY | os.O_CREAT)
        crashes.rest()
        crashes.watch(Path("next"))
        os.write(own, b"theirs")
        """,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "own").read_text() == "theirs"

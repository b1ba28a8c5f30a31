"""Control groups: a machine of files that has any, and processes inside of real ones."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

NONE_V1 = "9223372036854771712\n"


class Machine:
    """A `/proc` and a `/sys/fs/cgroup` made of files."""

    def __init__(self, path: Path) -> None:
        self.proc, self.root = path / "proc", path / "cgroup"
        self.root.mkdir()

    def process(self, pid: int, *lines: str) -> None:
        (self.proc / str(pid)).mkdir(parents=True, exist_ok=True)
        (self.proc / str(pid) / "cgroup").write_text("".join(f"{line}\n" for line in lines))

    def group(self, path: str, **files: str | int) -> None:
        directory = self.root / path
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (directory / name.replace("__", ".")).write_text(f"{content}\n")

    def v2(self) -> None:
        self.group("", cgroup__controllers="cpu memory cpuset")


def set_limit(directory: Path, **files: str | int) -> None:
    for name, value in files.items():
        path = directory / name.replace("__", ".")
        if not path.exists():
            pytest.skip(f"the real control group has no {path.name}")
        path.write_text(str(value))


@contextlib.contextmanager
def inside(groups: list[Path], code: str) -> Iterator[subprocess.Popen[str]]:
    """A child that joins the groups, says `ready` when `code` has set up, and stays until it is killed."""
    join = "".join(f"open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n" for group in groups)
    script = f"import os, sys, time\n{join}{code}"
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
    finally:
        child.kill()
        child.wait()
        assert child.stdout is not None
        child.stdout.close()

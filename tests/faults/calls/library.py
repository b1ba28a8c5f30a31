"""The library that counts system calls, built once where there is a C compiler."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

__all__ = ["library"]

_SOURCE = Path(__file__).with_name("calls.c")


def library() -> Path:
    """The built library; skips the test where it cannot be built."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler: system calls cannot be counted")
    name = hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]
    target = Path(tempfile.gettempdir(), f"tailrace-calls-{name}.so")
    if not target.exists():
        with tempfile.TemporaryDirectory() as folder:
            built = Path(folder, "calls.so")
            command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(built), str(_SOURCE), "-ldl", "-lpthread"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"system calls cannot be counted here: {done.stderr[-300:]}")
            whole = target.with_name(f"{target.name}.{folder.rpartition('/')[2]}")
            shutil.copyfile(built, whole)
            whole.replace(target)
    return target

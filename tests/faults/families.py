"""Runs `children.py`: a program with children of every kind, and what it and they have logged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from faults.oracle import Journal
from faults.program import HERE, environment

__all__ = ["begin", "end", "whole"]


def begin(what: str, uri: str, folder: Path, count: int, **env: str) -> tuple[subprocess.Popen[str], Journal]:
    journal = Journal(folder / "journal")
    command = [sys.executable, str(HERE / "children.py"), what, uri, str(journal.path), str(count)]
    with (folder / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            command, env=environment(**env), stdout=subprocess.PIPE, stderr=errors, text=True, start_new_session=True
        )
    return process, journal


def end(process: subprocess.Popen[str], folder: Path, timeout: float = 90) -> dict[str, list[str]]:
    """What it said, by the first word of each line."""
    try:
        out, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGABRT)
        raise AssertionError(f"deadlock: {(folder / 'stderr').read_text()}") from None
    assert process.returncode == 0, (folder / "stderr").read_text()
    return {word: rest for word, *rest in (line.split() for line in out.splitlines())}


def whole(what: str, uri: str, folder: Path, count: int, **env: str) -> tuple[dict[str, list[str]], Journal]:
    process, journal = begin(what, uri, folder, count, **env)
    return end(process, folder), journal

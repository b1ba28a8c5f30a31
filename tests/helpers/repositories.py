"""Repositories of git."""

from __future__ import annotations

import subprocess
from pathlib import Path


def git(directory: Path, *args: str) -> str:
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=trunk"]
    done = subprocess.run(["git", *who, *args], cwd=directory, check=True, capture_output=True, text=True)
    return done.stdout.strip()

"""Acting as somebody else, with a real user id: only root can."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

__all__ = ["MALLORY", "acting_as", "common_place", "needs_root"]

MALLORY: Final = 65534
"""Who attacks."""

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")


def acting_as(uid: int, act: Callable[[], object]) -> None:
    """Runs a function in a child with that user id; what it raises fails the test."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(uid)
            os.setuid(uid)
            act()
        except BaseException:  # noqa: BLE001 - a forked pytest must not come back from here
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@contextmanager
def common_place() -> Iterator[Path]:
    """A directory as `/tmp` and `/dev/shm` are: everybody may make something there."""
    place = Path(tempfile.mkdtemp(prefix="tailrace-test-"))
    place.chmod(0o1777)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)

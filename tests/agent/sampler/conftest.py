"""What several of the sampler's modules are tested on."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.control_groups import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def make_group() -> Iterator[Callable[[str], Path]]:
    """Makes a control group below this process's own, or skips."""
    made: list[Path] = []

    def make(controller: str) -> Path:
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            base = Path("/sys/fs/cgroup") / (controller if controllers else "")
            if controllers and controller not in controllers.split(","):
                continue
            directory = base / path.lstrip("/") / f"tailrace-test-{os.getpid()}"
            try:
                directory.mkdir()
            except OSError as error:
                pytest.skip(f"no control group can be made here: {error.strerror}")
            made.append(directory)
            return directory
        pytest.skip(f"no control group has the {controller} controller here")

    yield make
    for directory in made:
        deadline = time.monotonic() + 5
        while directory.exists() and time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                directory.rmdir()
            time.sleep(0.01)

"""A spool, empty and full."""

from __future__ import annotations

import functools
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.spools import KINDS, ids, put
from tailrace_agent.spool.blocks import Outcome
from tailrace_agent.spool.store import Spool


@pytest.fixture(autouse=True, scope="module")
def _impatient() -> Iterator[None]:
    """A spool waits five seconds for another owner; here, nobody has that long."""
    real = sqlite3.connect
    patch = pytest.MonkeyPatch()
    patch.setattr(
        "tailrace_agent.spool.schema.sqlite3.connect",
        functools.wraps(real)(lambda *args, **kwargs: real(*args, **{**kwargs, "timeout": 0.02})),
    )
    yield
    patch.undo()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool.db")
    yield spool
    spool.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a spool with something in every table."""
    path = tmp_path_factory.mktemp("whole") / "s.db"
    spool = Spool(path)
    rng = random.Random(1)
    blocks = [(run, kind, 3, 5, rng.randbytes(700)) for run in (1, 2) for kind in KINDS for _ in range(8)]
    put(spool, *blocks, runs=[(1, b"{}"), (2, b"{}")], rings=[("r", 10, 20)])
    spool.settle(Outcome(1, "metric", ids(spool)[:2], 5, keys=[("a", 5)], dead=[("b", 1, b"x", "bad")]))
    spool.close()
    return path.read_bytes()

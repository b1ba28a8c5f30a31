"""What is published: how the agent is, how each run is, and a bell for who should look at once."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.pipeline_rig import PipelineRig, put, start
from tailrace_agent.errors import Unavailable
from tailrace_agent.ipc import status
from tailrace_agent.ipc.records import Drop, End, Flush

# -- when the disk or the memory is full -------------------------------------------------------------------------------


def test_a_status_that_cannot_be_written_is_written_later_and_stops_nothing(
    rig: PipelineRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = rig.ring()
    put(ring, start(), rig.row("a"), End(1, "FINISHED", 9), Flush(1, 1))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(status, "write", full)
        rig.run(5)
        assert rig.stored() == {"a": 1}
        assert list(rig.session.shared.glob("*.status")) == []
    rig.run(2)
    assert rig.status().closed
    assert rig.status().settled == {ring.path.stem: 1}


# -- what is told ------------------------------------------------------------------------------------------------------


def test_the_process_of_a_run_is_called_once_for_each_news_of_it(rig: PipelineRig) -> None:
    ring, other = rig.ring(), rig.ring()
    calls, others = (_calls(rig.session.bell(each.path.stem)) for each in (ring, other))
    assert (next(calls), next(others)) == (0, 0)
    put(ring, start(), rig.row("a"))
    put(other, start(2))
    rig.run(2)
    assert (next(calls), rig.status().notices) == (1, [])  # MLflow knows the run
    put(ring, (1, 0, 5, {"text": "x"}), (1, 1, 5, {"text": "x"}))
    rig.run(2)
    assert next(calls) == 1
    assert rig.status().notices == ["metric 'text' was not logged: value is no number but str"]
    put(ring, Drop(1, "metric", "reason", 2, "something was given up"))
    rig.run(2)
    assert (next(calls), next(others)) == (1, 1)
    assert rig.status().ledger.dropped == {"value is no number": 2, "reason": 2}


def _calls(bell: Path) -> Iterator[int]:
    """How often the agent has called since the last look."""
    os.mkfifo(bell)
    end = os.open(bell, os.O_RDWR | os.O_NONBLOCK)
    while True:
        try:
            yield len(os.read(end, 100))
        except BlockingIOError:
            yield 0


def test_trouble_and_its_end_are_told(rig: PipelineRig) -> None:
    rig.store_error = Unavailable("connection refused")
    ring = rig.ring()
    calls = _calls(rig.session.bell(ring.path.stem))
    assert next(calls) == 0
    put(ring, start(), rig.row("a"))
    rig.run(60)
    told = rig.status()
    assert (told.problem, told.run_id, told.ledger.pending) == ("connection refused", None, 1)
    assert told.retry_at > 0
    assert told.lag > 0
    assert next(calls) >= 1
    rig.store_error = None
    rig.run(60)
    assert rig.status().problem is None
    assert rig.status().lag == 0.0


def test_the_agent_shows_that_it_lives(rig: PipelineRig) -> None:
    put(rig.ring(), start(), rig.row("a", "b"))
    rig.store_error = Unavailable("away")
    rig.run(5)
    told = status.read(rig.session.shared / "agent.status", status.AgentStatus)
    assert told is not None
    assert (told.pid, told.host, told.pending) == (os.getpid(), "process", 2)
    assert told.spool_bytes == rig.pipeline.spool.waiting.bytes > 0

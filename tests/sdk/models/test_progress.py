"""How far a model is: what this process knows comes before what the agent says, and every wait ends."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tailrace._models.progress import ModelProgress
from tailrace_agent.ipc.records import ModelOutcome
from tailrace_agent.ipc.status import RunStatus

THERE = ModelOutcome("models:/m-1", "3")


def run(**models: ModelOutcome) -> Any:
    """A run of which the agent has published that."""
    status = RunStatus(run=1, models=models) if models else None
    return SimpleNamespace(status=lambda: status, settings=SimpleNamespace(end_timeout=0.0))


def test_it_is_on_its_way_until_the_agent_speaks_of_it() -> None:
    assert ModelProgress(run(), "a").outcome() is None
    assert ModelProgress(run(b=THERE), "a").outcome() is None
    assert ModelProgress(run(a=THERE), "a").outcome() == THERE


def test_what_this_process_knows_counts_more_than_what_the_agent_says() -> None:
    progress = ModelProgress(run(a=THERE), "a")
    progress.settle(ModelOutcome(error="cannot be saved"))
    assert progress.outcome() == ModelOutcome(error="cannot be saved")


def test_a_wait_ends_with_its_time_or_with_the_outcome() -> None:
    waiting = ModelProgress(run(), "a")
    waiting.wait(None)  # the run's own time-out, which is 0
    waiting.wait(0.01)
    assert waiting.outcome() is None
    ModelProgress(run(a=THERE), "a").wait(60.0)
    ModelProgress(None, "").wait(60.0)

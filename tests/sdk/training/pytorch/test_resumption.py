"""When a training that was stopped goes on in its run, and how far that is."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from helpers.training import ListTracker
from tailrace.training.pytorch import resumption
from tailrace.training.pytorch.resumption import find_resumed
from tailrace.training.runs.tracked_run import Resumed
from tailrace_agent.errors import NotFound, StoreRefused, Unavailable


class Reading:
    """A tracker that answers what it is given, one after the other."""

    def __init__(self, *answers: Any) -> None:
        self._answers = list(answers)
        self.asked = 0

    def get_run_info(self, name: str) -> Any:
        self.asked += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if isinstance(answer, Exception):
            raise answer
        self.record = answer
        return answer

    def metric_history(self, run_id: str, key: str) -> pd.DataFrame:
        return pd.DataFrame({"step": range(int(self.record.metrics[key]) + 1)})


def record(status: str, step: int | None = None, epoch: int | None = None) -> SimpleNamespace:
    last = {"train/loss_step": step, "epoch/train_loss": epoch}
    metrics = {key: float(value) for key, value in last.items() if value is not None}
    return SimpleNamespace(run_id="abc", run_name="brave-ox", status=status, metrics=metrics)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumption, "_POLL", 0.001)


def found(tracker: Any, logged: tuple[int, int] = (-1, 0)) -> tuple[Resumed | None, list[str]]:
    warned: list[str] = []
    return find_resumed(tracker, "abc", logged, warned.append), warned


@pytest.mark.parametrize(("status", "step"), [("RUNNING", 41), ("KILLED", 41)])
def test_the_run_of_this_very_job_is_begun_anyway(monkeypatch: pytest.MonkeyPatch, status: str, step: int) -> None:
    monkeypatch.setenv("TAILRACE_JOB", "night")
    same = record(status, 41, 2)
    same.tags = {"tailrace.job": "named:night"}
    resumed, warned = found(Reading(same), (7, 2))
    assert (resumed, warned) == (Resumed("", step, 2), [])


def test_a_run_that_is_over_has_what_it_has() -> None:
    assert found(Reading(record("KILLED", 41, 2))) == (Resumed("abc", 41, 2), [])
    assert found(Reading(record("KILLED"))) == (Resumed("abc", -1, 0), [])
    over = record("FINISHED", 41, 2)
    over.metrics["final/total_steps"] = 42.0
    assert found(Reading(over)) == (Resumed("abc", 41, 2, 42), [])


def test_a_run_that_is_still_being_delivered_is_waited_for_with_a_word() -> None:
    resumed, warned = found(Reading(record("RUNNING", 20), record("RUNNING", 30), record("KILLED", 41, 2)))
    assert resumed == Resumed("abc", 41, 2)
    assert warned == ["run abc is still being delivered; training goes on when it is whole, or in 60 s"]


def test_a_run_that_is_over_by_its_status_but_lacks_what_was_logged_is_waited_for() -> None:
    """It was killed twice in a row: the status is the first process's."""
    resumed, warned = found(Reading(record("KILLED", 20, 1), record("KILLED", 41, 2)), (41, 2))
    assert resumed == Resumed("abc", 41, 2)
    assert len(warned) == 1


def test_what_is_known_to_be_logged_counts_when_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumption, "_SETTLES", 0.0)
    resumed, warned = found(Reading(record("RUNNING", 20, 1)), (41, 2))
    assert resumed == Resumed("abc", 41, 2)
    assert "what it lacks comes later, or never" in warned[0]


def test_a_run_that_is_not_in_mlflow_yet_is_waited_for() -> None:
    tracker = Reading(NotFound("no run fits"), Unavailable("refused"), record("KILLED", 41, 2))
    resumed, warned = found(tracker)
    assert resumed == Resumed("abc", 41, 2)
    assert warned[0].startswith("run abc is not there yet (no run fits)")


@pytest.mark.parametrize("error", [NotFound("no run fits"), Unavailable("refused"), StoreRefused("no such store")])
def test_a_run_that_cannot_be_had_is_a_new_one_with_a_word(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumption, "_SETTLES", 0.0)
    resumed, warned = found(Reading(error))
    assert resumed is None
    assert warned[-1] == f"the run of the checkpoint cannot be gone on with, so this is a new one: {error}"


def test_a_tracker_that_reads_nothing_back_goes_on_in_a_new_run() -> None:
    assert find_resumed(ListTracker(), "abc", (-1, 0), lambda _: None) is None
    assert find_resumed(Reading(record("KILLED")), None, (-1, 0), lambda _: None) is None

"""The counter for calls without a step: one for all channels and processes of a run."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from helpers.descriptors import open_descriptors
from tailrace._log.channel import Channel
from tailrace._runs import steps as steps_module
from tailrace._runs.steps import Steps
from tailrace_agent.ipc import native


def channel() -> Channel:
    return Channel(7, lambda _: None, lambda *_: None)


def counting(steps: Steps) -> Channel:
    made = channel()
    steps.count_for(made)
    return made


@pytest.fixture(params=["c", "python"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the counter in C, and with the one that takes its place."""
    if request.param == "python":
        monkeypatch.setattr(native, "Steps", None)
    elif native.Steps is None:
        pytest.skip("there is no C here")


def test_all_channels_of_a_run_count_together_from_nought(tmp_path: Path, way: None) -> None:
    steps = Steps(tmp_path, 7, joined=True)
    one, other = counting(steps), counting(steps)
    assert [next(one.steps), next(other.steps), next(one.steps)] == [0, 1, 2]


def test_two_processes_of_a_run_count_together_and_another_run_for_itself(tmp_path: Path, way: None) -> None:
    here, there, apart = (counting(Steps(tmp_path, run, joined=True)) for run in (7, 7, 8))
    assert [next(here.steps), next(there.steps), next(here.steps), next(apart.steps)] == [0, 1, 2, 0]


def test_nothing_is_made_before_the_first_call_without_a_step(tmp_path: Path, way: None) -> None:
    counted = counting(Steps(tmp_path, 7, joined=True))
    assert list(tmp_path.iterdir()) == []
    next(counted.steps)
    assert len(list(tmp_path.iterdir())) == 1


def test_without_c_the_program_that_has_begun_the_run_makes_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "Steps", None)
    counted = counting(Steps(tmp_path, 7, joined=False))
    assert [next(counted.steps), next(counted.steps)] == [0, 1]
    assert list(tmp_path.iterdir()) == []


def test_without_c_a_forked_child_counts_with_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "Steps", None)
    steps = Steps(tmp_path, 7, joined=False)
    counted = counting(steps)
    next(counted.steps)
    steps.after_fork()
    sibling = counting(Steps(tmp_path, 7, joined=True))
    assert [next(counted.steps), next(sibling.steps)] == [0, 1]


def test_where_shared_memory_has_no_room_the_process_counts_for_itself(tmp_path: Path, way: None) -> None:
    counted = counting(Steps(tmp_path / "gone", 7, joined=True))
    assert [next(counted.steps), next(counted.steps)] == [0, 1]


def test_a_channel_that_was_closed_meanwhile_is_not_opened_by_the_first_step(tmp_path: Path, way: None) -> None:
    steps = Steps(tmp_path, 7, joined=True)
    closed, open_ = counting(steps), counting(steps)
    closed.close(lambda _: b"")
    next(open_.steps)
    assert next(closed.steps) is None


def test_without_a_descriptor_it_still_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: Any) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(native, "Steps", None)
    counted = counting(Steps(tmp_path, 7, joined=True))
    next(counted.steps)
    monkeypatch.setattr(steps_module, "open_own", none_left)
    before = open_descriptors()
    assert list(itertools.islice(counted.steps, 3)) == [1, 2, 3]
    assert open_descriptors() <= before

"""The latest values, in bounded memory."""

from __future__ import annotations

import pytest

from helpers.scraping import CollectorRig
from tailrace_agent.observers import last_values as latest_module
from tailrace_agent.observers.last_values import LastValues, Value


def test_memory_is_bounded_and_what_is_left_out_is_counted(rig: CollectorRig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latest_module, "_MOST_OF_RUN", 3)
    monkeypatch.setattr(latest_module, "_MOST", 4)
    rig.start(1)
    rig.start(2)
    rig.saw(1, {str(n): 0.0 for n in range(5)})
    rig.saw(2, {"a": 0.0, "b": 0.0})
    rig.saw(1, {"0": 7.0}, at=1)
    assert rig.scrape()["tailrace_metric_0", "0"] == 7.0
    assert rig.scrape()["tailrace_agent_metrics_left_out", ""] == 3
    rig.latest.keep_only([2])
    rig.saw(2, {"b": 1.0, "c": 1.0})
    assert set(rig.latest.of(2)) == {"a", "b", "c"}


def test_an_older_value_which_comes_from_another_ring_replaces_no_newer_one() -> None:
    latest = LastValues()
    latest.saw(1, 5, 100, {"loss": 0.5}, system=False)
    latest.saw(1, 4, 90, {"loss": 0.9, "lr": 1}, system=False)
    assert latest.of(1) == {"loss": Value(0.5, 5, 100), "lr": Value(1.0, 4, 90)}
    latest.saw(1, 6, 100, {"loss": 0.4}, system=False)
    assert latest.of(1)["loss"].value == 0.4


def test_a_sample_of_the_machine_is_no_progress() -> None:
    latest = LastValues()
    assert latest.progress(1) is None
    latest.saw(1, 9, 50, {"system/cpu": 1.0}, system=True)
    assert latest.progress(1) is None
    latest.saw(1, 2, 60, {"loss": 1.0}, system=False)
    assert latest.progress(1) == Value(0.0, 2, 60)


def test_a_run_that_is_forgotten_gives_its_room_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latest_module, "_MOST", 2)
    latest = LastValues()
    for run in (1, 2):
        latest.saw(run, 0, 1, {"a": 1.0, "b": 1.0}, system=False)
    assert (latest.of(2), latest.left_out) == ({}, 2)
    latest.keep_only([2])
    assert (latest.of(1), latest.progress(1)) == ({}, None)
    latest.saw(2, 1, 2, {"a": 1.0, "b": 1.0, "c": 1.0}, system=False)
    assert (set(latest.of(2)), latest.left_out) == ({"a", "b"}, 3)


def test_what_was_handed_out_does_not_change() -> None:
    latest = LastValues()
    latest.saw(1, 0, 1, {"a": 1.0}, system=False)
    found = latest.of(1)
    latest.saw(1, 1, 2, {"a": 2.0, "b": 1.0}, system=False)
    assert found == {"a": Value(1.0, 0, 1)}

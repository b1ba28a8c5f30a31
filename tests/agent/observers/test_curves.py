"""The courses of all metrics, in bounded memory."""

from __future__ import annotations

import pytest

from tailrace_agent.observers import curves as curves_module
from tailrace_agent.observers.curves import Curves


def test_what_was_seen_is_drawn_when_it_is_taken_in() -> None:
    curves = Curves()
    curves.saw(1, 0, 10, {"loss": 1.0, "acc": True})
    curves.saw(1, 1, 20, {"loss": 0.5})
    curves.saw(2, 0, 15, {"loss": 7})
    assert curves.of(1) == {}
    changed = curves.take_in()
    assert {run: list(each) for run, each in changed.items()} == {1: ["loss", "acc"], 2: ["loss"]}
    assert curves.of(1)["loss"].last == (1, 20, 0.5)
    assert curves.of(1)["acc"].high == (1.0, 0)
    assert curves.take_in() == {}
    curves.saw(2, 1, 30, {"loss": 6})
    assert list(curves.take_in()) == [2]


def test_memory_is_bounded_and_what_is_left_out_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves_module, "_MOST_OF_RUN", 3)
    monkeypatch.setattr(curves_module, "_MOST", 4)
    curves = Curves()
    curves.saw(1, 0, 0, {str(n): 0.0 for n in range(5)})
    curves.saw(2, 0, 0, {"a": 0.0, "b": 0.0})
    curves.take_in()
    curves.saw(1, 1, 1, {"0": 7.0, "4": 1.0})
    assert list(curves.take_in()[1]) == ["0"]
    assert {run: len(names) for run, names in curves.left_out.items()} == {1: 2, 2: 1}
    curves.keep_only([2])
    curves.saw(2, 1, 1, {"b": 1.0, "c": 1.0})
    curves.take_in()
    assert (curves.of(1), list(curves.of(2))) == ({}, ["a", "c"])


def test_a_metric_that_was_left_out_stays_so_since_its_curve_would_not_be_of_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(curves_module, "_MOST", 1)
    curves = Curves()
    curves.saw(1, 0, 0, {"a": 0.0})
    curves.saw(2, 0, 0, {"b": -1.0})
    curves.take_in()
    curves.keep_only([2])
    curves.saw(2, 1, 1, {"b": 1.0, "c": 2.0})
    assert {run: list(each) for run, each in curves.take_in().items()} == {2: ["c"]}

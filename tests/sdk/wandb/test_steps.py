"""wandb's steps: counted by calls, never going back, put together by several calls."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.wandb._steps import Metric, Row, Steps


def test_each_call_without_a_step_is_a_row_of_its_own() -> None:
    steps = Steps()
    assert steps.take({"a": 1}) == [Row(0, {"a": 1})]
    assert steps.take({"a": 2}) == [Row(1, {"a": 2})]
    assert steps.step == 2


def test_what_is_not_committed_waits_for_the_rest_of_its_row_and_a_later_value_replaces() -> None:
    steps = Steps()
    assert steps.take({"a": 1, "b": 1}, commit=False) == []
    assert steps.take({"a": 2}, commit=False) == []
    assert steps.take({"c": 3}) == [Row(0, {"a": 2, "b": 1, "c": 3})]
    assert steps.step == 1


def test_with_a_step_all_goes_to_it_at_once_and_the_next_call_without_one_stays_there() -> None:
    steps = Steps()
    assert steps.take({"a": 1}, step=5) == [Row(5, {"a": 1})]
    assert steps.take({"b": 2}, step=5) == [Row(5, {"b": 2})]
    assert steps.take({"c": 3}) == [Row(5, {"c": 3})]
    assert steps.take({"d": 4}) == [Row(6, {"d": 4})]


def test_commit_with_a_step_ends_the_row() -> None:
    steps = Steps()
    assert steps.take({"a": 1}, step=5, commit=True) == [Row(5, {"a": 1})]
    assert steps.step == 6


def test_a_higher_step_completes_what_was_not_committed() -> None:
    steps = Steps()
    steps.take({"a": 1}, commit=False)
    assert steps.take({"b": 2}, step=3) == [Row(0, {"a": 1}), Row(3, {"b": 2})]


def test_a_lower_step_is_ignored_with_a_warning(warned: list[str]) -> None:
    steps = Steps()
    steps.take({"a": 1}, step=5)
    assert steps.take({"a": 2}, step=4) == []
    assert "step 4 is lower than 5" in warned[0]
    assert steps.step == 5


def test_what_is_left_is_given_once() -> None:
    steps = Steps(7)
    steps.take({"a": 1}, commit=False)
    assert steps.rest() == [Row(7, {"a": 1})]
    assert steps.rest() == []


@pytest.mark.parametrize("epoch", [3, 3.0])
def test_a_metric_with_a_step_of_its_own_is_placed_by_it(epoch: Any) -> None:
    steps = Steps()
    steps.define(Metric("val/*", "epoch"))
    steps.define(Metric("val/special"))
    values = {"epoch": epoch, "val/loss": 0.1, "val/special": 1, "loss": 2}
    assert steps.placed(Row(40, values)) == {
        40: {"epoch": epoch, "val/special": 1, "loss": 2},
        3: {"val/loss": 0.1},
    }
    assert steps.placed(Row(41, {"val/loss": 0.2})) == {3: {"val/loss": 0.2}}, "the last value counts"


def test_a_step_that_is_no_whole_number_leaves_wandbs(warned: list[str]) -> None:
    steps = Steps()
    steps.define(Metric("loss", "hours"))
    assert steps.placed(Row(2, {"loss": 1.0, "hours": 0.5})) == {2: {"loss": 1.0, "hours": 0.5}}
    assert "whole numbers" in warned[0]

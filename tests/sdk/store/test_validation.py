"""What is refused at the call: `tailrace.store.validation`."""

from __future__ import annotations

import re

import pytest
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from tailrace._api.metrics import LAST_TIMESTAMP
from tailrace.store.validation import (
    checked_batch,
    checked_metric,
    checked_param,
    checked_tag,
    fits_a_row,
    is_text,
)


def test_good_entries_come_back_as_they_are() -> None:
    metrics = [Metric("loss", 0.5, 1000, 3), Metric("loss", 1, 1001, 4)]
    for _ in range(2):  # the second time the name is known
        values, params, tags = checked_batch(metrics, [Param("lr", "0.1")], [RunTag("team", "vision")])
        assert values == [("loss", 0.5, 1000, 3), ("loss", 1, 1001, 4)]
        assert [(param.key, param.value) for param in params] == [("lr", "0.1")]
        assert [(tag.key, tag.value) for tag in tags] == [("team", "vision")]


@pytest.mark.parametrize(
    ("metric", "named"),
    [
        (Metric("loss(train)", 0.5, 0, 0), "metrics[1].name"),
        (Metric("loss", None, 0, 0), "metrics[1].value"),
        (Metric("loss", "high", 0, 0), "metrics[1].value"),
        (Metric("loss", 0.5, -1, 0), "metrics[1].timestamp"),
        (Metric("loss", 0.5, 0, "one"), "metrics[1].step"),
    ],
)
def test_the_metric_at_fault_is_named_as_mlflow_names_it(metric: Metric, named: str) -> None:
    with pytest.raises(MlflowException, match=re.escape(named)) as caught:
        checked_batch([Metric("loss", 0.5, 0, 0), metric], [], [])

    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"
    with pytest.raises(MlflowException):
        checked_metric(metric)


def test_what_is_too_much_or_twice_is_refused_and_what_is_too_long_is_cut() -> None:
    with pytest.raises(MlflowException, match="at most 1000 metrics"):
        checked_batch([Metric("loss", 0.5, 0, 0)] * 1001, [], [])
    with pytest.raises(MlflowException, match="Duplicate parameter keys"):
        checked_batch([], [Param("lr", "1"), Param("lr", "1")], [])
    with pytest.raises(MlflowException, match="250"):
        checked_tag(RunTag("k" * 251, "v"))
    assert len(checked_param(Param("long", "v" * 7000)).value) == 6000
    assert len(checked_tag(RunTag("long", "v" * 9000)).value) == 8000


@pytest.mark.parametrize(
    ("timestamp", "step", "fits"),
    [
        *((0, 0, True), (LAST_TIMESTAMP, 2**63 - 1, True), (5.0, -(2**63) + 1, True), (5, 2.0, True)),
        *((LAST_TIMESTAMP + 1, 0, False), (0, 2**63, False), (0, -(2**63), False), (0, 10**400, False)),
        *((0.5, 0, False), (0, 0.5, False), (0, float("nan"), False), (float("inf"), 0, False)),
        *((float("nan"), 0, False), (0, float("-inf"), False)),
    ],
)
def test_a_row_has_whole_steps_and_times_as_databases_do(timestamp: float, step: float, fits: bool) -> None:
    assert fits_a_row(("loss", 0.5, timestamp, step)) is fits  # type: ignore[arg-type]


def test_half_of_a_pair_of_surrogates_is_no_text() -> None:
    assert is_text()
    assert is_text(Param("a", "ä 😀"), RunTag("b", ""))
    assert not is_text(Param("a", "b"), RunTag("t", "\ud83d"))

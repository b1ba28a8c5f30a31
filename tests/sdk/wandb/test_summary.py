"""A run's summary: the last value of everything, and extremes that were asked for."""

from __future__ import annotations

from typing import Any

import pytest

from tailrace.wandb._steps import Metric
from tailrace.wandb._summary import Summary


def test_the_last_values_and_the_extremes_that_were_defined() -> None:
    summary = Summary(lambda values: None)
    wanted = Metric("loss", summary=frozenset(("min", "mean")))
    for value in (3.0, 1.0, 2.0):
        summary.note({"loss": value, "other": value}, lambda key: wanted if key == "loss" else None)
    assert dict(summary) == {"loss": 2.0, "other": 2.0, "loss.min": 1.0, "loss.mean": 2.0}
    assert summary.extremes() == {"loss.min": 1.0, "loss.mean": 2.0}


def test_what_is_set_is_published() -> None:
    published: list[dict[str, Any]] = []
    summary = Summary(published.append)
    summary["best"] = 1
    summary.update({"a": 2}, b="text")
    summary.c = 3
    assert published == [{"best": 1}, {"a": 2, "b": "text"}, {"c": 3}]
    assert (summary.best, summary.get("nothing"), len(summary)) == (1, None, 4)
    del summary["c"]
    assert "c" not in summary
    with pytest.raises(AttributeError, match="has no 'c'"):
        _ = summary.c


def test_what_was_logged_as_a_dictionary_is_read_as_one() -> None:
    summary = Summary(lambda values: None)
    summary.note({"train.loss": 1.0, "train.deep.er": 2.0, "other": 3.0}, lambda key: None)
    assert (summary["train"]["loss"], summary["train"]["deep"]) == (1.0, {"er": 2.0})
    assert ("train" in summary, "trai" in summary, summary.get("val")) == (True, False, None)
    assert summary.train == {"loss": 1.0, "deep": {"er": 2.0}}

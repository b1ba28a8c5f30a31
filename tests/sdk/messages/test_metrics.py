"""The metrics of a run that has ended, in lines for people."""

from __future__ import annotations

from tailrace._messages.metrics import metric_lines, metric_words
from tailrace_agent.ipc.status import MetricEnd, MetricEnds

LOSS = MetricEnd("val/loss", 0.512345678, [2.0, 0.5, 0.5], best=0.41, step=7)
RATE = MetricEnd("lr", 1e-5, [0.1])


def test_each_metric_is_a_line_in_columns() -> None:
    assert metric_lines(MetricEnds([LOSS, RATE], more=0)) == [
        "val/loss  0.51235  best 0.41 at step 7  █▁▁",
        "lr        1e-05",
    ]


def test_without_characters_for_it_nothing_is_drawn_and_what_is_left_out_is_counted() -> None:
    ends = MetricEnds([LOSS], more=1)
    assert metric_lines(ends, drawn=False) == ["val/loss  0.51235  best 0.41 at step 7", "and 1 more metric"]
    assert metric_lines(MetricEnds(more=1234)) == ["and 1,234 more metrics"]
    assert metric_lines(MetricEnds()) == []


def test_a_long_name_is_cut() -> None:
    (line,) = metric_lines(MetricEnds([MetricEnd("a" * 100, 1.0, [])]))
    assert line == f"{'a' * 39}…  1"


def test_of_a_nested_run_the_first_stands_in_its_line() -> None:
    assert metric_words(MetricEnds([LOSS, RATE])) == "val/loss 0.51235 (best 0.41 at step 7)"
    assert metric_words(MetricEnds([RATE])) == "lr 1e-05"
    assert metric_words(MetricEnds()) == ""

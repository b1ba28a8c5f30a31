"""What a server answers, in numbers and words."""

from __future__ import annotations

import math

import msgspec

from tailrace_agent.rest.answers import FoundRun


def test_a_run_has_the_last_step_and_value_of_each_metric_also_those_that_json_has_no_number_for() -> None:
    metrics = [
        {"key": "loss", "value": 0.5, "timestamp": 7, "step": "3"},
        {"key": "gap", "value": "NaN", "step": 4},
        {"key": "top", "value": "Infinity"},
        {"key": "none"},
    ]
    answer = {"run": {"info": {"run_id": "a"}, "data": {"metrics": metrics, "tags": [{"key": "t", "value": "1"}]}}}
    run = msgspec.convert(answer, FoundRun, strict=False).found()
    assert run.steps == {"loss": 3, "gap": 4, "top": 0, "none": 0}
    assert (run.values["loss"], run.values["top"], run.values["none"]) == (0.5, math.inf, 0.0)
    assert math.isnan(run.values["gap"])
    assert (run.run_id, run.end_time, run.tags) == ("a", None, {"t": "1"})

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tailrace_agent.errors import Refused, RunGone, Unavailable
from tailrace_agent.ipc.records import JobPart, Point, RunSpec
from tailrace_agent.sinks.base import Sink, SinkFactory
from tailrace_agent.sinks.memory import MemorySink


def spec(run: int = 7, **changes: object) -> RunSpec:
    return RunSpec(run=run, start_time=1000, cwd="/", **changes)  # type: ignore[arg-type]


def opened(sink: MemorySink) -> str:
    return sink.open_run(spec(), None, find_first=False).run_id


def test_it_is_a_sink_and_its_open_is_a_factory() -> None:
    sink = MemorySink()
    factory: SinkFactory = sink.open
    same: Sink = factory("http://anywhere", "/", request_timeout=1)
    assert same is sink


def test_a_batch_can_be_looked_at() -> None:
    sink = MemorySink()
    run_id = opened(sink)
    sink.log_batch(run_id, metrics=[Point("loss", 0.5, 1, 0)], params=[("lr", "0.1")], tags=[("who", "me")])
    run = sink.runs[run_id]
    assert run.metrics == {"loss": [Point("loss", 0.5, 1, 0)]}
    assert (run.params, run.tags["who"], run.tags["tailrace.run"]) == ({"lr": "0.1"}, "me", "0000000000000007")
    assert sink.count_metrics(run_id) == {"loss": 1}
    assert sink.count_metrics(run_id, ["loss", "none"]) == {"loss": 1, "none": 0}


def test_a_job_that_is_started_anew_goes_on_in_its_run_as_in_mlflows() -> None:
    sink = MemorySink()
    run_id = sink.open_run(spec(job=JobPart(key="k")), None, find_first=True).run_id
    sink.log_batch(run_id, tags=[("tailrace.end_reason", "rank 3 was killed by SIGKILL")])
    sink.end_run(run_id, "KILLED", 5)
    again = spec(job=JobPart(key="k", attempt=1), tags={"tailrace.attempt": "1"})
    assert sink.open_run(again, None, find_first=True).run_id == run_id
    assert (sink.runs[run_id].status, sink.runs[run_id].tags["tailrace.attempt"]) == ("RUNNING", "1")
    assert "tailrace.end_reason" not in sink.runs[run_id].tags


def test_a_repeated_metric_is_stored_once_and_nan_counts_as_itself() -> None:
    sink = MemorySink()
    run_id = opened(sink)
    points = [Point("a", 1.0, 1, 0), Point("a", math.nan, 1, 0), Point("a", math.inf, 1, 0), Point("a", 1.0, 2, 0)]
    for _ in range(2):
        sink.log_batch(run_id, metrics=points)
    assert sink.count_metrics(run_id) == {"a": 4}
    assert sink.runs[run_id].metrics["a"][2].value == 1.7976931348623157e308


def test_a_changed_param_refuses_the_whole_request() -> None:
    sink = MemorySink()
    run_id = opened(sink)
    sink.log_batch(run_id, params=[("lr", "1")])
    sink.log_batch(run_id, params=[("lr", "1")])
    with pytest.raises(Refused, match="Changing param values"):
        sink.log_batch(run_id, params=[("new", "1"), ("lr", "2")], metrics=[Point("a", 1.0, 1, 0)])
    assert sink.runs[run_id].params == {"lr": "1"}
    assert sink.runs[run_id].metrics == {}


@pytest.mark.parametrize(
    "batch",
    [
        {"metrics": [Point("loss(train)", 1.0, 1, 0)]},
        {"metrics": [Point("a", 1.0, 1, step) for step in range(1001)]},
        {"params": [("p", "x" * 6001)]},
        {"params": [("p", "1"), ("p", "1")]},
        {"tags": [("t", "x" * 8001)]},
    ],
)
def test_what_mlflow_would_refuse_is_refused(batch: dict[str, object]) -> None:
    sink = MemorySink()
    run_id = opened(sink)
    with pytest.raises(Refused):
        sink.log_batch(run_id, **batch)  # type: ignore[arg-type]


def test_a_fault_before_the_call_leaves_nothing_and_one_after_it_leaves_all() -> None:
    sink = MemorySink()
    run_id = opened(sink)
    calls = []

    def fault(method: str) -> None:
        calls.append(method)
        raise Unavailable("away", retry_after=3)

    sink.fail = fault
    with pytest.raises(Unavailable, match="away"):
        sink.log_batch(run_id, metrics=[Point("a", 1.0, 1, 0)])
    assert sink.runs[run_id].metrics == {}
    sink.fail, sink.fail_after = None, fault
    with pytest.raises(Unavailable, match="away"):
        sink.log_batch(run_id, metrics=[Point("a", 1.0, 1, 0)])
    assert len(sink.runs[run_id].metrics["a"]) == 1
    assert calls == ["log_batch", "log_batch"]


def test_a_run_whose_answer_was_lost_is_found_again_or_discarded_as_a_twin() -> None:
    sink = MemorySink()
    first = opened(sink)
    assert sink.open_run(spec(), None, find_first=True).run_id == first
    twin = opened(sink)
    assert sink.discard_twins(spec(), first) == 1
    assert sink.runs[twin].deleted
    assert sink.discard_twins(spec(), first) == 0


def test_a_deleted_or_unknown_run_is_gone() -> None:
    sink = MemorySink()
    run_id = opened(sink)
    sink.runs[run_id].deleted = True
    for missing in (run_id, "nowhere"):
        with pytest.raises(RunGone):
            sink.end_run(missing, "FINISHED", 5)


def test_a_resumed_run_is_running_again_unless_it_is_somebody_elses() -> None:
    sink = MemorySink()
    run_id = opened(sink)
    sink.log_batch(run_id, tags=[("error.type", "ValueError")])
    sink.end_run(run_id, "FAILED", 5)
    sink.open_run(spec(8, run_id=run_id, owned=False), None, find_first=False)
    assert (sink.runs[run_id].status, "error.type" in sink.runs[run_id].tags) == ("FAILED", True)
    sink.open_run(spec(8, run_id=run_id), None, find_first=False)
    assert (sink.runs[run_id].status, "error.type" in sink.runs[run_id].tags) == ("RUNNING", False)


def test_artifacts_are_kept_under_the_paths_that_mlflow_gives_them(tmp_path: Path) -> None:
    sink = MemorySink()
    run_id = opened(sink)
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "f.txt").write_text("f")
    sink.log_artifact(run_id, tmp_path / "d" / "e" / "f.txt", None)
    sink.log_artifact(run_id, tmp_path / "d", "up")
    sink.log_artifacts(run_id, tmp_path / "d", None)
    assert set(sink.runs[run_id].artifacts) == {"f.txt", "up/d/e/f.txt", "e/f.txt"}
    with pytest.raises(Refused, match="is gone"):
        sink.log_artifact(run_id, tmp_path / "nothing", None)

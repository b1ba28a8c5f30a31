"""A plain server is read in requests of our own that are MLflow's, and what comes back is the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from helpers.recorder import RUN_ID, Recorder, recording
from helpers.server_ways import TIMEOUT, seen
from tailrace_agent.errors import Unavailable
from tailrace_agent.mlflow.stores import open_store
from tailrace_agent.reading.own_reads import OwnReads
from tailrace_agent.reading.read_store import ACTIVE_ONLY, ALL, ReadStore
from tailrace_agent.reading.reader import Reader, open_reader
from tailrace_agent.reading.server_reads import ServerReads

_NEWEST = ["attributes.start_time DESC"]
CALLS: dict[str, Callable[[ReadStore], Any]] = {
    "experiments": lambda reads: [(each.experiment_id, each.name) for each in reads.experiment_page(100, None)],
    "more experiments": lambda reads: [each.name for each in reads.experiment_page(100, "to ken")],
    "runs": lambda reads: _runs(reads.run_page(["1", "2"], "", ACTIVE_ONLY, 50, _NEWEST, None)),
    "more runs": lambda reads: _runs(reads.run_page(["1"], "params.`lr` = 'ü'", ALL, 50, [], "to ken")),
    "a run": lambda reads: _runs([reads.read_run(RUN_ID)]),
    "some points": lambda reads: repr(reads.thinned(RUN_ID, "a/b c", 100, None, None)),
    "some later points": lambda reads: repr(reads.thinned(RUN_ID, "loss", 9_999, 7, None)),
    "a window": lambda reads: repr(reads.thinned(RUN_ID, "loss", 2, -3, 2**40)),
    "no peaks": lambda reads: ("none", reads.peaks(RUN_ID, "loss", 1, 0, 9)),
}


@pytest.fixture
def recorder(quiet_mlflow: None) -> Any:
    with recording() as server:
        yield server


def _runs(found: Any) -> Any:
    fields = ("run_id", "experiment_id", "run_name", "status", "start_time", "end_time", "lifecycle_stage")
    return [
        (
            [getattr(run.info, field) for field in (*fields, "artifact_uri")],
            [(m.key, repr(m.value), m.timestamp, m.step) for m in run.data._metric_objs],
            {key: repr(value) for key, value in run.data.metrics.items()},
            dict(run.data.params),
            dict(run.data.tags),
        )
        for run in found
    ]


@pytest.mark.parametrize("what", CALLS)
def test_each_request_is_mlflows_own_and_so_is_what_is_made_of_the_answer(what: str, recorder: Recorder) -> None:
    own = OwnReads(open_store(recorder.uri, "/", TIMEOUT))
    ours = ServerReads(recorder.uri, "/", TIMEOUT)
    recorder.requests.clear()
    found = [CALLS[what](reads) for reads in (own, ours)]
    half = len(recorder.requests) // 2
    assert list(map(seen, recorder.requests[half:])) == list(map(seen, recorder.requests[:half]))
    assert found[0] == found[1]
    assert found[0], "what is compared has to be there"
    assert half > 0 or what == "no peaks"


def test_whether_others_lie_between_is_known_by_whether_the_answer_is_full(recorder: Recorder) -> None:
    reads = ServerReads(recorder.uri, "/", TIMEOUT)
    assert reads.thinned(RUN_ID, "loss", 3, None, None).whole
    assert not reads.thinned(RUN_ID, "loss", 2, None, None).whole


def test_of_a_server_that_does_not_thin_all_points_are_read(recorder: Recorder) -> None:
    refusal = '{"error_code": "INVALID_PARAMETER_VALUE", "message": "no such thing"}'
    recorder.answers["metrics/get-history-bulk-interval"] = (400, refusal)
    points = [{"key": "loss", "value": float(n), "step": n, "timestamp": "5"} for n in range(9)]
    recorder.answers["metrics/get-history"] = {"metrics": points}
    reads = ServerReads(recorder.uri, "/", TIMEOUT)
    assert reads.thinned(RUN_ID, "loss", 2, 3, 4) == ([(3, 5, 3.0), (4, 5, 4.0)], True)


def test_a_server_that_is_none_is_said_as_through_mlflow(recorder: Recorder) -> None:
    recorder.answers["metrics/get-history-bulk-interval"] = (200, "<html>")
    said = []
    for mine in (True, False):
        reader = open_reader(recorder.uri, "/", own_process=mine)
        with pytest.raises(Unavailable) as raised:
            reader.thinned(RUN_ID, "loss", 10)
        said.append(str(raised.value))
    assert said[0] == said[1]
    assert "not as an MLflow server does" in said[0]


def test_a_real_server_is_read_as_through_mlflow(uri: str, runs: dict[str, str]) -> None:
    ours, own = (open_reader(uri, "/", own_process=mine) for mine in (True, False))
    assert ours.experiments() == own.experiments()
    for run_id in runs.values():
        mine, theirs = (reader.find(run_id) for reader in (ours, own))
        assert _runs([mine]) == _runs([theirs])
        assert repr(ours.record(mine)) == repr(own.record(theirs))
        for key in mine.data.metrics:
            assert repr(ours.thinned(run_id, key, 100)) == repr(own.thinned(run_id, key, 100))
            assert _points(ours, run_id, key) == _points(own, run_id, key)
    filter_ = "params.lr = '0.1' and metrics.loss < 9"
    assert _runs(ours.search(None, filter_)) == _runs(own.search(None, filter_))


def _points(reader: Reader, run_id: str, key: str) -> str:
    return repr(sorted(map(repr, (point for piece in reader.points(run_id, key) for point in piece))))

"""Requests to a plain server are MLflow's own, byte for byte."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from helpers.recorder import RUN_ID, Recorder
from helpers.server_ways import mlflows, ours, seen
from tailrace_agent.ipc.records import Point
from tailrace_agent.mlflow.run_store import Run, RunStore

_TAGS = [("note", "ünï \n'\""), ("tailrace.run", "ab" * 16)]
_FILE = Path(__file__)


def _artifacts(runs: RunStore, do: Callable[[Any], object]) -> object:
    return do(runs.repository(f"mlflow-artifacts:/7/{RUN_ID}/artifacts"))


CALLS: dict[str, Callable[[RunStore], object]] = {
    "a new run": lambda runs: runs.create_run("7", "ada", 1_700_000_000_000, _TAGS, "vision"),
    "a new run without a name": lambda runs: runs.create_run("0", "unknown", 1, [], None),
    "a run": lambda runs: runs.run(RUN_ID),
    "a search": lambda runs: runs.search_runs(["1", "2"], "tags.`tailrace.run` = 'ab'"),
    "a tag looked for": lambda runs: runs.running_with_tag(["1", "2"], "tailrace.run"),
    "an end": lambda runs: runs.update_run(RUN_ID, "FINISHED", 1_700_000_000_123, None),
    "a start over": lambda runs: runs.update_run(RUN_ID, "RUNNING", None, "again"),
    "a deletion": lambda runs: runs.delete_run(RUN_ID),
    "a tag less": lambda runs: runs.delete_tag(RUN_ID, "a b/ü"),
    "an experiment": lambda runs: runs.experiment_named("é/x y"),
    "all experiments": lambda runs: runs.active_experiments(),
    "metrics": lambda runs: runs.log_batch(
        RUN_ID, [Point("a", 1.5, 3, 4), Point("n", math.nan, -1, 2**40), Point("i", -math.inf, 1, 0)]
    ),
    "params and tags": lambda runs: runs.log_batch(RUN_ID, params=[("p", "ü")], tags=_TAGS),
    "a page": lambda runs: (list.__len__(page := runs.metric_page(RUN_ID, "a/b c", None)), page.token),
    "the next page": lambda runs: runs.metric_page(RUN_ID, "loss", "to ken").token,
    "an upload": lambda runs: _artifacts(runs, lambda files: files.upload([(_FILE, "a b/é?.py")])),
    "a renamed upload": lambda runs: _artifacts(runs, lambda files: files.upload([(_FILE, "a#1.png")])),
    "a list": lambda runs: _artifacts(runs, lambda files: [tuple(info) for info in files.list_directory("sub dir")]),
    "a confirmation": lambda runs: _artifacts(runs, lambda files: files.put(_FILE, "x.bin")),
}


WRITES = ("a deletion", "a start over", "a tag less", "an end", "an upload", "metrics", "params and tags")


@pytest.mark.parametrize("what", CALLS)
def test_each_request_is_mlflows_own(what: str, recorder: Recorder) -> None:
    found = [CALLS[what](way(recorder.uri)) for way in (mlflows, ours)]
    half = len(recorder.requests) // 2
    theirs, own = recorder.requests[:half], recorder.requests[half:]
    assert list(map(seen, own)) == list(map(seen, theirs))
    assert half > 0
    assert found[0] or what in WRITES, "what is compared has to be there"
    assert _comparable(found[1]) == _comparable(found[0])


def _comparable(found: object) -> object:
    if isinstance(found, list):
        return [_comparable(each) for each in found]
    if not isinstance(found, Run):
        return found
    values = {key: repr(value) for key, value in found.values.items()}  # a NaN is not equal to itself
    return found._replace(tags=dict(found.tags), steps=dict(found.steps), values=values)  # type: ignore[arg-type]


def test_what_only_mlflow_can_do_is_left_to_mlflow(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = ours(recorder.uri)
    other = runs.repository(f"mlflow-artifacts://elsewhere:5000/7/{RUN_ID}/artifacts")
    assert type(other).__name__ == "PromptMlflowArtifactsRepository"
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "true")
    own = runs.repository(f"mlflow-artifacts:/7/{RUN_ID}/artifacts")
    assert type(own).__name__ == "PromptMlflowArtifactsRepository"
    assert runs.mlflows_own() is runs.mlflows_own()

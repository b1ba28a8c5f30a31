"""What the commands that read MLflow share: the newest of several runs, metrics, ids."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path

import pytest

from helpers.stored_runs import SameNames
from tailrace_agent.cli._app import Fail
from tailrace_agent.cli._reading import chosen_metrics, rows_of_json
from tailrace_agent.reading.record import RunRecord


def test_the_commands_that_read_take_the_newest_and_say_so(same_names: SameNames, tmp_path: Path) -> None:
    for command in (["compare", "base"], ["export", "base", "-o", str(tmp_path / "x.zip")], ["verify", "base"]):
        result = same_names.tailrace(*command, "--tracking-uri", same_names.uris[0])
        assert result.exit_code == 0, result.output
        lines = [line for line in result.stderr.splitlines() if "An id chooses" in line]
        assert len(lines) == 1, result.stderr
        assert f"Taken: {same_names.ids[1][:8]} (FINISHED, " in lines[0]
        assert "lr=0.1" in lines[0]
    exported = same_names.tailrace("export", "base", "-o", "y.zip", "--json", "--tracking-uri", same_names.uris[0])
    assert json.loads(exported.stdout)["runs"] == [same_names.ids[1]]


def _record(**metrics: float) -> RunRecord:
    return RunRecord(
        run_id="r", run_name="r", experiment_id="0", status="FINISHED", params={}, metrics=metrics, tags={},
        start_time=datetime(2024, 1, 1, tzinfo=timezone.utc), end_time=datetime(2024, 1, 1, 0, 1, tzinfo=timezone.utc),
        artifact_uri="", url=None, deleted=False,
    )  # fmt: skip


def test_the_metrics_that_most_runs_have_are_shown_and_none_of_the_machine_unasked() -> None:
    other = {"system/cpu": 1, "loss.best": 1, "loss.best_step": 1}
    records = [_record(loss=1, acc=1), _record(loss=1, **other), _record(loss=1, acc=1, zoom=1)]
    assert chosen_metrics(records, [], 2) == ["loss", "acc"]
    assert chosen_metrics(records, [], 9) == ["loss", "acc", "zoom"]
    assert chosen_metrics(records, ["system/*", "z*"], 1) == ["system/cpu", "zoom"], "what is requested is shown whole"
    with pytest.raises(Fail, match="no metric fits 'auc'"):
        chosen_metrics(records, ["auc"], 2)


def test_a_run_in_json_has_its_duration_and_its_times_as_text() -> None:
    (row,) = rows_of_json([_record(loss=1)])
    assert (row["duration"], row["start_time"]) == (60.0, "2024-01-01T00:00:00Z")

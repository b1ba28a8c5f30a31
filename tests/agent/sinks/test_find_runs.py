"""Stored runs, found in each sink by what people call them."""

from __future__ import annotations

from pathlib import Path

import msgspec


def test_stored_runs_are_found_by_id_by_tag_and_by_name(sqlite_uri: str, tmp_path: Path) -> None:
    from tailrace_agent.ipc.records import RunSpec
    from tailrace_agent.sinks.memory import MemorySink
    from tailrace_agent.sinks.mlflow import open_sink

    for sink in (MemorySink(), open_sink(sqlite_uri, str(tmp_path), request_timeout=10)):
        spec = RunSpec(run=0xABCDEF0123456789 >> 1, start_time=1, cwd="/", run_name="it's %_ me")
        ref = sink.open_run(spec, None, find_first=False)
        sink.open_run(msgspec.structs.replace(spec, run=5, run_name="other"), None, find_first=False)
        for text in (ref.run_id, ref.run_id[:9], "55e6f7", "it's %_ me"):
            (found,) = sink.find_runs(text)
            assert found.ref.run_id == ref.run_id
            assert found.status == "RUNNING"
        assert sink.find_runs("it's") == []

"""trackio's databases in MLflow; made here with the tables that trackio makes."""

from __future__ import annotations

import json
import math
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from helpers.commands import tailrace
from helpers.sdk_tools import named
from tailrace_agent.errors import NotFound, TailraceError
from tailrace_agent.reading.foreign.trackio_db import trackio_directory, trackio_runs

_TABLES = """
CREATE TABLE metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, {run} timestamp TEXT NOT NULL, run_name TEXT NOT NULL,
    step INTEGER NOT NULL, metrics TEXT NOT NULL);
CREATE TABLE configs (id INTEGER PRIMARY KEY AUTOINCREMENT, {run} run_name TEXT NOT NULL, config TEXT NOT NULL,
    created_at TEXT NOT NULL);
CREATE TABLE system_metrics (id INTEGER PRIMARY KEY AUTOINCREMENT, {run} timestamp TEXT NOT NULL,
    run_name TEXT NOT NULL, metrics TEXT NOT NULL);
"""


def database(path: Path, *, old: bool = False) -> Path:
    with closing(sqlite3.connect(path)) as db:
        db.executescript(_TABLES.format(run="" if old else "run_id TEXT NOT NULL,"))
    return path


def log(path: Path, run: str, steps: range, *, old: bool = False) -> None:
    named_by = "run_name" if old else "run_id, run_name"
    names = [run] if old else [f"id-{run}", run]
    marks = ", ".join("?" * len(names))
    with closing(sqlite3.connect(path)) as db, db:
        for step in steps:
            metrics = {"loss": 1.0 / (step + 1), "train": {"acc": step}, "bad": "NaN", "text": "x"}
            at = f"2026-01-01T00:00:{step:02}+00:00"
            db.execute(
                f"INSERT INTO metrics({named_by}, timestamp, step, metrics) VALUES({marks}, ?, ?, ?)",
                [*names, at, step, json.dumps(metrics)],
            )
        if not steps.start:
            db.execute(
                f"INSERT INTO configs({named_by}, config, created_at) VALUES({marks}, ?, ?)",
                [*names, json.dumps({"lr": 0.1, "model": {"layers": 2}}), "2026-01-01T00:00:00"],
            )
            db.execute(
                f"INSERT INTO system_metrics({named_by}, timestamp, metrics) VALUES({marks}, ?, ?)",
                [*names, "2026-01-01T00:00:00", json.dumps({"gpu(%)": 50})],
            )


@pytest.mark.parametrize("old", [False, True], ids=["now", "without ids of runs"])
def test_runs_arrive_and_go_on(sqlite_uri: str, tmp_path: Path, old: bool) -> None:
    path = database(tmp_path / "digits.db", old=old)
    log(path, "first", range(5), old=old)
    log(path, "second", range(3), old=old)
    for _ in range(2):
        result = tailrace("import", "trackio", str(tmp_path), "--tracking-uri", sqlite_uri)
        assert result.exit_code == 0, result.output
    assert "2 there before" in result.stdout
    found = named(sqlite_uri, "first")
    assert found.history("loss") == [(step, 1.0 / (step + 1)) for step in range(5)]
    assert found.history("train.acc")[-1] == (4, 4.0)
    assert all(math.isnan(value) for _, value in found.history("bad"))
    assert found.history("system/trackio/gpu__percent") == [(0, 50.0)]
    assert found.params == {"lr": "0.1", "model.layers": "2"}
    assert found.run.info.end_time - found.run.info.start_time == 4000
    assert found.client.get_experiment(found.run.info.experiment_id).name == "digits"
    log(path, "first", range(5, 7), old=old)
    result = tailrace("import", "trackio", str(path), "--tracking-uri", sqlite_uri)
    assert "1 continued, 1 there before" in result.stdout
    assert len(named(sqlite_uri, "first").history("loss")) == 7


def test_what_is_no_database_of_trackio_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there are no databases of trackio"):
        list(trackio_runs(tmp_path))
    (tmp_path / "odd.db").write_bytes(b"no database at all, but long enough to be read as one" * 10)
    database(tmp_path / "zdigits.db")
    log(tmp_path / "zdigits.db", "first", range(2))
    log(tmp_path / "zdigits.db", "second", range(2))
    with closing(sqlite3.connect(tmp_path / "zdigits.db")) as db, db:
        db.execute("UPDATE configs SET config = '[1]' WHERE run_name = 'first'")
    odd, first, second = trackio_runs(tmp_path)
    assert isinstance(odd, TailraceError)
    assert isinstance(first, TailraceError)
    assert not isinstance(second, TailraceError)
    assert "odd.db cannot be read" in str(odd)
    assert "the run first cannot be read" in str(first)
    assert second.name == "second"


def test_where_trackio_keeps_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert trackio_directory() == tmp_path / "trackio"
    monkeypatch.setenv("TRACKIO_DIR", "/else/where")
    assert trackio_directory() == Path("/else/where")

"""A SQLite database read without MLflow gives what MLflow's own store gives."""

from __future__ import annotations

import math
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag, ViewType

from tailrace_agent.errors import NotFound
from tailrace_agent.mlflow import stores
from tailrace_agent.mlflow.sqlite_runs import known_database
from tailrace_agent.reading import sqlite_reads
from tailrace_agent.reading.own_reads import OwnReads
from tailrace_agent.reading.read_store import ACTIVE_ONLY, ALL, Point
from tailrace_agent.reading.reader import Reader, open_reader
from tailrace_agent.reading.sqlite_reads import SqliteReads

AT = 1_700_000_000_000


@pytest.fixture
def ids(sqlite_uri: str, quiet_mlflow: None) -> list[str]:
    client = MlflowClient(sqlite_uri)
    other = client.create_experiment("other")
    client.delete_experiment(client.create_experiment("deleted"))
    found = []
    for n, (experiment, name) in enumerate([("0", "base"), ("0", "Base"), (other, "wide"), ("0", "bin")]):
        run_id = client.create_run(experiment, start_time=AT + n // 2, run_name=name).info.run_id
        metrics = [Metric("loss", n / 4, AT, 3), Metric("odd", math.nan, AT, 0), Metric("big", math.inf, AT, 1)]
        client.log_batch(run_id, metrics, [Param("lr", f"0.{n}")], [RunTag("tailrace.run", f"ab{n}")])
        found.append(run_id)
    client.set_terminated(found[1], "FAILED")
    client.delete_run(found[3])
    return found


@pytest.fixture
def ways(sqlite_uri: str, ids: list[str], tmp_path: Path) -> tuple[SqliteReads, OwnReads]:
    database = known_database(sqlite_uri, str(tmp_path))
    assert database is not None
    own = OwnReads(stores.open_store(database, str(tmp_path), 20.0))
    return SqliteReads(database, str(tmp_path), 20.0), own


def _plain(run: Any) -> Any:
    """What is read of a run; NaN as a text, since it is not like itself."""
    info, data = run.info, run.data
    metrics = sorted((m.key, repr(m.value), m.timestamp, m.step) for m in data._metric_objs)
    fields = ("run_id", "experiment_id", "run_name", "status", "start_time", "end_time", "lifecycle_stage")
    values = {key: repr(value) for key, value in sorted(data.metrics.items())}
    return (
        [getattr(info, field) for field in (*fields, "artifact_uri")],
        metrics,
        values,
        dict(data.params),
        dict(data.tags),
    )


def test_view_types_are_mlflows() -> None:
    assert (ACTIVE_ONLY, ALL) == (ViewType.ACTIVE_ONLY, ViewType.ALL)


@pytest.mark.parametrize("view", [ACTIVE_ONLY, ALL])
@pytest.mark.parametrize(
    "query",
    [
        "",
        "attributes.status = 'RUNNING'",
        "status != 'FAILED'",
        "attributes.run_name = 'base'",
        "attributes.run_name LIKE 'b%'",
        "attributes.run_id LIKE '%'",
        "tags.`tailrace.run` LIKE 'AB%'",
        "metrics.`loss` > 0.2",
        "metrics.`odd` < 1",
        "metrics.`odd` != 0",
        "metrics.`loss` != 0.25",
        "metrics.`loss` >= 0.25 AND params.`lr` != '0.2'",
        "params.`lr` = '0.1'",
        "params.`lr` ILIKE '0.%'",
        "metrics.`none` < 1",
    ],
)
def test_a_search_finds_what_mlflow_finds(ways: tuple[SqliteReads, OwnReads], query: str, view: int) -> None:
    ours, own = (
        [_plain(run) for run in way.run_page(["0", "1", "2"], query, view, 100, ["attributes.start_time DESC"], None)]
        for way in ways
    )
    assert ours == own


def test_pages_and_their_tokens_are_mlflows(ways: tuple[SqliteReads, OwnReads]) -> None:
    for ask in (
        lambda way, token: way.run_page(["0", "1"], "", ACTIVE_ONLY, 2, [], token),
        lambda way, token: way.experiment_page(1, token),
    ):
        first, own = (ask(way, None) for way in ways)
        assert (len(first), first.token.encode()) == (len(own), own.token)
        assert [_name(each) for each in first] == [_name(each) for each in own]
        second = [[_name(each) for each in ask(way, own.token)] for way in ways]
        assert second[0] == second[1] != []


def _name(found: Any) -> Any:
    return found.info.run_id if hasattr(found, "info") else (found.experiment_id, found.name)


def test_another_order_is_mlflows_to_find(ways: tuple[SqliteReads, OwnReads]) -> None:
    ours, own = (
        [_plain(run) for run in way.run_page(["0"], "", ACTIVE_ONLY, 9, ["metrics.`loss` ASC"], None)] for way in ways
    )
    assert ours == own


def test_a_run_is_read_out_of_the_bin_and_one_that_is_not_there_is_refused_in_mlflows_words(
    ways: tuple[SqliteReads, OwnReads], ids: list[str]
) -> None:
    for run_id in ids:
        assert _plain(ways[0].read_run(run_id)) == _plain(ways[1].read_run(run_id))
    said = []
    for way in ways:
        with pytest.raises(Exception, match="not found") as raised:
            way.read_run("0" * 32)
        said.append(str(raised.value))
    assert said[0] == said[1]


def _logged(uri: str, run_id: str, key: str, points: int) -> None:
    client = MlflowClient(uri)
    for begin in range(0, points, 1000):
        steps = range(begin, min(points, begin + 1000))
        client.log_batch(run_id, [Metric(key, -99.0 if n == 777 else n % 10, AT + n, n) for n in steps])


def _all(way: SqliteReads | OwnReads, run_id: str, key: str) -> list[Point]:
    return [point for piece in way.read_points(run_id, key) for point in piece]


def test_a_history_comes_by_step_in_pages_that_lose_no_point(
    ways: tuple[SqliteReads, OwnReads], sqlite_uri: str, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _logged(sqlite_uri, ids[0], "x", 50)
    client = MlflowClient(sqlite_uri)
    # More of one step than a page takes, and one step before the first.
    client.log_batch(ids[0], [Metric("x", float(n), AT - n, 20) for n in range(30)])
    client.log_batch(ids[0], [Metric("x", math.nan, AT, -5), Metric("x", -math.inf, AT, 99)])
    monkeypatch.setattr(sqlite_reads, "_ROWS", 7)
    ours, own = (_all(way, ids[0], "x") for way in ways)
    assert repr(ours) == repr(own)
    assert len(ours) == 82


def test_whoever_reads_a_history_slowly_keeps_nobody_from_writing(
    ways: tuple[SqliteReads, OwnReads], sqlite_uri: str, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _logged(sqlite_uri, ids[0], "x", 100)
    monkeypatch.setattr(sqlite_reads, "_ROWS", 10)
    pieces = ways[0].read_points(ids[0], "x")
    assert len(next(pieces)) == 10
    with closing(sqlite3.connect(sqlite_uri.removeprefix("sqlite:///"), timeout=0.0)) as other:
        other.execute("UPDATE runs SET name = 'written meanwhile'")
        other.commit()
    assert sum(map(len, pieces)) == 90


def test_of_many_points_some_come_as_mlflows_store_is_asked_for_them(
    ways: tuple[SqliteReads, OwnReads], sqlite_uri: str, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _logged(sqlite_uri, ids[0], "x", 1500)
    for first, last in ((None, None), (700, None), (None, 800), (100, 1200)):
        ours, own = (way.thinned(ids[0], "x", 50, first, last) for way in ways)
        assert ours == own
        assert ours.whole
    monkeypatch.setattr(sqlite_reads, "_WHOLE", 100)
    found, whole = ways[0].thinned(ids[0], "x", 50, 100, 1200)
    assert not whole
    assert 45 <= len(found) <= 55
    assert (found[0][0], found[-1][0]) == (100, 1200)
    assert ways[0].thinned(ids[0], "no such metric", 50, None, None) == ([], True)


def test_peaks_are_found_of_all_points_a_piece_at_a_time(
    ways: tuple[SqliteReads, OwnReads], sqlite_uri: str, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _logged(sqlite_uri, ids[0], "x", 1500)
    MlflowClient(sqlite_uri).log_metric(ids[0], "x", math.nan, step=5)
    monkeypatch.setattr(sqlite_reads, "_AT_ONCE", 400)
    first: int | None = 0
    found, pieces = [], 0
    while first is not None:
        peaks = ways[0].peaks(ids[0], "x", 100, first, 1499)
        assert peaks is not None
        found += peaks.points
        first, pieces = peaks.onwards, pieces + 1
    assert pieces == 4
    assert len(found) == 3 * 15
    assert found[3:6] == [(100, 0, 0.0), (100, 0, 9.0), (199, AT + 199, 9.0)]
    assert found[21:23] == [(700, 0, -99.0), (700, 0, 9.0)]
    monkeypatch.undo()
    assert ways[0].peaks(ids[0], "x", 2**53, -(2**62), 2**62 - 1) == (
        [(0, 0, -99.0), (0, 0, 9.0), (1499, AT + 1499, 9.0)],
        None,
    ), "where nothing is takes no time"
    assert ways[1].peaks(ids[0], "x", 100, 0, 1499) is None, "MLflow's own store would have to give all points"


def test_a_database_that_is_migrated_meanwhile_is_left_to_mlflow(
    ways: tuple[SqliteReads, OwnReads], sqlite_uri: str, ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _all(ways[0], ids[0], "loss"), ways[0].thinned(ids[0], "loss", 9, None, None)
    monkeypatch.setattr(SqliteReads, "mlflows_own", lambda self: ways[1].mlflows_own())
    with closing(sqlite3.connect(sqlite_uri.removeprefix("sqlite:///"))) as other:
        other.execute("UPDATE alembic_version SET version_num = 'another'")
        other.commit()
    assert (_all(ways[0], ids[0], "loss"), ways[0].thinned(ids[0], "loss", 9, None, None)) == before
    assert ways[0].peaks(ids[0], "loss", 1, 0, 9) is None
    assert len(ways[0].run_page(["0"], "", ACTIVE_ONLY, 9, [], None)) == 2


def test_a_reader_of_tailraces_own_process_finds_runs_as_any_other(sqlite_uri: str, ids: list[str]) -> None:
    ours, own = (open_reader(sqlite_uri, "/", own_process=mine) for mine in (True, False))
    for text in (ids[0], ids[0][:9], ids[3], "wide", "wi", "ab2", "Base"):
        assert _plain(ours.find(text)) == _plain(own.find(text)), text
        assert ours.record(ours.find(text)).start_time == own.record(own.find(text)).start_time
    for text in ("nobody", "", "ab"):
        said = [_refusal(reader, text) for reader in (ours, own)]
        assert said[0] == said[1]
    assert ours.experiment_ids(["other"]) == own.experiment_ids(["other"])
    pieces = [[repr(column.tolist()) for column in piece] for piece in ours.history(ids[0], "odd")]
    assert pieces == [["[0]", f"[{AT}]", "[nan]"]]
    assert ours.extremes([ours.find(ids[1])], ["loss"]) == {(ids[1], "loss"): (0.25, 0.25)}


def _refusal(reader: Reader, text: str) -> str:
    with pytest.raises(NotFound) as raised:
        reader.find(text)
    return str(raised.value)


def test_runs_are_found_and_read_without_importing_mlflow(sqlite_uri: str, ids: list[str]) -> None:
    code = """
import sys
from tailrace_agent.reading.reader import open_reader
reader = open_reader(sys.argv[1], "/", own_process=True)
run = reader.find(sys.argv[2])
assert reader.search(None, "metrics.loss < 9", ["attributes.start_time DESC"], 10)
assert list(reader.points(run.info.run_id, "loss"))
assert reader.thinned(run.info.run_id, "loss", 10).whole
found = {"mlflow", "numpy", "sqlalchemy", "requests"} & sys.modules.keys()
assert not found, found
"""
    done = subprocess.run(
        [sys.executable, "-c", code, sqlite_uri, "wide"], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr

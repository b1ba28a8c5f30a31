"""Before a store is read: what is none is said, and which of them need no MLflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace_agent.errors import StoreRefused
from tailrace_agent.reading.opening import check_store, without_mlflow
from tailrace_agent.reading.reader import open_reader
from tailrace_agent.reading.server_reads import ServerReads
from tailrace_agent.reading.sqlite_reads import SqliteReads


def test_a_plain_server_and_a_known_database_are_read_without_mlflow_and_nothing_else_is(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(without_mlflow("http://host:5000", "/", 5.0), ServerReads)
    assert isinstance(without_mlflow(sqlite_uri, "/", 5.0), SqliteReads)
    for other in (f"{sqlite_uri}?timeout=3", f"sqlite:///{tmp_path / 'none.db'}", "postgresql://host/db", "databricks"):
        assert without_mlflow(other, "/", 5.0) is None, other
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "kubernetes")
    assert without_mlflow("http://host:5000", "/", 5.0) is None


def test_what_is_no_store_is_said_before_it_is_opened(sqlite_uri: str, tmp_path: Path) -> None:
    check_store(sqlite_uri, create=False)
    check_store("http://host:5000", create=False)
    (tmp_path / "text.db").write_text("a text that is no database")
    (tmp_path / "empty.db").touch()
    absent = f"sqlite:///{tmp_path / 'none.db'}"
    check_store(absent, create=True)
    check_store(f"sqlite:///{tmp_path / 'empty.db'}", create=False)
    for uri, why in (
        (absent, "there is no store .*none.db yet: nothing was logged to it, or the tracking URI is another"),
        (f"sqlite:///{tmp_path / 'text.db'}", "text.db is no SQLite database: check the tracking URI"),
        ("http://", "MLflow cannot use"),
    ):
        for mine in (True, False):
            with pytest.raises(StoreRefused, match=why):
                open_reader(uri, str(tmp_path), own_process=mine)

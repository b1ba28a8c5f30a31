"""Storages by what people write, and what is said of one that cannot be had."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import optuna
import pytest
from sqlalchemy.exc import IntegrityError, OperationalError

from helpers.serving import free_port
from tailrace import SettingsError
from tailrace.hpo import storage
from tailrace.hpo.storage import gone_away, masked, open_storage
from tailrace_agent.errors import Unavailable


def test_what_people_write_is_opened_as_what_it_is(tmp_path: Path) -> None:
    assert isinstance(open_storage(None), optuna.storages.InMemoryStorage)
    assert isinstance(open_storage(tmp_path / "study.journal"), optuna.storages.JournalStorage)
    database = open_storage(f"sqlite:///{tmp_path}/study.db")
    assert isinstance(database, optuna.storages.RDBStorage)
    assert (database.heartbeat_interval, database.grace_period) == (10, 60)
    assert open_storage(database) is database


@pytest.mark.parametrize(
    ("storage", "shown"),
    [
        ("postgresql://ada:s3cr3t@db/studies", "postgresql://ada:***@db/studies"),
        ("postgresql://ada:s3cr3t@db:port/studies", "postgresql://…"),
        ("study.journal", "study.journal"),
        (None, "memory"),
    ],
)
def test_no_password_is_shown(storage: str | None, shown: str) -> None:
    assert masked(storage) == shown


def test_a_storage_that_is_away_is_one_error_without_its_password(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"storage sqlite:////.*/none/study\.db cannot be used: unable to open") as no:
        open_storage(f"sqlite:///{tmp_path}/none/study.db")
    assert "\n" not in str(no.value)
    pytest.importorskip("psycopg2")
    with pytest.raises(Unavailable, match="cannot be used: ") as error:
        open_storage(f"postgresql://ada:s3cr3t@127.0.0.1:{free_port()}/studies")
    assert "postgresql://ada:***@127.0.0.1" in str(error.value)
    assert "s3cr3t" not in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("nosuchdb://host/studies", "storage nosuchdb://host/studies"),
        ("grpc://", "is no address; write grpc://host:13000|cannot be opened"),
        ("grpc://host:port", "is no address; write grpc://host:13000"),
        ("/no/such/directory/study.journal", "cannot be opened: No such file"),
    ],
)
def test_what_can_never_be_a_storage_is_said_to_be_none(storage: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        open_storage(storage)


def test_a_file_of_something_else_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "study.db"
    path.write_bytes(b"SQLite format 3\0" + bytes(100) + b"\n")
    with pytest.raises(SettingsError, match="is no journal of Optuna's; a database is named as sqlite:///"):
        open_storage(path)


def test_a_proxy_that_does_not_answer_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("grpc")
    monkeypatch.setattr("tailrace.hpo.storage._CONNECT_WITHIN", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        port = deaf.getsockname()[1]
        with pytest.raises(Unavailable, match=f"grpc://127.0.0.1:{port} does not answer .* is Optuna's proxy server"):
            open_storage(f"grpc://127.0.0.1:{port}")


def test_a_database_in_which_another_machine_creates_the_tables_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, tries = optuna.storages.RDBStorage, []

    def collides(*arguments: Any, **named: Any) -> Any:
        tries.append(1)
        if len(tries) < 3:
            raise IntegrityError("CREATE TABLE studies", {}, Exception("duplicate key value"))
        return whole(*arguments, **named)

    monkeypatch.setattr(storage, "_PAUSE", 0.0)
    monkeypatch.setattr(optuna.storages, "RDBStorage", collides)
    assert open_storage(f"sqlite:///{tmp_path}/studies.db") is not None
    assert len(tries) == 3


_REFUSED = OperationalError("SELECT 1", {}, Exception("connection to s3cr3t@db failed:\n refused"))


@pytest.mark.parametrize(
    "error", [_REFUSED, ConnectionResetError("reset by peer"), FileNotFoundError(2, "No such file")]
)
def test_a_storage_that_goes_away_on_the_way_is_one_error_without_its_password(error: Exception) -> None:
    away = gone_away(error, "postgresql://ada:s3cr3t@db/studies")
    assert away is not None
    assert str(away).startswith("storage postgresql://ada:***@db/studies has gone away on the way: ")
    assert "once it is there again, the same command goes on with the study" in str(away)
    assert "s3cr3t" not in str(away)
    assert "\n" not in str(away)


def test_optunas_own_words_for_a_storage_that_is_away_give_way_to_the_cause() -> None:
    error = optuna.exceptions.StorageInternalError("An exception is raised during the commit.")
    error.__cause__ = _REFUSED
    assert "failed: refused" in str(gone_away(error, "study.journal"))
    stumbled = UnboundLocalError("updated_state")  # in Optuna, on the way out
    stumbled.__context__ = error
    assert "failed: refused" in str(gone_away(stumbled, "study.journal"))


def test_any_other_error_is_not_taken_for_the_storages() -> None:
    assert gone_away(ValueError("it diverges"), "study.journal") is None
    assert gone_away(KeyError(3), None) is None
    assert gone_away(ConnectionResetError("reset by peer"), None) is None  # memory does not go away

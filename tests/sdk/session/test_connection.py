"""A process's connection to its session: what is put keeps its order, and what fails is not raised into training."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from helpers.sdk_tools import warnings
from tailrace import CallError, Settings
from tailrace._messages.voice import Voice
from tailrace._session import connection as module
from tailrace._session.connection import SESSION, Connection, point_children_nowhere
from tailrace_agent.errors import SessionError
from tailrace_agent.ipc.records import Drop, Flush, Tags, decode_control, encode


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv(SESSION, "")
    return Settings(dir=str(tmp_path / "tailrace"))


@pytest.fixture
def connection(settings: Settings) -> Iterator[Connection]:
    """One whose agent nobody has started."""
    connection = Connection.open(settings, Voice())
    yield connection
    connection.close(0.0)
    connection.session.remove()


class Ring:
    """Takes rows while it has room, and gives back the others as a real one does."""

    def __init__(self, connection: Connection) -> None:
        self.room, self.rows, self._connection = 0, list[bytes](), connection
        self.largest = 1000

    def put(self, row: bytes) -> None:
        if not self.room or len(row) > self.largest:
            self._connection._dropped(row, "the disk is full")
            return
        self.room -= 1
        self.rows.append(row)

    def tags(self) -> list[str]:
        """The tags that it has taken."""
        found = [decode_control(row) for row in self.rows]
        return [name for each in found if isinstance(each, Tags) for name in each.tags]


@pytest.fixture
def ring(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> Ring:
    ring = Ring(connection)
    monkeypatch.setattr(connection, "_ring", ring)
    return ring


def test_what_found_no_room_is_handed_over_later_and_in_its_order(connection: Connection, ring: Ring) -> None:
    for name in "abc":
        connection.put(Tags(1, {name: "x"}))
    assert connection.obstacle == "no room in the ring, nor on the disk"
    ring.room = 2
    connection.put(Tags(1, {"d": "x"}))
    assert ring.tags() == ["a", "b"]
    ring.room = 99
    connection.put(Tags(1, {"e": "x"}))
    assert ring.tags() == ["a", "b", "c", "d", "e"]
    assert connection.obstacle is None


def test_a_small_record_does_not_overtake_a_large_one_that_found_no_room(connection: Connection, ring: Ring) -> None:
    ring.room, ring.largest = 99, 100
    connection.put(Tags(1, {"large": "x" * 200}))
    connection.put(Tags(1, {"small": "x"}))
    assert ring.tags() == []
    ring.largest = 1000
    connection.put(Tags(1, {"last": "x"}))
    assert ring.tags() == ["large", "small", "last"]


def test_metrics_that_found_no_room_are_counted_with_one_warning(
    connection: Connection, ring: Ring, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        connection.put_first(encode((1, 0, 5, {"a": 1.0, "b": 2.0})))
    ring.room = 99
    connection.put(Flush(1, 1))
    assert Drop(1, "metric", "the disk is full", 6) in [decode_control(row) for row in ring.rows]
    assert warnings(caplog) == ["tailrace: the disk is full: metrics are dropped until there is room"]


def test_a_record_that_the_agent_could_not_read_is_an_error_at_the_call(connection: Connection, ring: Ring) -> None:
    wrong: Any = {"a": 5}
    ring.room = 99
    with pytest.raises(CallError, match=r"tags: .*str"):
        connection.put(Tags(1, wrong))
    assert ring.rows == []


def test_a_process_that_can_make_no_ring_counts_what_it_logs_and_raises_nothing(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def gone(**_: object) -> Any:
        raise SessionError("the session is over")

    monkeypatch.setattr(connection, "_ring", None)
    monkeypatch.setattr(connection.session, "new_ring", gone)
    connection.put_first(encode((1, 0, 5, {"a": 1.0})))
    connection.put(Tags(1, {"a": "x"}))
    assert "this process cannot log to the run" in caplog.text
    assert connection.obstacle is not None


def test_a_session_that_is_this_processs_own_is_not_joined_and_one_that_is_named_must_be(
    connection: Connection, settings: Settings
) -> None:
    assert os.environ[SESSION] == str(connection.session.dir)
    with pytest.raises(SessionError, match="takes no process in any more"):
        Connection.open(settings, Voice(), str(connection.session.dir))


def test_an_end_empties_the_variable_of_its_own_session_and_of_no_other(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SESSION, "/another")
    connection.close(0.0)
    assert os.environ[SESSION] == "/another"
    point_children_nowhere(SESSION, "/another")
    assert os.environ[SESSION] == ""


def test_a_program_without_a_descriptor_left_is_blind_and_one_whose_session_is_gone_is_not(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for code, said in ((errno.EMFILE, "cannot be seen"), (errno.ENOENT, None)):

        def fails(*_: object, code: int = code) -> int:
            raise OSError(code, os.strerror(code))

        with monkeypatch.context() as patch:
            patch.setattr(module.os, "open", fails)
            blindness = connection.blindness
        assert (blindness is None) if said is None else (said in str(blindness))
    assert connection.trouble is None


def test_of_a_run_that_logs_for_weeks_no_more_than_some_thousand_timings_are_kept(connection: Connection) -> None:
    row = encode((7, 0, 100, {"a": 1.0}))
    connection._sampled(row, 0, 10)  # no timed call
    connection._sampled(encode(Flush(8, 1)), 350, 10)
    for _ in range(5000):
        connection._sampled(row, 350, 10)
    assert (set(connection.timings), set(connection.timings[7])) == ({7}, {260})
    assert len(connection.timings[7]) == 4096


def test_tokens_grow(connection: Connection) -> None:
    tokens = [connection.next_token() for _ in range(3)]
    assert tokens == sorted(set(tokens))

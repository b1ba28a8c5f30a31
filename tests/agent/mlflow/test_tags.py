"""The tags that a run is opened with, and is rid of then, never keep it from being opened."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from tailrace_agent.errors import Unavailable
from tailrace_agent.mlflow.errors import attach
from tailrace_agent.mlflow.run_store import Run
from tailrace_agent.mlflow.tags import delete_tags, send_cut


class _Server:
    """One that takes so many bytes, of which `sent` says how many characters each tag had."""

    def __init__(self, most: int, status: int = 413) -> None:
        self.sent: list[dict[str, int]] = []
        self._most, self._status = most, status

    def take(self, tags: list[tuple[str, str]]) -> str:
        self.sent.append({key: len(value) for key, value in tags})
        if sum(len(value.encode()) for _, value in tags) > self._most:
            error = OSError("no")
            attach(error, SimpleNamespace(status_code=self._status))
            raise error
        return "taken"


def test_tags_are_sent_whole_where_they_fit_and_cut_to_what_a_database_holds() -> None:
    server = _Server(100_000)
    assert send_cut({"note": "ä" * 9000, "run": "a" * 32}, 8000, server.take) == "taken"
    assert server.sent == [{"note": 8000, "run": 32}]


def test_a_description_that_a_proxy_does_not_take_is_cut_until_it_does() -> None:
    server = _Server(3000)
    assert send_cut({"note": "ä" * 6000, "run": "a" * 32}, 8000, server.take) == "taken"
    assert [sent["note"] for sent in server.sent] == [6000, 3000, 1500, 750]
    assert {sent["run"] for sent in server.sent} == {32}


@pytest.mark.parametrize(("status", "tried"), [(413, [1000, 500, 250]), (500, [1000])])
def test_what_cutting_does_not_mend_is_raised(status: int, tried: list[int]) -> None:
    server = _Server(10, status)
    with pytest.raises(OSError, match="no"):
        send_cut({"note": "x" * 1000, "run": "a" * 32}, 8000, server.take)
    assert [sent["note"] for sent in server.sent] == tried


@pytest.mark.parametrize("tags", [{}, {"run": "a" * 32}])
def test_a_request_with_nothing_to_cut_is_sent_once(tags: dict[str, str]) -> None:
    server = _Server(-1)
    with pytest.raises(OSError, match="no"):
        send_cut(tags, 8000, server.take)
    assert len(server.sent) == 1


class _Answering:
    """A server that answers a deletion with a status; `asked` for which tags."""

    remote = True

    def __init__(self, status: int) -> None:
        self.asked: list[str] = []
        self._status = status

    def delete_tag(self, run_id: str, key: str) -> None:
        self.asked.append(f"{run_id} {key}")
        error = OSError("no")
        attach(error, SimpleNamespace(status_code=self._status, headers={}, text="", history=()))
        raise error


@pytest.mark.parametrize("status", [404, 405, 500, 501])
def test_a_tag_stays_that_a_server_does_not_delete(status: int) -> None:
    server: Any = _Answering(status)
    delete_tags(server, "http://mlflow:5000", _run({"a": "1", "c": "3"}), ("a", "b", "c"))
    assert server.asked == ["r a", "r c"], "and what the run does not have is not asked for"


@pytest.mark.parametrize("status", [401, 429, 503])
def test_a_tag_waits_for_a_server_that_is_away(status: int) -> None:
    server: Any = _Answering(status)
    with pytest.raises(Unavailable):
        delete_tags(server, "http://mlflow:5000", _run({"a": "1"}), ("a",))


def _run(tags: dict[str, str]) -> Run:
    return Run("r", "0", "", "RUNNING", "active", None, "", tags, {}, {}, {})

"""What a program passes on of what its agent has to say: each topic once, whatever the words."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from helpers.sdk_tools import said, tracking
from tailrace import Run, Tracker
from tailrace._session.agent_keeper import Keeper
from tailrace._session.connection import Connection
from tailrace_agent.ipc.notices import Notice, Topic, refused
from tailrace_agent.ipc.status import RunStatus


@pytest.fixture
def sdk(sqlite_uri: str) -> Iterator[Tracker]:
    with tracking(sqlite_uri) as tracker:
        yield tracker


def hears(monkeypatch: pytest.MonkeyPatch, run: Run, *notices: Notice) -> None:
    """The run reads a status in which its agent says that."""
    texts, topics = [each.text for each in notices], [each.topic for each in notices]
    told = RunStatus(run=int(run.id, 16), notices=texts, topics=topics)
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "status", lambda *_: told)
        run.ledger()


def test_what_is_the_same_for_all_runs_is_said_once_and_what_is_about_one_run_for_each(
    sdk: Tracker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    about = Topic(refused("metric", "a: b"))
    for words in ("one", "other"):
        with sdk.start_run() as run:
            hears(
                monkeypatch,
                run,
                Notice("nobody is there", Topic(everywhere=True)),
                Notice(f"{words} words: about the same", about),
                Notice(f"{words} words once more", about),
            )
    assert said(caplog) == [
        "tailrace: nobody is there",
        "tailrace: one words: about the same",
        "tailrace: other words: about the same",
    ]


def test_a_store_that_wants_a_login_has_credentials_looked_for_whatever_the_words(
    sdk: Tracker, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    monkeypatch.setattr(Keeper, "expect_credentials", lambda _: looked.append("now"))
    with sdk.start_run() as run:
        hears(monkeypatch, run, Notice("the store asks for other credentials, as a text says that decides nothing"))
        assert looked == []
    with sdk.start_run() as run:
        hears(monkeypatch, run, Notice("who are you?", Topic(everywhere=True, asks_login=True)))
    assert looked == ["now"]


def test_what_an_agent_of_the_version_before_says_without_topics_is_passed_on(
    sdk: Tracker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with sdk.start_run() as run, monkeypatch.context() as patch:
        told = RunStatus(run=int(run.id, 16), notices=["one", "two"])
        patch.setattr(Connection, "status", lambda *_: told)
        run.ledger()
        run.ledger()
    assert said(caplog) == ["tailrace: one", "tailrace: two"]

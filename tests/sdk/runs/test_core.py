"""One run: its tags, what its agent has to say, how it ends, and what is logged to it after that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from helpers.sdk_tools import Store, said, tracking
from tailrace import Run, StoreRefused, Tracker
from tailrace._api.tracker_part import tracker_core_of
from tailrace._runs.run_part import core_of
from tailrace._session.agent_keeper import Keeper
from tailrace._session.connection import Connection
from tailrace_agent.ipc.notices import Notice, Topic, refused
from tailrace_agent.ipc.status import RunStatus


def test_calls_on_a_run_that_has_ended_still_reach_it(sdk: Tracker, sqlite_uri: str) -> None:
    with sdk.start_run() as run:
        run.log(x=1, step=1)
    run.log(x=2, step=2)
    run.log_metric("y", 1)
    run.set_tag("late", "yes")
    assert run.flush().settled
    run.end("FAILED")  # it has ended already, and stays as it is
    store = Store(sqlite_uri, run)
    assert store.history("x") == [(1, 1.0), (2, 2.0)]
    assert (store.tags["late"], store.status) == ("yes", "FINISHED")


@pytest.mark.parametrize(
    ("given", "expected"),
    [("FINISHED", "FINISHED"), ("FAILED", "FAILED"), ("KILLED", "KILLED"), ("failed", "FAILED"), ("DONE", "FINISHED")],
)
def test_a_run_ends_as_it_was_told(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture, given: Any, expected: str
) -> None:
    run = sdk.start_run()
    sdk.end_run(given)
    assert Store(sqlite_uri, run).status == run.status == expected
    assert ("is none of FINISHED, FAILED, KILLED" in caplog.text) is (given == "DONE")


def test_tags_are_strings_and_the_last_value_wins(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError("no str today")

    with sdk.start_run(tags={"a": 1}) as run:
        sdk.set_tag("b", 2)
        sdk.set_tags({"c": 3.5, "a": "changed", 5: None})
        sdk.set_tag("b", "changed")
        sdk.set_tags({f"many {n}": n for n in range(250)})
        sdk.set_tag("hostile", Hostile())
        not_a_mapping: Any = 3
        sdk.set_tags(not_a_mapping)
        sdk.set_tag("\udc80", "\udc81")
        sdk.set_tag("d", "\udc82")
    tags = Store(sqlite_uri, run).tags
    assert (tags["a"], tags["b"], tags["c"], tags["5"], tags["d"]) == ("changed", "changed", "3.5", "None", "\\udc82")
    assert all(tags[f"many {n}"] == str(n) for n in range(250))
    assert "no str today" in caplog.text
    assert "int" in caplog.text


def test_the_message_of_an_error_keeps_no_password(sqlite_uri: str) -> None:
    with tracking(sqlite_uri) as sdk, sdk.start_run() as run:
        run.fail(ConnectionError("cannot reach postgresql://ada:pa55word@host/db with --password pa55word"))
    message = Store(sqlite_uri, run).tags["error.message"]
    assert message == "cannot reach postgresql://ada:***@host/db with --password ***"


def test_what_is_logged_to_a_run_that_has_ended_is_added_to_it_with_a_word(
    sdk: Tracker, sqlite_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    with sdk.start_run(run_name="over") as run:
        run.log(step=0, loss=1.0)
    run.log(step=1, loss=2.0)
    run.log({"loss": np.float32(3)}, 2)
    sdk.log_metric("late", 1.0, run_id=run.run_id)
    tracker_core_of(sdk).runs.named(run.run_id).flush()
    run.flush(10)
    assert Store(sqlite_uri, run).metrics() == {"loss": [(0, 1.0), (1, 2.0), (2, 3.0)], "late": [(0, 1.0)]}
    assert [record.getMessage() for record in caplog.records] == [
        "tailrace: run 'over' has ended: what is logged to it now is added to it all the same, after its end"
    ]
    assert run.ledger().of("metric").late == 2


@pytest.mark.parametrize("times", [1, 10**9])
def test_a_run_whose_error_cannot_be_noted_with_it_is_ended_as_failed_all_the_same(
    times: int, sqlite_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where memory is short, the failure of a run is what is logged then."""
    left = iter(range(times))

    def short(tags: object) -> None:
        if next(left, None) is not None:
            raise MemoryError

    def train(sdk: Tracker) -> None:
        with sdk:
            runs.append(sdk.start_run(nested=True))
            monkeypatch.setattr(core_of(runs[0]), "set_tags", short)
            raise ValueError("it diverges")

    runs: list[Run] = []
    with tracking(sqlite_uri, on_error="warn") as sdk:
        with pytest.raises(ValueError, match="it diverges"):
            train(sdk)
        assert (runs[0].status, sdk.active_run()) == ("FAILED", None)


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


def test_the_id_of_a_run_that_never_comes_to_be_is_not_waited_for(sqlite_uri: str) -> None:
    with tracking(sqlite_uri, on_error="warn", end_timeout=100.0) as sdk:
        run = sdk.start_run(experiment_id="987654")
        with pytest.raises(StoreRefused, match=r"could not be created.*987654"):
            run.run_id  # noqa: B018 - asking is what raises

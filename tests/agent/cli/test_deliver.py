"""One session, delivered in the foreground: to its end, or to the end of patience."""

from __future__ import annotations

import pytest

from helpers.left_sessions import metric_letter, spooled_session
from tailrace_agent.cli._app import Code
from tailrace_agent.cli._credentials import known_credentials
from tailrace_agent.cli._deliver import Foreground, Patience, Tick
from tailrace_agent.ipc.device_slots import Place
from tailrace_agent.ipc.finished import finished
from tailrace_agent.ipc.records import encode
from tailrace_agent.ipc.session import Session
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.sources import load_settings
from tailrace_agent.settings.uris import mask_uri, mask_url
from tailrace_agent.spool.blocks import DEVICE
from tailrace_agent.spool.device_rows import DeviceRow

PARAM = (7, "param", 1, 0, encode({"a": "b"}))


def _lock(session: Session) -> int:
    lock = session.try_agent_lock()
    assert lock is not None
    return lock


def test_a_session_of_which_nothing_is_known_is_gone_when_it_is_delivered() -> None:
    session = Session.create(load_settings(), cwd="/", program="train.py")
    ticks: list[Tick] = []
    result = Foreground(session, _lock(session), {}).run(ticks.append, Patience())
    assert (result.outcome, result.code, ticks[-1][:2]) == ("delivered", Code.FINE, (0, 0))
    assert not session.dir.exists()
    assert not session.shared.exists()


def test_what_is_delivered_is_finished_with_the_number_of_its_dead_letters(sqlite_uri: str) -> None:
    session = spooled_session(
        letters=[metric_letter("f1!")], blocks=[(7, "param", 1, 0, b"\x81\xa1a\xa1b")], uri=sqlite_uri
    )
    result = Foreground(session, _lock(session), {}).run(lambda _: None, Patience())
    assert (result.outcome, result.delivered, result.dead, result.reasons) == ("delivered", 1, 1, [])
    last = finished(session)
    assert last is not None
    assert (last.runs, last.dead) == (1, 1)
    assert not session.shared.exists(), "a finished session has nothing in shared memory"
    assert not session.agent_alive()


def test_a_value_that_no_gpu_computes_any_more_is_dropped_and_not_delivered(sqlite_uri: str) -> None:
    row = DeviceRow("gone", 7, 0, 1, {"loss": Place(0, 3, 1)}, rest=False)
    session = spooled_session(blocks=[PARAM, (7, DEVICE, 1, 0, encode(row))], uri=sqlite_uri)
    result = Foreground(session, _lock(session), {}).run(lambda _: None, Patience())
    assert (result.outcome, result.delivered, result.dropped) == ("delivered", 1, 1)


def test_a_store_that_is_away_is_waited_for_until_patience_ends() -> None:
    session = spooled_session(blocks=[PARAM])
    ticks: list[Tick] = []
    result = Foreground(session, _lock(session), {}).run(ticks.append, Patience(timeout=1.0))
    assert (result.outcome, result.code, result.pending) == ("unreachable", Code.STORE, 1)
    assert "is the server running" in result.reasons[0]
    assert ticks[-1].total == 1
    assert session.try_agent_lock() is not None, "an agent may have it again"
    kept = Session.open(session.dir).info.settings
    assert session.info.settings.retry_max_delay < kept.retry_max_delay, "a person does not wait as long; never saved"


def test_a_session_whose_directory_cannot_be_used_is_released() -> None:
    session = spooled_session()
    (session.dir / "agent.log").mkdir()
    with pytest.raises(OSError, match=r"agent\.log"):
        Foreground(session, _lock(session), {})
    assert session.try_agent_lock() is not None


def test_passwords_are_known_by_the_masked_uri_that_they_belong_to() -> None:
    settings = Settings(tracking_uri="http://ada:pw@a:1", alert_webhook="https://hook.example/secret")
    assert known_credentials(settings, "postgresql://bob:pq@b/c", None, "sqlite:///x.db") == {
        mask_uri("http://ada:pw@a:1")[0]: "ada:pw",
        mask_uri("postgresql://bob:pq@b/c")[0]: "bob:pq",
        mask_url("https://hook.example/secret"): "https://hook.example/secret",
    }

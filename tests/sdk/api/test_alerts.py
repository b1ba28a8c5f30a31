"""Alerts that the program raises: one line here, in words that cannot steer a terminal, and a record for the agent."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.sdk_tools import lines, tracking, warnings
from tailrace import CallError, Run, Tracker
from tailrace._runs.run_part import core_of
from tailrace_agent.ipc.records import Alert


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, off: Tracker) -> tuple[Run, list[Any]]:
    """A run, and what it hands to its agent."""
    run, records = off.start_run(quiet=False), list[Any]()
    monkeypatch.setattr(core_of(run), "put", records.append)
    return run, records


def test_the_same_alert_is_shown_once_and_recorded_each_time(
    sent: tuple[Run, list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    run, records = sent
    for _ in range(2):
        run.alert("diverges", "at step 7", level="error")
    run.alert("diverges", "at step 8", level="error")
    assert warnings(caplog) == ["tailrace: alert: diverges (at step 7)", "tailrace: alert: diverges (at step 8)"]
    assert [(each.title, each.text, each.level) for each in records] == [
        *[("diverges", "at step 7", "error")] * 2,
        ("diverges", "at step 8", "error"),
    ]
    assert all(isinstance(each, Alert) for each in records)


def test_an_info_is_a_line_and_no_warning(
    sent: tuple[Run, list[Any]], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    sent[0].alert("half way", level="info")
    assert (lines(capsys.readouterr().err), warnings(caplog)) == (["alert: half way"], [])


def test_a_level_that_there_is_not_is_taken_as_a_warning_with_a_word(
    sent: tuple[Run, list[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    wrong: Any = "fatal"
    sent[0].alert("x", level=wrong)
    assert [each.level for each in sent[1]] == ["warning"]
    assert "alert level 'fatal' is none of info, warning, error; taken as warning" in caplog.text


def test_under_strict_a_level_that_there_is_not_raises_and_nothing_is_sent(off: Tracker) -> None:
    wrong: Any = "fatal"
    with off.start_run(strict=True) as run, pytest.raises(CallError, match="'fatal'"):
        run.alert("x", level=wrong)


def test_what_is_too_long_is_cut_and_what_is_no_text_becomes_one(sent: tuple[Run, list[Any]]) -> None:
    number: Any = 7
    sent[0].alert("t" * 1000, "x" * 10_000)
    sent[0].alert(number, number)
    long, short = sent[1]
    assert (len(long.title), len(long.text)) == (200, 4000)
    assert (short.title, short.text) == ("7", "7")


def test_with_quiet_an_info_is_not_printed(off: Tracker, capsys: pytest.CaptureFixture[str]) -> None:
    off.start_run().alert("half way", level="info")
    assert "half way" not in capsys.readouterr().err


def test_a_run_that_is_kept_nowhere_says_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with tracking("http://localhost:1", backend="none") as sdk:
        sdk.start_run().alert("x", level="error")
    assert warnings(caplog) == []

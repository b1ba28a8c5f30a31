"""What a server says becomes ours: numbers within bounds, names and messages in plain sight."""

from __future__ import annotations

import math
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.ipc.records import RunSpec, Start
from tailrace_agent.mlflow.errors import retry_after
from tailrace_agent.retry import LONGEST, Backoff
from tailrace_agent.text.quoting import plain, quoted

_NOW = datetime(2024, 5, 1, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("60", 60.0),
        ("1.5", 1.5),
        ("-5", 0.0),
        ("7200", LONGEST),
        ("9" * 60_000, None),
        ("1e300", LONGEST),
        ("1e400", None),
        ("inf", None),
        ("-Infinity", None),
        ("nan", None),
        ("soon", None),
        ("", None),
        ("Wed, 01 May 2024 00:01:00 GMT", 60.0),
        ("Tue, 30 Apr 2024 00:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", LONGEST),
        ("Fri, 99 Dec 99999999999999 23:59:59 GMT", None),
    ],
)
def test_a_wait_that_a_server_asks_for_is_kept_within_an_hour(said: str, kept: float | None) -> None:
    assert retry_after(said, _NOW) == kept


@given(st.text())
def test_no_text_makes_the_wait_anything_but_seconds_within_an_hour(said: str) -> None:
    wait = retry_after(said, _NOW)
    assert wait is None or 0 <= wait <= LONGEST


@given(st.floats())
def test_no_number_makes_the_next_try_a_moment_that_never_comes(after: float) -> None:
    assert math.isfinite(Backoff().failed(5.0, after))


@given(st.text(), st.integers(1, 600))
def test_what_others_say_is_one_line_of_what_can_be_seen(text: str, limit: int) -> None:
    shown = plain(text, limit)
    assert shown.isprintable()
    assert len(shown) <= limit
    assert quoted(text, limit).isprintable()


def test_a_notice_is_short_and_steers_no_terminal() -> None:
    book = RunBook({}, lambda _run, _state: None)
    book.start(Start(RunSpec(run=1, start_time=5, cwd="/", owned=True)), "ring")
    book.notice(1, "\x1b[2J" + "k" * 3_000_000)
    book.trouble(None, "\x1b]0;x\x07" + "k" * 3_000_000)
    state = book.get(1)
    assert state is not None
    for text in (state.notices[0], state.problem or ""):
        assert text.isprintable()
        assert len(text) <= 1000

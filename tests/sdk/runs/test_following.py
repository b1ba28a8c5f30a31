"""What is logged to a run that has ended in another process: to the one that follows, or to it with a word."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tailrace._log.channel import Channel
from tailrace._log.log import LogCall
from tailrace._messages.voice import Voice
from tailrace._runs.following import Follower
from tailrace._session.run_page import RunsPage

ENDED, NEXT = 7, 8
LogOf = Callable[[Channel], LogCall]


class Joined:
    """A joined run's channel, its page, and who is asked to turn to which run."""

    def __init__(self, shared: Path, log_of: LogOf, *, answer: Any = True, follows: bool = True) -> None:
        self.page, self.rows, self.turned = RunsPage(shared), list[bytes](), list[tuple[int, str | None]]()
        self._answer = answer
        channel = Channel(ENDED, self.rows.append, lambda *_: None)
        Follower(self.page, ENDED, Voice(), self._turn if follows else None).watch(channel)
        self.log = log_of(channel)

    def _turn(self, run: int, session: str | None) -> bool:
        self.turned.append((run, session))
        if isinstance(self._answer, Exception):
            raise self._answer
        return bool(self._answer)


def late(caplog: pytest.LogCaptureFixture) -> int:
    return sum("has ended: what is logged to it now" in text for text in caplog.messages)


def test_while_the_run_goes_on_nobody_turns_anywhere(tmp_path: Path, log_of: LogOf) -> None:
    joined = Joined(tmp_path, log_of)
    joined.page.point_at(NEXT)
    joined.log(a=1.0, step=0)
    assert joined.turned == []


def test_a_run_that_is_active_then_is_turned_to_once_and_without_a_word(
    tmp_path: Path, log_of: LogOf, caplog: pytest.LogCaptureFixture
) -> None:
    joined = Joined(tmp_path, log_of)
    joined.page.end(ENDED)
    joined.page.point_at(NEXT)
    joined.log(a=1.0, step=0)
    joined.log(a=2.0, step=1)
    assert joined.turned == [(NEXT, None)]
    assert late(caplog) == 0


def test_a_run_of_another_session_is_turned_to_by_its_session(tmp_path: Path, log_of: LogOf) -> None:
    joined = Joined(tmp_path, log_of)
    joined.page.end(ENDED)
    joined.page.point_elsewhere("/sessions/other", NEXT)
    joined.log(a=1.0, step=0)
    assert joined.turned == [(NEXT, "/sessions/other")]


def test_a_run_of_another_session_is_turned_to_also_where_it_was_active_before_this_one_ended(
    tmp_path: Path, log_of: LogOf
) -> None:
    joined = Joined(tmp_path, log_of)
    joined.page.point_at(ENDED)
    joined.page.point_elsewhere("/sessions/other", NEXT)
    joined.log(a=1.0, step=0)
    assert joined.turned == []
    joined.page.point_elsewhere("/sessions/other", NEXT)  # as the end of a run announces what is active then
    joined.page.end(ENDED)
    joined.log(a=2.0, step=1)
    assert joined.turned == [(NEXT, "/sessions/other")]


@pytest.mark.parametrize("answer", [False, OSError("no descriptor")])
def test_where_it_cannot_turn_the_values_are_added_to_the_ended_run_with_one_word(
    tmp_path: Path, log_of: LogOf, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    joined = Joined(tmp_path, log_of, answer=answer)
    joined.page.end(ENDED)
    joined.page.point_at(NEXT)
    for step in range(3):
        joined.log(a=1.0, step=step)
    assert len(joined.rows) == 3
    assert late(caplog) == 1
    assert ("cannot be joined: no descriptor" in caplog.text) is isinstance(answer, OSError)


def test_a_run_that_has_ended_too_is_not_turned_to(
    tmp_path: Path, log_of: LogOf, caplog: pytest.LogCaptureFixture
) -> None:
    joined = Joined(tmp_path, log_of)
    joined.page.point_at(NEXT)
    joined.page.end(ENDED)
    joined.page.end(NEXT)
    joined.log(a=1.0, step=0)
    assert joined.turned == []
    assert late(caplog) == 1


def test_whoever_holds_the_run_itself_stays_with_it(
    tmp_path: Path, log_of: LogOf, caplog: pytest.LogCaptureFixture
) -> None:
    joined = Joined(tmp_path, log_of, follows=False)
    joined.page.end(ENDED)
    joined.page.point_at(NEXT)
    joined.log(a=1.0, step=0)
    assert len(joined.rows) == 1
    assert late(caplog) == 1

"""`tailrace status`: which sessions are shown, what a row holds, and its exit code."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from helpers.commands import json_of, tailrace
from helpers.left_sessions import finished_session, live_session, metric_letter, spooled_session
from helpers.spools import block
from tailrace_agent.cli import status
from tailrace_agent.spool.store import Spool


def test_of_finished_sessions_the_latest_few_are_shown_the_newest_last() -> None:
    sessions = [finished_session(f"p{number}.py") for number in range(5)]
    left = spooled_session(program="left.py")
    shown = [view["program"] for view in json_of(tailrace("status", "--json"))["sessions"]]
    assert len(shown) == 4
    assert "left.py" in shown, "what needs somebody is always shown"
    text = tailrace("status").stdout
    assert "2 finished sessions not shown: `tailrace status --all`" in text
    assert "1 session left over: `tailrace sync` delivers the rest" in text
    everything = json_of(tailrace("status", "--all", "--json"))["sessions"]
    assert {view["id"] for view in everything} == {left.id, *(session.id for session in sessions)}
    assert [view["id"] for view in everything] == sorted(view["id"] for view in everything)


def test_a_run_is_one_row_with_what_became_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    session = spooled_session(letters=[metric_letter("f1!")], blocks=[block(1200, run=7)], run_name="two\nlines")
    spool = Spool(session.dir / "spool.db")
    spool.ingest([], [(7, "metric", "accepted", 1), (7, "metric", "dropped:a bad value", 1)])
    spool.close()
    result = tailrace("status")
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{session.id}  train.py  leftover, started ")
    assert lines[1].split() == ["RUN", "NAME", "MLFLOW", "STATE", "DELIVERED", "PENDING", "DEAD", "DROPPED", "LAG"]
    assert lines[2].split()[:8] == ["00000000", "two\\nlines", "-", "UNKNOWN", "0", "1,200", "1", "1"]
    assert lines[3].strip() == "1 dropped: a bad value"
    assert lines[-1] == "1 dead letter: `tailrace dead list` says why"


def test_where_there_is_little_room_a_name_gives_way_and_mlflows_id_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    spooled_session(run_name="n" * 60)
    monkeypatch.setenv("COLUMNS", "80")
    header, row = tailrace("status").stdout.splitlines()[1:3]
    assert "MLFLOW" not in header
    assert "nnn…" in row
    assert max(len(header), len(row)) <= 80
    monkeypatch.setenv("COLUMNS", "160")
    assert "n" * 60 in tailrace("status").stdout


@pytest.mark.parametrize(
    ("make", "code"),
    [(finished_session, 0), (spooled_session, 1), (lambda: finished_session(dead=1), 0)],
    ids=["finished", "left", "dead letters that were dropped since"],
)
def test_the_exit_code_asks_for_somebody_only_where_something_is_left(make: Callable[[], object], code: int) -> None:
    make()
    assert tailrace("status").exit_code == code


def test_a_live_session_shows_its_agent_and_that_its_program_has_ended() -> None:
    session = live_session(pending=0)
    lock = session.try_agent_lock()
    assert lock is not None
    title = tailrace("status").stdout.splitlines()[0]
    os.close(lock)
    assert title.startswith(f"{session.id}  train.py  live, started just now, agent 1, its program has ended")


def test_watching_goes_on_until_it_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    finished_session()
    looks = iter([None, KeyboardInterrupt()])

    def pause(seconds: float) -> None:
        if (error := next(looks)) is not None:
            raise error

    monkeypatch.setattr(status.time, "sleep", pause)
    result = tailrace("status", "--watch", "--json")
    assert result.exit_code == 0
    assert result.stdout.count('"sessions"') == 2

"""Runs that go on in a store that has moved, or begin anew in another."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from helpers.commands import json_of, tailrace
from helpers.left_sessions import crash, leave_again, spooled_session
from tailrace_agent.cli._look import reading, states
from tailrace_agent.cli._move import move, moved
from tailrace_agent.delivery.run_book import RunBook
from tailrace_agent.errors import StoreRefused


def test_a_store_that_has_moved_goes_on_with_the_run_it_knows(sqlite_uri: str, tmp_path: Path) -> None:
    session = crash(sqlite_uri)
    assert tailrace("sync").exit_code == 0
    letters = json_of(tailrace("dead", "list", "--json"))["dead_letters"]
    database = Path(sqlite_uri.removeprefix("sqlite:///"))
    database.rename(tmp_path / "elsewhere.db")
    leave_again(session)
    moved = tailrace("sync", "--tracking-uri", f"sqlite:///{tmp_path}/elsewhere.db")
    assert moved.exit_code == 0, moved.output
    assert "goes on in" in moved.stderr
    assert tailrace("verify", letters[0]["run"]).exit_code == 0


def test_what_another_store_took_before_is_not_missed_in_the_new_one(
    sqlite_uri: str, sqlite_template: Path, tmp_path: Path
) -> None:
    session = crash(sqlite_uri)
    assert tailrace("sync").exit_code == 0
    leave_again(session, rename={"lr": "later"})
    shutil.copyfile(sqlite_template, tmp_path / "second.db")
    moved = tailrace("sync", "--tracking-uri", "sqlite:///second.db")
    assert moved.exit_code == 0, moved.output
    assert "300 points stay where they were delivered" in moved.stderr
    verified = tailrace("verify", "crashed")
    assert verified.exit_code == 0, verified.output
    assert "0 points delivered, 0 in MLflow" in verified.output


def test_a_store_that_cannot_be_used_leaves_a_session_as_it_is_and_gives_it_back(tmp_path: Path) -> None:
    session = spooled_session()
    lock = session.try_agent_lock()
    assert lock is not None
    with pytest.raises(StoreRefused, match="carrier-pigeon"):
        move(session, lock, "carrier-pigeon://roof", {}, lambda _: None)
    again = session.try_agent_lock()
    assert again is not None
    os.close(again)
    with reading(session) as spool:
        assert spool is not None
        assert b"127.0.0.1:9" in spool.runs()[7]


def test_a_run_that_was_never_created_begins_in_the_new_store_under_its_name_and_without_old_ids(
    sqlite_uri: str,
) -> None:
    session = spooled_session(run_name="fresh")
    lock = session.try_agent_lock()
    assert lock is not None
    lines: list[str] = []
    assert move(session, lock, sqlite_uri, {}, lines.append) == {}
    os.close(lock)
    assert lines == [f"run {7:016x}"[:12] + f" begins anew in {sqlite_uri}"]
    assert moved(session, 7) is None, "nothing was delivered before"
    with reading(session) as spool:
        assert spool is not None
        (state,) = states(session, spool)
    assert (state.spec.tracking_uri, state.spec.run_name, state.spec.run_id) == (sqlite_uri, "fresh", None)


def test_a_move_that_is_cut_short_leaves_the_run_where_it_is_and_its_counts_right(
    sqlite_uri: str, sqlite_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = crash(sqlite_uri)
    assert tailrace("sync").exit_code == 0
    leave_again(session, rename={"lr": "later"})
    shutil.copyfile(sqlite_template, tmp_path / "second.db")
    with monkeypatch.context() as patched:

        def cut(*_: object, **changes: object) -> None:
            raise KeyboardInterrupt(changes)

        patched.setattr(RunBook, "update", cut)
        assert tailrace("sync", "--tracking-uri", "sqlite:///second.db").exit_code != 0
    assert list(session.dir.glob("moved-*.json")), "what was delivered is noted before anything changes"
    verified = tailrace("verify", "crashed", "--json")
    assert json_of(verified)["delivered"] == 300, verified.output

    moved_again = tailrace("sync", "--tracking-uri", "sqlite:///second.db")
    assert moved_again.exit_code == 0, moved_again.output
    assert "0 points delivered, 0 in MLflow" in tailrace("verify", "crashed").output

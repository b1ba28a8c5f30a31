"""`tailrace clean`: what it deletes, what it keeps, and when it asks."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from helpers.commands import json_of, tailrace
from helpers.left_sessions import crash, finished_session, metric_letter, spooled_session
from tailrace_agent.cli import main
from tailrace_agent.ipc.session import Session
from tailrace_agent.settings.sources import load_settings


def test_clean_never_deletes_what_is_undelivered_unless_told_twice(sqlite_uri: str) -> None:
    crash(sqlite_uri, "delivered")
    assert tailrace("sync").exit_code == 0
    assert tailrace("dead", "drop", "--all", stdin="n\n").exit_code == 1
    assert tailrace("dead", "drop", "--all", stdin="y\n").exit_code == 0
    left = crash(sqlite_uri, "left")
    assert "nothing to delete" in tailrace("clean").output  # too young
    dry = tailrace("clean", "--older-than", "0d", "--dry-run")
    assert "would delete" in dry.output
    assert "unread in its ring" in dry.output
    assert len(list(Session.all(load_settings()))) == 2
    assert tailrace("clean", "--older-than", "0d", "--yes").exit_code == 0
    assert [session.id for session in Session.all(load_settings())] == [left.id]
    assert tailrace("clean", "--discard-undelivered", stdin="n\n").exit_code == 1
    assert left.dir.exists()
    assert tailrace("clean", "--discard-undelivered", "--yes").exit_code == 0
    assert not left.dir.exists()
    assert not left.shared.exists()
    assert tailrace("clean", "--older-than", "soon").exit_code == 2


def test_clean_with_json_never_asks() -> None:
    finished_session(age=100)
    result = CliRunner().invoke(main, ["clean", "--older-than", "0d", "--json"], input="y\n")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert result.stdout == ""


def test_what_is_undelivered_is_kept_and_named_and_nothing_goes_in_a_dry_run() -> None:
    left, done = spooled_session(letters=[metric_letter("f1!")]), finished_session(age=100)
    dry = json_of(tailrace("clean", "--older-than", "0", "--dry-run", "--json"))
    assert [each["name"] for each in dry["deleted"]] == [done.id]
    assert [(each["name"], each["undelivered"]) for each in dry["kept"]] == [(left.id, "1 dead letter")]
    assert (done.dir.exists(), dry["freed_bytes"] > 0) == (True, True)
    gone = json_of(tailrace("clean", "--older-than", "0", "--yes", "--json"))
    assert (gone["dry_run"], gone["failed"], done.dir.exists(), left.dir.exists()) == (False, {}, False, True)


def test_finished_sessions_stay_for_as_many_days_as_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    old, young = finished_session(age=3 * 86400), finished_session(age=86400)
    monkeypatch.setenv("TAILRACE_KEEP_DAYS", "2")
    assert tailrace("clean", "--yes").exit_code == 0
    assert (old.dir.exists(), young.dir.exists()) == (False, True)


def test_what_could_not_be_deleted_is_an_exit_code_and_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    session = finished_session(age=100)
    monkeypatch.setattr("tailrace_agent.cli._litter.remove", lambda settings, litter: "it is live")
    result = tailrace("clean", "--older-than", "0", "--yes")
    assert result.exit_code == 1
    assert f"not deleted  {session.id}  it is live" in result.stderr

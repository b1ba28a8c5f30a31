"""Sessions that cannot be read: each is named with the mend, and none stops what is done about the others."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from helpers.kept_log import KeptLog
from tailrace_agent.cli import main
from tailrace_agent.cli._checks_store import sessions as sessions_check
from tailrace_agent.delivery.run_state import RunState
from tailrace_agent.hosts.abandoned_sessions import AbandonedSessions
from tailrace_agent.ipc.finished import mark_finished
from tailrace_agent.ipc.records import RunSpec
from tailrace_agent.ipc.session import Session, sessions_root
from tailrace_agent.ipc.survey import Unreadable, survey
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.sources import load_settings
from tailrace_agent.spool.store import Spool

_OTHER_UID = 12345


@pytest.fixture(autouse=True)
def _own_shared_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shm").mkdir()
    monkeypatch.setenv("TAILRACE_RING_DIR", str(tmp_path / "shm"))


def tailrace(*arguments: str) -> Result:
    result = CliRunner().invoke(main, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def done(program: str = "good.py") -> Session:
    """A session in which nothing is left."""
    session = Session.create(load_settings(), cwd="/", program=program)
    spool = Spool(session.dir / "spool.db")
    state = RunState(spec=RunSpec(run=7, start_time=1, cwd="/"), ring="r", finalized=True)
    spool.ingest([], [(7, "metric", "accepted", 1), (7, "metric", "delivered", 1)], [(7, _json(state))])
    spool.close()
    mark_finished(session, runs=1, dead=0, at=time.time())
    session.remove_shared()
    return session


def _json(value: object) -> bytes:
    import msgspec

    return msgspec.json.encode(value)


def _session_json(body: bytes) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        path.mkdir()
        (path / "session.json").write_bytes(body)

    return make


def _fifo(path: Path) -> None:
    path.mkdir()
    os.mkfifo(path / "session.json")


def _directory(path: Path) -> None:
    (path / "session.json").mkdir(parents=True)


def _link(path: Path) -> None:
    path.symlink_to(next(path.parent.glob("2*")))


BAD: dict[str, Callable[[Path], None]] = {
    "no-utf8": _session_json(b"\xff\xfe{}"),
    "no-json": _session_json(b"{"),
    "no-object": _session_json(b"[]"),
    "empty": _session_json(b""),
    "too-deep": _session_json(b"[" * 100_000),
    "of-another-version": _session_json(b'{"id": 1, "format": 99}'),
    "nothing": lambda path: path.mkdir(),
    "a-file": lambda path: path.write_bytes(b"x") and None,  # type: ignore[func-returns-value]
    "a-link": _link,
    "a-broken-link": lambda path: path.symlink_to("nowhere"),
    "a-pipe": _fifo,
    "a-directory": _directory,
    os.fsdecode(b"odd-\xff\x1b[31m\n"): lambda path: path.mkdir(),
}


def _make_bad(root: Path, names: dict[str, Callable[[Path], None]]) -> None:
    for name, make in names.items():
        make(root / name)
        os.utime(root / name, (1, 1), follow_symlinks=False)


def test_each_is_named_by_every_command_with_the_mend_and_hides_no_other() -> None:
    good = done()
    root = sessions_root(load_settings())
    _make_bad(root, BAD)

    told = tailrace("status", "--json")
    views: dict[str, dict[str, Any]] = {view["id"]: view for view in json.loads(told.stdout)["sessions"]}
    assert told.exit_code == 1
    assert views.pop(good.id)["state"] == "finished"
    assert len(views) == len(BAD)
    for view in views.values():
        assert (view["state"], bool(view["problem"]), bool(view["mend"])) == ("unreadable", True, True), view
    shown = tailrace("status")
    assert shown.exit_code == 1
    assert good.id in shown.output
    assert "\x1b" not in shown.output
    for name in views:
        assert name.split("\x1b")[0] in shown.output

    checks = sessions_check(load_settings())
    assert len(checks) == len(BAD)
    assert all(check.result == "warn" and check.mend for check in checks)

    synced = tailrace("sync", "--json")
    results = {each["session"]: each for each in json.loads(synced.stdout)["sessions"]}
    assert synced.exit_code == 1
    assert set(results) == set(views)

    kept = tailrace("clean", "--older-than", "0d", "--yes", "--json")
    assert [each["name"] for each in json.loads(kept.stdout)["deleted"]] == [good.id]
    assert {each["name"] for each in json.loads(kept.stdout)["kept"]} == set(views)


def test_what_cannot_be_read_is_deleted_when_that_is_asked_for_and_a_links_target_stays(tmp_path: Path) -> None:
    done()
    root = sessions_root(load_settings())
    (tmp_path / "elsewhere").mkdir()
    _make_bad(root, {**BAD, "to-elsewhere": lambda path: path.symlink_to(tmp_path / "elsewhere")})
    gone = tailrace("clean", "--older-than", "0d", "--discard-undelivered", "--yes")
    assert gone.exit_code == 0, gone.output
    assert os.listdir(root) == []  # noqa: PTH208
    assert (tmp_path / "elsewhere").is_dir()


def test_agents_leave_them_alone_and_then_leave() -> None:
    own = Session.create(load_settings(), cwd="/", program="p")
    _make_bad(sessions_root(load_settings()), {**BAD, "a-link": lambda path: path.symlink_to(own.dir)})
    log = KeptLog()
    abandoned = AbandonedSessions(own, log)
    abandoned.step(abandoned.step(0.0))
    assert abandoned.done
    assert len(log.texts) == len(BAD)


def test_a_session_that_is_being_born_is_nobodys_trouble() -> None:
    (sessions_root(load_settings()) / "just-made").mkdir(parents=True)
    assert list(survey(load_settings())) == []


@pytest.mark.parametrize("body", [b"\xff", b"", None])
def test_sync_writes_a_lost_session_json_anew_and_delivers_what_is_there(body: bytes | None, sqlite_uri: str) -> None:
    session = Session.create(load_settings({"tracking_uri": sqlite_uri}), cwd="/", program="p")
    spool = Spool(session.dir / "spool.db")
    state = RunState(spec=RunSpec(run=7, start_time=1, cwd="/", tracking_uri=sqlite_uri), ring="r")
    spool.ingest([(7, "param", 1, 0, b"\x81\xa1a\xa1b")], [(7, "param", "accepted", 1)], [(7, _json(state))])
    spool.close()
    file = session.dir / "session.json"
    file.unlink() if body is None else file.write_bytes(body)
    os.utime(session.dir, (1, 1))
    session.remove_shared()  # a reboot: it may be another machine's
    assert tailrace("sync").exit_code == 1
    forced = tailrace("sync", session.id, "--force")
    assert forced.exit_code == 0, forced.output
    assert "1 entry delivered" in forced.output
    assert tailrace("status").exit_code == 0


def test_what_a_later_version_wrote_into_one_field_costs_that_field_alone() -> None:
    session = Session.create(load_settings({"keep_days": 3}), cwd="/", program="p")
    raw = json.loads((session.dir / "session.json").read_bytes())
    raw["settings"]["linger"], raw["settings"]["colour"], raw["format"] = "a week", "red", {"v": 9}
    (session.dir / "session.json").write_text(json.dumps(raw))
    (found,) = survey(load_settings())
    assert isinstance(found, Session)
    assert (found.info.settings.linger, found.info.settings.keep_days) == (Settings().linger, 3)


# -- other users ---------------------------------------------------------------------------------------------------


@pytest.fixture
def as_another(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """A state directory of another user; and whoever calls it is that user from then on."""
    done()
    for command in (["status"], ["sync", "--force"], ["clean"]):  # what they import may be closed to that user
        tailrace(*command)
    import_module("tailrace_agent.cli._deliver")
    place = Path(tempfile.mkdtemp(prefix="tailrace-test-"))
    place.chmod(0o755)
    for name, variable in (("state", "TAILRACE_DIR"), ("shm", "TAILRACE_RING_DIR")):
        (place / name).mkdir()
        os.chown(place / name, _OTHER_UID, -1)
        monkeypatch.setenv(variable, str(place / name))
    monkeypatch.chdir("/")
    yield lambda: os.setresuid(_OTHER_UID, _OTHER_UID, 0)
    os.setresuid(0, 0, 0)
    shutil.rmtree(place)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_session_of_root_or_of_a_closed_mode_is_named_with_the_command_that_opens_it(
    as_another: Callable[[], None],
) -> None:
    as_another()
    good, closed, spool_of_root, roots = done(), done(), done(), done()
    os.setresuid(0, 0, 0)
    os.chown(roots.dir, 0, 0)  # after a sudo
    os.chown(spool_of_root.dir / "spool.db", 0, 0)
    (spool_of_root.dir / "spool.db").chmod(0o600)
    (spool_of_root.dir / "finished").unlink()
    as_another()
    closed.dir.chmod(0)
    views = {view["id"]: view for view in json.loads(tailrace("status", "--json").stdout)["sessions"]}
    assert len(views) == 4
    assert views[good.id]["state"] == "finished"
    assert views[closed.id]["mend"] == f"chmod -R u+rwX {closed.dir}"
    assert views[roots.id]["mend"] == f"sudo chown -R {_OTHER_UID} {roots.dir}"
    assert "belongs to root" in views[roots.id]["problem"]
    assert views[spool_of_root.id]["state"] == "unreadable"
    assert f"sudo chown -R {_OTHER_UID}" in views[spool_of_root.id]["mend"]
    synced = tailrace("sync")
    assert synced.exit_code == 1
    for session in (closed, roots, spool_of_root):
        assert session.id in synced.output
    own = Session.create(load_settings(), cwd="/", program="p")
    abandoned = AbandonedSessions(own, KeptLog())
    for now in range(0, 1000, 10):
        abandoned.step(now)
    assert abandoned.done
    cleaned = tailrace("clean", "--older-than", "0d", "--discard-undelivered", "--yes")
    assert cleaned.exit_code == 1  # what is root's cannot be deleted, and that is said
    assert roots.id in cleaned.output
    assert not closed.dir.exists()
    assert not good.dir.exists()


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_directory_of_sessions_that_is_closed_is_one_line_with_the_mend(as_another: Callable[[], None]) -> None:
    as_another()
    root = done().dir.parent
    root.chmod(0)
    for command in ("status", "sync", "clean"):
        told = tailrace(command)
        assert told.exit_code == 1
        assert f"chmod -R u+rwX {root}" in told.output
    (check,) = sessions_check(load_settings())
    assert check.result == "fail"


# -- files as a whole --------------------------------------------------------------------------------------------------


def test_found_and_unreadable_are_told_apart() -> None:
    done()
    (sessions_root(load_settings()) / "x").touch()
    assert [type(found) for found in survey(load_settings())] == [Session, Unreadable]


# -- what was set aside ------------------------------------------------------------------------------------------------


def test_a_spool_that_was_set_aside_is_told_until_somebody_takes_it_away(sqlite_uri: str) -> None:
    session = Session.create(load_settings({"tracking_uri": sqlite_uri}), cwd="/", program="p")
    spool = Spool(session.dir / "spool.db")
    state = RunState(spec=RunSpec(run=7, start_time=1, cwd="/", tracking_uri=sqlite_uri), ring="r")
    blocks = [(7, "param", 1, 0, b"\x81\xa3%03d\xa1b" % at) for at in range(400)]
    spool.ingest(blocks, [(7, "param", "accepted", 400)], [(7, _json(state))])
    spool.close()
    file = session.dir / "spool.db"
    body = bytearray(file.read_bytes())
    page = body.index(b"\x81\xa3200") // 4096 * 4096
    body[page : page + 4096] = bytes(4096)
    file.write_bytes(body)
    first = tailrace("sync", "--json")
    assert first.exit_code == 1
    (result,) = json.loads(first.stdout)["sessions"]
    assert result["outcome"] == "delivered"
    assert 200 < result["delivered"] < 400
    assert f"{400 - result['delivered']} are lost" in result["reasons"][0]
    for command in ("status", "sync"):
        told = tailrace(command)
        assert told.exit_code == 1
        assert "was damaged on disk and set aside" in told.output
        assert "nothing is left" not in told.output
    (check,) = sessions_check(load_settings())
    assert "set aside" in check.text
    assert tailrace("clean", "--older-than", "0d", "--yes").exit_code == 0
    assert session.dir.exists()
    assert tailrace("clean", "--older-than", "0d", "--yes", "--discard-undelivered").exit_code == 0
    assert tailrace("status").exit_code == 0


def test_dead_letters_of_a_session_that_an_older_version_finished_are_still_seen() -> None:
    session = done()
    spool = Spool(session.dir / "spool.db")
    from tailrace_agent.spool.blocks import Outcome

    spool.settle(Outcome(7, "metric", [], 0, dead=[("a", 1, b"x", "bad")]))
    spool.close()
    (session.dir / "finished").write_bytes(b"")
    assert tailrace("status").exit_code == 1


def test_the_spools_of_finished_sessions_are_opened_only_where_they_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    from tailrace_agent.spool import database

    for _ in range(6):
        done()
    opened = []
    connect = database.connect
    monkeypatch.setattr(database, "connect", lambda path, **how: opened.append(how) or connect(path, **how))
    assert tailrace("status").exit_code == 0
    assert opened == [{"prove": False}] * 3
    opened.clear()
    assert tailrace("sync").exit_code == 0
    assert len(sessions_check(load_settings())) == 1
    assert opened == []

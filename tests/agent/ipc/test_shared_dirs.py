"""Directories in shared memory, where anybody may make one: none of somebody else's is adopted, read or deleted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from helpers.kept_log import KeptLog
from helpers.other_users import MALLORY, acting_as, needs_root
from tailrace._messages.voice import Voice
from tailrace._session.connection import Connection
from tailrace_agent.cli._holding import take_over
from tailrace_agent.cli._litter import find, remove
from tailrace_agent.cli._look import glance
from tailrace_agent.cli.sync import _mend
from tailrace_agent.errors import SessionError
from tailrace_agent.files.ownership import is_private
from tailrace_agent.hosts.abandoned_sessions import is_abandoned
from tailrace_agent.ipc import shared_dirs
from tailrace_agent.ipc.finished import mark_finished
from tailrace_agent.ipc.records import Artifact, End, RunSpec, Start, encode
from tailrace_agent.ipc.ring_format import MIN_BYTES
from tailrace_agent.ipc.ring_writer import RingWriter
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.survey import Unreadable, mended, survey
from tailrace_agent.pipeline.pipeline import Pipeline
from tailrace_agent.settings.settings import Settings
from tailrace_agent.sinks.memory import MemorySink


def forged(session: Session, *records: object, open_to_all: bool = True) -> Callable[[], None]:
    """What makes a session's shared directory again, with a ring that nobody of the session has written."""

    def act() -> None:
        os.umask(0)
        session.shared.mkdir(mode=0o777 if open_to_all else 0o700)
        ring = RingWriter(session.shared / "1-0000.ring", MIN_BYTES, session.shared / "spill")
        ring.path.chmod(0o666)
        for record in records:
            ring.put(encode(record))
        for name in ("agent.lock", "join.lock", "1-0000.owner"):
            (session.shared / name).touch(0o666)

    return act


def delivered(session: Session) -> tuple[list[str | None], MemorySink]:
    """Takes a session over, as `tailrace sync` does, and delivers all that it holds; which stores were opened."""
    opened: list[str | None] = []
    sink = MemorySink()

    def open_sink(tracking_uri: str | None, cwd: str, *, request_timeout: float) -> MemorySink:
        opened.append(tracking_uri)
        return sink

    lock = take_over(session)
    assert lock is not None
    pipeline = Pipeline.open(session, open_sink, KeptLog(), monotonic=lambda: 0.0)
    for now in range(60):
        pipeline.drain(float(now))
        for destination in pipeline.by_uri.values():
            pipeline.deliver(destination, float(now))
            pipeline.upload(destination, float(now))
    pipeline.close()
    os.close(lock)
    return opened, sink


@needs_root
@pytest.mark.parametrize("open_to_all", [True, False])
def test_a_shared_directory_that_somebody_else_has_made_is_not_adopted(session: Session, open_to_all: bool) -> None:
    session.remove_shared()  # a reboot took it along
    acting_as(MALLORY, forged(session, Start(RunSpec(run=1, start_time=1, cwd="/")), open_to_all=open_to_all))
    theirs = session.shared
    before = sorted((path.name, path.stat().st_mtime_ns, path.stat().st_size) for path in theirs.iterdir())
    found = Session.open(session.dir)
    assert not found.has_shared
    assert found.rings() == []
    assert not found.owner_alive("1-0000")
    assert not found.agent_alive()
    assert not found.closed
    assert is_abandoned(found)
    with pytest.raises(OSError, match="not this user's"):
        found.try_agent_lock()
    with pytest.raises(OSError, match="not this user's"):
        found.wait_for_agent_death()
    with pytest.raises(SessionError, match="is gone"):
        found.new_ring()
    found.remove_ring("1-0000")
    found.ring_bell("1-0000")
    lock = take_over(found)
    assert lock is not None
    assert found.shared != theirs
    assert is_private(found.shared)
    again = Session.open(session.dir)  # it is written down
    assert again.shared == found.shared
    assert again.agent_alive()
    os.close(lock)
    again.remove()
    assert not found.shared.exists()
    assert sorted((p.name, p.stat().st_mtime_ns, p.stat().st_size) for p in theirs.iterdir()) == before


@needs_root
def test_two_who_take_a_session_over_whose_name_is_taken_meet_in_one_directory(session: Session) -> None:
    session.remove_shared()
    acting_as(MALLORY, lambda: session.shared.mkdir(0o777))
    one, other = Session.open(session.dir), Session.open(session.dir)
    lock = take_over(one)
    assert lock is not None
    assert take_over(other) is None
    assert one.shared == other.shared
    os.close(lock)


@needs_root
def test_the_second_name_is_not_adopted_either_when_the_next_reboot_has_shown_it(session: Session) -> None:
    session.remove_shared()
    acting_as(MALLORY, lambda: session.shared.mkdir(0o777))
    session.touch_shared()
    second = session.shared
    session.remove_shared()
    acting_as(MALLORY, lambda: second.mkdir(0o777))
    found = Session.open(session.dir)
    assert not found.has_shared
    found.touch_shared()
    assert found.shared not in (second, session.shared.with_name(session.id))
    assert is_private(found.shared)


@needs_root
def test_a_forged_ring_sends_no_file_and_no_word_to_anybody(session: Session, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.mkdir(mode=0o700)
    (keys / "id").write_text("secret")
    session.remove_shared()
    spec = RunSpec(run=1, start_time=1, cwd="/", tracking_uri="http://mallory")
    acting_as(MALLORY, forged(session, Start(spec), Artifact(1, "../../../../keys"), End(1, "FINISHED", 2)))
    opened, sink = delivered(Session.open(session.dir))
    assert opened == []
    assert sink.runs == {}
    assert (keys / "id").read_text() == "secret"


def test_a_session_of_an_older_version_gets_its_shared_directory_again(session: Session) -> None:
    session.remove_shared()
    session.save(unguessable="")
    found, other = Session.open(session.dir), Session.open(session.dir)
    found.touch_shared()
    assert is_private(found.shared)
    saved = Session.open(session.dir)
    assert saved.info.unguessable
    assert saved.shared == found.shared
    other.touch_shared()  # it was opened before: as leftovers are, minutes ago
    assert other.shared == found.shared
    assert other.info == saved.info


def test_a_private_directory_of_an_older_version_is_used_on(session: Session) -> None:
    session.save(unguessable="")
    found = Session.open(session.dir)
    found.touch_shared()
    assert found.shared == session.shared


@needs_root
@pytest.mark.parametrize("unguessable", ["", "5e"], ids=["older version", "this version"])
def test_a_neighbour_who_gives_the_name_free_again_does_not_get_a_session_two_agents(
    session: Session, unguessable: str
) -> None:
    session.save(unguessable=unguessable)
    plain = session.shared
    session.remove_shared()
    acting_as(MALLORY, lambda: plain.mkdir(0o777))
    one, other = Session.open(session.dir), Session.open(session.dir)
    lock = take_over(one)
    assert lock is not None
    acting_as(MALLORY, plain.rmdir)
    assert take_over(other) is None
    assert take_over(Session.open(session.dir)) is None
    assert not plain.exists()
    os.close(lock)


def test_a_session_that_two_write_anew_at_once_stays_one(session: Session, settings: Settings) -> None:
    session.remove_shared()
    (session.dir / "session.json").write_bytes(b"{")
    [found] = survey(settings)
    assert isinstance(found, Unreadable)
    one = mended(found, settings)
    lock = take_over(one)
    assert lock is not None
    other = mended(found, settings)
    assert take_over(other) is None
    assert other.info.unguessable == one.info.unguessable != ""
    os.close(lock)


def test_a_session_that_is_written_anew_keeps_a_shared_directory_of_any_name(
    session: Session, settings: Settings
) -> None:
    session.remove_shared()
    lock = take_over(session)
    assert lock is not None
    (session.dir / "session.json").write_bytes(b"{")
    [found] = survey(settings)
    assert isinstance(found, Unreadable)
    assert "--force" not in found.mend
    assert take_over(mended(found, settings)) is None
    os.close(lock)


@needs_root
def test_a_neighbours_directory_does_not_have_a_session_written_anew(session: Session, settings: Settings) -> None:
    session.remove_shared()
    (session.dir / "session.json").write_bytes(b"{")
    acting_as(MALLORY, lambda: session.shared.mkdir(0o777))
    skipped, whole = _mend(list(survey(settings)), settings, (), force=False)
    assert whole == []
    assert "--force" in str(skipped[0].reasons)


@needs_root
def test_a_neighbours_directory_does_not_have_a_finished_session_looked_into(session: Session) -> None:
    mark_finished(session, runs=3, dead=0, at=1.0)
    session.remove_shared()
    acting_as(MALLORY, lambda: session.shared.mkdir(0o777))
    assert glance(session).state == "finished"
    assert not (session.dir / "spool.db").exists()


@needs_root
def test_a_new_session_takes_another_name_where_its_own_is_taken(
    settings: Settings, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace_agent.ipc.session.time.strftime", lambda _: "now")
    monkeypatch.setattr("tailrace_agent.ipc.session.os.urandom", lambda n: b"\1" * n)
    theirs = place / f"tailrace-{os.getuid()}-now-010101"
    acting_as(MALLORY, lambda: theirs.mkdir(0o777))
    session = Session.create(settings, cwd="/", program="p")
    assert session.shared != theirs
    assert session.has_shared
    assert session.rings() == []
    session.new_ring()
    assert list(theirs.iterdir()) == []


def test_where_rings_can_be_kept_nowhere_they_are_in_the_temporary_directory(
    settings: Settings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    nowhere = str(tmp_path / "file" / "rings")
    with pytest.raises(SessionError, match=r"Not a directory.*Set TAILRACE_RING_DIR"):
        Session.create(msgspec.structs.replace(settings, ring_dir=nowhere), cwd="/", program="p")
    connection = Connection.open(msgspec.structs.replace(settings, ring_dir=nowhere), Voice())
    assert connection.session.shared.parent == Path(tempfile.gettempdir())
    assert connection.session.has_shared
    assert "for now: log() may wait for the disk there" in caplog.text
    connection.session.remove()


@pytest.mark.parametrize(
    "shared", ["{victim}", "{victim}/tailrace-0-x", "tailrace-0-{id}", "{victim}/tailrace-0-{id}/..", ""]
)
def test_a_session_that_names_a_directory_of_somebody_elses_reads_and_deletes_nothing_there(
    session: Session, settings: Settings, tmp_path: Path, shared: str
) -> None:
    victim = tmp_path / "victim"
    for folder in (victim, victim / "tailrace-0-x", victim / f"tailrace-0-{session.id}"):
        folder.mkdir(mode=0o700)
        (folder / "agent.lock").touch(0o600)
    RingWriter(victim / "1-0000.ring", MIN_BYTES, victim / "spill").close()
    before = sorted(victim.rglob("*"))
    session.remove_shared()
    session.save(shared=shared.format(victim=victim, id=session.id))
    found = Session.open(session.dir)
    assert not found.has_shared
    assert found.rings() == []
    (session.dir / "finished").touch()
    os.utime(session.dir / "finished", (1, 1))
    for litter in find(settings, 0):
        assert str(victim) not in "".join(litter.paths)
        remove(settings, litter)
    found.remove()
    assert not session.dir.exists()
    assert sorted(victim.rglob("*")) == before


def test_only_the_shared_directory_of_the_very_session_is_believed(session: Session, settings: Settings) -> None:
    other = Session.create(settings, cwd="/", program="p")
    session.remove_shared()
    session.save(shared=str(other.shared))
    Session.open(session.dir).remove()
    assert other.has_shared


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "session"),
    [
        ("tailrace-0-20260101-000000-abcdef", "20260101-000000-abcdef"),
        ("tailrace-1000-s.0123456789abcdef", "s"),
        ("tailrace-1000-s.0123", "s.0123"),
        ("tailrace-1000-", None),
        ("tailrace-x-s", None),
        ("other", None),
    ],
)
def test_the_name_of_a_directory_says_whose_it_may_be(name: str, session: str | None) -> None:
    assert shared_dirs.session_of(Path("/dev/shm", name)) == session
    if session is not None:
        assert shared_dirs.is_named(Path("/dev/shm", name), session)
        assert not shared_dirs.is_named(Path("/dev/shm", name), f"{session}x")
        assert not shared_dirs.is_named(Path(name), session)


def test_one_that_is_made_anew_takes_the_plain_name_or_one_that_nobody_knows(place: Path) -> None:
    first, second, third = (shared_dirs.make(place, "s") for _ in range(3))
    assert first.name == f"tailrace-{os.getuid()}-s"
    assert len({first, second, third}) == 3
    assert all(is_private(each) and shared_dirs.is_named(each, "s") for each in (first, second, third))
    shared_dirs.make(place / "elsewhere", "s")
    assert shared_dirs.make(place / "elsewhere", "s").name not in (second.name, third.name)


def test_one_that_is_made_again_is_the_same_for_all_who_have_the_word_and_never_the_plain_one(place: Path) -> None:
    first, second = (shared_dirs.make_again(place, "s", "5e") for _ in range(2))
    assert first == second
    assert first != shared_dirs.make_again(place, "s", "another word")
    assert first.name != f"tailrace-{os.getuid()}-s"
    first.rmdir()
    first.touch()  # somebody else's by now
    assert shared_dirs.make_again(place, "s", "5e") not in (first, place)


def test_whoever_has_taken_every_name_is_an_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Path] = []

    def taken(directory: Path) -> None:
        tried.append(directory)
        raise FileExistsError

    monkeypatch.setattr(shared_dirs, "make_private", taken)
    with pytest.raises(FileExistsError, match="every name"):
        shared_dirs.make(place, "s")
    assert len(set(tried)) == len(tried) == 101


def test_the_one_that_is_there_is_a_private_one_of_that_session(place: Path) -> None:
    plain = place / f"tailrace-{os.getuid()}-s"
    assert shared_dirs.made_by_us(place, "s") == plain
    plain.mkdir(mode=0o755)
    shared_dirs.make(place, "s-2")
    assert shared_dirs.made_by_us(place, "s") == plain
    ours = shared_dirs.make_again(place, "s", "5e")
    assert shared_dirs.made_by_us(place, "s") == ours
    assert shared_dirs.made_by_us(place / "gone", "s").parent == place / "gone"

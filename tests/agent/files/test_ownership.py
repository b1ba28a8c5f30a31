"""What somebody else has made is not believed: not read, not locked in, not written to, not deleted."""

from __future__ import annotations

import errno
import inspect
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from helpers.kept_log import KeptLog
from helpers.other_users import MALLORY, acting_as, common_place, needs_root
from helpers.sdk_tools import script
from tailrace._messages.voice import Voice
from tailrace._session.connection import Connection
from tailrace_agent.cli._app import Fail
from tailrace_agent.cli._holding import take_over
from tailrace_agent.cli._letters import Letter, discard, put_back
from tailrace_agent.cli._litter import find, remove
from tailrace_agent.cli._look import glance
from tailrace_agent.cli.sync import _mend
from tailrace_agent.errors import SessionError, StateDirError
from tailrace_agent.files import dir_lock
from tailrace_agent.files.ownership import (
    is_private,
    make_parents,
    read_own,
    write_own,
)
from tailrace_agent.hosts.abandoned_sessions import AbandonedSessions, is_abandoned
from tailrace_agent.ipc import status
from tailrace_agent.ipc.finished import finished, mark_finished
from tailrace_agent.ipc.records import Artifact, End, RunSpec, Start, encode
from tailrace_agent.ipc.ring_format import MIN_BYTES
from tailrace_agent.ipc.ring_reader import RingReader
from tailrace_agent.ipc.ring_writer import RingWriter
from tailrace_agent.ipc.session import Session, sessions_root
from tailrace_agent.ipc.status import SessionInfo
from tailrace_agent.ipc.survey import Unreadable, mended, survey
from tailrace_agent.mlflow.links import Announcement, ui_address
from tailrace_agent.pipeline.pipeline import Pipeline
from tailrace_agent.runtime import places
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.uris import mask_uri
from tailrace_agent.sinks.memory import MemorySink
from tailrace_agent.spool.blocks import DeadLetter


@pytest.fixture
def place() -> Iterator[Path]:
    with common_place() as there:
        yield there


@pytest.fixture
def settings(tmp_path: Path, place: Path) -> Settings:
    return Settings(dir=str(tmp_path / "state"), ring_dir=str(place), ring_bytes=MIN_BYTES)


@pytest.fixture
def session(settings: Settings) -> Session:
    return Session.create(settings, cwd="/", program="train.py")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


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
        for channel in pipeline.channels.values():
            pipeline.deliver(channel, float(now))
            pipeline.upload(channel, float(now))
    pipeline.close()
    os.close(lock)
    return opened, sink


# -- the directory in shared memory ------------------------------------------------------------------------------------


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


def test_what_others_have_changed_in_a_session_meanwhile_is_not_written_over(session: Session) -> None:
    other = Session.open(session.dir)
    session.save(program="changed")
    other.save(cwd="/elsewhere")
    info = Session.open(session.dir).info
    assert (info.program, info.cwd) == ("changed", "/elsewhere")


def test_a_session_that_is_kept_by_another_process_is_waited_for_only_so_long(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dir_lock, "_WITHIN", 0.0)
    with dir_lock.alone_in(session.dir), pytest.raises(TimeoutError, match="does not let go"):
        session.touch_shared()
    session.touch_shared()


def test_a_file_system_that_locks_no_directory_is_worked_on_without(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_fd: int, _how: int) -> None:
        raise OSError(errno.EBADF, "as NFS says it of a directory")

    monkeypatch.setattr("tailrace_agent.files.dir_lock.fcntl.flock", refuse)
    session.remove_shared()
    session.touch_shared()
    assert session.has_shared


def test_what_an_older_version_wrote_as_the_umask_was_is_believed_in_a_private_directory(session: Session) -> None:
    for name, body in {"finished": b"", "refused": b"", "agent.log": b""}.items():
        (session.dir / name).write_bytes(body)
    for path in session.dir.iterdir():
        if path.is_file():
            path.chmod(0o666)
    session.remove_shared()
    found = Session.open(session.dir)
    assert finished(found) is not None
    assert glance(found).state == "finished"
    write_own(session.dir / "refused", b"again")
    session.dir.chmod(0o755)
    with pytest.raises(PermissionError):
        read_own(session.dir / "finished")


def test_in_a_private_directory_a_link_or_a_second_name_is_still_not_believed(session: Session, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"kept")
    (session.dir / "finished").symlink_to(kept)
    os.link(kept, session.dir / "refused")
    for name in ("finished", "refused"):
        with pytest.raises(OSError, match=r"symbolic|alone"):
            read_own(session.dir / name)
        with pytest.raises(OSError, match=r"symbolic|alone"):
            write_own(session.dir / name, b"")
    assert kept.read_bytes() == b"kept"


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


def test_a_sessions_id_is_the_name_of_its_directory_whatever_it_says(session: Session) -> None:
    session.save(id="../../elsewhere")
    assert Session.open(session.dir).id == session.dir.name


def test_only_the_shared_directory_of_the_very_session_is_believed(session: Session, settings: Settings) -> None:
    other = Session.create(settings, cwd="/", program="p")
    session.remove_shared()
    session.save(shared=str(other.shared))
    Session.open(session.dir).remove()
    assert other.has_shared


# -- files in it -------------------------------------------------------------------------------------------------------


def linked(ring: Path) -> None:
    ring.rename(ring.with_suffix(".elsewhere"))
    ring.symlink_to(ring.with_suffix(".elsewhere"))


def named_twice(ring: Path) -> None:
    os.link(ring, ring.with_suffix(".second"))


def open_to_all(ring: Path) -> None:
    ring.chmod(0o666)


def given_away(ring: Path) -> None:
    os.chown(ring, MALLORY, MALLORY)


def a_pipe(ring: Path) -> None:
    ring.unlink()
    os.mkfifo(ring)


@needs_root
@pytest.mark.parametrize("spoil", [linked, named_twice, open_to_all, given_away, a_pipe])
def test_a_ring_that_somebody_else_may_have_written_is_none(session: Session, spoil: Callable[[Path], None]) -> None:
    ring = session.new_ring()
    assert session.rings() == [ring.path.stem]
    spoil(ring.path)
    assert session.rings() == []
    with pytest.raises(SessionError):
        RingReader(ring.path, session.spill_path("x"))


def test_nothing_is_written_through_a_link(session: Session, tmp_path: Path) -> None:
    target = tmp_path / "profile"
    target.write_text("mine")
    for name in (f"agent.status.{os.getpid()}.new", "closed"):
        (session.shared / name).symlink_to(target)
    (session.dir / "finished").symlink_to(target)
    with pytest.raises(OSError):
        status.write(session.shared / "agent.status", {"a": 1})
    with pytest.raises(OSError):
        session.close_if_deserted()
    mark_finished(session, runs=1, dead=1, at=0.0)
    assert not (session.dir / "finished").is_symlink()
    assert target.read_text() == "mine"


@needs_root
def test_a_status_that_somebody_else_has_written_says_nothing(session: Session, tmp_path: Path) -> None:
    path = tmp_path / "session.json"
    status.write(path, session.info)
    assert status.read(path, SessionInfo) == session.info
    os.chown(path, MALLORY, MALLORY)
    assert status.read(path, SessionInfo) is None


def test_a_run_stays_with_the_store_that_it_began_with(session: Session) -> None:
    (ours, told), (mallorys, lie) = mask_uri("http://ada:secret@ours"), mask_uri("http://ada:guess@mallory")
    assert told
    assert lie
    first = RunSpec(run=1, start_time=1, cwd="/", tracking_uri=ours)
    ring = session.new_ring()
    ring.put(encode(Start(first)))
    for again in (False, True):
        ring.put(encode(Start(msgspec.structs.replace(first, tracking_uri=mallorys), again)))
    ring.put(encode((1, 0, 5, {"loss": 1.0})))
    second = session.new_ring()
    second.put(encode(Start(msgspec.structs.replace(first, tracking_uri=mallorys))))
    opened: list[str | None] = []
    sink = MemorySink()
    pipeline = Pipeline.open(
        session,
        lambda uri, *_, **__: (opened.append(uri), sink)[1],
        KeptLog(),
        hosted=True,
        credentials={ours: told, mallorys: lie},
    )
    for now in range(3):
        pipeline.drain(float(now))
        for channel in pipeline.channels.values():
            pipeline.deliver(channel, float(now))
    pipeline.close()
    assert opened == ["http://ada:secret@ours"]


# -- what is staged ----------------------------------------------------------------------------------------------------

BAD_NAMES = ["", ".", "..", "../../keys", "/etc", "a/b", "a/../../keys", "tables", ".hidden", "a\0b", "é", "x" * 300]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_an_artifact_that_lies_elsewhere_is_dropped_with_a_reason_and_its_file_stays(
    session: Session, tmp_path: Path, name: str
) -> None:
    keys = session.dir / "keys"
    for folder in (keys, session.artifacts / "tables"):
        folder.mkdir()
        (folder / "id").write_text("secret")
    ring = session.new_ring()
    ring.put(encode(Start(RunSpec(run=1, start_time=1, cwd="/"))))
    for _ in range(2):
        ring.put(encode(Artifact(1, name)))
    ring.put(encode(Artifact(1, "gone-0")))
    sink = MemorySink()
    pipeline = Pipeline.open(session, lambda *_, **__: sink, KeptLog(), hosted=True)
    for now in range(20):
        pipeline.drain(float(now))
        for channel in pipeline.channels.values():
            pipeline.deliver(channel, float(now))
            pipeline.upload(channel, float(now))
    counts = pipeline.spool.counts.ledger(1).of("artifact")
    assert counts.dropped == {"staged elsewhere": 2, "staged copy is gone": 1}
    assert (counts.accepted, counts.pending) == (3, 0)
    state = pipeline.book.get(1)
    assert state is not None
    assert sum("staged elsewhere" in notice for notice in state.notices) == 1
    pipeline.close()
    assert (keys / "id").read_text() == (session.artifacts / "tables" / "id").read_text() == "secret"
    assert [run.artifacts for run in sink.runs.values()] == [{}]


def test_a_dead_letter_whose_file_lies_elsewhere_is_not_moved(session: Session) -> None:
    keys = session.dir / "keys"
    keys.mkdir()
    (keys / "id").touch()
    for name in ("../keys", "gone-0"):
        body = encode(Artifact(1, name))
        letter = Letter(session, None, None, DeadLetter(1, 1, "artifact", "plot.png", 1, body, "refused", 0.0))
        with pytest.raises(Fail, match="is gone"):
            put_back(session, [letter], {"plot.png": "plots/last.png"})
        discard(session, [letter])
    assert (keys / "id").exists()


# -- the state directory -----------------------------------------------------------------------------------------------


def theirs_by_owner(root: Path) -> None:
    acting_as(MALLORY, lambda: root.mkdir(0o777))


def theirs_by_link(root: Path) -> None:
    elsewhere = root.with_name("elsewhere")
    elsewhere.mkdir(0o700)  # the victim's own: sessions would be mixed into what is there
    acting_as(MALLORY, lambda: root.symlink_to(elsewhere))


@needs_root
@pytest.mark.parametrize("make", [theirs_by_owner, theirs_by_link])
def test_a_directory_of_sessions_that_somebody_else_has_made_is_neither_used_nor_read(
    place: Path, make: Callable[[Path], None]
) -> None:
    settings = Settings(dir=str(place), ring_dir=str(place))
    make(sessions_root(settings))
    with pytest.raises(StateDirError, match=r"belongs to another user.*Set TAILRACE_DIR"):
        Session.create(settings, cwd="/", program="p")
    with pytest.raises(StateDirError, match="belongs to another user"):
        list(Session.all(settings))
    assert list(sessions_root(settings).iterdir()) == []


@needs_root
def test_an_agent_whose_neighbours_sessions_are_taken_away_goes_on(session: Session) -> None:
    log = KeptLog()
    root = session.dir.parent
    os.chown(root, MALLORY, MALLORY)
    abandoned = AbandonedSessions(session, log)
    abandoned.step(abandoned.step(0.0))
    assert abandoned.done
    assert log.events == ["sessions cannot be read"]


@needs_root
def test_a_session_that_somebody_else_has_put_there_is_passed_over(session: Session, settings: Settings) -> None:
    forged = session.dir.with_name("20200101-000000-aaaaaa")
    shutil.copytree(session.dir, forged)
    for path in (forged, forged / "session.json"):
        os.chown(path, MALLORY, MALLORY)
    assert [found.id for found in Session.all(settings)] == [session.id]


def test_a_state_directory_from_a_time_without_umask_is_closed(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    ours = msgspec.structs.replace(settings, dir=None)
    root = sessions_root(ours)
    make_parents(root)
    for directory in (root, root.parent):
        directory.chmod(0o777)
    Session.create(ours, cwd="/", program="p")
    assert (mode(root), mode(root.parent)) == (0o700, 0o700)


def test_a_state_directory_may_be_a_link_that_the_user_has_made(
    tmp_path: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "scratch").mkdir()
    (tmp_path / "home" / "tailrace").symlink_to(tmp_path / "scratch")
    Session.create(msgspec.structs.replace(settings, dir=None), cwd="/", program="p")
    assert len(list((tmp_path / "scratch" / "sessions").iterdir())) == 1


@needs_root
@pytest.mark.parametrize("how", ["directory", "link", "open"])
def test_a_temporary_state_directory_that_is_not_ours_is_not_used(
    place: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(place))
    usual = place / f"tailrace-state-{os.getuid()}"
    assert places.temporary_state_dir() == usual
    if how == "directory":
        acting_as(MALLORY, lambda: usual.mkdir(0o777))
    elif how == "link":
        acting_as(MALLORY, lambda: usual.symlink_to(place))
    else:
        usual.mkdir()
        usual.chmod(0o777)
    acting_as(MALLORY, lambda: usual.with_name(f"{usual.name}-0000").mkdir(0o777))
    ours = places.make_temporary_state_dir()
    assert ours.name.startswith(f"{usual.name}-")
    assert is_private(ours)
    assert places.temporary_state_dir() == ours  # so that `tailrace sync` finds it
    monkeypatch.setattr(places, "_unguessable", "another process")
    assert places.make_temporary_state_dir() == ours


@needs_root
def test_a_ui_that_somebody_else_announces_is_not_linked_to(place: Path) -> None:
    settings = Settings(dir=str(place))
    ours = Announcement("http://127.0.0.1:1", "sqlite:////a.db", settings)
    assert ui_address("sqlite:////a.db", settings) == "http://127.0.0.1:1"
    os.chown(place / "ui", MALLORY, MALLORY)
    assert ui_address("sqlite:////a.db", settings) is None
    ours.close()


# -- what is made, whatever the umask ----------------------------------------------------------------------------------

LOGS = """
    import os, sys
    from pathlib import Path
    os.umask(int(os.environ.pop("UMASK")))
    import tailrace as sdk
    from tailrace_agent.ipc.session import Session

    Path("file.txt").write_text("x")
    os.chmod("file.txt", 0o644)
    with sdk.start_run(run_name="masked") as run:
        sdk.log({"loss": 1.0}, step=0)
        sdk.log_params({"long": "x" * 10_000})
        sdk.log_text("hello", "hello.txt")
        sdk.log_table({"a": [1]}, "table.json")
        sdk.log_artifact("file.txt", compress="gzip")
        os.mkdir("folder"); os.chmod("folder", 0o755)
        sdk.log_artifacts("folder")
        sdk.flush()
        session = run._core.connection.session
        for root in (session.dir.parent.parent, session.shared):
            for folder, _, names in os.walk(root):
                for path in (folder, *(os.path.join(folder, name) for name in names)):
                    kind = "d" if os.path.isdir(path) else "f"
                    print(kind, oct(os.stat(path).st_mode & 0o7777), path)
    print("pending", run.ledger().total.pending)
"""


@needs_root
@pytest.mark.skipif(
    shutil.which("setpriv") is None, reason="setpriv takes from root what permissions do not keep it from"
)
@pytest.mark.parametrize("umask", [0, 0o777])
def test_under_any_umask_directories_are_0700_and_files_0600_and_all_arrives(
    mlflow_server: str, tmp_path: Path, umask: int
) -> None:
    mortal = """
        import os, sys
        if not os.environ.get("MORTAL"):
            os.environ["MORTAL"] = "1"
            took = "--bounding-set=-dac_override,-dac_read_search"
            os.execvp("setpriv", ["setpriv", took, sys.executable, __file__])
    """
    done = script(
        tmp_path,
        inspect.cleandoc(mortal) + "\n" + inspect.cleandoc(LOGS),
        UMASK=str(umask),
        TAILRACE_RING_DIR=str(tmp_path / "rings"),
        TAILRACE_TRACKING_URI=mlflow_server,
        TAILRACE_METADATA="true",
    )
    found = [line.split(" ", 2) for line in done.stdout.splitlines() if line[:2] in ("d ", "f ")]
    assert len(found) > 12, done.stdout + done.stderr
    assert [path for kind, each, path in found if each != {"d": "0o700", "f": "0o600"}[kind]] == []
    pending = re.search(r"pending (\d+)", done.stdout)
    assert pending is not None
    assert pending[1] == "0"
    assert "nothing lost" in done.stderr

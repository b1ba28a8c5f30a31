"""What somebody else has made is not believed: not read, not locked in, not written to, not deleted."""

from __future__ import annotations

import inspect
import os
import re
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from helpers.kept_log import KeptLog
from helpers.other_users import MALLORY, acting_as, needs_root
from helpers.sdk_tools import script
from tailrace_agent.cli._look import glance
from tailrace_agent.errors import SessionError, StateDirError
from tailrace_agent.files.ownership import make_parents, read_own, write_own
from tailrace_agent.ipc import status
from tailrace_agent.ipc.finished import finished, mark_finished
from tailrace_agent.ipc.records import RunSpec, Start, encode
from tailrace_agent.ipc.ring_reader import RingReader
from tailrace_agent.ipc.session import Session, sessions_root
from tailrace_agent.ipc.status import SessionInfo
from tailrace_agent.mlflow.links import Announcement, ui_address
from tailrace_agent.pipeline.pipeline import Pipeline
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.uris import mask_uri
from tailrace_agent.sinks.memory import MemorySink


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- the directory in shared memory ------------------------------------------------------------------------------------


def test_what_others_have_changed_in_a_session_meanwhile_is_not_written_over(session: Session) -> None:
    other = Session.open(session.dir)
    session.save(program="changed")
    other.save(cwd="/elsewhere")
    info = Session.open(session.dir).info
    assert (info.program, info.cwd) == ("changed", "/elsewhere")


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


def test_a_sessions_id_is_the_name_of_its_directory_whatever_it_says(session: Session) -> None:
    session.save(id="../../elsewhere")
    assert Session.open(session.dir).id == session.dir.name


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
        for destination in pipeline.by_uri.values():
            pipeline.deliver(destination, float(now))
    pipeline.close()
    assert opened == ["http://ada:secret@ours"]


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


@pytest.mark.slow
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

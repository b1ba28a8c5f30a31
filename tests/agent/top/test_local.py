"""The runs of this machine, from the files of their sessions."""

from __future__ import annotations

import time

import msgspec
import pytest

from helpers.left_sessions import finished_session, live_session, spooled_session
from tailrace_agent.files.dir_lock import let_go
from tailrace_agent.ipc import curve_files, status
from tailrace_agent.ipc.curve_files import RunCurves
from tailrace_agent.ipc.curves import Curve
from tailrace_agent.ipc.session import Session
from tailrace_agent.ipc.status import RunStatus
from tailrace_agent.settings.sources import load_settings
from tailrace_agent.top import local as local_module
from tailrace_agent.top.local import LocalRuns
from tailrace_agent.top.rows import RunRow


def _others(session: Session) -> list[RunRow]:
    return [RunRow(key=f"{session.id}/0", name=session.info.program, state="KILLED", started=session.info.created)]


def _local() -> LocalRuns:
    return LocalRuns(load_settings(), _others)


@pytest.fixture
def live() -> Session:
    return live_session()


@pytest.fixture
def lock(live: Session) -> object:
    """An agent holds the session: this test."""
    fd = live.try_agent_lock()
    assert fd is not None
    yield fd
    let_go(fd)


def _publish(session: Session, **changes: object) -> None:
    path = session.shared / status.run_file(42)
    found = status.read(path, RunStatus)
    assert found is not None
    status.write(path, msgspec.structs.replace(found, **changes))


def _draw(session: Session, *values: float, key: str = "loss") -> None:
    curve = Curve()
    curve.add([(n, n, value) for n, value in enumerate(values)])
    curve_files.write(session.shared, 42, RunCurves(curves={key: curve.drawn}))


def test_a_live_run_is_what_its_agent_has_published(live: Session, lock: int) -> None:
    _publish(live, step=9, url="http://x/1", notices=["hello"])
    (row,) = _local().rows(0.0)
    assert (row.key, row.name, row.state, row.live) == (f"{live.id}/{42:016x}", "r", "RUNNING", True)
    assert (row.step, row.accepted, row.delivered, row.pending) == (9, 10, 7, 3)
    assert (row.problem, row.notices, row.url) == ("waiting for rain", ["hello"], "http://x/1")
    assert row.store is not None
    assert row.console == live.dir / "console" / f"{42:016x}" / "console.log"


def test_its_rate_is_that_of_the_last_seconds(live: Session, lock: int) -> None:
    local = _local()
    rates = []
    for second in range(30):
        _publish(live, step=second * (10 if second < 10 else 100))
        rates.append(local.rows(float(second))[0].rate)
    assert rates[0] is None
    assert rates[5] == 10.0
    assert rates[-1] == pytest.approx(100.0)


def test_curves_are_asked_for_and_read_when_they_are_new(live: Session, lock: int) -> None:
    local = _local()
    (row,) = local.rows(0.0)
    assert local.courses([row.key], 0.0) == {}
    assert curve_files.is_asked(live.shared, time.time())
    assert not local.changed([row.key])
    _draw(live, 1.0, 0.5)
    assert local.changed([row.key])
    first = local.courses([row.key], 0.1)[row.key]["loss"]
    assert first.last == 0.5
    assert not local.changed([row.key])
    _draw(live, 1.0, 0.5)
    assert local.courses([row.key], 0.2)[row.key]["loss"] is first, "what was made of it stands"
    _draw(live, 1.0, 0.5, 0.25)
    assert local.courses([row.key], 0.3)[row.key]["loss"].last == 0.25


def test_what_is_known_of_a_run_outlives_its_agent(live: Session, lock: int) -> None:
    local = _local()
    (row,) = local.rows(0.0)
    _draw(live, 1.0)
    local.courses([row.key], 0.0)
    live.remove_shared()
    (after,) = local.rows(2.0)
    assert (after.state, after.live) == ("KILLED", False)
    assert local.courses([row.key], 2.0)[row.key]["loss"].last == 1.0
    assert not local.changed([row.key])


def test_sessions_without_an_agent_are_looked_at_once_and_only_the_newest(
    live: Session, lock: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_module, "_OTHERS", 2)
    for n in range(4):
        finished_session(f"p{n}.py")
    spooled_session(program="left.py")
    looked: list[str] = []

    def others(session: Session) -> list[RunRow]:
        looked.append(session.id)
        return _others(session)

    local = LocalRuns(load_settings(), others)
    rows = local.rows(0.0)
    assert rows[0].live
    assert len(rows) == 3
    local.rows(5.0)
    assert len(looked) == 2


def test_a_session_that_is_deleted_or_damaged_is_passed_over(live: Session, lock: int) -> None:
    local = _local()
    assert len(local.rows(0.0)) == 1
    (live.dir.parent / "no-session").mkdir(mode=0o700)
    (live.shared / "run-00.status").write_text("{")
    assert len(local.rows(2.0)) == 1
    live.remove()
    assert local.rows(4.0) == []

"""What programs and agents have left behind gets an agent, and what is finished goes after its time."""

from __future__ import annotations

import os
import shutil

import pytest

from helpers.kept_log import KeptLog
from helpers.other_users import MALLORY, needs_root
from helpers.sessions import changed
from tailrace_agent.hosts import abandoned_sessions as abandoned_module
from tailrace_agent.hosts.abandoned_sessions import AbandonedSessions, is_abandoned
from tailrace_agent.hosts.spawn import Agent
from tailrace_agent.ipc.session import Session
from tailrace_agent.settings.settings import Settings

# -- what is left behind -----------------------------------------------------------------------------------------------


def test_a_session_whose_programs_and_agent_are_gone_is_a_leftover(session: Session) -> None:
    assert is_abandoned(session)
    lock = session.try_agent_lock()
    assert lock is not None
    assert not is_abandoned(session)
    os.close(lock)
    assert is_abandoned(changed(session, boot="before the reboot"))
    shutil.rmtree(session.shared)  # the reboot took it along
    assert is_abandoned(session)
    assert not is_abandoned(changed(session, hostname="elsewhere"))
    session.save(hostname=os.uname().nodename)
    (session.dir / "finished").touch()
    assert not is_abandoned(session)


def test_leftovers_get_an_agent_one_after_the_other(
    session: Session, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [changed(Session.create(settings, cwd="/", program="p"), created=1.0) for _ in range(3)]
    newborn = Session.create(settings, cwd="/", program="p")  # its program is about to make its first ring
    shutil.rmtree(left[1].shared)
    started: dict[str, int] = {}

    def spawn(found: Session, credentials: dict[str, str]) -> Agent:
        assert credentials == {}
        held = found.try_agent_lock()
        assert held is not None
        started[found.id] = held
        return Agent(0)

    monkeypatch.setattr(abandoned_module, "spawn_agent", spawn)
    lock = session.try_agent_lock()
    assert lock is not None
    abandoned = AbandonedSessions(session, KeptLog())
    begin = abandoned.step(100.0)
    assert begin > 100
    assert not started
    for count in range(1, 4):
        assert abandoned.step(begin) < begin + 60
        assert abandoned.step(begin) < begin + 60
        assert len(started) == count  # not before the last one has ended
        os.close(list(started.values())[-1])
    abandoned.step(begin)
    assert abandoned.step(begin) > begin + 600
    assert abandoned.done
    assert sorted(started) == sorted(found.id for found in left)
    assert newborn.id not in started
    os.close(lock)


def test_finished_sessions_are_deleted_after_their_time(session: Session, settings: Settings) -> None:
    young, old = [Session.create(settings, cwd="/", program="p") for _ in range(2)]
    for finished in (young, old):
        (finished.dir / "finished").touch()
    os.utime(old.dir / "finished", (1, 1))
    abandoned = AbandonedSessions(session, KeptLog())
    abandoned.step(abandoned.step(0.0))
    assert not old.dir.exists()
    assert young.dir.exists()


@pytest.mark.parametrize("why", ["set aside", "dead letters"])
def test_a_finished_session_in_which_something_is_left_stays(session: Session, settings: Settings, why: str) -> None:
    kept = Session.create(settings, cwd="/", program="p")
    (kept.dir / "finished").write_text("dead letters" if why == "dead letters" else "")
    os.utime(kept.dir / "finished", (1, 1))
    if why == "set aside":
        (kept.dir / "spool.db.damaged-1").touch()
    abandoned = AbandonedSessions(session, KeptLog())
    abandoned.step(abandoned.step(0.0))
    assert kept.dir.exists()


# -- the state directory -----------------------------------------------------------------------------------------------


@needs_root
def test_an_agent_whose_neighbours_sessions_are_taken_away_goes_on(session: Session) -> None:
    log = KeptLog()
    root = session.dir.parent
    os.chown(root, MALLORY, MALLORY)
    abandoned = AbandonedSessions(session, log)
    abandoned.step(abandoned.step(0.0))
    assert abandoned.done
    assert log.events == ["sessions cannot be read"]

"""The keeper: an agent that dies is followed by another one, and threads deliver where none can begin."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from helpers.sdk_tools import warnings
from tailrace import Settings
from tailrace._messages.voice import Voice
from tailrace._session import agent_keeper
from tailrace._session.agent_keeper import Keeper
from tailrace_agent.ipc.status import AgentStatus

PID = 4_000_000  # no process has it


class Over(Exception):
    """Ends the keeper's loop, which nothing else does while its session lives."""


class House:
    """A session whose agents die at once, and a keeper of it; what the keeper does is noted."""

    def __init__(self, directory: Path, deaths: int) -> None:
        (directory / "agent.err").write_text("Traceback\nModuleNotFoundError: x\n")
        self.dir = self.shared = directory
        self.closed, self.has_shared, self.alive = False, True, False
        self.did: list[str] = []
        self.mute = False
        self._deaths = iter(range(deaths))
        self.keeper = Keeper(self, Settings(), Voice())  # type: ignore[arg-type]

    def wait_for_agent_death(self) -> None:
        if next(self._deaths, None) is None:
            raise Over

    def agent_alive(self) -> bool:
        return self.alive

    def spawn(self, *_: object) -> Any:
        self.did.append("spawn")
        if not self.mute:
            (self.dir / "agent.status").write_bytes(
                msgspec.json.encode(AgentStatus(pid=PID, host="process", started=0.0, seen=0.0, group=PID))
            )
        return SimpleNamespace(group=PID, reap=lambda: None)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], House]:
    """Makes one whose agents die so many times."""

    def made(deaths: int) -> House:
        house = House(tmp_path, deaths)
        monkeypatch.setattr(agent_keeper, "spawn_agent", house.spawn)
        monkeypatch.setattr(agent_keeper, "_QUICK_DEATH", float("inf"))  # however busy the machine is
        monkeypatch.setattr(agent_keeper, "start_thread", lambda *_: None)
        monkeypatch.setattr(agent_keeper, "original", lambda *_: lambda seconds: house.did.append(f"sleep {seconds}"))
        monkeypatch.setattr(agent_keeper, "request_exit", lambda _: house.did.append("exit"))
        monkeypatch.setattr(house.keeper, "_start_host", lambda: house.did.append("host") or True)
        return house

    return made


def kept(house: House) -> list[str]:
    """What the keeper does until the agents die no more."""
    house.keeper.start()
    with pytest.raises(Over):
        house.keeper._keep()
    return house.did


def test_an_agent_that_dies_is_followed_by_another_one(house: Callable[[int], House]) -> None:
    assert kept(house(1)) == ["spawn", "spawn"]


def test_agents_that_keep_dying_are_followed_more_slowly_with_one_warning(
    house: Callable[[int], House], caplog: pytest.LogCaptureFixture
) -> None:
    did = kept(house(5))
    assert did.count("spawn") == 6
    assert did.count("sleep 30.0") == 3
    (said,) = warnings(caplog)
    assert "the agent keeps dying; see " in said


def test_two_agents_that_die_before_a_word_are_followed_by_threads_and_the_reason_is_said(
    house: Callable[[int], House], caplog: pytest.LogCaptureFixture
) -> None:
    home = house(99)
    home.mute = True
    home.keeper.start()
    home.keeper._keep()
    assert home.did == ["spawn", "spawn", "host"]
    assert "ends before it begins (ModuleNotFoundError: x); delivering from a thread" in caplog.text


@pytest.mark.parametrize("ended", ["closed", "given up", "without its directory"])
def test_a_session_that_is_over_gets_no_other_agent(house: Callable[[int], House], ended: str) -> None:
    home = house(1)
    home.keeper.start()
    home.closed, home.has_shared = ended == "closed", ended != "without its directory"
    if ended == "given up":
        home.wait_for_agent_death = lambda: (_ for _ in ()).throw(FileNotFoundError(errno.ENOENT, "gone"))  # type: ignore[method-assign]
    home.keeper._keep()
    assert home.did == ["spawn"]


def test_without_a_descriptor_the_keeper_takes_a_breath_and_stays(house: Callable[[int], House]) -> None:
    home = house(1)
    wait, errors = home.wait_for_agent_death, iter([OSError(errno.EMFILE, "none left")])

    def short() -> None:
        if (error := next(errors, None)) is not None:
            raise error
        wait()

    home.wait_for_agent_death = short  # type: ignore[method-assign]
    assert kept(home) == ["spawn", "sleep 1.0", "spawn"]


def test_where_no_process_can_be_started_threads_deliver_with_a_word(
    house: Callable[[int], House], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def none(*_: object) -> Any:
        raise BlockingIOError(errno.EAGAIN, "no more processes")

    home = house(0)
    monkeypatch.setattr(agent_keeper, "spawn_agent", none)
    home.keeper.start()
    assert home.did == ["host"]
    assert "no agent process can be started" in caplog.text


def test_credentials_that_are_new_start_the_agent_anew_and_the_same_ones_do_not(house: Callable[[int], House]) -> None:
    home = house(0)
    home.keeper.remember("http://a", "ada:one")
    home.keeper.start()
    home.alive = True
    home.keeper.remember("http://a", "ada:one")
    assert home.did == ["spawn"]
    home.keeper.remember("http://a", "ada:two")
    assert home.did == ["spawn", "exit"]


def test_a_forked_child_keeps_the_agent_alive_once_it_logs_and_only_an_agent_process(
    house: Callable[[int], House], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = house(0)
    watched: list[int] = []
    monkeypatch.setattr(home.keeper, "_watch", lambda: watched.append(1))
    home.keeper.adopt()
    home.keeper.start()
    assert len(watched) == 1
    home.keeper.after_fork()
    home.keeper.adopt()
    home.keeper.adopt()
    assert len(watched) == 2

"""Event files that are still being written: what comes is sent, once, and a store that is away is waited for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from helpers.sdk_tools import Store, named
from tailrace_agent.errors import Unavailable
from tailrace_agent.reading.foreign.following import Follower
from tailrace_agent.reading.reader import open_reader

pytest.importorskip("tensorboard", reason="TensorBoard's package reads them")

from helpers.event_files import Events


def test_files_that_are_written_are_followed(sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = Events(tmp_path / "run")
    events.scalar("loss", 0, 1.0)
    reader = open_reader(sqlite_uri, "/", create=True)
    follower = Follower(reader, "tfevents:/here", tmp_path, None, lambda *_: None)
    assert follower.step() == 1
    assert follower.step() == 0
    found = named(sqlite_uri, "run")
    assert found.status == "RUNNING"
    events.scalar("loss", 1, 2.0)
    Events(tmp_path / "late").scalar("loss", 0, 5.0)
    with monkeypatch.context() as patch:
        patch.setattr(reader.store, "log_batch", _away)
        with pytest.raises(Unavailable):
            follower.step()
    assert follower.step() == 2, "nothing is lost, and nothing comes twice"
    events.scalar("loss", 2, 3.0)
    assert len(follower.finish()) == 2
    found = Store(sqlite_uri, found.run_id)
    assert (found.history("loss"), found.status) == ([(0, 1.0), (1, 2.0), (2, 3.0)], "FINISHED")
    again = Follower(reader, "tfevents:/here", tmp_path, None, lambda *_: None)
    assert again.step() == 0


def test_a_directory_that_appears_at_the_very_end_comes_along(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Events(tmp_path / "run").scalar("loss", 0, 1.0)
    follower = Follower(open_reader(sqlite_uri, "/", create=True), "tfevents:/here", tmp_path, None, lambda *_: None)
    step = follower.step

    def late() -> int:
        sent = step()
        Events(tmp_path / "late").scalar("loss", 0, 5.0)
        return sent

    monkeypatch.setattr(follower, "step", late)
    assert len(follower.finish()) == 2
    assert named(sqlite_uri, "late").status == "FINISHED"


def _away(*args: Any, **kwargs: Any) -> None:
    raise Unavailable("away")


def test_two_files_of_one_directory_that_grow_at_once_lose_nothing_however_often_it_begins_anew(
    sqlite_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [Events(tmp_path / "run", number) for number in range(2)]
    reader = open_reader(sqlite_uri, "/", create=True)
    follower = Follower(reader, "tfevents:/here", tmp_path, None, lambda *_: None)
    for step in range(0, 8, 2):
        for later, events in enumerate(files):
            events.scalar("loss", step + later, [1.0, float("nan"), float("inf"), 0.5][step // 2])
        if step == 2:
            with monkeypatch.context() as patch:
                patch.setattr(reader.store, "log_batch", _away)
                with pytest.raises(Unavailable):
                    follower.step()
        if step == 4:
            follower = Follower(reader, "tfevents:/here", tmp_path, None, lambda *_: None)
        assert follower.step() == 2
    assert [step for step, _ in named(sqlite_uri, "run").history("loss")] == list(range(8))
    assert Follower(reader, "tfevents:/here", tmp_path, None, lambda *_: None).step() == 0

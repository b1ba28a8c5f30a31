"""What may be deleted, and what is undelivered in it."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from helpers.left_sessions import finished_session, live_session, metric_letter, spooled_session
from helpers.spools import block
from tailrace_agent.cli import _litter, main
from tailrace_agent.cli._litter import Litter, find, remove
from tailrace_agent.files import ownership
from tailrace_agent.ipc import session
from tailrace_agent.settings.sources import load_settings


@pytest.mark.parametrize("looks", [1, 2, 3, 4])
def test_clean_passes_over_what_another_program_gives_back_meanwhile(
    looks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILRACE_RING_DIR", str(tmp_path / "rings"))
    going = tmp_path / "rings" / f"tailrace-{os.getuid()}-20000101-000000-abcdef"
    going.mkdir(parents=True, mode=0o700)
    os.utime(going, (1, 1))
    seen = []

    def is_private(directory: Path) -> bool:
        there = ownership.is_private(directory)
        seen.append(directory)
        if len(seen) == looks:
            shutil.rmtree(going, ignore_errors=True)
        return there

    for module in (_litter, session):
        monkeypatch.setattr(module, "is_private", is_private)
    result = CliRunner().invoke(main, ["clean", "--older-than", "0d", "--yes", "--json"])
    assert result.exit_code == 0, result.output
    assert seen[looks - 1] == going
    assert not going.exists()


def _found(older_than: float = 0.0) -> dict[str, Litter]:
    return {litter.name: litter for litter in find(load_settings(), older_than)}


def test_a_finished_session_is_litter_from_its_age_on() -> None:
    old, young = finished_session(age=3600), finished_session(age=60)
    assert set(_found(600)) == {old.id}
    assert set(_found()) == {old.id, young.id}
    assert _found(600)[old.id].undelivered is None
    assert _found(600)[old.id].bytes > 1000


def test_what_is_undelivered_is_named_and_what_lives_is_no_litter() -> None:
    left = spooled_session(letters=[metric_letter("f1!")], blocks=[block(3, run=7)])
    empty = spooled_session()
    live = live_session()
    lock = live.try_agent_lock()
    assert lock is not None
    found = _found()
    os.close(lock)
    assert {name: litter.undelivered for name, litter in found.items()} == {
        left.id: "3 entries pending, 1 dead letter",
        empty.id: "runs that were not ended in MLflow",
    }


def _orphan(ring_dir: Path, age: float) -> Path:
    """Shared memory of a session that is not here."""
    path = ring_dir / f"tailrace-{os.getuid()}-20000101-000000-abcdef"
    path.mkdir(mode=0o700)
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize(("age", "litter"), [(60, False), (7200, True)])
def test_shared_memory_without_a_session_may_be_of_one_that_is_just_starting(
    age: float, litter: bool, tmp_path: Path
) -> None:
    path = _orphan(tmp_path / "shm", age)
    assert (str(path) in [place for found in _found().values() for place in found.paths]) == litter


def test_what_has_come_to_life_meanwhile_stays() -> None:
    session = spooled_session()
    litter = _found()[session.id]
    lock = session.try_agent_lock()
    assert lock is not None
    assert remove(load_settings(), litter) == "it is live"
    os.close(lock)
    assert session.dir.exists()
    assert remove(load_settings(), litter) is None
    assert (session.dir.exists(), session.shared.exists()) == (False, False)


def test_a_directory_whose_mode_forbids_it_goes_and_what_a_link_leads_to_stays(tmp_path: Path) -> None:
    session = finished_session()
    closed = session.dir / "artifacts" / "closed"
    closed.mkdir(parents=True)
    (closed / "file").touch()
    closed.chmod(0)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "mine").touch()
    (session.dir / "link").symlink_to(outside)
    assert remove(load_settings(), _found()[session.id]) is None
    assert not session.dir.exists()
    assert (outside / "mine").exists()


def test_what_belongs_to_another_user_is_reported_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    session = finished_session()
    litter = _found()[session.id]
    monkeypatch.setattr(_litter.os, "geteuid", lambda: 12345)
    assert "it belongs to another user" in (remove(load_settings(), litter) or "")
    assert session.dir.exists()

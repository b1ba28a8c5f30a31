"""Checks of the machine: each finding, and the mend that goes with it."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import psutil
import pytest

from tailrace_agent.cli import _checks
from tailrace_agent.cli._checks import Check, clock, copies, file_system, processes, shared_memory, state
from tailrace_agent.ipc import native
from tailrace_agent.settings.settings import Settings
from tailrace_agent.settings.sources import load_settings


class _Disk(NamedTuple):
    total: int
    used: int
    free: int


def _room(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: _Disk(free, 0, free))


@pytest.mark.parametrize(("free", "result"), [(1 << 20, "fail"), (500 << 20, "warn"), (4 << 30, "ok")])
def test_a_state_directory_with_little_room_is_a_finding(
    free: int, result: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _room(free, monkeypatch)
    (found,) = state(load_settings())
    assert found.result == result
    assert ("free some space" in (found.mend or "")) == (result != "ok")


def test_a_state_directory_that_cannot_be_used_is_reported_with_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (found,) = state(Settings(dir=str(tmp_path / "file")))
    assert (found.result, "cannot be used" in found.text, "TAILRACE_DIR" in (found.mend or "")) == ("fail", True, True)


def test_a_state_directory_on_a_network_is_named_and_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks, "file_system", lambda _: "nfs4")
    ours, network = state(load_settings())
    assert (ours.result, network.result) == ("ok", "warn")
    assert "nfs4" in network.text


@pytest.mark.parametrize(
    ("kind", "free", "result"),
    [("tmpfs", 4 << 30, "ok"), ("ext4", 4 << 30, "warn"), ("tmpfs", 64 << 20, "warn"), ("tmpfs", 1 << 19, "fail")],
)
def test_shared_memory_is_judged_by_its_kind_and_room(
    kind: str, free: int, result: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_checks, "file_system", lambda _: kind)
    _room(free, monkeypatch)
    found, locks = shared_memory(load_settings())
    assert (found.result, locks.result) == (result, "ok")
    assert ("a ring gets" in found.text) == (free < 1 << 30), "the ring that is to be had is named"


def test_shared_memory_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    (found,) = shared_memory(Settings(ring_dir=str(tmp_path / "nowhere")))
    assert (found.result, "TAILRACE_RING_DIR" in (found.mend or "")) == ("fail", True)


def test_locks_that_hold_nobody_off_are_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks.fcntl, "flock", lambda *_: None)
    _, locks = shared_memory(load_settings())
    assert (locks.result, "flock does not work" in locks.text) == ("fail", True)


def test_an_agent_needs_no_process_unless_it_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_checks, "can_spawn", lambda: False)
    assert processes(Settings(agent="thread")).result == "ok"
    assert processes(Settings()).result == "warn"


def test_a_process_that_cannot_be_started_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: Any, **__: Any) -> None:
        raise OSError("no more processes")

    monkeypatch.setattr(subprocess, "run", no_room)
    found = processes(Settings())
    assert (found.result, "no more processes" in found.text) == ("warn", True)


def test_a_clock_before_tailrace_or_beside_the_disks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    state(settings)
    assert clock(settings).result == "ok"
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 60)
    assert (clock(settings).result, "differs by" in clock(settings).text) == ("warn", True)
    monkeypatch.setattr(time, "time", lambda: 1_000_000.0)
    assert clock(settings).result == "fail"


def test_snapshots_work_wherever_a_program_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_settings()
    state(settings)
    assert copies(settings).result == "ok"
    monkeypatch.setattr(_checks.tempfile, "NamedTemporaryFile", _refused)
    assert "is not writable" in copies(settings).text


def _refused(*_: Any, **__: Any) -> None:
    raise PermissionError(13, "Permission denied")


def test_a_path_is_on_the_nearest_file_system_above_it(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = {"/": "ext4", "/home": "nfs4", "/homestead": "xfs"}
    mounted = [SimpleNamespace(mountpoint=place, fstype=kind) for place, kind in kinds.items()]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: mounted)
    assert [file_system(Path(place)) for place in ("/home/ada/x", "/srv", "/homestead")] == ["nfs4", "ext4", "xfs"]
    monkeypatch.setattr(psutil, "disk_partitions", lambda **_: [])
    assert file_system(Path("/srv")) == "unknown file system"


def test_a_slow_path_is_a_warning_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "why_not", None)
    assert _checks.hot_path() == Check(name="hot path", result="ok", text="log() is compiled")
    monkeypatch.setattr(native, "why_not", "no compiler")
    assert ("no compiler" in _checks.hot_path().text, _checks.hot_path().result) == (True, "warn")

"""Disks: how full, how busy, each byte once."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from helpers.loads import READY, WAIT, child, expect, linux, tell
from tailrace_agent.sampler.disk import DiskIoSource, DiskUsageSource
from tailrace_agent.sampler.process import ProcessSource
from tailrace_agent.sampler.source import SourceGone


def test_disk_usage_is_that_of_the_directory_in_mlflows_units(tmp_path: Path) -> None:
    values = DiskUsageSource(str(tmp_path)).sample(0.0)
    _, used, free = shutil.disk_usage(tmp_path)
    assert values["disk_usage_megabytes"] == pytest.approx(used / 1e6, abs=500)
    assert values["disk_available_megabytes"] == pytest.approx(free / 1e6, abs=500)
    assert values["disk_usage_percentage"] == pytest.approx(100 * used / (used + free), abs=1)


@linux
def test_another_file_system_than_the_root_is_measured_where_the_work_is() -> None:
    if Path("/dev/shm").stat().st_dev == Path("/").stat().st_dev:
        pytest.skip("/dev/shm is on the root file system")
    free = DiskUsageSource("/dev/shm").sample(0.0)["disk_available_megabytes"]
    assert free == pytest.approx(shutil.disk_usage("/dev/shm").free / 1e6, abs=200)


def test_a_directory_that_is_gone_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        DiskUsageSource(str(tmp_path / "gone")).sample(0.0)


def test_a_file_system_that_does_not_answer_holds_nothing_up_and_is_asked_once() -> None:
    answers = threading.Event()
    asked: list[str] = []

    def usage(path: str) -> Any:
        asked.append(path)
        answers.wait(10)
        return SimpleNamespace(percent=50.0, used=1e6, free=1e6)

    source = DiskUsageSource("/mnt/nfs", usage=usage)
    begun = time.monotonic()
    for _ in range(2):
        with pytest.raises(TimeoutError, match="/mnt/nfs does not answer"):
            source.sample(0.0)
    assert time.monotonic() - begun < 2
    assert asked == ["/mnt/nfs"]
    answers.set()
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(TimeoutError):
            assert source.sample(0.0)["disk_usage_megabytes"] == 1.0
            break
        assert time.monotonic() < deadline


@linux
def test_100_megabytes_written_are_seen_by_the_process_and_by_the_disks(tmp_path: Path) -> None:
    code = (
        "file = open(sys.argv[1], 'wb', buffering=0)\n"
        + READY
        + WAIT
        + "for _ in range(100): file.write(bytes(1000000))\n"
        "os.fsync(file.fileno())\nprint('written', flush=True)\n" + WAIT
    )
    disks = DiskIoSource()
    with child(code, str(tmp_path / "data")) as writer:
        process = ProcessSource(writer.pid)
        process.sample(0.0)
        try:
            disks.sample(0.0)
        except SourceGone as error:
            pytest.skip(f"no disk to measure here: {error}")
        tell(writer)
        expect(writer, "written")
        by_process = process.sample(10.0)
        by_disks = disks.sample(10.0)
    if psutil.Process().io_counters().write_bytes == 0 and not by_process.get("process_write_megabytes_per_second"):
        pytest.skip("the temporary directory is not on a disk")
    assert by_process["process_write_megabytes_per_second"] == pytest.approx(10.0, rel=0.02)
    assert by_disks["disk_write_megabytes_per_second"] >= 9.5
    assert 0 <= by_disks["disk_busy_percentage"] <= 100


def test_disks_made_of_other_disks_and_partitions_are_not_counted_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("sda", "nvme0n1", "dm-0", "md1", "loop0", "zram0"):
        (tmp_path / name / "slaves").mkdir(parents=True)
    (tmp_path / "dm-0" / "slaves" / "sda").mkdir()
    (tmp_path / "md1" / "slaves" / "nvme0n1").mkdir()
    moved = 0

    def counters(**_: object) -> Mapping[str, Any]:
        names = ("sda", "sda1", "sda2", "nvme0n1", "nvme0n1p1", "dm-0", "md1", "loop0", "zram0")
        busy = {"nvme0n1": moved / 2e6 * 500}
        return {
            name: SimpleNamespace(read_bytes=moved, write_bytes=2 * moved, busy_time=busy.get(name, 0))
            for name in names
        }

    monkeypatch.setattr(psutil, "disk_io_counters", counters)
    source = DiskIoSource(tmp_path)
    assert source.sample(0.0) == {}
    moved = 2_000_000
    assert source.sample(1.0) == {
        "disk_read_megabytes_per_second": 4.0,
        "disk_write_megabytes_per_second": 8.0,
        "disk_busy_percentage": 50.0,
    }


def test_a_machine_without_disks_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "disk_io_counters", lambda **_: {})
    with pytest.raises(SourceGone):
        DiskIoSource().sample(0.0)

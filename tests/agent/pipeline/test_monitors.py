"""Who gets which samples: runs that share a sampler, energy of each, agents that take over, sources that hang."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tailrace_agent.errors import CallError
from tailrace_agent.ipc.records import RAW, Monitor, Samples
from tailrace_agent.ipc.sample_board import BoardReader, board_file
from tailrace_agent.pipeline import monitors as module
from tailrace_agent.pipeline.monitors import Monitors
from tailrace_agent.sampler.config import MonitorConfig
from tailrace_agent.sampler.source import Source

_KWH = "system/energy_kilowatt_hours"
_JOULES = "system/cpu_energy_joules"


class _Log:
    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: None


class _Meter:
    """A source that counts its samples, and a kilojoule for each."""

    name = "meter"
    every = 0.0

    def __init__(self) -> None:
        self.count = 0
        self.hangs = threading.Event()
        self.goes_on = threading.Event()

    def sample(self, now: float) -> dict[str, float]:
        del now
        if self.hangs.is_set():
            self.goes_on.wait(30)
        self.count += 1
        return {"count": float(self.count)}

    def tags(self) -> dict[str, str]:
        return {"meter_name": "M1"}

    def totals(self) -> dict[str, float]:
        return {"cpu_energy_joules": 1000.0 * self.count}

    def close(self) -> None:
        pass


class _Bench:
    """Monitors on one meter."""

    def __init__(self, shared: Path) -> None:
        self.meters: list[_Meter] = []
        self.shared = shared
        self.monitors = Monitors(self._sources, shared, _Log())

    def _sources(self, _: MonitorConfig) -> list[Source]:
        self.meters.append(_Meter())
        return [self.meters[-1]]

    def samples(self, run: int) -> list[tuple[int, dict[str, float]]]:
        """Step and values of all samples of a run so far; takes those of the others along."""
        rows = [RAW.decode(row) for row in self.monitors.take().rows]
        return [(row[1], row[3]) for row in rows if row[0] == run]

    def tags(self, run: int) -> list[dict[str, str]]:
        rows = [RAW.decode(row) for row in self.monitors.take().rows]
        return [row[2] for row in rows if row[:2] == ["tags", run]]


@pytest.fixture
def bench(tmp_path: Path) -> _Bench:
    return _Bench(tmp_path)


def _record(run: int, token: int = 1, *, on: bool = True, board_only: bool = False, **config: Any) -> Monitor:
    config = msgspec.to_builtins(MonitorConfig(interval=3600.0, **config))
    return Monitor(run, config, on, board_only, token)


def _off(run: int, token: int = 1, **config: Any) -> Monitor:
    return _record(run, token, on=False, **config)


def test_runs_that_ask_for_the_same_share_one_sampler_and_have_their_own_steps_and_tags(bench: _Bench) -> None:
    bench.monitors.start(_record(1))
    bench.monitors.step(time.monotonic())
    assert bench.tags(1) == [{"system/meter_name": "M1"}]
    bench.monitors.start(_record(2))
    rows = [RAW.decode(row) for row in bench.monitors.take().rows]
    assert [row[1] for row in rows if row[0] == 2] == [0]
    assert [row[2] for row in rows if row[:2] == ["tags", 2]] == [{"system/meter_name": "M1"}]
    bench.monitors.stop(_off(2))
    assert [step for step, _ in bench.samples(2)] == [1]
    bench.monitors.stop_run(1)
    assert [step for step, _ in bench.samples(1)] == [3]
    assert len(bench.meters) == 1


def test_each_run_has_the_energy_of_its_own_time(bench: _Bench) -> None:
    bench.monitors.start(_record(1))
    bench.monitors.step(time.monotonic())
    bench.monitors.start(_record(2))
    bench.monitors.stop(_off(2))
    (_, first), (_, last) = bench.samples(2)
    assert _KWH not in first
    assert last[_JOULES] == 2000.0, "its first sample, and its last one"
    assert last[_KWH] == pytest.approx(2000.0 / 3.6e6)
    bench.monitors.stop_run(1)
    assert bench.samples(1)[-1][1][_JOULES] == 4000.0


def test_a_second_monitor_of_a_run_counts_on(bench: _Bench) -> None:
    for token in (1, 2):
        bench.monitors.start(_record(1, token))
        bench.monitors.step(time.monotonic())
        bench.monitors.stop(_off(1, token))
    found = bench.samples(1)
    assert [step for step, _ in found] == [0, 1, 2, 3]
    assert found[-1][1][_JOULES] == 4000.0


def test_another_agent_goes_on_with_the_count_and_the_energy(bench: _Bench, tmp_path: Path) -> None:
    bench.monitors.start(_record(1))
    bench.monitors.step(time.monotonic())
    assert bench.monitors.take().progress[1]["system"].count == 1
    successor = _Bench(tmp_path)
    successor.monitors.start(_record(1), Samples(7, {_JOULES: 500.0, _KWH: 500.0 / 3.6e6}))
    successor.monitors.step(time.monotonic())
    successor.monitors.stop_run(1)
    found = successor.samples(1)
    assert [step for step, _ in found] == [7, 8]
    assert found[-1][1][_JOULES] == 2500.0
    assert found[-1][1][_KWH] == pytest.approx(2500.0 / 3.6e6)


def test_a_record_that_is_read_twice_counts_once(bench: _Bench) -> None:
    for _ in range(2):
        bench.monitors.start(_record(1, 5))
    bench.monitors.start(_record(1, 6, network=False))
    bench.monitors.step(time.monotonic())
    for _ in range(2):
        bench.monitors.stop(_off(1, 6))
    assert len(bench.samples(1)) == 1, "the other one still runs"
    bench.monitors.stop(_off(1, 5))
    assert len(bench.samples(1)) == 1


def test_what_is_for_the_board_alone_is_not_logged(bench: _Bench) -> None:
    bench.monitors.start(_record(1, board_only=True))
    bench.monitors.step(time.monotonic())
    assert bench.samples(1) == []
    board = BoardReader(board_file(bench.shared, 1, "system", None))
    assert board.read() == {"system/count": 1.0}
    bench.monitors.start(_record(1, 2))
    bench.monitors.stop(_off(1, 1))
    bench.monitors.stop_run(1)
    assert [step for step, _ in bench.samples(1)] == [1]
    assert board.read()["system/count"] == 2.0
    assert not list(bench.shared.glob("*.board"))


def test_each_monitor_has_a_board_of_its_own(bench: _Bench) -> None:
    bench.monitors.start(_record(1, prefix="a"))
    bench.monitors.start(_record(1, node="n"))
    bench.monitors.step(time.monotonic())
    assert BoardReader(board_file(bench.shared, 1, "a", None)).read() == {"a/count": 1.0}
    assert BoardReader(board_file(bench.shared, 1, "system", "n")).read() == {"system/n/count": 1.0}
    assert BoardReader(board_file(bench.shared, 2, "system", None)).read() == {}


def test_a_source_that_hangs_does_not_hold_the_end_of_a_run(bench: _Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    bench.monitors.start(_record(1))
    bench.meters[0].hangs.set()
    sampler = threading.Thread(target=bench.monitors.step, args=(time.monotonic(),))
    sampler.start()
    time.sleep(0.1)
    began = time.monotonic()
    bench.monitors.stop_run(1)
    assert time.monotonic() - began < 5
    bench.meters[0].goes_on.set()
    sampler.join(10)
    assert bench.samples(1) == [], "nobody wants it any more"


def test_no_room_in_shared_memory_costs_latest_and_nothing_else(tmp_path: Path) -> None:
    bench = _Bench(tmp_path / "missing")
    bench.monitors.start(_record(1))
    bench.monitors.step(time.monotonic())
    assert len(bench.samples(1)) == 1


def test_what_a_newer_version_asks_for_is_refused(bench: _Bench) -> None:
    with pytest.raises((CallError, msgspec.ValidationError)):
        bench.monitors.start(Monitor(1, {"interval": 0.0}))
    bench.monitors.stop_run(1)

"""The sampler ticks without drift, on a clock that the tests turn."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helpers.kept_log import KeptLog
from helpers.sampler_bench import Bench, Fake
from tailrace_agent.sampler.config import MonitorConfig
from tailrace_agent.sampler.sampler import Sample, Sampler

# ── Ticks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_first_sample_is_taken_at_once_and_the_last_by_finish() -> None:
    slow = Fake("slow", lambda now: {"slow": now}, every=10.0)
    bench = Bench(Fake(), slow)
    assert bench.sampler.step(1000.0) == 1001.0
    bench.clock.now = 1000.3
    bench.sampler.finish(1000.3)
    assert [sample.values for sample in bench.samples] == [
        {"system/value": 1000.0, "system/slow": 1000.0},
        {"system/value": 1000.3, "system/slow": 1000.3},
    ]
    assert [sample.step for sample in bench.samples] == [0, 1]
    assert [sample.time_ns for sample in bench.samples] == [1000 * 10**9, 1000_300_000_000]


def test_after_finish_nothing_is_sampled_and_every_source_is_closed_once() -> None:
    source = Fake()
    bench = Bench(source)
    bench.sampler.step(1000.0)
    bench.sampler.finish(1000.5)
    assert bench.sampler.finish(1000.6) == {}
    assert bench.sampler.step(1001.0) == math.inf
    assert (len(bench.samples), source.closed) == (2, 1)


def test_a_step_before_the_deadline_samples_nothing() -> None:
    bench = Bench(Fake())
    deadline = bench.sampler.step(1000.0)
    assert bench.sampler.step(1000.999) == deadline
    assert len(bench.samples) == 1


@given(
    start=st.floats(0, 1e9),
    interval=st.floats(0.1, 3600),
    lateness=st.lists(st.floats(0, 0.99), min_size=1, max_size=60),
)
def test_lateness_of_a_tick_never_moves_a_later_one(start: float, interval: float, lateness: list[float]) -> None:
    bench = Bench(Fake(), interval=interval)
    deadline = bench.sampler.step(start)
    for number, late in enumerate(lateness, 1):
        assert deadline == pytest.approx(start + number * interval, rel=1e-12)
        deadline = bench.sampler.step(deadline + late * 0.999 * interval)
    assert len(bench.samples) == 1 + len(lateness)
    assert bench.sampler.skipped == 0


@given(start=st.floats(0, 1e9), interval=st.floats(0.1, 10), waits=st.lists(st.floats(0, 50), min_size=1, max_size=40))
def test_missed_ticks_are_skipped_and_counted_not_replayed(start: float, interval: float, waits: list[float]) -> None:
    bench = Bench(Fake(), interval=interval)
    now = start
    deadline = bench.sampler.step(now)
    for wait in waits:
        now += wait
        before = len(bench.samples)
        was_due = now >= deadline
        deadline = bench.sampler.step(now)
        assert len(bench.samples) - before == was_due
        assert deadline > now
        assert deadline - now <= interval * (1 + 1e-9) + 1e-6
    ticks = round((deadline - start) / interval)
    assert len(bench.samples) + bench.sampler.skipped == ticks
    assert [sample.step for sample in bench.samples] == list(range(len(bench.samples)))


def test_an_hour_of_late_ticks_drifts_by_nothing() -> None:
    bench = Bench(Fake())
    deadline = bench.sampler.step(1000.0)
    for _ in range(3600):
        deadline = bench.sampler.step(deadline + 0.3)
    assert deadline == 1000.0 + 3601
    assert len(bench.samples) == 3601


def test_what_the_taker_raises_leaves_step_and_the_sample_is_not_repeated() -> None:
    taken: list[int] = []

    def take(sample: Sample) -> None:
        taken.append(sample.step)
        if sample.step == 0:
            raise OSError("disk full")

    sampler = Sampler([Fake()], MonitorConfig(), take, KeptLog())
    with pytest.raises(OSError, match="disk full"):
        sampler.step(1000.0)
    assert sampler.step(1000.1) == 1001.0
    sampler.step(1001.0)
    assert taken == [0, 1]


# ── Tiers, names, latest, totals ─────────────────────────────────────────────────────────────────────────────────────


def test_a_source_is_asked_as_often_as_it_says() -> None:
    each, tenth = Fake("each"), Fake("tenth", lambda now: {"tenth": now}, every=10.0)
    odd = Fake("odd", lambda now: {"odd": now}, every=2.5)
    Bench(each, tenth, odd).run(60)
    assert len(each.asked) == 61
    assert tenth.asked == [1000.0 + 10 * number for number in range(7)]
    assert odd.asked[:4] == [1000.0, 1003.0, 1006.0, 1009.0]  # ticks come each second


def test_late_ticks_do_not_make_a_tiered_source_miss_its_turn() -> None:
    source = Fake(every=5.0)
    bench = Bench(source)
    deadline = bench.sampler.step(1000.0)
    for number in range(20):
        deadline = bench.sampler.step(deadline + (0.4 if number % 2 else 0.0))
    assert len(source.asked) == 5


def test_latest_keeps_tiered_values_and_forgets_what_is_not_seen_any_more() -> None:
    present = ["a", "b"]
    bench = Bench(Fake(answers=lambda now: dict.fromkeys(present, now)), Fake("tier", lambda now: {"c": 1.0}, every=30))
    bench.run(10)
    assert set(bench.sampler.latest) == {"system/a", "system/b", "system/c"}
    held = bench.sampler.latest
    present.remove("b")
    bench.run(100)
    assert "system/b" in bench.sampler.latest
    bench.run(60)
    assert set(bench.sampler.latest) == {"system/a", "system/c"}
    assert set(held) == {"system/a", "system/b", "system/c"}


def test_values_that_are_no_numbers_are_absent_and_an_empty_sample_is_none() -> None:
    bench = Bench(Fake(answers=lambda now: {"nan": math.nan, "inf": math.inf}))
    bench.run(3)
    assert bench.samples == []
    assert bench.sampler.samples == 0


def test_tags_are_said_once() -> None:
    bench = Bench(Fake())
    bench.run(5)
    assert [sample.tags for sample in bench.samples] == [{"system/fake_name": "fake"}] + [{}] * 5


def test_totals_are_in_the_last_sample_with_the_kilowatt_hours_of_all() -> None:
    gpu, cpu = Fake("gpu"), Fake("cpu")
    gpu.sums, cpu.sums = {"gpu_0_energy_joules": 7.2e6}, {"cpu_energy_joules": 3.6e6}
    bench = Bench(gpu, cpu)
    bench.sampler.step(1000.0)
    totals = bench.sampler.finish(1000.5)
    assert totals == {
        "system/gpu_0_energy_joules": 7.2e6,
        "system/cpu_energy_joules": 3.6e6,
        "system/energy_kilowatt_hours": 3.0,
    }
    assert totals.items() <= bench.samples[-1].values.items()
    assert totals.items() <= bench.sampler.latest.items()


def test_without_an_energy_counter_there_are_no_kilowatt_hours() -> None:
    bench = Bench(Fake())
    bench.sampler.step(1000.0)
    assert bench.sampler.finish(1000.5) == {}

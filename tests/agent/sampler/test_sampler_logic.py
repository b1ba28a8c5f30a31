"""The sampler ticks without drift, and no source can hurt another: all of it on a clock that the tests turn."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.kept_log import KeptLog
from tailrace_agent.errors import CallError
from tailrace_agent.sampler.config import MonitorConfig, key
from tailrace_agent.sampler.guard import Guarded
from tailrace_agent.sampler.rates import Rates
from tailrace_agent.sampler.sampler import Sample, Sampler
from tailrace_agent.sampler.source import SourceGone


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Fake:
    """A source that does what it is told: `answers(now)` may raise, `takes` is turned on the clock."""

    def __init__(
        self,
        name: str = "fake",
        answers: Callable[[float], dict[str, float]] = lambda now: {"value": now},
        *,
        every: float = 0.0,
        takes: Callable[[], float] = lambda: 0.0,
        clock: Clock | None = None,
    ) -> None:
        self.name, self.every = name, every
        self.answers, self.takes, self.clock = answers, takes, clock
        self.asked: list[float] = []
        self.said_tags = {"fake_name": name}
        self.sums: dict[str, float] = {}
        self.closed = 0

    def sample(self, now: float) -> dict[str, float]:
        self.asked.append(now)
        if self.clock is not None:
            self.clock.now += self.takes()
        return self.answers(now)

    def tags(self) -> dict[str, str]:
        return self.said_tags

    def totals(self) -> dict[str, float]:
        return self.sums

    def close(self) -> None:
        self.closed += 1


class Bench:
    """A sampler with its clock, its log and what it has handed on."""

    def __init__(self, *sources: Fake, clock: Clock | None = None, **config: Any) -> None:
        self.clock = clock or Clock()
        self.log = KeptLog()
        self.samples: list[Sample] = []
        self.sampler = Sampler(
            sources,
            MonitorConfig(**config),
            self.samples.append,
            self.log,
            clock=self.clock,
            wall=lambda: round(self.clock.now * 1e9),
        )

    def said_of(self, source: str) -> list[str]:
        return [
            line.event.removeprefix("system monitor: ") for line in self.log.lines if line.fields["source"] == source
        ]

    def run(self, seconds: float) -> None:
        """Steps at each deadline."""
        end = self.clock.now + seconds
        while True:
            deadline = self.sampler.step(self.clock.now)
            if deadline > end:
                self.clock.now = max(self.clock.now, end)
                return
            self.clock.now = max(self.clock.now, deadline)


def raises(error: Exception) -> Callable[[float], dict[str, float]]:
    def answer(now: float) -> dict[str, float]:
        raise error

    return answer


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


@pytest.mark.parametrize(
    ("prefix", "node", "expected"),
    [("system", None, "system/value"), ("system", "n-1", "system/n-1/value"), ("hw", "a b", "hw/a b/value")],
)
def test_names_are_made_as_mlflow_makes_them(prefix: str, node: str | None, expected: str) -> None:
    bench = Bench(Fake(), prefix=prefix, node=node)
    bench.sampler.step(1000.0)
    assert list(bench.samples[0].values) == [expected] == [key(prefix, node, "value")]
    assert bench.samples[0].tags == {key(prefix, node, "fake_name"): "fake"}


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


def test_costs_are_counted_for_each_source() -> None:
    clock = Clock()
    bench = Bench(Fake("a", takes=lambda: 0.01, clock=clock), Fake("b"), clock=clock)
    bench.run(4)
    cost = bench.sampler.costs()["a"]
    assert (cost.samples, round(cost.wall, 6), round(cost.longest, 6)) == (5, 0.05, 0.01)
    assert bench.sampler.costs()["b"].wall == 0


# ── Failures ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("error", [OSError("gone"), ZeroDivisionError(), SourceGone("no such thing"), KeyError("x")])
def test_a_source_that_fails_goes_quiet_with_one_line_and_the_others_go_on(error: Exception) -> None:
    bad, good = Fake("bad", raises(error)), Fake("good")
    bench = Bench(bad, good)
    bench.run(3600)
    assert len(good.asked) == 3601
    assert len(bench.said_of("bad")) == 1
    assert bench.said_of("good") == []
    pauses = [round(later - earlier) for earlier, later in zip(bad.asked, bad.asked[1:], strict=False)]
    assert pauses[:9] == [5, 10, 20, 40, 80, 160, 320, 600, 600]


def test_what_is_missing_is_news_and_what_fails_a_warning() -> None:
    bench = Bench(Fake("missing", raises(SourceGone("none here"))), Fake("broken", raises(OSError("EIO"))))
    bench.run(1)
    assert [(line.level, line.fields["source"]) for line in bench.log.lines] == [
        ("info", "missing"),
        ("warning", "broken"),
    ]


def test_a_source_that_comes_back_is_picked_up_again_with_its_tags() -> None:
    source = Fake("gpu", raises(SourceGone("fell off the bus")))
    bench = Bench(source, Fake("other", lambda now: {"other": now}))
    bench.run(20)
    assert "system/value" not in bench.sampler.latest
    source.answers = lambda now: {"value": now}
    bench.run(20)
    assert bench.sampler.latest["system/value"] == bench.clock.now
    assert bench.said_of("gpu") == ["not on this machine", "a source is back"]
    assert [sample.tags for sample in bench.samples if "system/fake_name" in sample.tags] == [
        {"system/fake_name": "other"},
        {"system/fake_name": "gpu"},
    ]
    source.answers = raises(SourceGone("again"))
    bench.run(1)
    assert "system/value" not in bench.sampler.latest


def test_a_source_that_comes_and_goes_does_not_fill_the_log() -> None:
    def flicker() -> Iterator[bool]:
        while True:
            yield True
            yield False

    works = flicker()

    def answer(now: float) -> dict[str, float]:
        if next(works):
            return {"value": now}
        raise OSError("flickers")

    bench = Bench(Fake(answers=answer))
    bench.run(3600)
    assert len(bench.log.lines) < 30


def test_a_failure_long_ago_does_not_lengthen_the_next_pause() -> None:
    failing = [True]

    def answer(now: float) -> dict[str, float]:
        if failing[0]:
            raise OSError("no")
        return {"value": now}

    source = Fake(answers=answer)
    bench = Bench(source)
    bench.run(100)
    failing[0] = False
    bench.run(200)
    failing[0] = True
    bench.run(1)
    failing[0] = False
    bench.run(10)
    assert bench.sampler.latest["system/value"] == bench.clock.now


def test_finish_does_not_ask_a_source_that_is_quiet() -> None:
    bad = Fake("bad", raises(OSError("hangs for a second")))
    bench = Bench(bad, Fake("good"))
    bench.sampler.step(1000.0)
    bench.sampler.finish(1000.5)
    assert len(bad.asked) == 1
    assert bad.closed == 1


def test_tags_totals_and_close_may_fail_too() -> None:
    class Rotten(Fake):
        def tags(self) -> dict[str, str]:
            raise OSError("tags")

        def totals(self) -> dict[str, float]:
            raise OSError("totals")

        def close(self) -> None:
            raise OSError("close")

    good = Fake("good")
    good.sums = {"good_energy_joules": 3.6e6}
    bench = Bench(Rotten("bad"), good)
    bench.sampler.step(1000.0)
    assert bench.sampler.finish(1001.0)["system/energy_kilowatt_hours"] == 1.0
    assert good.closed == 1
    assert len(bench.said_of("bad")) == 3


# ── Slow sources ─────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=50)
@given(takes=st.floats(0.11, 20.0), interval=st.sampled_from([0.5, 1.0, 5.0]))
def test_a_slow_source_is_asked_less_often_until_it_costs_a_tenth(takes: float, interval: float) -> None:
    clock = Clock()
    slow = Fake("slow", takes=lambda: takes, clock=clock)
    bench = Bench(slow, clock=clock, interval=interval)
    bench.run(3600)
    guard = bench.sampler._guards[0]
    rounding = 1e-9 * clock.now  # of a duration, taken as the difference of two readings
    assert takes <= 0.1 * guard.period + rounding
    assert guard.stretch == 1 or takes > 0.1 * guard.period / 2 - rounding
    assert len(bench.said_of("slow")) == (guard.stretch > 1)


@settings(max_examples=20)
@given(takes=st.floats(0.11, 10.0))
def test_a_source_that_becomes_fast_again_comes_back(takes: float) -> None:
    clock = Clock()
    now_takes = [takes]
    source = Fake("slow", takes=lambda: now_takes[0], clock=clock)
    bench = Bench(source, clock=clock)
    bench.run(1500)
    now_takes[0] = 0.001
    bench.run(1000)
    asked = len(source.asked)
    bench.run(100)
    assert len(source.asked) - asked >= 100
    assert bench.said_of("slow") == ["a source is slow, and is asked less often", "a slow source is fast again"]


def test_one_hiccup_changes_nothing() -> None:
    clock = Clock()
    takes = iter([0.001] * 5 + [0.5] + [0.001] * 1000)
    source = Fake("cpu", takes=lambda: next(takes), clock=clock)
    bench = Bench(source, clock=clock)
    bench.run(30)
    assert len(source.asked) == 31
    assert bench.log.lines == []


def test_a_slow_source_does_not_hold_up_the_others() -> None:
    clock = Clock()
    slow = Fake("slow", lambda now: {"slow": now}, takes=lambda: 3.0, clock=clock)
    bench = Bench(slow, Fake("fast"), clock=clock)
    bench.run(1000)
    assert bench.sampler.skipped < 120
    assert len(bench.samples) > 880


def test_a_source_that_is_slow_now_and_then_does_not_fill_the_log() -> None:
    clock = Clock()
    source = Fake("moody", takes=lambda: 0.3 if int(clock.now) % 100 < 50 else 0.001, clock=clock)
    bench = Bench(source, clock=clock)
    bench.run(7200)
    assert len(bench.log.lines) <= 2 * 13


def test_the_period_is_stretched_to_ten_minutes_at_most() -> None:
    clock = Clock()
    guard = Guarded(Fake(takes=lambda: 1e4, clock=clock), KeptLog(), clock=clock)
    for _ in range(50):
        guard.sample(clock.now)
    assert guard.period <= 600


# ── Configuration and rates ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"interval": 0}, "interval must be seconds from 0.1 to 3600, not 0"),
        ({"interval": math.nan}, "interval must be"),
        ({"interval": True}, "interval must be"),
        ({"interval": "1"}, "interval must be seconds from 0.1 to 3600, not '1'"),
        ({"cpu": 1}, "cpu must be True or False, not 1"),
        ({"cores": None}, "cores must be"),
        ({"prefix": ""}, "prefix must be at most 80 of MLflow's characters"),
        ({"prefix": "/system"}, "prefix must be"),
        ({"prefix": "system/"}, "prefix must be"),
        ({"prefix": "a//b"}, "prefix must be"),
        ({"prefix": ".."}, "prefix must be"),
        ({"prefix": "sys(tem)"}, "prefix must be"),
        ({"prefix": None}, "prefix must be"),
        ({"node": "x" * 81}, "node must be"),
        ({"node": "a\n"}, "node must be"),
        ({"pid": 0}, "pid must be a process id, or None, not 0"),
        ({"pid": True}, "pid must be"),
        ({"cwd": 7}, "cwd must be a string, or None, not 7"),
        ({"visible_devices": [0]}, "visible_devices must be"),
    ],
)
def test_what_can_never_work_is_said_in_words(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(CallError) as caught:
        MonitorConfig(**wrong)
    assert str(caught.value).startswith(f"system_monitor: {message}")


def test_a_configuration_survives_the_way_to_the_agent() -> None:
    config = MonitorConfig(interval=2.5, node="a/b", pid=7, cwd="/tmp", visible_devices="", cores=True)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=MonitorConfig) == config


def test_a_rate_needs_two_readings_and_a_counter_that_fell_begins_anew() -> None:
    rates = Rates()
    assert rates.update(10.0, {"a": 100.0, "b": 5.0}) == {}
    assert rates.update(12.0, {"a": 104.0, "b": 1.0, "new": 3.0}) == {"a": 2.0}
    assert rates.update(13.0, {"a": 104.0, "b": 3.0}) == {"a": 0.0, "b": 2.0}


def test_an_update_that_comes_too_soon_is_part_of_the_next() -> None:
    rates = Rates()
    rates.update(10.0, {"a": 0.0})
    assert rates.update(10.01, {"a": 5.0}) == {}
    assert rates.update(11.0, {"a": 10.0}) == {"a": 10.0}

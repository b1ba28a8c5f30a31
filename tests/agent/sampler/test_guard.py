"""No source can hurt another, whatever it raises and however slow it is."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.kept_log import KeptLog
from helpers.sampler_bench import Bench, Clock, Fake, raises
from tailrace_agent.sampler.guard import Guarded
from tailrace_agent.sampler.source import SourceGone

# ── Tiers, names, latest, totals ─────────────────────────────────────────────────────────────────────────────────────


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

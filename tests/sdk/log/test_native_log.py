"""The hot path in C does what the one in Python does, byte for byte; whatever is not plain, it hands over untouched."""

from __future__ import annotations

import contextvars
import gc
import inspect
import itertools
import math
import mmap
import os
import subprocess
import sys
import tempfile
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.log_pairs import LogBench, LogPairs, row_said
from tailrace._log.channel import Channel
from tailrace._log.log import make_log, python_log
from tailrace_agent.ipc import native

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.skipif(
    native.why_not is not None and os.environ.get("TAILRACE_NATIVE") == "0", reason="the hot path in C is switched off"
)


def test_the_hot_path_in_c_is_built_where_the_tests_run() -> None:
    assert native.why_not is None, native.why_not


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[LogBench, LogBench]]:
    with LogPairs(tmp_path) as both:
        yield both


class Half(float):
    def __float__(self) -> float:
        return 0.5


class Name(str):
    __slots__ = ()


VALUES = st.one_of(
    st.floats(),
    st.integers(),
    st.integers(-(2**63) - 2, 2**64 + 2),
    st.integers(-(2**33), 2**33),
    st.booleans(),
    st.floats(width=32).map(np.float32),
    st.floats().map(np.float64),
    st.sampled_from([None, "0.5", Half(2.0), np.int64(3), 1j]),
)
KEYS = st.one_of(st.text(max_size=40), st.text(st.characters(codec=None), max_size=8), st.text("ab/é", min_size=230))
STEPS = st.one_of(st.none(), st.integers(-(2**63) - 1, 2**63 + 1), st.booleans(), st.just(2.0))
CALLS = st.tuples(
    st.one_of(st.none(), st.dictionaries(st.one_of(KEYS, KEYS.map(Name), st.integers()), VALUES, max_size=40)),
    st.dictionaries(KEYS.filter(lambda key: key != "step"), VALUES, max_size=20),
    STEPS,
)


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
@settings(deadline=None, max_examples=150)
@given(calls=st.lists(CALLS, max_size=5))
def test_both_write_the_same_and_stumble_over_the_same(strict: bool, calls: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder, LogPairs(Path(folder), strict=strict) as (c, python):
        for metrics, values, step in calls:
            given_step = {} if step is None else {"step": step}
            for bench in (c, python):
                if metrics is None:
                    bench.log(**given_step, **values)
                else:
                    bench.log(metrics, **values, **given_step)
        assert repr(c.odd) == repr(python.odd)
        assert c.said() == python.said()


# Of a rule with an interval it is known what is due: everything (a nanosecond has passed), or the first value alone.
RULES = st.fixed_dictionaries(
    {
        "every": st.dictionaries(
            st.sampled_from(["a", "b*", "?", "*"]), st.sampled_from([1, 2, 3, 10**30]), max_size=3
        ),
        "min_interval": st.dictionaries(
            st.sampled_from(["a", "c", "b*"]), st.sampled_from([1e-9, 1e9, 1e30]), max_size=2
        ),
    }
).filter(lambda rules: any(rules.values()))
FEW = st.dictionaries(
    st.sampled_from(["a", "b", "bb", "c", "dé"]),
    st.one_of(st.integers(-5, 5), st.floats(), st.just(np.float32(0.5)), st.just("no number")),
    max_size=5,
)


@settings(deadline=None, max_examples=150)
@given(rules=RULES, calls=st.lists(st.tuples(st.booleans(), FEW, st.none() | st.integers(0, 9)), max_size=25))
def test_both_log_and_hold_the_same_of_a_selection(rules: dict[str, Any], calls: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder, LogPairs(Path(folder), **rules) as (c, python):
        for by_keyword, values, step in calls:
            for bench in (c, python):
                if by_keyword:
                    bench.log(**values, step=step)
                else:
                    bench.log(values, step=step)
        assert repr(c.odd) == repr(python.odd)
        assert c.said() == python.said()
        assert c.held() == python.held()
        assert c.held() == []


def test_what_python_has_held_is_overtaken_by_what_c_logs(tmp_path: Path) -> None:
    with LogPairs(tmp_path, every={"loss": 2}) as (c, python):
        for bench in (c, python):
            bench.log(loss=0.0, step=0)
            bench.log(loss=Half(1.0), step=1)  # Python's: it has a `__float__` of its own
            bench.log(loss=2.0, step=2)
            assert bench.held() == []
            bench.log(loss=Half(3.0), step=3)
            bench.log(loss=4.0, step=4)
            bench.log(loss=5.0, step=5)
            assert bench.held() == ["(7, 5, {'loss': 5.0})"]
        assert c.said() == python.said()


def test_an_array_that_is_skipped_is_held_as_it_was_at_the_call(tmp_path: Path) -> None:
    with LogPairs(tmp_path, every={"*": 10}) as both:
        for bench in both:
            value = np.array(1.0)
            bench.log(loss=0.5)
            bench.log(loss=value)
            value[...] = 99
            assert bench.held() == ["(7, 1, {'loss': 1.0})"]


class Stubborn(str):
    """A key whose comparison is interrupted, or runs code that changes everything."""

    __slots__ = ()
    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def __eq__(self, other: object) -> bool:
        Stubborn.meanwhile()
        return str.__eq__(self, other)

    __hash__ = str.__hash__


@pytest.mark.parametrize("off", [False, True])
def test_ctrl_c_within_a_keys_own_code_gets_out(tmp_path: Path, off: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with LogPairs(tmp_path, every={"*": 2}) as both:
        for bench in both:
            if off:
                bench.channel.encode = None
            bench.log({Stubborn("a"): 1.0})
            monkeypatch.setattr(Stubborn, "meanwhile", staticmethod(interrupt))
            with pytest.raises(KeyboardInterrupt):
                bench.log({"a": 1.0, "b": 2.0} if off else {Stubborn("a"): 2.0})
            monkeypatch.setattr(Stubborn, "meanwhile", staticmethod(lambda: None))


def test_a_ring_that_goes_while_a_plan_is_looked_up_is_not_written_to(tmp_path: Path) -> None:
    from tailrace._log.channel import Elsewhere

    rows: list[bytes] = []
    with LogPairs(tmp_path, every={"*": 1}) as (c, _):
        c.log({Stubborn("a"): 1.0})
        before = len(c.rows())
        Stubborn.meanwhile = staticmethod(lambda: c.channel.lead_to(Elsewhere(rows.append)))
        try:
            c.log({"a": 2.0})
        finally:
            Stubborn.meanwhile = staticmethod(lambda: None)
        assert before == 1
        assert len(c.rows()) + len(rows) == 1
        assert len(rows) == 1


def test_rows_held_in_c_grow_and_shrink_and_are_forgotten(tmp_path: Path) -> None:
    with LogPairs(tmp_path, every={"*": 100}) as (c, python):
        for bench in (c, python):
            for step, value in enumerate([0, 1, 2**40, -(2**33), 1.5, True, 3]):
                bench.log({"a": value}, step=step)
            assert bench.held() == ["(7, 6, {'a': 3})"]
            assert bench.held() == []
        many = {f"key {index}": 0.5 for index in range(100)}  # more than C holds
        for bench in (c, python):
            bench.log(many, step=0)
            bench.log(many, step=1)
        assert c.said() == python.said()
        assert c.held() == python.held()


def test_however_many_sets_of_keywords_there_are_few_are_remembered(tmp_path: Path) -> None:
    with LogPairs(tmp_path, every={"*": 2}) as (c, _):
        for number in range(3):
            for index in range(5000):
                c.log(**{f"k{index}": 1.0, "step": number})  # type: ignore[arg-type]
            c.rows()
        assert c.channel.selection is not None
        assert len(c.channel.selection.plans) == 4096
        assert len(c.channel.selection.names) == 4096


NUMBERS = [*range(-200, 400), *(sign * 2**bits + d for bits in range(64) for sign in (1, -1) for d in (-1, 0, 1))]


def test_numbers_and_headers_are_written_as_every_encoder_writes_them(tmp_path: Path) -> None:
    with LogPairs(tmp_path) as (c, _):
        for number in NUMBERS:
            c.channel.run = number if abs(number) < 2**63 else 0
            c.log(step=number, a=number, b=float(number), c=True, d=False)
        for count in range(40):
            c.log({f"key {'x' * index}": 0.5 for index in range(count)}, step=count)
        rows = c.rows()
        assert len(rows) > len(NUMBERS) // 2
        for row in rows:
            assert msgspec.msgpack.encode(msgspec.msgpack.decode(row)) == row


def test_a_key_of_any_length_and_a_row_of_any_length_arrive_whole(pair: tuple[LogBench, LogBench]) -> None:
    for bench in pair:
        for length in (0, 1, 31, 32, 255, 256, 1000, 2500):
            bench.log({"k" * length: 1.5}, step=length)
        for count in (15, 16, 17, 120, 300):
            bench.log({f"metric {index}": float(index) for index in range(count)}, step=count)
    assert pair[0].said() == pair[1].said()
    assert pair[0].odd == []


def test_the_time_is_that_of_the_call(pair: tuple[LogBench, LogBench]) -> None:
    import time

    before = time.time_ns()
    pair[0].log(loss=0.5)
    after = time.time_ns()
    (row,) = pair[0].rows()
    assert before <= msgspec.msgpack.decode(row)[2] <= after


def test_a_full_ring_spills_in_order_and_about_one_call_in_200_is_timed(tmp_path: Path) -> None:
    timed: list[tuple[bytes, int, int]] = []
    bench = LogBench(tmp_path, make_log, on_sample=lambda *sample: timed.append(sample))
    found = []
    for step in range(5000):
        bench.log(step=step, loss=step / 2, accuracy=0.25)
        if step % 1700 == 1699:  # the ring is full by then, and the spill file is not empty
            found += bench.rows()
    found += bench.rows()
    assert (tmp_path / "spill").exists()
    decoded = list(map(msgspec.msgpack.decode, found))
    assert [row[1] for row in decoded] == list(range(5000))
    assert [row[3]["loss"] for row in decoded] == [step / 2 for step in range(5000)]
    assert timed
    for row, entered, took in timed:
        assert msgspec.msgpack.decode(row)[2] <= entered
        assert took >= 0
    bench.reader.close()


def test_threads_share_one_counter_and_lose_nothing(tmp_path: Path) -> None:
    bench = LogBench(tmp_path, make_log)

    def work(name: str) -> None:
        for number in range(3000):
            bench.log({name: number})

    threads = [threading.Thread(target=work, args=(f"t{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    rows: list[Any] = []
    while any(thread.is_alive() for thread in threads):
        rows += map(msgspec.msgpack.decode, bench.rows())
    rows += map(msgspec.msgpack.decode, bench.rows())
    assert sorted(row[1] for row in rows) == list(range(12_000))
    for index in range(4):
        assert [row[3][f"t{index}"] for row in rows if f"t{index}" in row[3]] == list(range(3000))
    bench.reader.close()


def test_a_closed_channel_sends_every_call_to_the_slow_path(pair: tuple[LogBench, LogBench]) -> None:
    def closed(_: object) -> bytes:
        raise LookupError("closed")

    for bench in pair:
        bench.log(a=1.0)
        bench.channel.close(closed)
        bench.log(a=2.0)
        bench.log({"b": 3.0}, step=9)
    assert pair[0].said() == pair[1].said() == ["(7, 0, {'a': 1.0})"]
    assert repr(pair[0].odd) == repr(pair[1].odd)
    assert [entry[2] for entry in pair[0].odd] == [None, 9]


def test_a_channel_that_leads_elsewhere_is_followed_at_once(tmp_path: Path) -> None:
    from tailrace._log.channel import Elsewhere

    bench, rows = LogBench(tmp_path, make_log), []
    bench.log(a=1.0)
    bench.channel.lead_to(Elsewhere(rows.append))
    bench.log(a=2.0)
    assert len(bench.rows()) == len(rows) == 1
    bench.reader.close()


def test_with_tracking_off_the_last_values_are_kept_and_new_names_are_looked_at(
    pair: tuple[LogBench, LogBench],
) -> None:
    for bench in pair:
        bench.channel.encode = None
        bench.log(a=1.0, b=2)
        bench.channel.known = len(bench.channel.latest)
        bench.log(a=3.0, step=4)
        bench.log({"b": 5.0})
        bench.log({"b": 6.0}, c=True)
        bench.log(7)  # type: ignore[arg-type]
    assert pair[0].channel.latest == pair[1].channel.latest == {"a": 3.0, "b": 6.0, "c": True}
    assert repr(pair[0].odd) == repr(pair[1].odd)
    assert len(pair[0].odd) == 3  # two that brought names, one that brought no mapping


def test_the_step_may_come_second_and_what_comes_after_it_is_passed_over(pair: tuple[LogBench, LogBench]) -> None:
    for bench in pair:
        bench.log({"a": 1.0}, 5)
        bench.log({"a": 1.0}, 6, b=2.0)
        bench.log({"a": 1.0}, None, 7)
        bench.log({"a": 1.0}, 8, step=9)  # type: ignore[misc]
        bench.log({"a": 1.0}, "no step")  # type: ignore[arg-type]
        bench.log("a", 0.5, 8)  # type: ignore[arg-type]
        bench.log("a", 0.5, step=8)  # type: ignore[arg-type, misc]
    said = ["(7, 5, {'a': 1.0})", "(7, 6, {'a': 1.0, 'b': 2.0})", "(7, 0, {'a': 1.0})", "(7, 9, {'a': 1.0})"]
    said.append("(7, 'no step', {'a': 1.0})")
    assert pair[0].said() == pair[1].said() == said
    odd = "({}, 'a', 0.5, <class 'TypeError'>)"
    assert repr(pair[0].odd) == repr(pair[1].odd) == f"[{', '.join(2 * [odd])}]"


def test_the_channel_of_this_context_comes_before_that_of_all(tmp_path: Path) -> None:
    with LogPairs(tmp_path) as both:
        for bench, make in zip(both, (make_log, python_log), strict=True):
            own: contextvars.ContextVar[Channel | None] = contextvars.ContextVar("own", default=None)
            rows: list[bytes] = []
            mine = Channel(8, rows.append, print)
            log = make(types.SimpleNamespace(home=None, own=own, shared=bench.channel))
            log(step=1, a=1.0)
            there = contextvars.copy_context()
            there.run(own.set, mine)
            there.run(log, step=2, a=2.0)
            log(step=3, a=3.0)
            assert bench.said() == ["(7, 1, {'a': 1.0})", "(7, 3, {'a': 3.0})"]
            assert [row_said(row) for row in rows] == ["(8, 2, {'a': 2.0})"]


def test_a_channel_with_a_page_looks_there_once_after_each_change(
    pair: tuple[LogBench, LogBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    for bench in pair:
        page = memoryview(bytearray(16)).cast("Q")
        looked: list[int] = []

        def look(bench: LogBench = bench, page: memoryview[int] = page, looked: list[int] = looked) -> None:
            looked.append(bench.channel.seen)
            bench.channel.seen = page[0]

        bench.channel.watch(page, 0, look)
        bench.log(step=1, a=1.0)
        assert looked == []
        page[0] = 5
        bench.log(step=2, a=1.0)
        bench.log(step=3, a=1.0)
        page[0] = 2**63 + 1
        bench.log(step=4, a=1.0)
        assert looked == [0, 5]
        monkeypatch.setattr(native, "Log", None)  # for the second one
    assert pair[0].said() == pair[1].said() == [f"(7, {step}, {{'a': 1.0}})" for step in range(1, 5)]


def test_a_channel_that_is_closed_when_it_looks_at_its_page_delivers_nothing(
    pair: tuple[LogBench, LogBench], monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(_: object) -> bytes:
        raise LookupError

    for bench in pair:
        page = memoryview(bytearray(8)).cast("Q")
        bench.channel.watch(page, 0, lambda bench=bench: bench.channel.close(closed))  # type: ignore[misc]
        page[0] = 1
        bench.log(a=1.0)
        bench.log(step=5, a=1.0)
        assert [(values, step) for values, _, step, _ in bench.odd] == [({"a": 1.0}, None), ({"a": 1.0}, 5)]
        assert bench.said() == []
        monkeypatch.setattr(native, "Log", None)


def test_a_counter_in_shared_memory_counts_for_all_who_map_it() -> None:
    assert native.Steps is not None
    word = memoryview(mmap.mmap(-1, 4096)).cast("Q")[:1]
    one, another = native.Steps(word), native.Steps(word)
    assert [next(one), next(another), next(one), next(iter(another))] == [0, 1, 2, 3]
    child = os.fork()
    if child == 0:
        next(another)
        os._exit(0)
    os.waitpid(child, 0)
    assert next(one) == 5
    for wrong in (memoryview(bytearray(4)), memoryview(bytearray(16))[1:9]):
        with pytest.raises(ValueError, match="64-bit"):
            native.Steps(wrong)
    with pytest.raises((TypeError, BufferError)):
        native.Steps(memoryview(b"12345678"))


def test_nothing_that_was_passed_is_kept_or_released_too_often(tmp_path: Path) -> None:
    bench = LogBench(tmp_path, make_log)
    number, key, step = 0.123456, "a key of one's own", 10**6
    metrics = {key: number}
    things: list[object] = [number, key, step, metrics, bench.channel, bench.writer, None]
    before = [sys.getrefcount(thing) for thing in things]
    for _ in range(1000):
        bench.log(metrics, step=step)
        bench.log(**metrics, step=step)
        bench.log(metrics, step="no step")  # type: ignore[arg-type]
    bench.odd.clear()
    after = [sys.getrefcount(thing) for thing in things]
    assert after[:-1] == before[:-1]
    assert abs(after[-1] - before[-1]) < 100
    bench.reader.close()


@pytest.mark.slow
def test_a_log_and_its_channel_are_collected_when_nobody_needs_them(tmp_path: Path) -> None:
    page = memoryview(bytearray(16)).cast("Q")
    bench = LogBench(tmp_path, make_log)
    # Older than the channel: the collector comes to it first.
    bench.channel.watch(page, 0, lambda: None)
    bench.log(a=1.0)
    bench.reader.close()
    channel, writer = weakref.ref(bench.channel), weakref.ref(bench.writer)
    del bench, page
    gc.collect()
    assert channel() is None
    assert writer() is None


def test_a_finalizer_that_logs_finds_the_path_free(tmp_path: Path) -> None:
    bench = LogBench(tmp_path, make_log)

    class Last(float):
        def __del__(self) -> None:
            bench.log(step=2, last=1.0)

    bench.channel.encode, bench.channel.known = None, 10
    bench.log(a=Last(1.0))
    encode, bench.channel.encode = bench.channel.encode, Channel(0, print, print).encode
    bench.log(step=1, a=0.5)
    bench.channel.encode = encode
    bench.log(a=2.0)  # replaces the value, which logs
    assert bench.said() == ["(7, 1, {'a': 0.5})"]
    assert bench.channel.latest == {"a": 2.0, "last": 1.0}
    bench.reader.close()


def test_help_and_signature_are_those_of_the_function_in_python(pair: tuple[LogBench, LogBench]) -> None:
    c, python = (bench.log for bench in pair)
    assert inspect.getdoc(c) == inspect.getdoc(python)
    names = [(name, part.kind, part.default) for name, part in inspect.signature(c).parameters.items()]
    assert names == [(name, part.kind, part.default) for name, part in inspect.signature(python).parameters.items()]


def test_a_ring_is_moved_by_c_and_python_in_turn(tmp_path: Path) -> None:
    bench = LogBench(tmp_path, make_log)
    other = python_log(types.SimpleNamespace(own=None, shared=bench.channel))  # type: ignore[arg-type]
    for step, log in zip(range(3000), itertools.cycle([bench.log, other, bench.log]), strict=False):
        log(step=step, loss=math.pi)
        if step % 400 == 0:
            bench.writer.put(b"\x93a control record")
    rows = [row for row in bench.rows() if row[:1] == b"\x94"]
    assert [msgspec.msgpack.decode(row)[1] for row in rows] == list(range(3000))
    bench.reader.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    "file", ["log/test_log.py", pytest.param("offline/test_local_report.py", marks=pytest.mark.faults)]
)
def test_without_c_the_same_tests_of_log_pass(file: str, sqlite_template: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"tests/sdk/{file}"],
        cwd=ROOT,
        env={**os.environ, "TAILRACE_NATIVE": "0", "SQLITE_TEMPLATE": str(sqlite_template)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]
